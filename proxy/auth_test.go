package proxy

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// kinds of request, as design section 6 tells them apart.
var kinds = map[string]option{
	"navigation": navigation,
	"program":    header("Accept", "application/json"),
	"websocket": func(r *http.Request) {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
		r.Header.Set("Sec-WebSocket-Version", "13")
		r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	},
}

// TestWhoGetsWhat is the matrix of who asks in which way for what.
func TestWhoGetsWhat(t *testing.T) {
	for _, mode := range []setup{
		{}, {public: "http://hub.test:8000/"}, {public: "https://site.test/carrel/"}, {public: "https://hub.test/", notebook: "books.test"},
		{mode: hub.Paths}, {mode: hub.Paths, public: "http://hub.test:8000/", notebook: "hub.test:8001"}, {mode: hub.OneOrigin}, {mode: hub.OneOrigin, public: "https://site.test/carrel/"},
	} {
		t.Run(strings.TrimSuffix(string(mode.mode)+" "+mode.public+" "+mode.notebook, " "), func(t *testing.T) { matrix(t, mode) })
	}
}

func matrix(t *testing.T, s setup) {
	w := newWorld(t, s)
	alice, bob := w.person("alice"), w.personOn("bob", "alice")
	got := &inbox{}
	w.serve("alice", echo(got))
	none := func(*http.Request) {}
	signIn, start := w.origins.HubURL("ticket?"), w.origins.HubURL("spawn/carol?next=")
	if s.mode == hub.OneOrigin {
		signIn = w.origins.HubURL("login?next=")
	}
	carol := w.person("carol")
	for _, c := range []struct {
		name, owner string
		who         option
		want        map[string]int
		to          string // where navigation leads
	}{
		{"nobody", "alice", none, map[string]int{"navigation": 302, "program": 401, "websocket": 403}, signIn},
		{"garbage", "alice", header("Cookie", w.cookieName()+"="+strings.Repeat("x", 43)), map[string]int{"navigation": 302, "program": 401, "websocket": 403}, signIn},
		{"a wrong token", "alice", header("Authorization", "token wrong"), map[string]int{"navigation": 302, "program": 401, "websocket": 403}, signIn},
		{"someone else", "alice", w.as(bob), map[string]int{"navigation": 403, "program": 403, "websocket": 403}, ""},
		{"someone else's token", "alice", byToken(bob), map[string]int{"navigation": 403, "program": 403, "websocket": 403}, ""},
		{"the owner", "alice", w.as(alice), map[string]int{"navigation": 200, "program": 200, "websocket": 101}, ""},
		{"the owner's token", "alice", byToken(alice), map[string]int{"navigation": 200, "program": 200, "websocket": 101}, ""},
		{"bearer", "alice", header("Authorization", "Bearer "+alice.token.Reveal()), map[string]int{"navigation": 200, "program": 200, "websocket": 101}, ""},
		{"no server", "carol", w.as(carol), map[string]int{"navigation": 302, "program": 424, "websocket": 424}, start},
		{"no server, by token", "carol", byToken(carol), map[string]int{"navigation": 302, "program": 424, "websocket": 424}, start},
	} {
		for kind, as := range kinds {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				before := len(got.all())
				origin := option(none)
				if kind == "websocket" {
					origin = ownOrigin(w, c.owner)
				}
				tr := w.transport()
				res, err := tr.RoundTrip(w.request("GET", w.url(c.owner, "api?x=1"), "", as, c.who, origin))
				must(t, err)
				res.Body.Close()
				if res.StatusCode != c.want[kind] {
					t.Fatalf("status %d, want %d", res.StatusCode, c.want[kind])
				}
				if passed := len(got.all()) > before; passed != (res.StatusCode < 300) {
					t.Errorf("reached the server: %v", passed)
				}
				if to := res.Header.Get("Location"); kind == "navigation" && !strings.HasPrefix(to, c.to) || kind != "navigation" && to != "" {
					t.Errorf("leads to %q, want %q…", to, c.to)
				}
				if res.StatusCode == http.StatusFailedDependency && res.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			})
		}
	}
}

