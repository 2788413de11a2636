package chp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"carrel/hub"
)

func TestREST(t *testing.T) {
	r := start(t, Config{AuthToken: hub.NewSecret(testToken), DefaultTarget: "http://127.0.0.1:1"})
	for _, c := range []struct {
		name, request string
		status        int
		body          string // empty: it must be so
	}{
		{"default target", apiRequest("GET", "/api/routes", ""), 200, `{"/":{"last_activity":"*","target":"http://127.0.0.1:1"}}`},
		{"add", apiRequest("POST", "/api/routes/user/%40a/", `{"target": "http://127.0.0.1:2", "x": {"y": [1.50, "<&>"]}}`), 201, ""},
		{"get one", apiRequest("GET", "/api/routes/user/@a", ""), 200, `{"last_activity":"*","target":"http://127.0.0.1:2","x":{"y":[1.50,"<&>"]}}`},
		{"replace all data", apiRequest("POST", "/api/routes/user/%40a", `{"target": "http://127.0.0.1:3"}`), 201, ""},
		{"get the new", apiRequest("GET", "/api/routes/user/%40a", ""), 200, `{"last_activity":"*","target":"http://127.0.0.1:3"}`},
		{"none", apiRequest("GET", "/api/routes/user", ""), 404, ""},
		{"inactive since long ago", apiRequest("GET", "/api/routes?inactive_since=2020-01-01T00:00:00Z", ""), 200, `{}`},
		{"no date", apiRequest("GET", "/api/routes?inactiveSince=soon", ""), 400, "Invalid datestamp 'soon' must be ISO8601."},
		{"no target", apiRequest("POST", "/api/routes/x", `{}`), 400, "Must specify 'target' as string"},
		{"target that is a number", apiRequest("POST", "/api/routes/x", `{"target": 1}`), 400, "Must specify 'target' as string"},
		{"JSON is read before the token", request("POST", "/api/routes/x", `{`), 400, "Body not valid JSON: unexpected end of JSON input"},
		{"no token", request("POST", "/api/routes/x", `{"target": "http://x"}`), 403, ""},
		{"wrong token", request("GET", "/api/routes", "", "Authorization: token s3cre"), 403, ""},
		{"no token to delete", request("DELETE", "/api/routes/user/%40a", ""), 403, ""},
		// The original hangs on these three.
		{"DELETE without a path", apiRequest("DELETE", "/api/routes", ""), 400, "Must specify a path"},
		{"malformed escape", apiRequest("DELETE", "/api/routes/%zz", ""), 400, "400 Bad Request"},
		{"not UTF-8", apiRequest("GET", "/api/routes/%ff", ""), 400, "The path is not valid UTF-8, percent-encoded"},
		{"other method", apiRequest("PUT", "/api/routes/x", ""), 405, "Method not supported"},
		{"other path", apiRequest("GET", "/api/", ""), 404, "Not Found"},
		{"delete", apiRequest("DELETE", "/api/routes/user/%40a/", ""), 204, ""},
		{"delete again", apiRequest("DELETE", "/api/routes/user/%40a", ""), 404, ""},
		{"delete the root", apiRequest("DELETE", "/api/routes/", ""), 204, ""},
		{"nothing left", apiRequest("GET", "/api/routes/", ""), 200, `{}`},
		{"too much", apiRequest("POST", "/api/routes/x", `{"target": "`+strings.Repeat("x", maxPost)+`"}`), 413, "Request Entity Too Large"},
	} {
		got := r.api.ask(t, c.request)
		if got.status != c.status || !fits(c.body, got.body) {
			t.Errorf("%s: %d %q, not %d %q", c.name, got.status, got.body, c.status, c.body)
		}
	}
}

// fits compares letter by letter; a quoted star is any time.
func fits(want, got string) bool {
	before, after, starred := strings.Cut(want, `"*"`)
	if !starred {
		return want == got
	}
	rest, ok := strings.CutPrefix(got, before)
	if !ok {
		return false
	}
	stamp, ok := strings.CutSuffix(rest, after)
	_, err := time.Parse(`"2006-01-02T15:04:05.000Z"`, stamp)
	return ok && err == nil
}

