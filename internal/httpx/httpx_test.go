package httpx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"carrel/hub"
)

// logged is one event.
type logged map[string]any

func newKit() (Kit, func(t *testing.T) logged) {
	var b bytes.Buffer
	k := Kit{Logger: slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	return k, func(t *testing.T) logged {
		t.Helper()
		lines := strings.Split(strings.TrimSpace(b.String()), "\n")
		b.Reset()
		var e logged
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil {
			t.Fatalf("%v in %q", err, lines)
		}
		return e
	}
}

func TestErrorsBecomeAnswers(t *testing.T) {
	secret := errors.New("dial tcp 10.0.0.7:6379: hunter2")
	for _, c := range []struct {
		name    string
		err     error
		status  int
		message string
		level   string
	}{
		{"bad input", &hub.Error{Kind: hub.Invalid, Field: "server", Message: "too long", Remedy: "shorten it"}, 422, "too long", "INFO"},
		{"nobody", &hub.Error{Kind: hub.Unauthenticated, Message: "sign in"}, 401, "sign in", "INFO"},
		{"not allowed", hub.Errorf(hub.Forbidden, "x", "no"), 403, "no", "INFO"},
		{"no such thing", hub.Errorf(hub.NotFound, "x", "none"), 404, "none", "INFO"},
		{"changed meanwhile", hub.Errorf(hub.Conflict, "x", "changed"), 409, "changed", "INFO"},
		{"too many", hub.Errorf(hub.TooMany, "x", "slow down"), 429, "slow down", "INFO"},
		{"a part is away", hub.Wrap(hub.Unavailable, "redis", secret), 503, "a part of the hub does not answer just now", "WARN"},
		{"our fault", hub.Wrap(hub.Internal, "x", secret), 500, "something went wrong on our side", "WARN"},
		{"our fault, with a message by mistake", &hub.Error{Kind: hub.Internal, Message: secret.Error()}, 500, "something went wrong on our side", "WARN"},
		{"a foreign error", secret, 500, "something went wrong on our side", "WARN"},
		{"a status of its own", &Failure{405, hub.Errorf(hub.Invalid, "x", "not so")}, 405, "not so", "INFO"},
		{"wrapped", fmt.Errorf("outer: %w", hub.Errorf(hub.NotFound, "x", "none")), 404, "none", "INFO"},
		{"a deadline of ours", context.DeadlineExceeded, 503, "a part of the hub does not answer just now", "WARN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kit, last := newKit()
			w := httptest.NewRecorder()
			kit.Handle(func(http.ResponseWriter, *http.Request) error { return c.err }).ServeHTTP(w, httptest.NewRequest("GET", "/x?ticket=t0ps3cret", nil))
			var p Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			if w.Code != c.status || p.Status != c.status || p.Message != c.message {
				t.Errorf("%d %+v, want %d %q", w.Code, p, c.status, c.message)
			}
			if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers %v", w.Header())
			}
			if strings.Contains(w.Body.String(), "hunter2") {
				t.Errorf("the answer tells of the inside: %s", w.Body)
			}
			if e := last(t); p.RequestID == "" || e["request_id"] != p.RequestID || e["level"] != c.level || e["status"] != float64(c.status) {
				t.Errorf("event %v of request %q, want level %s", e, p.RequestID, c.level)
			} else if strings.Contains(fmt.Sprint(e), "t0ps3cret") {
				t.Errorf("the query is logged: %v", e)
			}
		})
	}
}

func TestThePageIsForPeople(t *testing.T) {
	kit, _ := newKit()
	kit.Page = func(w http.ResponseWriter, _ *http.Request, p Problem) {
		w.WriteHeader(p.Status)
		io.WriteString(w, "page "+p.Message)
	}
	h := kit.Handle(func(http.ResponseWriter, *http.Request) error { return hub.Errorf(hub.NotFound, "x", "none") })
	for _, c := range []struct {
		header http.Header
		page   bool
	}{
		{http.Header{"Accept": {"text/html,*/*"}}, true},
		{http.Header{"Sec-Fetch-Mode": {"navigate"}}, true},
		{http.Header{"Sec-Fetch-Mode": {"cors"}, "Accept": {"text/html"}}, false},
		{http.Header{"Accept": {"application/json"}}, false},
		{http.Header{}, false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = c.header
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := strings.HasPrefix(w.Body.String(), "page "); got != c.page {
			t.Errorf("%v: a page: %v, want %v", c.header, got, c.page)
		}
	}
}

func TestADepartedClientIs499(t *testing.T) {
	kit, last := newKit()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	kit.Handle(func(http.ResponseWriter, *http.Request) error { return errors.New("store: gave up") }).ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	if e := last(t); e["status"] != float64(StatusClosed) || e["level"] != "DEBUG" || w.Body.Len() != 0 {
		t.Errorf("event %v, body %q", e, w.Body)
	}
}

func TestAPanicIsAnInternalFault(t *testing.T) {
	kit, last := newKit()
	w := httptest.NewRecorder()
	kit.Handle(func(http.ResponseWriter, *http.Request) error { panic("hunter2") }).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 500 || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if e := last(t); e["kind"] != "internal" || e["status"] != 500.0 {
		t.Errorf("event %v", e)
	}
	defer func() {
		if recover() == nil {
			t.Error("the server's own way to end a request was swallowed")
		}
	}()
	kit.Handle(func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) }).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}

