package chp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

const testToken = "s3cret"

// patient is how long a test waits for what should come at once.
const patient = 20 * time.Second

// until polls.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patient); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came: %s", what)
		}
	}
}

// endpoint is one of a proxy's listeners, as a test reaches it.
type endpoint struct{ network, address string }

// ask sends a request by the letter and reads the answer; every connection is fresh.
func (e endpoint) ask(t *testing.T, request string) reply {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(context.WithoutCancel(t.Context()), e.network, e.address) // cleanups ask too
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return askOn(t, c, request)
}

func askOn(t *testing.T, c net.Conn, request string) reply {
	t.Helper()
	c.SetDeadline(time.Now().Add(patient))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("neither an answer nor an end: %.100q", request)
	}
	if err != nil {
		return reply{closed: true}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{status: res.StatusCode, header: res.Header, body: string(body)}
}

type reply struct {
	closed bool // no answer
	status int
	header http.Header
	body   string
}

// request writes one down.
func request(method, path, body string, headers ...string) string {
	var b strings.Builder
	b.WriteString(method + " " + path + " HTTP/1.1\r\nHost: hub.example.org:8000\r\nConnection: close\r\n")
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	if body != "" {
		b.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.String()
}

// apiRequest has the token.
func apiRequest(method, path, body string) string {
	return request(method, path, body, "Authorization: token "+testToken)
}

// echo is what the backend says it was asked.
type echo struct {
	Method, URI, Host, Body string
	Header                  map[string][]string
}

// backend says what it was asked, echoes websockets, and more by path:
// …/status/404, …/redirect?to=…, …/cookies, …/push (a websocket that speaks first).
type backend struct {
	*httptest.Server
	url string
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(answer))
	t.Cleanup(s.Close)
	return &backend{s, s.URL}
}

func newSocketBackend(t *testing.T, dir string) (url string) {
	t.Helper()
	path := filepath.Join(dir, "backend")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: patient}}
	s.Start()
	t.Cleanup(s.Close)
	return "http+unix://" + strings.ReplaceAll(path, "/", "%2F")
}

func answer(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/refuse"):
		w.Header().Set("X-Refused", "yes")
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "not here")
	case isUpgrade(r):
		speak(w, r)
	case strings.HasSuffix(r.URL.Path, "/redirect"):
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(http.StatusFound)
	case strings.Contains(r.URL.Path, "/status/"):
		w.WriteHeader(map[string]int{"204": 204, "404": 404, "500": 500, "503": 418}[filepath.Base(r.URL.Path)])
	case strings.HasSuffix(r.URL.Path, "/cookies"):
		w.Header()["Set-Cookie"] = []string{"a=1; Path=/", "b=2; HttpOnly"}
		w.Header().Set("Etag", `"x"`)
		w.Header().Set("Content-Type", "text/x-thing")
		io.WriteString(w, "with cookies")
	case strings.HasSuffix(r.URL.Path, "/silent"):
		<-r.Context().Done()
	default:
		body, _ := io.ReadAll(r.Body)
		header := map[string][]string{}
		for name, values := range r.Header {
			header[strings.ToLower(name)] = values
		}
		w.Header().Set("Content-Type", "application/json")
		b, _ := encode(echo{r.Method, r.RequestURI, r.Host, string(body), header})
		w.Write(b)
	}
}

func speak(w http.ResponseWriter, r *http.Request) {
	header := http.Header{"X-Proto": r.Header["X-Forwarded-Proto"], "X-Port": r.Header["X-Forwarded-Port"], "X-For": r.Header["X-Forwarded-For"], "X-Host": r.Header["X-Forwarded-Host"], "X-Uri": {r.RequestURI}}
	up := websocket.Upgrader{Subprotocols: []string{"v1.kernel.websocket.jupyter.org"}, CheckOrigin: func(*http.Request) bool { return true }}
	c, err := up.Upgrade(w, r, header)
	if err != nil {
		return
	}
	defer c.Close()
	if strings.HasSuffix(r.URL.Path, "/push") {
		c.WriteMessage(websocket.TextMessage, []byte("pushed"))
	}
	for {
		kind, b, err := c.ReadMessage()
		if err != nil || string(b) == "die" {
			return
		}
		if c.WriteMessage(kind, b) != nil {
			return
		}
	}
}

// webSocket opens one through a proxy.
func (e endpoint) webSocket(t *testing.T, path string) (*websocket.Conn, *http.Response) {
	t.Helper()
	d := websocket.Dialer{
		HandshakeTimeout: patient, Subprotocols: []string{"v1.kernel.websocket.jupyter.org"},
		NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, e.network, e.address)
		},
	}
	c, res, err := d.DialContext(t.Context(), "ws://hub.example.org:8000"+path, nil)
	if err != nil {
		t.Fatalf("open websocket: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c, res
}

// running is a proxy of this process.
type running struct {
	public, api, redirect endpoint
	stop                  func() error
}

func start(t *testing.T, cfg Config) running {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var l Listeners
	for _, into := range []*net.Listener{&l.Public, &l.API, &l.Redirect} {
		if *into, err = Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, l) }()
	stop := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patient):
			return errors.New("it does not stop")
		}
	})
	t.Cleanup(func() {
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	return running{endpoint{"tcp", l.Public.Addr().String()}, endpoint{"tcp", l.API.Addr().String()}, endpoint{"tcp", l.Redirect.Addr().String()}, stop}
}

// add posts a route.
func (r running) add(t *testing.T, path, target string) {
	t.Helper()
	if got := r.api.ask(t, apiRequest("POST", "/api/routes"+path, `{"target": "`+target+`"}`)); got.status != http.StatusCreated || got.body != "" {
		t.Fatalf("add %s: %+v", path, got)
	}
}

// lastActivity is a route's, as the API tells it.
func lastActivity(t *testing.T, api endpoint, path string) time.Time {
	t.Helper()
	got := api.ask(t, apiRequest("GET", "/api/routes"+path, ""))
	var v struct {
		Last time.Time `json:"last_activity"`
	}
	if err := json.Unmarshal([]byte(got.body), &v); err != nil || v.Last.IsZero() {
		t.Fatalf("activity of %s: %+v (%v)", path, got, err)
	}
	return v.Last
}

// counts tells whether what do does is activity of the route.
func counts(t *testing.T, api endpoint, path string, do func()) bool {
	t.Helper()
	before := lastActivity(t, api, path)
	until(t, "the next millisecond", func() bool { return time.Now().Add(-2 * time.Millisecond).After(before) })
	do()
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if lastActivity(t, api, path).After(before) {
			return true
		}
	}
	return false
}