func TestOnTheHubsHost(t *testing.T) {
	w := newWorld(t, setup{public: "https://hub.test/carrel/"})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	at := "https://hub.test/carrel/user/alice/lab?a=b"
	for name, c := range map[string]struct {
		who    []option
		status int
		to     string
	}{
		"a program with a token":        {[]option{byToken(alice)}, 200, ""},
		"navigation":                    {[]option{navigation}, 302, "https://alice.hub.test/carrel/user/alice/lab?a=b"},
		"navigation with a cookie":      {[]option{navigation, w.as(alice)}, 302, "https://alice.hub.test/carrel/user/alice/lab?a=b"},
		"a script with a cookie":        {[]option{w.as(alice)}, 401, ""},
		"a websocket with a cookie":     {[]option{kinds["websocket"], w.as(alice), header("Origin", "https://hub.test")}, 403, ""},
		"a notebook that calls the hub": {[]option{kinds["program"], header("Origin", "https://alice.hub.test")}, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.get(at, c.who...)
			if got.status != c.status || got.header.Get("Location") != c.to {
				t.Errorf("%d to %q, want %d to %q", got.status, got.header.Get("Location"), c.status, c.to)
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	w := newWorld(t, setup{public: "https://hub.test/carrel/"})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	for _, c := range []struct {
		name, url string
		status    int
		want      string // Location, or in the body
	}{
		{"the hub", "https://hub.test/carrel/hub/home", 200, "hub /carrel/hub/home"},
		{"the root leads to the hub", "https://hub.test/", 302, "/carrel/hub/"},
		{"the base", "https://hub.test/carrel/", 302, "/carrel/hub/"},
		{"the base without a slash", "https://hub.test/carrel", 302, "/carrel/hub/"},
		{"outside of the base", "https://hub.test/hub/home", 404, "nothing here"},
		{"a notebook host has no hub", "https://alice.hub.test/carrel/hub/api/users", 302, "https://hub.test/carrel/hub/home"},
		{"its root leads to the server", "https://alice.hub.test/", 302, "/carrel/user/alice/"},
		{"another's server on it", "https://alice.hub.test/carrel/user/bob/", 404, "another person"},
		{"no slash at the end", "https://alice.hub.test/carrel/user/alice?a=b", 302, "/carrel/user/alice/?a=b"},
		{"an unknown host", "https://elsewhere.test/carrel/user/alice/", 421, "not known by that name"},
		{"two labels", "https://x.alice.hub.test/carrel/user/alice/", 421, "not known by that name"},
		{"health, by any name", "https://10.0.0.1/carrel/carrel-health", 200, "ok"},
		{"a host in capitals", "https://ALICE.hub.test/carrel/user/alice/", 200, "echo"},
		{"a host with its default port", "https://alice.hub.test:443/carrel/user/alice/", 200, "echo"},
		{"capitals in the path", "https://alice.hub.test/carrel/USER/alice/", 404, "nothing here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := w.get(c.url, w.as(alice))
			if got.status != c.status || !strings.Contains(got.header.Get("Location")+got.body, c.want) {
				t.Errorf("%d %q %s, want %d %q", got.status, got.header.Get("Location"), got.body, c.status, c.want)
			}
		})
	}
	dotted := w.get("https://alice.hub.test./carrel/user/alice/lab", navigation)
	if dotted.status != 302 || dotted.header.Get("Location") != "https://alice.hub.test/carrel/user/alice/lab" {
		t.Errorf("a host with a dot at its end: %d to %q", dotted.status, dotted.header.Get("Location"))
	}
}

func TestAdministrators(t *testing.T) {
	for name, c := range map[string]struct {
		s      setup
		status int
	}{
		"allowed, on hosts of their own":    {setup{admin: true}, 200},
		"not allowed":                       {setup{}, 403},
		"never where people share a host":   {setup{admin: true, mode: hub.Paths}, 403},
		"never where all share the origin":  {setup{admin: true, mode: hub.OneOrigin}, 403},
		"not for whoever has another's key": {setup{admin: true, public: "https://other.test/"}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.s)
			root := w.personOn("root", "alice")
			w.serve("alice", echo(nil))
			if got := w.get(w.url("alice", ""), w.as(root)); got.status != c.status {
				t.Errorf("%d, want %d", got.status, c.status)
			}
		})
	}
}

func TestASessionCountsOnItsHostOnly(t *testing.T) {
	w := newWorld(t, setup{admin: true})
	w.serve("alice", echo(nil))
	w.serve("bob", echo(nil))
	root := w.personOn("root", "alice")
	if got := w.get(w.url("alice", ""), w.as(root)); got.status != 200 {
		t.Fatalf("on its host: %d", got.status)
	}
	if got := w.get(w.url("bob", ""), w.as(root)); got.status != 401 {
		t.Errorf("on another: %d, want 401", got.status)
	}
	// The hub's own session is no key to a notebook host either.
	if got := w.get(w.url("alice", ""), header("Cookie", w.cookieName()+"="+hub.NewSecret("x").Reveal())); got.status != 401 {
		t.Errorf("garbage: %d", got.status)
	}
}