func TestInactiveSinceIsStrict(t *testing.T) {
	r := start(t, Config{})
	r.add(t, "/a", "http://127.0.0.1:1")
	last := lastActivity(t, r.api, "/a")
	for _, c := range []struct {
		since time.Time
		want  bool
	}{{last, false}, {last.Add(time.Millisecond), true}, {last.Add(-time.Millisecond), false}} {
		got := r.api.ask(t, request("GET", "/api/routes?inactive_since="+c.since.Format("2006-01-02T15:04:05.000Z"), ""))
		if strings.Contains(got.body, `"/a"`) != c.want {
			t.Errorf("%v since the activity: %s", c.since.Sub(last), got.body)
		}
	}
}

func TestParseTime(t *testing.T) {
	for _, s := range []string{
		"2020-01-01", "2020", "2020-01", "2020-01-01T00:00Z", "2020-01-01T00:00:00.000000Z", "2020-01-01T01:00:00+01:00",
		"2020-01-01T01:00:00+0100", "Wed, 01 Jan 2020 00:00:00 GMT",
	} {
		if got, err := parseTime(s); err != nil || got.Unix() != 1577836800 {
			t.Errorf("%s: %v %v", s, got, err)
		}
	}
	for _, s := range []string{"", "x", "2020-13-01", "1577836800000", "2020-01-01T00:00:00 00:00"} {
		if got, err := parseTime(s); err == nil {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func TestMatchedAndForwardedPathAreOne(t *testing.T) {
	b := newBackend(t)
	for _, c := range []struct {
		name, asked, want string
		cfg               Config
	}{
		{"exact", "/user/a", "/A/user/a", Config{}},
		{"longest", "/user/a/b/c", "/AB/user/a/b/c", Config{}},
		{"whole segments", "/user/ab", "/root/user/ab", Config{}},
		{"query", "/user/a?x=%2F&y", "/A/user/a?x=%2F&y", Config{}},
		{"raw rest", "/user/a/%2F%7E'()", "/A/user/a/%2F%7E'()", Config{}},
		{"dots", "/user/x/%2e./a/./z", "/A/user/a/z", Config{}},
		{"backslash", `/user\a`, "/A/user/a", Config{}},
		// The original takes "evil" for a host, matches /user/a, and forwards all of it.
		{"two slashes", "//evil/user/a", "/root//evil/user/a", Config{}},
		{"encoded slash splits", "/user%2Fa/z", "/A/user%2Fa/z", Config{}},
		{"prefix off", "/user/a/z?q", "/A/z?q", Config{NoIncludePrefix: true}},
		{"all off", "/user/a", "/A", Config{NoIncludePrefix: true}},
		// The original takes off as many bytes as the decoded prefix has.
		{"encoded prefix off", "/user/%61/z", "/A/z", Config{NoIncludePrefix: true}},
		{"encoded slash off", "/user%2fa/z", "/A/z", Config{NoIncludePrefix: true}},
		{"slashes in front off", "//user/a/z", "/A/z", Config{NoIncludePrefix: true}},
		{"target's path off", "/user/a/z", "/user/a/z", Config{NoPrependPath: true}},
		{"two slashes, by the letter", "//evil/user/a?q", "//evil/user/a?q", Config{NoPrependPath: true}},
		{"both off", "/user/a", "/", Config{NoPrependPath: true, NoIncludePrefix: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, c.cfg)
			r.add(t, "/", b.url+"/root")
			r.add(t, "/user/a", b.url+"/A")
			r.add(t, "/user/a/b", b.url+"/AB")
			got := r.public.ask(t, request("GET", c.asked, ""))
			var e echo
			if err := json.Unmarshal([]byte(got.body), &e); err != nil {
				t.Fatalf("%+v", got)
			}
			if e.URI != c.want {
				t.Errorf("%s became %s, not %s", c.asked, e.URI, c.want)
			}
		})
	}
}

func TestTableForgetsBranches(t *testing.T) {
	var tb table
	tb.add("/a/b/c", routeData{}, "http://x")
	tb.add("/a", routeData{}, "http://x")
	if r, depth := tb.find([]string{"a", "b", "x"}); r == nil || r.path != "/a" || depth != 1 {
		t.Errorf("%+v %d", r, depth)
	}
	if !tb.remove("/a/b/c/") || tb.remove("/a/b/c") || !tb.remove("/a") {
		t.Error("the wrong ones were there")
	}
	if len(tb.root.branches) != 0 || len(tb.all) != 0 {
		t.Errorf("left: %+v", tb.root)
	}
}

func TestHeaders(t *testing.T) {
	b := newBackend(t)
	for _, c := range []struct {
		name string
		cfg  Config
		sent []string
		want map[string][]string
		host string
	}{
		{"plain", Config{}, nil, map[string][]string{"x-forwarded-for": {"127.0.0.1"}, "x-forwarded-port": {"8000"}, "x-forwarded-proto": {"http"}, "x-forwarded-host": {"hub.example.org:8000"}}, "hub.example.org:8000"},
		{"appended", Config{}, []string{"X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-Host: o"}, map[string][]string{"x-forwarded-for": {"1.1.1.1,127.0.0.1"}, "x-forwarded-port": {"443,8000"}, "x-forwarded-proto": {"https,http"}, "x-forwarded-host": {"o"}}, "hub.example.org:8000"},
		{"off", Config{NoXForward: true}, []string{"X-Forwarded-For: 1.1.1.1"}, map[string][]string{"x-forwarded-for": {"1.1.1.1"}}, "hub.example.org:8000"},
		{"custom", Config{NoXForward: true, ChangeOrigin: true, Headers: map[string]string{"x-one": "1"}}, []string{"X-One: 2"}, map[string][]string{"x-one": {"1"}}, strings.TrimPrefix(b.url, "http://")},
		{"hop by hop", Config{NoXForward: true}, []string{"Keep-Alive: 5", "Proxy-Connection: x", "Te: gzip", "X-Kept: 1"}, map[string][]string{"x-kept": {"1"}}, "hub.example.org:8000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, c.cfg)
			r.add(t, "/", b.url)
			var e echo
			if err := json.Unmarshal([]byte(r.public.ask(t, request("GET", "/", "", c.sent...)).body), &e); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, e.Header); diff != "" || e.Host != c.host {
				t.Errorf("host %s, headers %s", e.Host, diff)
			}
		})
	}
}

