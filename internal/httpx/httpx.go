// Package httpx turns handlers that return errors into HTTP handlers: one place chooses status and
// form from an error's kind, writes the security headers, and logs one event per request.
//
// It owns the mapping from hub.Kind to status, the problem document that programs get, and the
// request's id. It refuses to own any page: an HTML error is rendered by a function it is given,
// and it knows no route.
package httpx

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"carrel/hub"
)

// HandlerFunc answers a request or returns why it could not; it does not do both.
type HandlerFunc func(http.ResponseWriter, *http.Request) error

// Problem is what a caller is told of an error.
type Problem struct {
	Status    int    `json:"status"`
	Message   string `json:"message"`
	Field     string `json:"field,omitempty"`
	Remedy    string `json:"remedy,omitempty"`
	RequestID string `json:"request_id"`
}

// Kit wraps handlers. Page renders a problem for people; nil answers everyone with JSON.
type Kit struct {
	Logger *slog.Logger
	Page   func(w http.ResponseWriter, r *http.Request, p Problem)
}

// StatusClosed is logged when the caller went away before the answer, as nginx does.
const StatusClosed = 499

// StatusOf is the status of an error's kind.
func StatusOf(err error) int {
	switch hub.KindOf(err) {
	case hub.Invalid:
		return http.StatusUnprocessableEntity
	case hub.Unauthenticated:
		return http.StatusUnauthorized
	case hub.Forbidden:
		return http.StatusForbidden
	case hub.NotFound:
		return http.StatusNotFound
	case hub.Conflict:
		return http.StatusConflict
	case hub.TooMany:
		return http.StatusTooManyRequests
	case hub.Unavailable:
		return http.StatusServiceUnavailable
	case hub.Canceled:
		return StatusClosed
	}
	return http.StatusInternalServerError
}

type requestIDKey struct{}

// RequestID is the id of the request that ctx belongs to.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// Handle wraps a handler.
func (k Kit) Handle(h HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, strings.ToLower(rand.Text()[:12])))
		rec := &recorder{ResponseWriter: w}
		err := h(rec, r)
		if err != nil {
			k.Error(rec, r, err)
		}
		k.log(r, rec, time.Since(began), err)
	})
}

// Error answers with an error, unless the answer has begun.
func (k Kit) Error(w http.ResponseWriter, r *http.Request, err error) {
	if rec, ok := w.(*recorder); ok && rec.status != 0 {
		return
	}
	p := Problem{Status: StatusOf(err), RequestID: RequestID(r.Context())}
	p.Message, p.Remedy = hub.Public(err)
	p.Field = hub.FieldOf(err)
	switch {
	case p.Status == StatusClosed:
		return
	case p.Status >= 500 && p.Message == "":
		p.Message, p.Remedy = "something went wrong on our side", "try again; if it happens again, give an administrator the request id"
	case p.Message == "":
		p.Message = strings.ToLower(http.StatusText(p.Status))
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		h.Set("Retry-After", "5")
	}
	if k.Page != nil && WantsPage(r) {
		k.Page(w, r, p)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the caller may be gone
}

// WantsPage tells whether a person waits for a page rather than a program for data.
func WantsPage(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// SecurityHeaders are those of every page of ours: nothing from elsewhere, no inline script or
// style, no framing. formAction lists what forms may lead to beyond our own origin.
func SecurityHeaders(h http.Header, formAction string) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "+
		"base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+formAction)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=()")
	h.Set("X-Frame-Options", "DENY")
}

// recorder knows what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader implements [http.ResponseWriter].
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
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

func (k Kit) log(r *http.Request, w *recorder, took time.Duration, err error) {
	status := w.status
	if status == 0 && err != nil {
		status = StatusClosed
	}
	level := slog.LevelDebug
	switch {
	case status >= 500:
		level = slog.LevelWarn
	case status >= 400 || r.Method != http.MethodGet:
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", status), slog.Int64("bytes", w.bytes),
		slog.Duration("took", took), slog.String("request_id", RequestID(r.Context())),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	k.Logger.LogAttrs(r.Context(), level, "request", attrs...)
}