func TestANamesakeIsRefused(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	key := serverKey(t, "alice", "")
	must(t, w.store.PutRoute(t.Context(), hub.Route{Key: key, UserID: "an-earlier-alice", Generation: 1, Endpoint: endpoint(t, "http://127.0.0.1:9")}))
	w.until("the route is known", func() bool { return w.proxy.routes.known(key) })
	for name, who := range map[string]option{"session": w.as(alice), "token": byToken(alice)} {
		if got := w.get(w.url("alice", ""), who); got.status != 403 {
			t.Errorf("%s: %d, want 403", name, got.status)
		}
	}
}

// TestATokenIsNotInherited: a name that was given to someone else brings no token along.
func TestATokenIsNotInherited(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	next := alice.user
	next.ID, next.Identity.Subject = "another-alice", "another"
	must(t, w.store.Rebind(t.Context(), next))
	if got := w.get(w.url("alice", ""), byToken(alice)); got.status != 401 {
		t.Errorf("%d, want 401", got.status)
	}
}

// TestACookieInFront: without HTTPS a neighbour's page can put a cookie of our name in front of ours.
func TestACookieInFront(t *testing.T) {
	w := newWorld(t, setup{public: "http://hub.test/"})
	alice, bob := w.person("alice"), w.person("bob")
	w.serve("alice", echo(nil))
	line := w.cookieName() + "=" + bob.cookie.Reveal() + "; " + w.cookieName() + "=short; " + w.cookieName() + "=" + alice.cookie.Reveal()
	if got := w.get(w.url("alice", ""), header("Cookie", line)); got.status != 200 {
		t.Errorf("%d, want the true one to count", got.status)
	}
}

// tab is a browser's part in a sign-in on a notebook host.
func tab(t *testing.T, w *world, page string) (waiting *http.Cookie, q url.Values) {
	t.Helper()
	got := w.get(w.url("alice", page), navigation)
	to, err := url.Parse(got.header.Get("Location"))
	must(t, err)
	cookies := (&http.Response{Header: got.header}).Cookies()
	if got.status != 302 || len(cookies) != 1 || got.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", got.status, got.header)
	}
	return cookies[0], to.Query()
}

