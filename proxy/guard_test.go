package proxy

import (
	"net/http"
	"strings"
	"testing"

	"carrel/hub"
)

// TestForeignPages: our check of origin is the only one, since the token that we add switches
// Jupyter's off (attack 33).
func TestForeignPages(t *testing.T) {
	for _, mode := range []setup{{}, {mode: hub.Paths}, {mode: hub.OneOrigin, public: "http://hub.test:8000/carrel/"}} {
		w := newWorld(t, mode)
		alice := w.person("alice")
		got := &inbox{}
		w.serve("alice", echo(got))
		own := w.origins.ServerOrigin(alice.user.Name)
		scheme, host, _ := strings.Cut(own, "://")
		other := map[string]string{"https": "http", "http": "https"}[scheme] + "://" + host
		from := func(pairs ...string) []option {
			var o []option
			for i := 0; i < len(pairs); i += 2 {
				o = append(o, header(pairs[i], pairs[i+1]))
			}
			return o
		}
		for _, c := range []struct {
			name   string
			opts   []option
			unsafe bool // POST, PUT, PATCH, DELETE get through
			safe   bool // GET, HEAD get through
			socket bool
		}{
			{"own origin", from("Origin", own), true, true, true},
			{"own origin, same-origin", from("Origin", own, "Sec-Fetch-Site", "same-origin"), true, true, true},
			{"no origin", nil, false, true, false},
			{"no origin, same-origin", from("Sec-Fetch-Site", "same-origin"), true, true, false},
			{"no origin, none", from("Sec-Fetch-Site", "none"), true, true, false},
			{"no origin, same-site", from("Sec-Fetch-Site", "same-site"), false, false, false},
			{"no origin, cross-site", from("Sec-Fetch-Site", "cross-site"), false, false, false},
			{"a neighbour", from("Origin", scheme+"://bob.hub.test"), false, false, false},
			{"a neighbour that lies", from("Origin", scheme+"://bob.hub.test", "Sec-Fetch-Site", "same-origin"), false, false, false},
			{"null", from("Origin", "null"), false, false, false},
			{"null, same-origin", from("Origin", "null", "Sec-Fetch-Site", "same-origin"), false, false, false},
			{"the other scheme", from("Origin", other), false, false, false},
			{"another port", from("Origin", own+"1"), false, false, false},
			{"own as a prefix", from("Origin", own+".evil.test"), false, false, false},
			{"capitals", from("Origin", strings.ToUpper(own)), false, false, false},
			{"a link from elsewhere", from("Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"), false, true, false},
			{"a frame elsewhere", from("Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"), false, false, false},
			{"an image elsewhere", from("Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"), false, false, false},
		} {
			t.Run(string(w.origins.Mode())+"/"+c.name, func(t *testing.T) {
				for method, want := range map[string]bool{"GET": c.safe, "HEAD": c.safe, "POST": c.unsafe, "PUT": c.unsafe, "PATCH": c.unsafe, "DELETE": c.unsafe, "MKCOL": c.unsafe, "OPTIONS": c.unsafe} {
					before := len(got.all())
					r := w.send(method, w.url("alice", "api"), "", append(c.opts, w.as(alice))...)
					if passed := len(got.all()) > before; passed != want || passed != (r.status == 200) || !passed && r.status != 403 {
						t.Errorf("%s: status %d, reached the server: %v, want %v", method, r.status, passed, want)
					}
					before = len(got.all())
					if r := w.send(method, w.url("alice", "api"), "", append(c.opts, byToken(alice))...); r.status != 200 || len(got.all()) == before {
						t.Errorf("%s by token: %d", method, r.status)
					}
				}
				if _, res, err := w.socket("alice", "ws", append(c.opts, w.as(alice))...); (err == nil) != c.socket || err != nil && (res == nil || res.StatusCode != http.StatusForbidden) {
					t.Errorf("websocket: %v %v, want %v", err, res, c.socket)
				}
				if _, _, err := w.socket("alice", "ws", append(c.opts, byToken(alice))...); err != nil {
					t.Errorf("websocket by token: %v", err)
				}
			})
		}
	}
}

// TestOddUpgrades: what asks for another protocol in an unusual way gets none, unguarded least of all.
func TestOddUpgrades(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	got := &inbox{}
	w.serve("alice", echo(got))
	for name, c := range map[string]struct {
		method, body string
		opts         []option
		status       int
	}{
		"not websocket":          {"GET", "", []option{header("Connection", "Upgrade"), header("Upgrade", "h2c")}, 400},
		"POST":                   {"POST", "", []option{header("Connection", "Upgrade"), header("Upgrade", "websocket")}, 400},
		"with a body":            {"GET", "body", []option{header("Connection", "Upgrade"), header("Upgrade", "websocket")}, 400},
		"among other options":    {"GET", "", []option{header("Connection", "keep-alive, uPGRADE"), header("Upgrade", "foo")}, 400},
		"in a second header":     {"GET", "", []option{header("Connection", "keep-alive"), header("Connection", "upgrade"), header("Upgrade", "foo")}, 400},
		"without Connection":     {"GET", "", []option{header("Upgrade", "websocket")}, 200},
		"foreign, a second line": {"GET", "", []option{header("Connection", "x,upgrade"), header("Upgrade", "websocket"), header("Origin", "https://evil.test")}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			opts := append([]option{w.as(alice)}, c.opts...)
			if !strings.HasPrefix(name, "foreign") {
				opts = append(opts, ownOrigin(w, "alice"))
			}
			before := len(got.all())
			if r := w.send(c.method, w.url("alice", "ws"), c.body, opts...); r.status != c.status {
				t.Errorf("%d, want %d", r.status, c.status)
			}
			if all := got.all(); len(all) > before && all[len(all)-1].Header.Get("Upgrade") != "" {
				t.Error("the server was asked for an upgrade")
			}
		})
	}
	if r := w.get("https://hub.test/hub/home", kinds["websocket"]); r.status != http.StatusBadRequest {
		t.Errorf("the hub: %d", r.status)
	}
}
