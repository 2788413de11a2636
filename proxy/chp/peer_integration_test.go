//go:build integration

package chp

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carrel/internal/program"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

var binary struct {
	once sync.Once
	path string
	err  error
}

// carrel builds the binary once.
func carrel(t *testing.T) string {
	t.Helper()
	binary.once.Do(func() {
		var dir string
		if dir, binary.err = os.MkdirTemp("/tmp", "chp-"); binary.err != nil {
			return
		}
		binary.path = filepath.Join(dir, "carrel")
		if out, err := exec.Command("go", "build", "-o", binary.path, "carrel/cmd/carrel").CombinedOutput(); err != nil {
			binary.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if binary.path != "" {
		os.RemoveAll(filepath.Dir(binary.path))
	}
	os.Exit(code)
}

// realCHP is the original, from npm.
func realCHP(t *testing.T) string {
	t.Helper()
	dir := filepath.Join("testdata", "configurable-http-proxy")
	script := filepath.Join(dir, "node_modules", "configurable-http-proxy", "bin", "configurable-http-proxy")
	if _, err := os.Stat(script); err != nil {
		c := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
	return script
}

// side is one of the two that are compared.
type side struct {
	name        string
	public, api endpoint
	cmd         *exec.Cmd
	out         *program.Buffer
}

func freePort() string { return strconv.Itoa(program.FreePort()) }

// launch starts one with the options, and waits for the lines that callers wait for.
func launch(t *testing.T, name string, command []string, options ...string) *side {
	t.Helper()
	port, api := freePort(), freePort()
	s := &side{name: name, public: endpoint{"tcp", "127.0.0.1:" + port}, api: endpoint{"tcp", "127.0.0.1:" + api}, out: &program.Buffer{}}
	args := slices.Concat(command[1:], []string{"--ip", "127.0.0.1", "--port", port, "--api-ip", "127.0.0.1", "--api-port", api}, options)
	s.cmd = exec.Command(command[0], args...)
	s.cmd.Env = append(os.Environ(), "CONFIGPROXY_AUTH_TOKEN="+testToken)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, s.out)
		}
	})
	until(t, name+" is up", func() bool {
		said := s.out.String()
		return strings.Contains(said, "Proxying http") && strings.Contains(said, "Proxy API at http") && s.public.open(t) && s.api.open(t)
	})
	return s
}

// end terminates it and gives its exit status.
func (s *side) end() int {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(patient, func() { s.cmd.Process.Kill() })
		s.cmd.Wait()
		kill.Stop()
	}
	return s.cmd.ProcessState.ExitCode()
}

