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
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
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

// Failure gives an error a status that its kind alone does not tell: a malformed request, a
// method that a page does not know.
type Failure struct {
	Status int
	Err    error
}

// Error is the cause's.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }

// StatusOf is the status of an error: its [Failure]'s, or that of its kind.
func StatusOf(err error) int {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f.Status
	}
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
	case hub.Internal:
	}
	return http.StatusInternalServerError
}

// exchange is one request as the log tells of it.
type exchange struct {
	id    string
	notes []slog.Attr
}

type exchangeKey struct{}

// RequestID is the id of the request that ctx belongs to.
func RequestID(ctx context.Context) string {
	if e, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return e.id
	}
	return ""
}

// Note adds to the event that the request is logged with: who asked, for which server. It is for
// the handler's own goroutine.
func Note(ctx context.Context, attrs ...slog.Attr) {
	if e, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		e.notes = append(e.notes, attrs...)
	}
}

// Handle wraps a handler. One that panics is answered like an internal fault; one that fails in the
// middle of its answer has the connection cut, so that half an answer does not pass for a whole one.
func (k Kit) Handle(h HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		e := &exchange{id: strings.ToLower(rand.Text()[:12])}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, e))
		rec := &recorder{ResponseWriter: w}
		err := k.guard(h, rec, r)
		begun := rec.status != 0
		if err != nil && !begun {
			k.Error(rec, r, err)
		}
		k.log(r, rec, e, time.Since(began), err)
		if err != nil && begun {
			panic(http.ErrAbortHandler)
		}
	})
}

// guard makes an error of a panic.
func (k Kit) guard(h HandlerFunc, w http.ResponseWriter, r *http.Request) (err error) {
	ctx := r.Context()
	defer func() {
		if v := recover(); v != nil {
			err = k.panicked(ctx, v)
		}
	}()
	return h(w, r)
}

// panicked is the error of a panic; the server's own way to end a request goes on.
func (k Kit) panicked(ctx context.Context, v any) error {
	if cause, ok := v.(error); ok && errors.Is(cause, http.ErrAbortHandler) {
		panic(v)
	}
	k.Logger.ErrorContext(ctx, "panic", "request_id", RequestID(ctx), "stack", string(debug.Stack()))
	return hub.Wrap(hub.Internal, "serve", fmt.Errorf("panic: %v", v))
}

// Error answers with an error, unless the answer has begun or nobody waits for it.
func (k Kit) Error(w http.ResponseWriter, r *http.Request, err error) {
	if rec, ok := w.(*recorder); ok && rec.status != 0 {
		return
	}
	p := problem(err)
	p.RequestID = RequestID(r.Context())
	if r.Context().Err() != nil {
		return
	}
	h := w.Header()
	for _, name := range ofTheAnswer {
		h.Del(name)
	}
	h.Set("Cache-Control", "no-store")
	if h.Get("Retry-After") == "" && (p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests) {
		h.Set("Retry-After", "5")
	}
	if k.Page != nil && WantsPage(r) {
		k.Page(w, r, p)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.Status)
	if err := json.NewEncoder(w).Encode(p); err != nil {
		k.Logger.DebugContext(r.Context(), "problem not told", "request_id", p.RequestID, "error", err)
	}
}

// ofTheAnswer are headers that a handler set for the answer which it then did not give.
var ofTheAnswer = []string{"Content-Length", "Content-Encoding", "Content-Disposition", "Content-Range", "Etag", "Last-Modified"}

// problem is what may be told of an error. Whoever is told has not gone away: what was cancelled is
// then some work of ours that the request waited for.
func problem(err error) Problem {
	p := Problem{Status: StatusOf(err), Field: hub.FieldOf(err)}
	p.Message, p.Remedy = hub.Public(err)
	if p.Status == StatusClosed {
		p = Problem{Status: http.StatusServiceUnavailable}
	}
	switch {
	case p.Message != "":
	case p.Status == http.StatusServiceUnavailable:
		p.Message, p.Remedy = "a part of the hub does not answer just now", "wait a moment, then try again"
	case p.Status >= 500:
		p.Message, p.Remedy = "something went wrong on our side", "try again; if it happens again, give an administrator the request id"
	default:
		p.Message = strings.ToLower(http.StatusText(p.Status))
	}
	return p
}

// WantsPage tells whether a person waits for a page rather than a program for data.
func WantsPage(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// SecurityHeaders are those of every page of ours: nothing from elsewhere, no inline script or
// style, no markup made from text by scripts, no framing. formAction lists what forms may lead to
// beyond our own origin.
func SecurityHeaders(h http.Header, formAction string) {
	h.Set("Content-Security-Policy", strings.TrimSpace("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
		"require-trusted-types-for 'script'; trusted-types 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+formAction))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()")
	h.Set("X-Frame-Options", "DENY")
}

// AllowWidget changes the policy of one page of ours so that it may show a widget from these origins. Scripts
// of others make markup from text, so that this is not forbidden there.
func AllowWidget(h http.Header, formAction string, origins []string) {
	from := strings.Join(origins, " ")
	h.Set("Content-Security-Policy", strings.TrimSpace("default-src 'none'; script-src 'self' "+from+"; style-src 'self' "+from+"; img-src 'self' "+from+"; connect-src 'self' "+from+"; frame-src "+from+"; "+
		"base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+formAction))
}

// ReadForm parses a form's fields, of at most limit bytes. Errors are Invalid, with status 400, or
// 413 for what is too large.
func ReadForm(w http.ResponseWriter, r *http.Request, limit int64) error {
	if r.Body != nil {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	err := r.ParseForm()
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Failure{http.StatusRequestEntityTooLarge, &hub.Error{Kind: hub.Invalid, Op: "read form", Message: "this form is too large", Remedy: "send less", Err: err}}
	}
	return &Failure{http.StatusBadRequest, &hub.Error{Kind: hub.Invalid, Op: "read form", Message: "this form can't be read", Remedy: "load the page again and send it once more", Err: err}}
}
