package hub

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Kind says what sort of failure an error is; adapters translate foreign errors to a Kind once, at
// their boundary, and nobody compares error text. The zero Kind is Internal.
type Kind int

// The kinds, with the HTTP status that internal/httpx gives each.
const (
	Internal        Kind = iota // 500: a fault of ours
	Invalid                     // 422 (400 for a malformed request): the input is at fault; Field names it
	Unauthenticated             // 401: nobody is signed in
	Forbidden                   // 403: signed in, and not allowed
	NotFound                    // 404: no such thing
	Conflict                    // 409: it is there already, or it changed meanwhile
	TooMany                     // 429: over a limit; try again later
	Unavailable                 // 503: Docker, Redis or the provider can't be reached; try again
	Canceled                    // 499: the caller went away or cancelled
)

var kindNames = [...]string{"internal", "invalid", "unauthenticated", "forbidden", "not found", "conflict", "too many", "unavailable", "canceled"}

// String is the kind's name as logged.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return "internal"
	}
	return kindNames[k]
}

// Error is a failure with two faces: Message, Field and Remedy are for the person who caused or
// meets it and never hold a secret; Op and Err are for the log.
type Error struct {
	Kind    Kind
	Op      string // where, as "docker: create container"
	Field   string // the input field at fault, if one is
	Message string // what happened, for people; empty for Internal
	Remedy  string // what to do about it
	Err     error  // the cause
}

// Error joins operation, message and cause, for logs.
func (e *Error) Error() string {
	parts := make([]string, 0, 4)
	for _, s := range []string{e.Op, e.Field, e.Message} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	if len(parts) == 0 {
		return e.Kind.String()
	}
	return strings.Join(parts, ": ")
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of a kind at an operation with a message for people. A %w verb is wrapped.
func Errorf(kind Kind, op, format string, args ...any) *Error {
	cause := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Op: op, Message: cause.Error(), Err: errors.Unwrap(cause)}
}

// Wrap gives err a kind and an operation, once per boundary; a nil err stays nil, and an error
// that already has a kind keeps it. Context errors become Canceled or Unavailable.
func Wrap(kind Kind, op string, err error) error {
	if err == nil {
		return nil
	}
	var known *Error
	switch {
	case errors.As(err, &known):
		return &Error{Kind: known.Kind, Op: op, Field: known.Field, Message: known.Message, Remedy: known.Remedy, Err: err}
	case errors.Is(err, context.Canceled):
		kind = Canceled
	case errors.Is(err, context.DeadlineExceeded):
		kind = Unavailable
	}
	return &Error{Kind: kind, Op: op, Err: err}
}

// KindOf is the kind of the outermost Error in err's chain; context.Canceled is Canceled, a passed
// deadline Unavailable, anything else Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	}
	return Internal
}

// Public gives what may be shown of err: message and remedy. An Internal error shows nothing.
func Public(err error) (message, remedy string) {
	var e *Error
	if !errors.As(err, &e) || e.Kind == Internal {
		return "", ""
	}
	return e.Message, e.Remedy
}

// FieldOf is the input field at fault, if one is named; an Internal error names none.
func FieldOf(err error) string {
	var e *Error
	if !errors.As(err, &e) || e.Kind == Internal {
		return ""
	}
	return e.Field
}
