package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"runtime/debug"
	"strings"

	"carrel/hub"
)

// statusError is a refusal of the proxy's own, with a status that no hub.Kind has.
type statusError struct {
	status          int
	message, remedy string
}

func (e *statusError) Error() string { return e.message }

// statusClosed is logged when the client went away before the answer, as nginx does.
const statusClosed = 499

// statusOf gives an error's status and what people are told.
func statusOf(err error) (status int, message, remedy string) {
	var own *statusError
	if errors.As(err, &own) {
		return own.status, own.message, own.remedy
	}
	message, remedy = hub.Public(err)
	switch hub.KindOf(err) {
	case hub.Invalid:
		status = http.StatusBadRequest
	case hub.Unauthenticated:
		status = http.StatusUnauthorized
	case hub.Forbidden:
		status = http.StatusForbidden
	case hub.NotFound:
		status = http.StatusNotFound
	case hub.Conflict:
		status = http.StatusConflict
	case hub.TooMany:
		status = http.StatusTooManyRequests
	case hub.Unavailable:
		status = http.StatusServiceUnavailable
	case hub.Canceled:
		return statusClosed, "", ""
	default:
		status, message, remedy = http.StatusInternalServerError, "something went wrong here", "try again; if it happens again, tell an administrator the time"
	}
	return status, message, remedy
}

// problem is what a program is told.
type problem struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

var page = template.Must(template.New("error").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{{.Message}}</title></head>
<body><main><h1>{{.Message}}</h1><p>{{.Remedy}}</p><p><a href="{{.Home}}">Go to the home page</a></p></main></body></html>
`))

// refuse answers with an error: a small page to people, JSON to programs.
func (p *Proxy) refuse(w *recorder, r *http.Request, err error) {
	status, message, remedy := statusOf(err)
	if w.status != 0 || status == statusClosed {
		return // too late to say anything
	}
	h := w.Header()
	for _, name := range []string{"Content-Length", "Content-Encoding", "Etag", "Last-Modified", "Content-Disposition"} {
		h.Del(name)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if status == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
		h.Set("Retry-After", "2")
	}
	if isNavigation(r) {
		h.Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		_ = page.Execute(w, map[string]string{"Message": sentence(message), "Remedy": sentence(remedy), "Home": p.cfg.Origins.HubURL("home")}) // the reader may be gone
		return
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(problem{status, message, remedy}); err != nil {
		p.cfg.Logger.DebugContext(r.Context(), "problem not told", "error", err)
	}
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// panicked is the error of a panic, which is logged where it happened; the server's own way to end
// a request is no fault.
func (p *Proxy) panicked(ctx context.Context, v any) error {
	if cause, ok := v.(error); ok && errors.Is(cause, http.ErrAbortHandler) {
		return hub.Errorf(hub.Canceled, "forward", "the answer ended before its end")
	}
	p.cfg.Logger.ErrorContext(ctx, "panic", "value", fmt.Sprint(v), "stack", string(debug.Stack()))
	return hub.Errorf(hub.Internal, "serve", "a panic")
}