func TestActivity(t *testing.T) {
	b := newBackend(t)
	r := start(t, Config{})
	r.add(t, "/u", b.url)
	for _, c := range []struct {
		request string
		want    bool
	}{
		{request("GET", "/u/x", ""), true},
		{request("GET", "/u/status/204", ""), true},
		{request("GET", "/u/status/404", ""), false},
		{request("GET", "/u/redirect?to=/x", ""), false},
		{request("POST", "/u/status/500", "what a body says is activity"), true},
		{request("GET", "/elsewhere", ""), false},
	} {
		if got := counts(t, r.api, "/u", func() { r.public.ask(t, c.request) }); got != c.want {
			t.Errorf("%.30q: %v", c.request, got)
		}
	}
}

func TestWebSocket(t *testing.T) {
	b := newBackend(t)
	dir := shortDir(t)
	r := start(t, Config{})
	r.add(t, "/u", b.url+"/t")
	r.add(t, "/s", newSocketBackend(t, dir))
	for _, path := range []string{"/u/push?x=y", "/s/push"} {
		c, res := r.public.webSocket(t, path)
		c.SetReadDeadline(time.Now().Add(patient))
		if got := res.Header.Get("X-Proto") + res.Header.Get("X-Host"); got != "ws" {
			t.Errorf("forwarded: %q", got)
		}
		if res.Header.Get("Sec-Websocket-Protocol") != "v1.kernel.websocket.jupyter.org" {
			t.Errorf("%v", res.Header)
		}
		name := path[:2]
		if counts(t, r.api, name, func() {
			if _, got, err := c.ReadMessage(); err != nil || string(got) != "pushed" {
				t.Fatalf("%q %v", got, err)
			}
		}) {
			t.Error("what a server says is activity")
		}
		big := bytes.Repeat([]byte("0123456789"), 100_000)
		if !counts(t, r.api, name, func() { c.WriteMessage(websocket.BinaryMessage, big) }) {
			t.Error("a message is no activity")
		}
		if _, got, err := c.ReadMessage(); err != nil || !bytes.Equal(got, big) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	// What is open ends with the proxy.
	c, _ := r.public.webSocket(t, "/u/ws")
	r.stop()
	c.SetReadDeadline(time.Now().Add(patient))
	if _, _, err := c.ReadMessage(); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("after the end: %v", err)
	}
}

