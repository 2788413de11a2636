package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

const (
	journal     = "https://journal.example"
	visitorName = "visitor-abcdefghijklmnopqrstuvwxyz"
)

// visitor has a server that answers what it got, and a token for it.
func (w *world) visitor(got *inbox) *person { return w.visitorAt(echo(got)) }

func (w *world) visitorAt(h http.Handler) *person {
	w.t.Helper()
	w.proxy.cfg.EmbedOrigins = []string{journal}
	key := serverKey(w.t, visitorName, "")
	s := httptest.NewServer(h)
	w.t.Cleanup(s.Close)
	must(w.t, w.store.PutRoute(w.t.Context(), hub.Route{Key: key, UserID: hub.VisitorUser(key.User).ID, Generation: 1, Endpoint: endpoint(w.t, s.URL)}))
	w.until("the proxy knows the route", func() bool { return w.proxy.routes.get(key) != nil })
	p := &person{token: hub.RandomSecret()}
	must(w.t, w.store.CreateToken(w.t.Context(), hub.Token{
		ID: "v", Hash: p.token.Hash(), User: key.User, UserID: hub.VisitorUser(key.User).ID, Scopes: []hub.Scope{hub.ScopeAccessServers + "!user=" + visitorName},
		Created: time.Now(), Expires: time.Now().Add(time.Hour),
	}))
	return p
}

// TestPagesOfOtherSites use a visitor's server by its token where the operator named them, and nothing else.
func TestPagesOfOtherSites(t *testing.T) {
	w := newWorld(t, setup{})
	got := &inbox{}
	v := w.visitor(got)
	w.serve("alice", echo(&inbox{}))
	alice := w.person("alice")
	for _, c := range []struct {
		name, user, origin string
		by                 *person
		status             int
		shared             bool
	}{
		{"a named site, with the token", visitorName, journal, v, 200, true},
		{"a named site, without", visitorName, journal, nil, 401, true},
		{"another site, with the token", visitorName, "https://evil.example", v, 200, false},
		{"a named site at a person's server", "alice", journal, alice, 200, false},
		{"a named site, with a person's token", visitorName, journal, alice, 403, true},
	} {
		opts := []option{header("Origin", c.origin), header("Sec-Fetch-Mode", "cors"), header("Sec-Fetch-Site", "cross-site")}
		if c.by != nil {
			opts = append(opts, byToken(c.by))
		}
		r := w.send("GET", w.url(c.user, "api/kernels"), "", opts...)
		allow := r.header.Values("Access-Control-Allow-Origin")
		if r.status != c.status || c.shared != (len(allow) == 1 && allow[0] == journal) || r.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: status %d, %v", c.name, r.status, r.header)
		}
		asks := w.send("OPTIONS", w.url(c.user, "api/kernels"), "", header("Origin", c.origin), header("Access-Control-Request-Method", "POST"), header("Access-Control-Request-Headers", "authorization,content-type"))
		if preflight := asks.status == http.StatusNoContent; preflight != (c.origin == journal && c.user == visitorName) || preflight && !strings.Contains(asks.header.Get("Access-Control-Allow-Headers"), "Authorization") {
			t.Errorf("%s, asked before: status %d, %v", c.name, asks.status, asks.header)
		}
	}
}

// TestTokenInAWebsocketsAddress is a visitor's, and no server sees it there.
func TestTokenInAWebsocketsAddress(t *testing.T) {
	w := newWorld(t, setup{})
	got := &inbox{}
	v := w.visitor(got)
	conn, _, err := w.socket(visitorName, "api/kernels/1/channels?session_id=x&token="+v.token.Reveal(), header("Origin", journal))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if seen := got.last(t); seen.URL.RawQuery != "session_id=x" || strings.Contains(seen.Header.Get("Authorization"), v.token.Reveal()) {
		t.Errorf("the server was asked %s with %v", seen.URL, seen.Header)
	}
	w.serve("alice", echo(&inbox{}))
	alice := w.person("alice")
	for name, address := range map[string]string{"a person's token": "api?token=" + alice.token.Reveal(), "no token of ours": "api?token=x"} {
		for _, user := range []string{"alice", visitorName} {
			if conn, res, err := w.socket(user, address, header("Origin", journal)); err == nil || res == nil || res.StatusCode != http.StatusForbidden {
				t.Errorf("%s at %s's server: %v, %v", name, user, res, err)
				if conn != nil {
					conn.Close()
				}
			}
		}
	}
	if r := w.get(w.url(visitorName, "api/kernels?token="+v.token.Reveal()), header("Sec-Fetch-Mode", "cors")); r.status != http.StatusUnauthorized {
		t.Errorf("a token in an ordinary request's address: status %d", r.status)
	}
}