func TestTickets(t *testing.T) {
	for _, public := range []string{"https://hub.test/", "http://hub.test:8000/"} {
		t.Run(public, func(t *testing.T) {
			w := newWorld(t, setup{public: public})
			alice := w.person("alice")
			w.serve("alice", echo(nil))
			waiting, q := tab(t, w, "lab?x=1")
			if w.origins.Secure() != waiting.Secure || !waiting.HttpOnly || waiting.Path != "/" || waiting.Domain != "" || waiting.SameSite != http.SameSiteLaxMode ||
				strings.HasPrefix(waiting.Name, "__Host-") != w.origins.Secure() {
				t.Errorf("the waiting cookie: %+v", waiting)
			}
			if q.Get("host") != w.origins.Host(alice.user.Name) || q.Get("next") != "/user/alice/lab?x=1" || q.Get("browser") != string(hub.NewSecret(waiting.Value).Hash()) {
				t.Errorf("the hub is asked %v", q)
			}
			enter := func(host, ticket string, opts ...option) reply {
				return w.get(strings.Split(public, "/")[0]+"//"+host+"/carrel-enter?ticket="+ticket, append(opts, navigation)...)
			}
			put := func(tk hub.Ticket) string {
				s := hub.RandomSecret()
				must(t, w.store.PutTicket(t.Context(), s.Hash(), tk, time.Minute))
				return s.Reveal()
			}
			host := w.origins.Host(alice.user.Name)
			good := hub.Ticket{Parent: alice.session.Hash, Host: host, Browser: hub.SecretHash(q.Get("browser")), Next: q.Get("next")}
			cookie := option(func(r *http.Request) { r.AddCookie(waiting) })

			if got := enter(host, put(good)); got.status != 403 {
				t.Errorf("without the waiting cookie: %d", got.status)
			}
			if got := enter(host, put(good), header("Cookie", waiting.Name+"="+hub.RandomSecret().Reveal())); got.status != 403 {
				t.Errorf("in another browser: %d", got.status)
			}
			stray := good
			stray.Host = w.origins.Host(serverKey(t, "bob", "").User)
			if got := enter(host, put(stray), cookie); got.status != 403 {
				t.Errorf("for another host: %d", got.status)
			}
			if got := enter(host, "made-up", cookie); got.status != 403 {
				t.Errorf("made up: %d", got.status)
			}
			evil := good
			evil.Next = "//evil.test/"
			if got := enter(host, put(evil), cookie); got.header.Get("Location") != "/" {
				t.Errorf("leads to %q", got.header.Get("Location"))
			}
			orphan := good
			orphan.Parent = hub.RandomSecret().Hash()
			if got := enter(host, put(orphan), cookie); got.status != 401 && got.status != 403 {
				t.Errorf("of a session that is over: %d", got.status)
			}
			ticket := put(good)
			if got := w.send("HEAD", strings.Split(public, "/")[0]+"//"+host+"/carrel-enter?ticket="+ticket, "", cookie); got.status != 405 {
				t.Errorf("a look at it: %d", got.status)
			}
			got := enter(host, ticket, cookie)
			if got.status != 302 || got.header.Get("Location") != "/user/alice/lab?x=1" || got.header.Get("Referrer-Policy") != "no-referrer" || got.header.Get("Cache-Control") != "no-store" {
				t.Fatalf("%d %v", got.status, got.header)
			}
			if again := enter(host, ticket, cookie); again.status != 403 {
				t.Errorf("used twice: %d", again.status)
			}
			for _, c := range (&http.Response{Header: got.header}).Cookies() {
				if c.Name == w.cookieName() {
					if c.Secure != w.origins.Secure() || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode {
						t.Errorf("the session's cookie: %+v", c)
					}
					if in := w.get(w.url("alice", ""), func(r *http.Request) { r.AddCookie(c) }); in.status != 200 {
						t.Errorf("with the new session: %d", in.status)
					}
					s, err := w.store.Session(t.Context(), hub.NewSecret(c.Value).Hash())
					if err != nil || s.Parent != alice.session.Hash || s.Host != host || s.Tokens != nil {
						t.Errorf("the new session: %+v %v", s, err)
					}
					return
				}
			}
			t.Error("no session was made")
		})
	}
}

func TestTwoTabsShareTheWaitingCookie(t *testing.T) {
	w := newWorld(t, setup{})
	first, _ := tab(t, w, "lab")
	second := w.get(w.url("alice", "tree"), navigation, func(r *http.Request) { r.AddCookie(first) })
	for _, c := range (&http.Response{Header: second.header}).Cookies() {
		if c.Value != first.Value {
			t.Error("the second tab makes the first one's ticket useless")
		}
	}
}

// TestLoggedNowhere: no token, cookie or ticket stands in the log (attack 39).
func TestLoggedNowhere(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	key := w.serve("alice", echo(nil))
	ticket := hub.RandomSecret().Reveal()
	w.get(w.url("alice", "lab?token="+alice.token.Reveal()), navigation)
	w.get(w.url("alice", "lab?token="+alice.token.Reveal()), byToken(alice))
	w.get("https://alice.hub.test/carrel-enter?ticket="+ticket, header("Cookie", w.origins.Cookie(hub.CookieTicket)+"="+ticket))
	w.mustSocket(alice, "ws?token="+alice.token.Reveal()).Close()
	must(t, w.store.DeleteRoute(t.Context(), key, 1))
	w.get(w.url("alice", "lab?token="+alice.token.Reveal()), w.as(alice))
	w.route(key, 1, endpoint(t, "http://127.0.0.1:1"))
	w.get(w.url("alice", "lab?token="+alice.token.Reveal()), w.as(alice)) // an endpoint that is away
	must(t, ignore(w.stop()))
	text := w.log.String()
	if !strings.Contains(text, "/user/alice/lab") {
		t.Fatalf("nothing is logged: %s", text)
	}
	for what, secret := range map[string]string{"token": alice.token.Reveal(), "cookie": alice.cookie.Reveal(), "ticket": ticket, "server's token": w.serverToken(key)} {
		if strings.Contains(text, secret) {
			t.Errorf("the %s is in the log", what)
		}
	}
}

func ignore(error) error { return nil }
