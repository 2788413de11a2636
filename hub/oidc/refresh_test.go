package oidc

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
)

// refreshing is a hub with somebody signed in whose groups are asked for every ten minutes.
func refreshing(t *testing.T, change func(*ProviderConfig)) (*testHub, *hostile, *browser) {
	t.Helper()
	is := newHostile(t)
	pc := is.config()
	pc.RefreshEvery = 10 * time.Minute
	if change != nil {
		change(&pc)
	}
	h := newHub(t, nil, pc)
	is.now = h.clock.now
	b := newBrowser(t)
	if p := signInWith(h, is, b, "main"); p.status != http.StatusFound {
		t.Fatalf("sign-in: %d %s", p.status, p.body)
	}
	return h, is, b
}

func (h *testHub) round() {
	h.t.Helper()
	if err := h.auth.round(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

func TestRefreshGroups(t *testing.T) {
	h, is, b := refreshing(t, func(pc *ProviderConfig) { pc.Admins.Groups = []string{"admins"} })
	before, _ := h.session(b)
	is.lie(func() {
		is.claims = func(c map[string]any) { c["groups"] = []string{"staff", "admins"}; delete(c, "nonce") }
		is.tokens = func(r map[string]any) { r["refresh_token"] = "rotated" }
	})
	asked := is.asked.Load()
	h.clock.advance(9 * time.Minute)
	h.round()
	if is.asked.Load() != asked {
		t.Fatal("asked too early")
	}
	h.clock.advance(2 * time.Minute)
	h.round()
	h.round() // not due again
	if n := is.asked.Load() - asked; n != 1 {
		t.Errorf("asked %d times", n)
	}
	s, ok := h.session(b)
	if !ok || !s.Admin || !slices.Equal(s.Groups, []string{"admins", "staff"}) {
		t.Errorf("session %v %+v", ok, s)
	}
	if got, _ := h.auth.openTokens(s); got.Refresh != "rotated" || !got.Refreshed.After(before.Created) {
		t.Error("the new refresh token was not kept")
	}
	if u, err := h.store.User(t.Context(), s.User); err != nil || !u.Admin || !u.GroupsAt.After(before.Created) {
		t.Errorf("the person: %v %+v", err, u)
	}
}

func TestRefreshEnds(t *testing.T) {
	for name, c := range map[string]struct {
		lie  func(*hostile)
		ends bool
	}{
		"refused by the provider": {func(is *hostile) {
			is.tokens = func(r map[string]any) { clear(r); r["error"] = "invalid_grant" }
		}, true},
		"out of the group":          {func(is *hostile) { is.claims = func(c map[string]any) { c["groups"] = []string{} } }, true},
		"no administrator any more": {func(is *hostile) { is.claims = func(c map[string]any) { c["groups"] = []string{"other"} } }, true},
		"another subject":           {func(is *hostile) { is.claims = func(c map[string]any) { c["sub"] = "subject-2" } }, true},
		"another name":              {func(is *hostile) { is.claims = func(c map[string]any) { c["preferred_username"] = "bob" } }, true},
		"userinfo of another": {func(is *hostile) {
			is.tokens = func(r map[string]any) { delete(r, "id_token") }
			is.userinfo = map[string]any{"sub": "subject-2"}
		}, true},
		"provider down":     {func(is *hostile) { is.down = true }, false},
		"provider confused": {func(is *hostile) { is.tokens = func(r map[string]any) { clear(r) } }, false},
		"token of no worth": {func(is *hostile) { is.claims = func(c map[string]any) { c["aud"] = "another" } }, false},
		"groups not told": {func(is *hostile) {
			is.claims = func(c map[string]any) { delete(c, "groups") }
			is.userinfo = nil
		}, false},
		"nothing told": {func(is *hostile) { is.tokens = func(r map[string]any) { delete(r, "id_token") }; is.userinfo = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			h, is, b := refreshing(t, func(pc *ProviderConfig) {
				pc.Allowed = Allowed{Groups: []string{"staff"}}
				if strings.Contains(name, "administrator") {
					pc.Admins.Groups, pc.Allowed = []string{"staff"}, Allowed{Everyone: true}
				}
			})
			is.lie(func() { c.lie(is) })
			h.clock.advance(11 * time.Minute)
			h.round()
			s, ok := h.session(b)
			if ok == c.ends {
				t.Fatalf("ended: %v, want %v", !ok, c.ends)
			}
			if ok && !slices.Equal(s.Groups, []string{"staff"}) {
				t.Errorf("groups are now %v", s.Groups)
			}
		})
	}
}

// TestRefreshByOne: while another hub holds the lease, this one asks nothing.
func TestRefreshByOne(t *testing.T) {
	h, is, _ := refreshing(t, nil)
	h.clock.advance(11 * time.Minute)
	lease, err := h.store.Acquire(t.Context(), leaseName, leaseTTL)
	if err != nil {
		t.Fatal(err)
	}
	asked := is.asked.Load()
	h.round()
	if is.asked.Load() != asked {
		t.Error("two hubs refresh")
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.round()
	if is.asked.Load() == asked {
		t.Error("nobody refreshes")
	}
}

// TestRefreshedByTwo: a hub that was held up loses its lease, and another refreshes the same session.
func TestRefreshedByTwo(t *testing.T) {
	for name, c := range map[string]struct {
		refused bool          // the provider takes a refresh token once
		later   time.Duration // that the other's refresh is than ours
		want    string        // whose refresh token is kept
	}{
		"ours is void":  {true, time.Second, "theirs"},
		"ours is older": {false, time.Second, "theirs"},
		"ours is newer": {false, -time.Second, "ours"},
	} {
		t.Run(name, func(t *testing.T) {
			h, is, b := refreshing(t, nil)
			s, _ := h.session(b)
			h.clock.advance(11 * time.Minute)
			is.lie(func() {
				is.claims = func(c map[string]any) { delete(c, "nonce") }
				is.tokens = func(r map[string]any) {
					theirs := tokenSet{Refresh: "theirs", Refreshed: h.clock.now().Add(c.later)}
					if err := h.store.UpdateSession(t.Context(), s.Hash, func(o *hub.Session) { o.Tokens = h.auth.sealTokens(o.Hash, theirs) }); err != nil {
						t.Error(err)
					}
					r["refresh_token"] = "ours"
					if c.refused {
						clear(r)
						r["error"] = "invalid_grant"
					}
				}
			})
			h.round()
			s, ok := h.session(b)
			if !ok {
				t.Fatal("the person was signed out")
			}
			if got, _ := h.auth.openTokens(s); got.Refresh != c.want {
				t.Errorf("kept %q, want %q", got.Refresh, c.want)
			}
		})
	}
}

// TestRefreshWhileTheStoreStumbles: the provider has voided the token of before by then.
func TestRefreshWhileTheStoreStumbles(t *testing.T) {
	h, is, b := refreshing(t, nil)
	is.lie(func() {
		is.claims = func(c map[string]any) { delete(c, "nonce") }
		is.tokens = func(r map[string]any) { r["refresh_token"] = "rotated"; h.store.stumbles.Store(2) }
	})
	h.clock.advance(11 * time.Minute)
	h.round()
	s, _ := h.session(b)
	if got, _ := h.auth.openTokens(s); got.Refresh != "rotated" || h.store.stumbles.Load() != 0 {
		t.Errorf("kept %q; %d stumbles are left", got.Refresh, h.store.stumbles.Load())
	}
}

// TestDownIsAskedOnce: with many sessions, a provider that is down is not asked for each.
func TestDownIsAskedOnce(t *testing.T) {
	h, is, b := refreshing(t, nil)
	s, _ := h.session(b)
	for range 40 {
		other := s
		other.Hash = hub.RandomSecret().Hash()
		other.Tokens = h.auth.sealTokens(other.Hash, tokenSet{Refresh: "r", Refreshed: h.clock.now()})
		if err := h.store.CreateSession(t.Context(), other); err != nil {
			t.Fatal(err)
		}
	}
	is.lie(func() { is.tokens = func(r map[string]any) { r["pad"] = make([]byte, 2<<20) } })
	h.clock.advance(11 * time.Minute)
	asked := is.asked.Load()
	h.round()
	if n := is.asked.Load() - asked; n > 2*refreshers {
		t.Errorf("asked %d times", n)
	}
	if n := len(h.store.sessions(t)); n != 41 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, every := range []time.Duration{0, time.Minute} {
			a := &Auth{cfg: Config{Sessions: nothing{}, Now: time.Now}, providers: []*provider{{cfg: ProviderConfig{RefreshEvery: every}}}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if err := a.Run(ctx); err != nil {
				t.Error(err)
			}
			cancel()
		}
	})
}

// nothing is a store without sessions.
type nothing struct{ SessionStore }

func (nothing) Sessions(context.Context) iter.Seq2[hub.Session, error] {
	return func(func(hub.Session, error) bool) {}
}

func TestProviderOutage(t *testing.T) {
	is := newHostile(t)
	is.down = true
	h := newHub(t, nil, is.config())
	b := newBrowser(t)
	p := b.step(h.url + "/hub/oidc/main/login")
	if p.status != http.StatusServiceUnavailable || p.body == "" {
		t.Fatalf("login while the provider is down: %d %s", p.status, p.body)
	}
	if faults := h.auth.Check(t.Context()); hub.KindOf(faults["main"]) != hub.Unavailable {
		t.Errorf("check says %v", faults)
	}
	is.lie(func() { is.down = false })
	h.clock.advance(retryDiscovery)
	if p := signInWith(h, is, b, "main"); p.status != http.StatusFound {
		t.Fatalf("login once it is up: %d", p.status)
	}
	// Down again: what is known of it stays, those inside are not touched.
	is.lie(func() { is.down = true })
	h.clock.advance(2 * rediscoverEvery)
	if p := b.step(h.url + "/hub/oidc/main/login"); p.status != http.StatusFound {
		t.Errorf("login with the older document: %d", p.status)
	}
	asked := h.begin(newBrowser(t), "main", "")
	if p := h.finish(newBrowser(t), "main", url.Values{"state": {asked.Get("state")}, "code": {"x"}}); p.status != http.StatusUnprocessableEntity {
		t.Errorf("%d", p.status)
	}
	if _, ok := h.session(b); !ok {
		t.Error("the outage signed somebody out")
	}
}

func TestUnfitProviders(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"another issuer":    func(d map[string]any) { d["issuer"] = "https://evil.example.org" },
		"PKCE plain only":   func(d map[string]any) { d["code_challenge_methods_supported"] = []string{"plain"} },
		"none and HS only":  func(d map[string]any) { d["id_token_signing_alg_values_supported"] = []string{"none", "HS256"} },
		"no keys":           func(d map[string]any) { delete(d, "jwks_uri") },
		"no token endpoint": func(d map[string]any) { delete(d, "token_endpoint") },
		"odd authorization": func(d map[string]any) { d["authorization_endpoint"] = "javascript:alert(1)" },
	} {
		t.Run(name, func(t *testing.T) {
			is := newHostile(t)
			is.document = change
			h := newHub(t, nil, is.config())
			if p := newBrowser(t).step(h.url + "/hub/oidc/main/login"); p.status != http.StatusServiceUnavailable {
				t.Errorf("%d %s", p.status, p.body)
			}
		})
	}
	doc := document{Authorization: "https://a.example.org/", Token: "http://a.example.org/", Keys: "https://a.example.org/"}
	if doc.check("https://a.example.org") == nil {
		t.Error("a token endpoint without TLS is taken, though the issuer has it")
	}
}

func TestConfigFaults(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	for field, change := range map[string]func(*Config){
		"Keyring":                         func(c *Config) { c.Keyring = nil },
		"Providers":                       func(c *Config) { c.Providers = nil },
		"RenderError":                     func(c *Config) { c.RenderError = nil },
		"session":                         func(c *Config) { c.Lifetime = -1 },
		"oidc.name":                       func(c *Config) { c.Providers[0].Name = "../main" },
		"oidc.main.issuer":                func(c *Config) { c.Providers[0].Issuer = "ftp://example.org" },
		"oidc.main.client_id":             func(c *Config) { c.Providers[0].ClientID = "" },
		"oidc.main.allowed":               func(c *Config) { c.Providers[0].Allowed = Allowed{} },
		"oidc.main.allowed.users":         func(c *Config) { c.Providers[0].Allowed.Users = []string{"a/b"} },
		"oidc.main.allowed.email_domains": func(c *Config) { c.Providers[0].Allowed.EmailDomains = []string{"*.example.org"} },
		"oidc.main.scopes":                func(c *Config) { c.Providers[0].Scopes = []string{"profile"} },
		"oidc.main.auth_params":           func(c *Config) { c.Providers[0].AuthParams = map[string]string{"redirect_uri": "x"} },
		"oidc.main.refresh_every":         func(c *Config) { c.Providers[0].RefreshEvery = -1 },
		"oidc.main.ca_file":               func(c *Config) { c.Providers[0].CAFile = "/dev/null" },
	} {
		cfg := h.config(is.config())
		change(&cfg)
		_, err := New(cfg)
		if hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != field {
			t.Errorf("%s: %v (field %q)", field, err, hub.FieldOf(err))
		}
		if _, remedy := hub.Public(err); remedy == "" {
			t.Errorf("%s: no remedy", field)
		}
	}
	if _, err := New(h.config(is.config(), is.config())); hub.KindOf(err) != hub.Invalid {
		t.Error("two providers of one name")
	}
}