// TestTmpnbsPaths go to the hub, on its own host alone.
func TestTmpnbsPaths(t *testing.T) {
	w := newWorld(t, setup{})
	for path, want := range map[string]string{"api/spawn": "hub/api/tmpnb/spawn", "api/spawn/": "hub/api/tmpnb/spawn", "api/stats": "hub/api/tmpnb/stats"} {
		w.send("POST", w.origins.HubOrigin()+w.origins.Base()+path+"?x=y", "")
		if seen := w.hubGot.last(t); seen.URL.Path != w.origins.Base()+want || seen.URL.RawQuery != "" {
			t.Errorf("%s is %s at the hub", path, seen.URL)
		}
	}
	w.send("POST", w.origins.HubOrigin()+w.origins.Base()+"api/spawn?x=y&hop=1", "")
	if seen := w.hubGot.last(t); seen.URL.RawQuery != "hop=1" {
		t.Errorf("what a sibling sent here is %s at the hub", seen.URL)
	}
	n := len(w.hubGot.all())
	if r := w.send("POST", w.origins.ServerOrigin(serverKey(t, "alice", "").User)+w.origins.Base()+"api/spawn", ""); r.status != http.StatusNotFound || len(w.hubGot.all()) != n {
		t.Errorf("on a person's host: status %d", r.status)
	}
}

// TestWhatVisitorsPagesTell goes to the hub's edge by their own page alone; people's servers have no such
// address.
func TestWhatVisitorsPagesTell(t *testing.T) {
	w := newWorld(t, setup{})
	v := w.visitor(&inbox{})
	for _, what := range []string{"more", "leave"} {
		w.send("POST", w.url(visitorName, "carrel/"+what), "", byToken(v))
		if seen := w.edgeGot.last(t); seen.URL.Path != "/"+what+"/"+serverKey(t, visitorName, "").Label() || seen.Header.Get("Authorization") != "" {
			t.Errorf("%s is %s with %v at the edge", what, seen.URL, seen.Header)
		}
	}
	alice := w.person("alice")
	w.serve("alice", echo(&inbox{}))
	n := len(w.edgeGot.all())
	w.send("POST", w.url("alice", "carrel/leave"), "", byToken(alice))
	w.send("POST", w.url(visitorName, "carrel/leave"), "", byToken(alice))
	w.send("POST", w.url(visitorName, "carrel/leave"), "", header("Origin", "https://evil.example"))
	if len(w.edgeGot.all()) != n {
		t.Errorf("the edge was told %v", w.edgeGot.last(t).URL)
	}
}

// TestPollsOfOtherSites: what is kept for a paused server is read by the page that asks, whoever asked before.
func TestPollsOfOtherSites(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge})
	v := w.visitorAt(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Access-Control-Allow-Origin", "https://evil.example")
		rw.Header().Set("Vary", "Accept")
		io.WriteString(rw, "[]")
	}))
	w.proxy.cfg.EmbedOrigins = append(w.proxy.cfg.EmbedOrigins, "https://other.example")
	ask := func(origin string) reply {
		return w.get(w.url(visitorName, "api/kernels"), byToken(v), header("Origin", origin), header("Sec-Fetch-Mode", "cors"), header("Sec-Fetch-Site", "cross-site"))
	}
	first := ask(journal)
	w.pause(serverKey(t, visitorName, ""), time.Now())
	for _, origin := range []string{"https://other.example", journal} {
		r := ask(origin)
		if allow := r.header.Values("Access-Control-Allow-Origin"); r.status != http.StatusOK || r.body != first.body || len(allow) != 1 || allow[0] != origin || !strings.Contains(strings.Join(r.header.Values("Vary"), ","), "Origin") {
			t.Errorf("%s: status %d, %v", origin, r.status, r.header)
		}
	}
	if calls := edge.called(); calls != "" {
		t.Errorf("the hub was asked %q", calls)
	}
}

// TestAVisitorsPageIsBack: whatever a page asks for after another was closed tells the hub that it is there, once;
// what was under way when it was closed does not.
func TestAVisitorsPageIsBack(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge})
	v := w.visitor(&inbox{})
	label := serverKey(t, visitorName, "").Label()
	asks := func() string {
		w.get(w.url(visitorName, "api/kernels"), byToken(v))
		return edge.called()
	}
	if calls := asks(); calls != "" {
		t.Errorf("before: %q", calls)
	}
	w.send("POST", w.url(visitorName, "carrel/leave"), "", byToken(v))
	if calls := asks(); calls != "POST /leave/"+label {
		t.Errorf("at once: %q", calls)
	}
	rt := w.proxy.routes.get(serverKey(t, visitorName, ""))
	rt.rest.goodbye.Store(time.Now().Add(-goodbyeOver).UnixNano())
	if calls := asks(); calls != "POST /back/"+label {
		t.Errorf("later: %q", calls)
	}
	if calls := asks(); calls != "" {
		t.Errorf("a second time: %q", calls)
	}
}
