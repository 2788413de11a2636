package jupyter

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carrel/hub"
)

const token = "sesame"

// target is a server below /user/alice/ at an address.
func target(t *testing.T, address string) hub.Target {
	t.Helper()
	e, err := hub.ParseEndpoint(address)
	if err != nil {
		t.Fatal(err)
	}
	return hub.Target{Endpoint: e, BasePath: "/user/alice/", Token: hub.NewSecret(token)}
}

// serve runs a server for a test.
func serve(t *testing.T, h http.HandlerFunc) hub.Target {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return target(t, s.URL)
}

// raw accepts connections and lets talk say whatever bytes it likes, once it has read a request's
// first line. The connection is cut at the test's end at the latest.
func raw(t *testing.T, talk func(net.Conn)) hub.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
					talk(c)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return target(t, "http://"+l.Addr().String())
}

func TestAnswers(t *testing.T) {
	for status, up := range map[int]bool{200: true, 302: true, 403: true, 404: true, 500: false, 503: false} {
		tg := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/user/alice/api" || r.Method != http.MethodGet || r.Header.Get("Authorization") != "token "+token {
				t.Errorf("asked %s %s with %v", r.Method, r.URL, r.Header)
			}
			w.WriteHeader(status)
		})
		if err := (Client{}).Answers(t.Context(), tg); (err == nil) != up || err != nil && hub.KindOf(err) != hub.Unavailable {
			t.Errorf("status %d: %v, want up=%v", status, err, up)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "crl-jup-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernels{}
	s := &http.Server{Handler: k, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	defer func() { s.Close(); <-done }()
	tg := target(t, "unix://"+path)
	if err := (Client{}).Answers(t.Context(), tg); err != nil {
		t.Error(err)
	}
	if err := (Client{}).TryKernel(t.Context(), tg); err != nil {
		t.Error(err)
	}
	nobody := target(t, "unix://"+path+"x")
	if err := (Client{}).Answers(t.Context(), nobody); hub.KindOf(err) != hub.Unavailable {
		t.Errorf("where nobody listens: %v", err)
	}
}

// A redirect is an answer and is never followed: the token goes to the target alone.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var led atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { led.Add(1) }))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		tg := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/steal", status)
		})
		_ = Client{}.Answers(t.Context(), tg)
		if _, err := (Client{}).Busy(t.Context(), tg); hub.KindOf(err) != hub.Unavailable {
			t.Errorf("busy, redirected with %d: %v", status, err)
		}
		if err := (Client{}).TryKernel(t.Context(), tg); hub.KindOf(err) != hub.Unavailable {
			t.Errorf("kernel, redirected with %d: %v", status, err)
		}
	}
	tg := serve(t, func(w http.ResponseWriter, r *http.Request) { // the websocket is led away
		switch {
		case r.Method == http.MethodPost:
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"id":"k"}`)
		case strings.HasSuffix(r.URL.Path, "/channels"):
			http.Redirect(w, r, strings.Replace(elsewhere.URL, "http", "ws", 1)+"/steal", http.StatusFound)
		}
	})
	if err := (Client{}).TryKernel(t.Context(), tg); hub.KindOf(err) != hub.Unavailable {
		t.Errorf("kernel's websocket redirected: %v", err)
	}
	if led.Load() > 0 {
		t.Errorf("%d requests went where a server led them", led.Load())
	}
}

func TestBusy(t *testing.T) {
	last := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	kernels := `[{"execution_state":"busy","last_activity":"2026-01-02T03:00:00Z"},{"execution_state":"starting"},{"execution_state":"idle","last_activity":"2026-01-02T03:04:05Z"}]`
	for _, c := range []struct {
		name               string
		kernels, terminals string // empty: 404
		want               hub.NotebookState
		bad                bool
	}{
		{"kernels and terminals", kernels, `[{"name":"1","last_activity":"2026-01-01T00:00:00Z"}]`, hub.NotebookState{Kernels: 3, BusyKernels: 2, Terminals: 1, LastActivity: last}, false},
		{"no terminals", kernels, "", hub.NotebookState{Kernels: 3, BusyKernels: 2, LastActivity: last}, false},
		{"nothing", `[]`, `[]`, hub.NotebookState{}, false},
		{"null", `null`, `null`, hub.NotebookState{}, false},
		{"no kernels page", "", `[]`, hub.NotebookState{}, true},
		{"an object", `{"kernels":[]}`, `[]`, hub.NotebookState{}, true},
		{"cut off", `[{"execution_state":"busy"`, `[]`, hub.NotebookState{}, true},
		{"html", `<html>sign in</html>`, `[]`, hub.NotebookState{}, true},
		{"deep", strings.Repeat("[", 100_000), `[]`, hub.NotebookState{}, true},
		{"a time that is none", `[{"last_activity":"soon"}]`, `[]`, hub.NotebookState{}, true},
		{"garbage for terminals", `[]`, "\x00\xff", hub.NotebookState{}, true},
		{"empty", " ", `[]`, hub.NotebookState{}, true},
	} {
		tg := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body := map[string]string{"/user/alice/api/kernels": c.kernels, "/user/alice/api/terminals": c.terminals}[r.URL.Path]
			if body == "" {
				http.NotFound(w, r)
				return
			}
			io.WriteString(w, body)
		})
		got, err := Client{}.Busy(t.Context(), tg)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
		if message, _ := hub.Public(err); strings.Contains(message, "sign in") {
			t.Errorf("%s: the guest's words reach people: %q", c.name, message)
		}
	}
}

// Whatever a server says without end is cut, by its size or by the deadline.
func TestEndlessAnswersAreCut(t *testing.T) {
	t.Parallel()
	forever := func(first, then string, pause time.Duration) func(net.Conn) {
		return func(c net.Conn) {
			io.WriteString(c, first)
			for {
				if _, err := io.WriteString(c, then); err != nil {
					return
				}
				time.Sleep(pause)
			}
		}
	}
	big := strings.Repeat("x", 64<<10)
	for _, c := range []struct {
		name string
		talk func(net.Conn)
	}{
		{"nothing at all", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }},
		{"a status line", forever("HTTP/1.1 200 ", big, 0)},
		{"headers", forever("HTTP/1.1 200 OK\r\n", "X-A: "+big+"\r\n", 0)},
		{"interim answers", forever("", "HTTP/1.1 103 Early Hints\r\nLink: "+big[:1000]+"\r\n\r\n", 0)},
		{"a body", forever("HTTP/1.1 200 OK\r\n\r\n", big, 0)},
		{"a body in chunks", forever("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", 0)},
		{"a chunk's extension", forever("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", big, 0)},
		{"trailers", forever("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X-A: b\r\n", 0)},
		{"a long body that never comes", forever("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "", time.Second)},
		{"headers drop by drop", forever("HTTP/1.1 200 OK\r\n", "A: b\r\n", 50*time.Millisecond)},
		{"a body drop by drop", forever("HTTP/1.1 200 OK\r\n\r\n", " ", 50*time.Millisecond)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tg := raw(t, c.talk)
			began := time.Now()
			err := Client{}.Answers(t.Context(), tg)
			if hub.KindOf(err) != hub.Unavailable || err == nil {
				t.Errorf("%v", err)
			}
			if took := time.Since(began); took > 4*replyWithin {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestCallerGivesUp(t *testing.T) {
	tg := raw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	if err := (Client{}).Answers(ctx, tg); hub.KindOf(err) != hub.Canceled {
		t.Errorf("%v", err)
	}
	if time.Since(began) > replyWithin/2 {
		t.Errorf("it took %v", time.Since(began))
	}
}
