package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"carrel/hub"
	"carrel/internal/front"
)

// door opens one more listener of the proxy's and gives its address.
func (w *world) door(opt front.Options) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	server := w.proxy.server(w.proxy.Handler())
	served := make(chan error, 1)
	go func() { served <- server.Serve(w.proxy.strict(front.New(l, opt))) }()
	w.t.Cleanup(func() { server.Close(); <-served })
	return l.Addr().String()
}

// TestToHTTPS: the redirecting listener knows the way to our own hosts, and to nothing else.
func TestToHTTPS(t *testing.T) {
	for _, c := range []struct {
		setup
		host, want string
	}{
		{setup{}, "hub.test", "https://hub.test"},
		{setup{}, "HUB.test:80", "https://hub.test"},
		{setup{}, "alice.hub.test", "https://alice.hub.test"},
		{setup{}, "evil.test", ""},
		{setup{}, "hub.test.evil.test", ""},
		{setup{}, "a.b.hub.test", ""},
		{setup{}, "-.hub.test", ""},
		{setup{}, "127.0.0.1", ""},
		{setup{public: "https://hub.test:8443/carrel/"}, "hub.test:8080", "https://hub.test:8443"},
		{setup{public: "https://hub.test:8443/carrel/"}, "bob.hub.test", "https://bob.hub.test:8443"},
		{setup{mode: hub.Paths}, "books.test", "https://books.test"},
		{setup{mode: hub.Paths, notebook: "hub.test:8443"}, "hub.test:8443", "https://hub.test"},
		{setup{mode: hub.OneOrigin}, "hub.test", "https://hub.test"},
		{setup{mode: hub.OneOrigin}, "alice.hub.test", ""},
		{setup{mode: hub.OneOrigin, public: "https://[::1]:8443/"}, "[::1]:80", "https://[::1]:8443"},
	} {
		t.Run(fmt.Sprint(c.mode, " ", c.host), func(t *testing.T) {
			w := newWorld(t, c.setup)
			at := w.door(front.Options{Redirect: true})
			tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", at)
			}}
			defer tr.CloseIdleConnections()
			for method, status := range map[string]int{"GET": 301, "HEAD": 301, "POST": 308, "DELETE": 308} {
				res, err := tr.RoundTrip(w.request(method, "http://"+c.host+"/user/alice/%20x?a=b&next=//evil.test", ""))
				must(t, err)
				res.Body.Close()
				if c.want == "" {
					if res.StatusCode != http.StatusMisdirectedRequest || res.Header.Get("Location") != "" {
						t.Errorf("%s: %d %q", method, res.StatusCode, res.Header)
					}
					continue
				}
				if to := res.Header.Get("Location"); res.StatusCode != status || to != c.want+"/user/alice/%20x?a=b&next=//evil.test" {
					t.Errorf("%s: %d to %s", method, res.StatusCode, to)
				}
				if len(res.Cookies()) > 0 {
					t.Errorf("%s: it sets cookies", method)
				}
			}
			for _, text := range []string{"GET //evil.test/ HTTP/1.1", "GET /\\evil.test HTTP/1.1", "GET http://evil.test/ HTTP/1.1", "GET @evil.test HTTP/1.1", "OPTIONS * HTTP/1.1"} {
				if answer := rawAt(t, at, text+"\r\nHost: "+c.host+"\r\nConnection: close\r\n\r\n"); strings.Contains(strings.ToLower(answer), "location:") {
					t.Errorf("%s: %q", text, answer)
				}
			}
		})
	}
}

func rawAt(t *testing.T, at, text string) string {
	t.Helper()
	w := world{t: t, addr: at}
	return w.raw(text)
}

// TestNothingButTheWay: no page, session or server is reached by the redirecting listener.
func TestNothingButTheWay(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	got := &inbox{}
	w.serve("alice", echo(got))
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", w.door(front.Options{Redirect: true}))
	}}
	defer tr.CloseIdleConnections()
	for _, page := range []string{"http://alice.hub.test/user/alice/x", "http://hub.test/hub/home", "http://hub.test/carrel-health", "http://alice.hub.test/carrel-enter"} {
		res, err := tr.RoundTrip(w.request("GET", page, "", w.as(alice), byToken(alice)))
		must(t, err)
		res.Body.Close()
		if res.StatusCode != http.StatusMovedPermanently {
			t.Errorf("%s: %d", page, res.StatusCode)
		}
	}
	if len(got.all())+len(w.hubGot.all())+len(w.edgeGot.all()) > 0 {
		t.Error("something was asked behind the proxy")
	}
}

// TestStrictTransport: every answer says so, a server's cannot say otherwise.
func TestStrictTransport(t *testing.T) {
	w := newWorld(t, setup{})
	w.proxy.cfg.StrictTransport = "max-age=60"
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Strict-Transport-Security", "max-age=0; includeSubDomains")
	}))
	for name, r := range map[string]reply{
		"a server": w.get(w.url("alice", "x"), w.as(alice)), "the hub": w.get("https://hub.test/hub/home"),
		"a refusal": w.get(w.url("alice", "x")), "nowhere": w.get("https://evil.test/"), "a doorway": w.get("https://hub.test/"),
	} {
		if got := r.header.Values("Strict-Transport-Security"); len(got) != 1 || got[0] != "max-age=60" {
			t.Errorf("%s (%d): %q", name, r.status, got)
		}
	}
	plain := newWorld(t, setup{})
	if got := plain.get("https://hub.test/").header.Get("Strict-Transport-Security"); got != "" {
		t.Errorf("unasked: %q", got)
	}
}

// TestBehindPROXY: the address that a trusted proxy tells is the one that servers hear and the log
// holds; where that is a proxy itself, its X-Forwarded-For counts as ever (attack 37).
func TestBehindPROXY(t *testing.T) {
	w := newWorld(t, setup{trusted: []string{"127.0.0.1/32", "10.0.0.0/8"}})
	alice := w.person("alice")
	got := &inbox{}
	w.serve("alice", echo(got))
	at := w.door(front.Options{Proxies: func(a netip.Addr) bool { return w.proxy.trusted(a) }})
	for _, c := range []struct{ told, want string }{{"203.0.113.7", "203.0.113.7"}, {"10.1.2.3", "6.6.6.6"}} {
		answer := rawAt(t, at, "PROXY TCP4 "+c.told+" 192.0.2.1 1000 443\r\nGET /user/alice/x HTTP/1.1\r\nHost: alice.hub.test\r\nConnection: close\r\nX-Forwarded-For: 6.6.6.6\r\nCookie: "+
			w.cookieName()+"="+alice.cookie.Reveal()+"\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 200") {
			t.Fatalf("%q", answer)
		}
		if heard := got.last(t).Header.Get("X-Forwarded-For"); heard != c.want {
			t.Errorf("told %s: the server hears of %s", c.told, heard)
		}
		w.until("the log has it", func() bool { return strings.Contains(w.log.String(), `"client":"`+c.want+`"`) })
	}
}