func TestWebSocketEndsWithEitherSide(t *testing.T) {
	b := newBackend(t)
	r := start(t, Config{})
	r.add(t, "/u", b.url)
	c, _ := r.public.webSocket(t, "/u/ws")
	c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "bye"), time.Now().Add(patient))
	c.SetReadDeadline(time.Now().Add(patient))
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 4001) {
		t.Errorf("the server's close frame: %v", err)
	}
	c2, _ := r.public.webSocket(t, "/u/ws")
	c2.WriteMessage(websocket.TextMessage, []byte("die"))
	c2.SetReadDeadline(time.Now().Add(patient))
	if _, _, err := c2.ReadMessage(); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("without a server: %v", err)
	}
}

func TestFailedWebSocketGetsAStatusLine(t *testing.T) {
	b := newBackend(t)
	r := start(t, Config{ErrorTarget: b.url})
	r.add(t, "/dead", "http://127.0.0.1:1")
	r.add(t, "/u", b.url)
	for request, want := range map[string]string{
		upgrade("/none"):     "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n",
		upgrade("/dead"):     "HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n",
		upgrade("/dead/%ff"): "HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n",
		strings.Replace(upgrade("/u"), "websocket", "h2c", 1):                               "",
		strings.Replace(upgrade("/u"), "GET", "POST", 1):                                    "",
		strings.Replace(upgrade("/u"), "Host", "Content-Length: 2\r\nHost", 1) + "\x88\x00": "",
	} {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "tcp", r.public.address)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patient))
		io.WriteString(c, request)
		got, err := io.ReadAll(c) // to the end: the connection is closed
		if err != nil || string(got) != want {
			t.Errorf("%.40q: %q %v", request, got, err)
		}
		c.Close()
	}
	got := r.public.ask(t, upgrade("/u/refuse"))
	if got.status != 403 || got.body != "not here" || got.header.Get("X-Refused") != "yes" {
		t.Errorf("a refusal: %+v", got)
	}
}