func TestOneEventPerRequest(t *testing.T) {
	kit, last := newKit()
	h := kit.Handle(func(w http.ResponseWriter, r *http.Request) error {
		Note(r.Context(), slog.String("user", "alice"))
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Errorf("the writer can't be unwrapped: %v", err)
		}
		_, err := io.WriteString(w, "hello")
		return err
	})
	for method, level := range map[string]string{"GET": "DEBUG", "POST": "INFO"} {
		r := httptest.NewRequest(method, "/"+strings.Repeat("a", 5000), nil)
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		h.ServeHTTP(httptest.NewRecorder(), r)
		e := last(t)
		path, _ := e["path"].(string)
		if e["level"] != level || e["user"] != "alice" || e["bytes"] != 5.0 || e["client"] != "192.0.2.1" || len(path) != maxLogged {
			t.Errorf("%s: event %v", method, e)
		}
	}
}

func TestForms(t *testing.T) {
	kit, _ := newKit()
	h := kit.Handle(func(w http.ResponseWriter, r *http.Request) error {
		if err := ReadForm(w, r, 64); err != nil {
			return err
		}
		_, err := io.WriteString(w, r.PostForm.Get("a"))
		return err
	})
	for body, want := range map[string]int{"a=1": 200, "a=" + strings.Repeat("x", 64): 413, "a=%zz": 400, "": 200} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%.20q: status %d, want %d", body, w.Code, want)
		}
	}
}

// TestHalfAnAnswer: what fails in the middle is cut, so that nobody takes it for whole.
func TestHalfAnAnswer(t *testing.T) {
	for name, fail := range map[string]func() error{
		"an error": func() error { return errors.New("lost it") },
		"a panic":  func() error { panic("lost it") },
	} {
		t.Run(name, func(t *testing.T) {
			kit, last := newKit()
			s := httptest.NewServer(kit.Handle(func(w http.ResponseWriter, _ *http.Request) error {
				io.WriteString(w, "half of ")
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
				return fail()
			}))
			defer s.Close()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if b, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("a whole answer %q", b)
			}
			s.Close() // waits for what is logged
			if e := last(t); e["bytes"] != 8.0 || e["error"] == nil {
				t.Errorf("event %v", e)
			}
		})
	}
}

// TestCancelledWorkOfOurs: whoever still waits is told to come again, never an empty success.
func TestCancelledWorkOfOurs(t *testing.T) {
	kit, last := newKit()
	s := httptest.NewServer(kit.Handle(func(http.ResponseWriter, *http.Request) error {
		return hub.Wrap(hub.Internal, "share work", context.Canceled)
	}))
	defer s.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	s.Close() // waits for what is logged
	if e := last(t); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || e["status"] != 503.0 {
		t.Errorf("%d %v, event %v", res.StatusCode, res.Header, e)
	}
}

func TestAnErrorForgetsTheAnswer(t *testing.T) {
	kit, _ := newKit()
	w := httptest.NewRecorder()
	kit.Handle(func(w http.ResponseWriter, _ *http.Request) error {
		for name, v := range map[string]string{"Content-Length": "9000", "Content-Encoding": "gzip", "Etag": `"1"`, "Content-Disposition": "attachment", "Retry-After": "60"} {
			w.Header().Set(name, v)
		}
		return hub.Errorf(hub.Unavailable, "x", "away")
	}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for name, want := range map[string]string{"Content-Length": "", "Content-Encoding": "", "Etag": "", "Content-Disposition": "", "Retry-After": "60"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