func (e endpoint) open(t *testing.T) bool {
	var d net.Dialer
	c, err := d.DialContext(t.Context(), e.network, e.address)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// seen is what is compared of an answer.
type seen struct {
	Closed bool
	Status int
	Header http.Header
	Body   any
	Active bool // it counted as activity of /user/a
}

// fields are the headers compared; the others are the connection's own affair.
var fields = []string{"Content-Type", "Location", "Set-Cookie", "Etag", "X-Refused", "Content-Encoding"}

func see(r reply) seen {
	s := seen{Closed: r.closed, Status: r.status, Body: r.body, Header: http.Header{}}
	for _, name := range fields {
		if v := r.header[name]; v != nil {
			s.Header[name] = v
		}
	}
	// Where the original says no type, ours is one that no browser makes a page of.
	if r.status >= 400 && r.header.Get("Content-Type") == "text/plain; charset=utf-8" {
		s.Header.Del("Content-Type")
	}
	var v any
	if json.Unmarshal([]byte(r.body), &v) == nil {
		s.Body = scrubbed(v)
	}
	return s
}

// scrubbed takes out what differs between any two runs, and the hop's own headers.
func scrubbed(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for k, inner := range m {
		switch k {
		case "last_activity":
			if _, err := time.Parse("2006-01-02T15:04:05.000Z", fmt.Sprint(inner)); err == nil {
				m[k] = "a time"
			}
		case "connection", "transfer-encoding", "content-length", "accept-encoding":
			delete(m, k)
		default:
			m[k] = scrubbed(inner)
		}
	}
	return m
}

type step struct {
	name    string
	api     bool
	request string
	// loose are fields that are ours: "body" is in our own words.
	loose []string
}

// scripts are requests that both get, by their options.
var scripts = []struct {
	name    string
	options []string
	steps   []step
}{
	{"REST", nil, rest},
	{"proxying", []string{"--default-target", "{BACKEND}"}, proxying},
	{"without prefix", []string{"--no-include-prefix", "--default-target", "{BACKEND}"}, prefixes},
	{"without the target's path", []string{"--no-prepend-path"}, prefixes},
	{"with the target's path", nil, prefixes},
	{"by host", []string{"--host-routing"}, hosts},
	{"rewriting", []string{"--auto-rewrite", "--protocol-rewrite", "https", "--change-origin", "--custom-header", "X-One: 1", "--custom-header", " x-two :2:3 "}, rewriting},
	{"as it is", []string{"--no-x-forward"}, rewriting},
	{"error path", []string{"--error-path", "{PAGES}"}, failing},
	{"error path without pages", []string{"--error-path", "{EMPTY}"}, failing},
	{"error target", []string{"--error-target", "{BACKEND}/hub/error"}, failing},
	{"error target that is away", []string{"--error-target", "http://127.0.0.1:1/x"}, failing},
}

func post(path, body string) step {
	return step{name: "POST " + path + " " + body, api: true, request: apiRequest("POST", "/api/routes"+path, body)}
}
func call(method, path string) step {
	return step{name: method + " " + path, api: true, request: apiRequest(method, path, "")}
}
func get(path string, headers ...string) step {
	return step{name: "GET " + path + " " + strings.Join(headers, ", "), request: request("GET", path, "", headers...)}
}
func (s step) but(fields ...string) step { s.loose = fields; return s }

var rest = []step{
	call("GET", "/api/routes"), call("GET", "/api/routes/"), call("GET", "/api/routes?x=y"),
	post("/user/a", `{"target": "{BACKEND}", "jupyterhub": true, "user": "a<b>&", "n": 1.5, "o": {"x": [1, null]}}`),
	post("/user/trail/", `{"target": "{BACKEND}"}`),
	post("/user/%40b%20c/%E2%82%AC", `{"target": "{BACKEND}"}`),
	post("/user/two//", `{"target": "{BACKEND}"}`),
	post("", `{"target": "{BACKEND}", "root": true}`),
	call("GET", "/api/routes"), call("GET", "/api/routes/user/a"), call("GET", "/api/routes/user/a/"), call("GET", "/api/routes/user/%40b%20c/%E2%82%AC"),
	call("GET", "/api/routes/user/nobody"), call("GET", "/api/routes/user"), call("GET", "/api/routes/x/../user/a"),
	post("/user/a", `{"target": "{BACKEND}/new", "last_activity": "mine"}`), call("GET", "/api/routes/user/a"),
	post("/user/a", `{"target": 5}`), post("/user/a", `{}`), post("/user/a", `[]`),
	post("/user/a", `null`), post("/user/a", `"x"`), post("/user/a", `{"Target": "x"}`), post("/user/a", `{"target": null}`),
	post("/user/a", `{"target":`).but("body"), post("/user/a", ``).but("body"),
	call("GET", "/api/routes?inactive_since=2020-01-01T00:00:00.000Z"), call("GET", "/api/routes?inactiveSince=2020-01-01"),
	call("GET", "/api/routes?inactive_since=2090-01-01T00:00:00%2B01:00"), call("GET", "/api/routes?inactive_since=2090-01-01T00:00:00.123456Z"),
	call("GET", "/api/routes?inactive_since=2090"), call("GET", "/api/routes?inactive_since=2090-01-01T00:00:00"),
	call("GET", "/api/routes?inactive_since=yesterday"), call("GET", "/api/routes?inactiveSince=&inactive_since=2020-01-01"),
	call("PUT", "/api/routes/user/a"), call("HEAD", "/api/routes"), call("PATCH", "/api/routes"),
	call("GET", "/api/"), call("GET", "/api"), call("GET", "/"), call("GET", "/api/routesx"), call("GET", "/metrics"),
	{name: "no token", api: true, request: request("GET", "/api/routes", "")},
	{name: "wrong token", api: true, request: request("GET", "/api/routes", "", "Authorization: token nope")},
	{name: "case", api: true, request: request("GET", "/api/routes", "", "Authorization: Token "+testToken)},
	{name: "unanchored", api: true, request: request("GET", "/api/routes/user/a", "", "Authorization: my token  "+testToken+" x")},
	{name: "token at the end", api: true, request: request("GET", "/api/routes", "", "Authorization: token "+testToken+"x")},
	{name: "POST without token", api: true, request: request("POST", "/api/routes/user/a", `{"target": "x"}`)},
	{name: "bad POST without token", api: true, request: request("POST", "/api/routes/user/a", `{`), loose: []string{"body"}},
	{name: "DELETE without token", api: true, request: request("DELETE", "/api/routes/user/a", "")},
	call("DELETE", "/api/routes/user/a"), call("DELETE", "/api/routes/user/a"), call("DELETE", "/api/routes/user/trail/"), call("DELETE", "/api/routes/user/%40b%20c/%E2%82%AC"),
	call("DELETE", "/api/routes/"), call("DELETE", "/api/routes/"), call("GET", "/api/routes"),
}

var proxying = []step{
	post("/user/a", `{"target": "{BACKEND}"}`), post("/user/a/b", `{"target": "{BACKEND}/deep?k=v"}`), post("/user/%40x", `{"target": "{BACKEND}/at/"}`), post("/dead", `{"target": "http://127.0.0.1:1"}`),
	post("/sock", `{"target": "{SOCKET}"}`), post("/sockpath", `{"target": "{SOCKET}/base"}`), post("/odd", `{"target": "ftp://127.0.0.1/"}`), post("/nonsense", `{"target": "nonsense"}`),
	get("/_chp_healthz"), get("/_chp_healthz?x"), get("/"), get("/x?y=z&a=%zz"), get("/user"), get("/user/a"), get("/user/a/"), get("/user/ab"), get("/user/a/b"), get("/user/a/b/?q"), get("/user/a/b/c?q=1"), get("/user/a/bc"),
	get("/user/%61/x"), get("/user/a%2Fb/x"), get("/user/@x/y"), get("/user/%40x/y"), get("/user/x/../a/z"), get("/user/x/%2e%2E/a/z"), get(`/user\a\z`), get("/user/a/./z"), get("/user/a/.."), get("/user/a//b"), get("/user/a/z#f"),
	get("/user/a/%zz").but("Status", "Content-Type", "body"), get("/user/a/%ff").but("body"), get("http://hub.example.org:8000/user/a/abs?x"),
	get("/user/a/h", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-Host: given.example"),
	get("/user/a/h", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 5.6.7.8", "Forwarded: for=9.9.9.9", "Cookie: a=b", "Cookie: c=d", "X-Scheme: https", "User-Agent: me"),
	{name: "POST", request: request("POST", "/user/a/p?q", "the body", "Content-Type: text/x")}, {name: "chunked", request: request("PUT", "/user/a/p", "", "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n"},
	{name: "POST that fails", request: request("POST", "/user/a/status/500", "the body")}, {name: "DELETE", request: request("DELETE", "/user/a/d", "")}, {name: "HEAD", request: request("HEAD", "/user/a/d", "")},
	get("/user/a/status/204"), get("/user/a/status/404"), get("/user/a/status/500"), get("/user/a/cookies"), get("/user/a/redirect?to=/x"), get("/user/a/redirect?to=" + "{BACKEND}/x"),
	get("/dead").but("body"), get("/odd").but("body"), get("/nonsense").but("body"), get("/sock/x?y"), get("/sockpath/x?y"),
	{name: "websocket refused", request: upgradeRequest("/user/a/refuse")}, {name: "websocket to the dead", request: upgradeRequest("/dead/ws")}, {name: "websocket undecodable", request: upgradeRequest("/user/%ff")},
	{name: "no websocket", request: "GET /user/a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"}, {name: "POSTed websocket", request: strings.Replace(upgradeRequest("/user/a"), "GET", "POST", 1)},
	call("DELETE", "/api/routes/user/a"), get("/user/a/x"), get("/user/a/b"),
}

func upgradeRequest(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: hub.example.org:8000\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

var prefixes = []step{
	post("/user/a", `{"target": "{BACKEND}/base"}`), post("/plain", `{"target": "{BACKEND}"}`), post("/q", `{"target": "{BACKEND}/s/?k=v"}`),
	get("/user/a"), get("/user/a/"), get("/user/a?x=y"), get("/user/a/z/%2F/w?x"), get("/plain"), get("/plain/"), get("/plain?x"), get("/plain/z"), get("/q"), get("/q/z"), get("/q/z?x=y"), get("/q?x=y"),
	get("/").but("body"), get("/other?x").but("body"),
}

var hosts = []step{
	post("/hub.example.org", `{"target": "{BACKEND}"}`), post("/hub.example.org/user/a", `{"target": "{BACKEND}/a"}`), post("/b.example.org/", `{"target": "{BACKEND}/b"}`),
	call("GET", "/api/routes"), get("/"), get("/x"), get("/user/a/x"),
	{name: "other host", request: "GET /x HTTP/1.1\r\nHost: b.example.org\r\nConnection: close\r\n\r\n"}, {name: "unknown host", request: "GET /x HTTP/1.1\r\nHost: c.example.org\r\nConnection: close\r\n\r\n", loose: []string{"body"}},
}

var rewriting = []step{
	post("/user/a", `{"target": "{BACKEND}"}`),
	get("/user/a/redirect?to={BACKEND}/x%3Fy"), get("/user/a/redirect?to=http://else.example/x"), get("/user/a/redirect?to=/relative"),
	get("/user/a/h", "X-One: theirs", "X-Forwarded-For: 1.1.1.1"), {name: "websocket refused", request: upgradeRequest("/user/a/refuse")},
}

var failing = []step{
	post("/dead", `{"target": "http://127.0.0.1:1"}`), post("/odd", `{"target": "nonsense"}`),
	get("/nobody/a%20b?x=y&z=1"), get("/dead/x"), get("/odd"), {name: "HEAD", request: request("HEAD", "/dead", "")},
	{name: "websocket", request: upgradeRequest("/dead")},
}

func TestBesideTheOriginal(t *testing.T) {
	script, ours := realCHP(t), carrel(t)
	dir, err := os.MkdirTemp("/tmp", "chp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, text := range map[string]string{"404.html": "<p>gone</p>", "error.html": "<p>broken</p>"} {
		if err := os.MkdirAll(filepath.Join(dir, "pages"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "pages", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	words := strings.NewReplacer("{BACKEND}", newBackend(t).url, "{SOCKET}", newSocketBackend(t, dir), "{PAGES}", filepath.Join(dir, "pages"), "{EMPTY}", filepath.Join(dir))
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			var options []string
			for _, o := range s.options {
				options = append(options, words.Replace(o))
			}
			both := []*side{launch(t, "the original", []string{"node", script}, options...), launch(t, "carrel chp", []string{ours, "chp"}, options...)}
			for _, st := range s.steps {
				var answers [2]seen
				for i, p := range both {
					answers[i] = st.play(t, p, words)
				}
				if diff := cmp.Diff(answers[0], answers[1]); diff != "" {
					t.Errorf("%s: (-the original +carrel chp)\n%s", st.name, diff)
				}
			}
		})
	}
}

// raw is the request as it is sent.
func (s step) raw(words *strings.Replacer) string {
	raw := s.request
	if s.api { // whose bodies change their length
		head, body, _ := strings.Cut(raw, "\r\n\r\n")
		if body = words.Replace(body); body != "" {
			lines := slices.DeleteFunc(strings.Split(head, "\r\n"), func(l string) bool { return strings.HasPrefix(l, "Content-Length:") })
			head = strings.Join(append(lines, "Content-Length: "+strconv.Itoa(len(body))), "\r\n")
		}
		raw = head + "\r\n\r\n" + body
	}
	return words.Replace(raw)
}

func (s step) to(p *side) endpoint {
	if s.api {
		return p.api
	}
	return p.public
}

func (s step) play(t *testing.T, p *side, words *strings.Replacer) seen {
	t.Helper()
	raw, to := s.raw(words), s.to(p)
	var saw seen
	if s.api || p.api.ask(t, apiRequest("GET", "/api/routes/user/a", "")).status != http.StatusOK {
		saw = see(to.ask(t, raw))
	} else {
		var got reply
		active := counts(t, p.api, "/user/a", func() { got = to.ask(t, raw) })
		saw = see(got)
		saw.Active = active
	}
	for _, field := range s.loose {
		switch field {
		case "body":
			saw.Body = nil
		case "Status":
			saw.Status = 0
		default:
			delete(saw.Header, field)
		}
	}
	return saw
}

func TestWebSocketsBesideTheOriginal(t *testing.T) {
	script, ours := realCHP(t), carrel(t)
	back := newBackend(t)
	type saw struct {
		Header                       http.Header
		Echoed                       string
		ClientCounts, ServerCounts   bool
		PongCounts, StillWorks, Ends bool
	}
	var both [2]saw
	for i, command := range [][]string{{"node", script}, {ours, "chp"}} {
		p := launch(t, command[0], command)
		if got := p.api.ask(t, apiRequest("POST", "/api/routes/user/a", `{"target": "`+back.url+`/t"}`)); got.status != http.StatusCreated {
			t.Fatalf("%+v", got)
		}
		s := saw{Header: http.Header{}}
		c, res := p.public.webSocket(t, "/user/a/push?x=y")
		for _, name := range []string{"Sec-Websocket-Protocol", "X-Proto", "X-Port", "X-For", "X-Host", "X-Uri", "Upgrade"} {
			s.Header[name] = res.Header[name]
		}
		c.SetReadDeadline(time.Now().Add(patient))
		s.ServerCounts = counts(t, p.api, "/user/a", func() {
			if _, b, err := c.ReadMessage(); err != nil || string(b) != "pushed" {
				t.Fatalf("%s: %q, %v", command[0], b, err)
			}
		})
		s.ClientCounts = counts(t, p.api, "/user/a", func() { c.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("hello", 50_000))) })
		_, b, err := c.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		s.Echoed = fmt.Sprint(len(b), string(b[:5]))
		s.PongCounts = counts(t, p.api, "/user/a", func() { c.WriteControl(websocket.PongMessage, nil, time.Now().Add(patient)) })
		if got := p.api.ask(t, apiRequest("DELETE", "/api/routes/user/a", "")); got.status != http.StatusNoContent {
			t.Fatalf("%+v", got)
		}
		c.WriteMessage(websocket.TextMessage, []byte("after"))
		_, b, err = c.ReadMessage()
		s.StillWorks = err == nil && string(b) == "after"
		if status := p.end(); status != 2 {
			t.Errorf("%s: exit status %d, not 2", command[0], status)
		}
		_, _, err = c.ReadMessage()
		s.Ends = err != nil
		both[i] = s
	}
	if diff := cmp.Diff(both[0], both[1]); diff != "" {
		t.Errorf("(-the original +carrel chp)\n%s", diff)
	}
	if s := both[1]; !s.ClientCounts || s.ServerCounts || !s.PongCounts || !s.StillWorks || !s.Ends {
		t.Errorf("%+v", s)
	}
}