func upgrade(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

func TestFailures(t *testing.T) {
	b := newBackend(t)
	pages := shortDir(t)
	for name, text := range map[string]string{"404.html": "gone", "error.html": "broken"} {
		if err := os.WriteFile(filepath.Join(pages, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, path string
		cfg        Config
		status     int
		body, kind string
	}{
		{"no route", "/none", Config{}, 404, "No service is registered at this URL", "text/html"},
		{"dead", "/dead", Config{}, 503, "The upstream service is unavailable", "text/html"},
		{"no target", "/odd", Config{}, 500, "could not forward", "text/html"},
		{"undecodable", "/dead/%ff", Config{}, 500, "could not forward", "text/html"},
		{"page", "/none", Config{ErrorPath: pages}, 404, "gone", "text/html"},
		{"other page", "/dead", Config{ErrorPath: pages}, 503, "broken", "text/html"},
		{"no page", "/dead", Config{ErrorPath: filepath.Join(pages, "none")}, 503, "Service Unavailable", "text/plain; charset=utf-8"},
		{"target", "/none?a=b", Config{ErrorTarget: b.url + "/e"}, 404, `/e/404?url=%2Fnone%3Fa%3Db`, "application/json"},
		{"target with a status of its own", "/dead", Config{ErrorTarget: b.url + "/status"}, 503, "", ""},
		{"target away", "/none", Config{ErrorTarget: "http://127.0.0.1:1"}, 404, "Not Found", "text/plain; charset=utf-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, c.cfg)
			r.add(t, "/dead", "http://127.0.0.1:1")
			r.add(t, "/odd", "odd")
			got := r.public.ask(t, request("GET", c.path, ""))
			if got.status != c.status || !strings.Contains(got.body, c.body) || got.header.Get("Content-Type") != c.kind && c.kind != "" {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	r := start(t, Config{})
	for _, method := range []string{"GET", "POST"} {
		if got := r.public.ask(t, request(method, "/_chp_healthz", "")); got.status != 200 || got.body != `{"status":"OK"}` || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%+v", got)
		}
	}
	if got := r.public.ask(t, request("GET", "/_chp_healthz?x", "")); got.status != 404 {
		t.Errorf("%+v", got)
	}
}

func TestHostRouting(t *testing.T) {
	b := newBackend(t)
	r := start(t, Config{HostRouting: true, NoIncludePrefix: true})
	r.add(t, "/hub.example.org/user", b.url+"/there")
	got := r.public.ask(t, request("GET", "/user/a", ""))
	if !strings.Contains(got.body, `"URI":"/there/a"`) {
		t.Errorf("%+v", got)
	}
	if got := r.public.ask(t, strings.Replace(request("GET", "/user/a", ""), "hub.", "other.", 1)); got.status != 404 {
		t.Errorf("another host: %+v", got)
	}
	if got := r.api.ask(t, request("GET", "/api/routes/hub.example.org/user", "")); !strings.Contains(got.body, `"host":"hub.example.org"`) {
		t.Errorf("%+v", got)
	}
}

func TestRewrittenRedirects(t *testing.T) {
	b := newBackend(t)
	r := start(t, Config{AutoRewrite: true, ProtocolRewrite: "https"})
	r.add(t, "/", b.url)
	for to, want := range map[string]string{
		b.url + "/x": "https://hub.example.org:8000/x", "http://else.example/x": "http://else.example/x", "/x": "/x",
	} {
		if got := r.public.ask(t, request("GET", "/redirect?to="+to, "")).header.Get("Location"); got != want {
			t.Errorf("%s became %s", to, got)
		}
	}
}

func TestRedirectToHTTPS(t *testing.T) {
	for _, c := range []struct{ port, request, want string }{
		{"443", "GET /a%2F?b HTTP/1.1\r\nHost: h:80\r\n\r\n", "https://h/a%2F?b"},
		{"8443", "GET //e/x HTTP/1.1\r\nHost: h\r\n\r\n", "https://h:8443//e/x"},
		{"8443", "GET / HTTP/1.0\r\n\r\n", ""},
	} {
		got := start(t, Config{Redirect: c.port}).redirect.ask(t, c.request)
		if c.want == "" {
			if got.status != 400 || !strings.Contains(got.body, "HTTPS-only on port 8443") {
				t.Errorf("%+v", got)
			}
			continue
		}
		if got.status != 301 || got.header.Get("Location") != c.want {
			t.Errorf("%+v", got)
		}
	}
}

func TestTimeouts(t *testing.T) {
	b := newBackend(t)
	r := start(t, Config{ProxyTimeout: time.Second})
	r.add(t, "/", b.url)
	if got := r.public.ask(t, request("GET", "/silent", "")); got.status != 503 {
		t.Errorf("a silent server: %+v", got)
	}
	if got := r.public.ask(t, request("GET", "/x", "")); got.status != 200 {
		t.Errorf("then: %+v", got)
	}
	r = start(t, Config{Timeout: time.Second})
	r.add(t, "/", b.url)
	if got := r.public.ask(t, request("GET", "/silent", "")); !got.closed {
		t.Errorf("a silent client: %+v", got)
	}
	c, _ := r.public.webSocket(t, "/ws") // which may be silent for long
	time.Sleep(1500 * time.Millisecond)
	c.SetReadDeadline(time.Now().Add(patient))
	if err := c.WriteMessage(websocket.TextMessage, []byte("x")); err != nil {
		t.Error(err)
	}
	if _, _, err := c.ReadMessage(); err != nil {
		t.Error(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no logger": {}, "both error pages": {ErrorPath: "x", ErrorTarget: "http://x", Logger: slog.Default()},
		"error target": {ErrorTarget: "x", Logger: slog.Default()}, "default target": {DefaultTarget: "ws://x", Logger: slog.Default()},
	} {
		if _, err := New(cfg); err == nil {
			t.Error(name)
		}
	}
}

func TestListenReplacesAnAbandonedSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l, err := Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), "unix", path); hub.KindOf(err) != hub.Invalid {
		t.Errorf("in use: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	again, err := Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestLogLinesAreLines(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(NewHandler(&b, slog.LevelInfo)).With("a", 1).WithGroup("g")
	log.Debug("hidden")
	log.Warn("REST API is not authenticated.", "path", "/x\nforged", "error", fmt.Errorf("no"))
	if want := " [ConfigProxy] warn: REST API is not authenticated. a=1 g.path=/x forged g.error=no\n"; !strings.HasSuffix(b.String(), want) || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("%q", b.String())
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "chp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
