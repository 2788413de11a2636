package httpx

import (
	"log/slog"
	"net/http"
	"time"

	"carrel/hub"
)

// recorder knows what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader implements [http.ResponseWriter]. Informational answers come before the one that counts.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// maxLogged caps what a stranger can make us write to the log.
const maxLogged = 300

// log writes the request's one event. Queries are left out: they can hold tickets. What went well
// and changed nothing, polls above all, is told at debug.
func (k Kit) log(r *http.Request, w *recorder, e *exchange, took time.Duration, err error) {
	status := w.status
	gone := r.Context().Err() != nil || status == 0 && hub.KindOf(err) == hub.Canceled
	switch {
	case status == 0 && err == nil:
		status = http.StatusOK
	case err != nil && gone:
		status = StatusClosed
	case status == 0:
		status = StatusOf(err)
	}
	level := slog.LevelDebug
	switch {
	case status == StatusClosed:
	case status >= 500:
		level = slog.LevelWarn
	case status >= 400 || r.Method != http.MethodGet && r.Method != http.MethodHead:
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("method", cut(r.Method)), slog.String("path", cut(r.URL.Path)), slog.Int("status", status), slog.Int64("bytes", w.bytes),
		slog.Duration("took", took), slog.String("request_id", e.id),
	}
	if client := r.Header.Get("X-Forwarded-For"); client != "" {
		attrs = append(attrs, slog.String("client", cut(client)))
	}
	attrs = append(attrs, e.notes...)
	if err != nil {
		attrs = append(attrs, slog.String("kind", hub.KindOf(err).String()), slog.String("error", err.Error()))
	}
	k.Logger.LogAttrs(r.Context(), level, "request", attrs...)
}

func cut(s string) string { return s[:min(len(s), maxLogged)] }
