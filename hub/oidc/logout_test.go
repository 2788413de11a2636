package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// tell posts a logout token as a provider would.
func (h *testHub) tell(provider string, form url.Values) page {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.url+"/hub/oidc/"+provider+"/backchannel-logout", strings.NewReader(form.Encode()))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return newBrowser(h.t).do(r)
}

func (is *hostile) logoutToken(change map[string]any) url.Values {
	return url.Values{"logout_token": {signES256(is.t, is.key, "key-1", "logout+jwt", is.logoutClaims(change))}}
}

func TestBackChannelLogout(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]any
		typ    string
		sid    any // in the session
		ends   bool
	}{
		"sub and sid":                 {nil, "logout+jwt", "sid-1", true},
		"sub alone":                   {map[string]any{"sid": missing}, "logout+jwt", "sid-1", true},
		"sid alone":                   {map[string]any{"sub": missing}, "logout+jwt", "sid-1", true},
		"older type":                  {nil, "JWT", "sid-1", true},
		"as the drafts had it":        {map[string]any{"exp": missing}, "JWT", "sid-1", true},
		"sid known at sign-out alone": {nil, "logout+jwt", missing, true},
		"another sid":                 {map[string]any{"sid": "sid-2"}, "logout+jwt", "sid-1", false},
		"another sub":                 {map[string]any{"sub": "subject-2"}, "logout+jwt", "sid-1", false},
	} {
		t.Run(name, func(t *testing.T) {
			is := newHostile(t)
			is.claims = func(m map[string]any) {
				m["sid"] = c.sid
				if c.sid == missing {
					delete(m, "sid")
				}
			}
			h := newHub(t, nil, is.config())
			b := newBrowser(t)
			signInWith(h, is, b, "main")
			token := signES256(t, is.key, "key-1", c.typ, is.logoutClaims(c.change))
			p := h.tell("main", url.Values{"logout_token": {token}})
			if p.status != http.StatusOK || p.header.Get("Cache-Control") != "no-store" {
				t.Errorf("answered %d %s", p.status, p.body)
			}
			if _, ok := h.session(b); ok == c.ends {
				t.Errorf("ended: %v, want %v", !ok, c.ends)
			}
		})
	}
}

func TestBadLogoutTokens(t *testing.T) {
	const event = "http://schemas.openid.net/event/backchannel-logout"
	is, second := newHostile(t), newHostile(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pc2 := second.config()
	pc2.Name = "second"
	h := newHub(t, nil, is.config(), pc2)
	b := newBrowser(t)
	signInWith(h, is, b, "main")
	session, ok := h.session(b)
	if !ok {
		t.Fatal("not signed in")
	}
	form := func(token string) url.Values { return url.Values{"logout_token": {token}} }
	// An ID token names the same person and session; replayed here it must not count.
	tokens, _ := h.auth.openTokens(session)
	for name, bad := range map[string]url.Values{
		"no token":            {},
		"two tokens":          {"logout_token": {is.logoutToken(nil).Get("logout_token"), is.logoutToken(nil).Get("logout_token")}},
		"garbage":             form("a.b.c"),
		"huge":                form(strings.Repeat("x", maxLogoutBody)),
		"an ID token":         form(tokens.ID),
		"alg none":            form(unsigned(t, map[string]any{"alg": "none", "typ": "logout+jwt"}, is.logoutClaims(nil), "")),
		"another key":         form(signES256(t, other, "key-1", "logout+jwt", is.logoutClaims(nil))),
		"unknown kid":         form(signES256(t, other, "key-2", "logout+jwt", is.logoutClaims(nil))),
		"an access token":     form(signES256(t, is.key, "key-1", "at+jwt", is.logoutClaims(nil))),
		"another provider's":  form(signES256(t, second.key, "key-1", "logout+jwt", is.logoutClaims(nil))),
		"iss another":         is.logoutToken(map[string]any{"iss": second.url}),
		"iss missing":         is.logoutToken(map[string]any{"iss": missing}),
		"aud another":         is.logoutToken(map[string]any{"aud": "another"}),
		"aud missing":         is.logoutToken(map[string]any{"aud": missing}),
		"exp past":            is.logoutToken(map[string]any{"exp": time.Now().Add(-time.Second).Unix()}),
		"exp far away":        is.logoutToken(map[string]any{"exp": time.Now().Add(48 * time.Hour).Unix()}),
		"exp missing, old":    is.logoutToken(map[string]any{"exp": missing, "iat": time.Now().Add(-undatedLifetime - time.Second).Unix()}),
		"exp null":            is.logoutToken(map[string]any{"exp": nil}),
		"exp missing, nonce":  is.logoutToken(map[string]any{"exp": missing, "nonce": "n"}),
		"iat missing":         is.logoutToken(map[string]any{"iat": missing}),
		"iat future":          is.logoutToken(map[string]any{"iat": time.Now().Add(time.Hour).Unix(), "exp": time.Now().Add(2 * time.Hour).Unix()}),
		"jti missing":         is.logoutToken(map[string]any{"jti": missing}),
		"jti empty":           is.logoutToken(map[string]any{"jti": ""}),
		"events missing":      is.logoutToken(map[string]any{"events": missing}),
		"events in capitals":  is.logoutToken(map[string]any{"events": missing, "Events": map[string]any{event: map[string]any{}}}),
		"another event":       is.logoutToken(map[string]any{"events": map[string]any{"http://example.org/event": map[string]any{}}}),
		"event null":          is.logoutToken(map[string]any{"events": map[string]any{event: nil}}),
		"event a string":      is.logoutToken(map[string]any{"events": map[string]any{event: "yes"}}),
		"events a list":       is.logoutToken(map[string]any{"events": []string{event}}),
		"nonce":               is.logoutToken(map[string]any{"nonce": "n"}),
		"nonce empty":         is.logoutToken(map[string]any{"nonce": ""}),
		"nonce null":          is.logoutToken(map[string]any{"nonce": nil}),
		"neither sub nor sid": is.logoutToken(map[string]any{"sub": missing, "sid": missing}),
		"sub too long":        is.logoutToken(map[string]any{"sub": strings.Repeat("s", 256)}),
	} {
		before := h.store.writes.Load()
		p := h.tell("main", bad)
		if p.status != http.StatusBadRequest || !strings.Contains(p.body, `"error":"invalid_request"`) {
			t.Errorf("%s: answered %d %s", name, p.status, p.body)
		}
		if h.store.writes.Load() != before {
			t.Errorf("%s: something was written", name)
		}
		if _, ok := h.session(b); !ok {
			t.Fatalf("%s: the session ended", name)
		}
	}
	// The right token at the wrong provider, and at none.
	if p := h.tell("second", is.logoutToken(nil)); p.status != http.StatusBadRequest {
		t.Errorf("at another provider: %d", p.status)
	}
	if p := h.tell("nowhere", is.logoutToken(nil)); p.status != http.StatusNotFound {
		t.Errorf("at no provider: %d", p.status)
	}
	if _, ok := h.session(b); !ok {
		t.Error("the session ended")
	}
}

func TestLogoutTokenCountsOnce(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	b := newBrowser(t)
	token := is.logoutToken(nil)
	if p := h.tell("main", token); p.status != http.StatusOK {
		t.Fatalf("%d %s", p.status, p.body)
	}
	h.clock.advance(time.Second) // past the tombstone
	signInWith(h, is, b, "main")
	if p := h.tell("main", token); p.status != http.StatusBadRequest {
		t.Errorf("replayed: %d", p.status)
	}
	if _, ok := h.session(b); !ok {
		t.Error("a replayed token ended a session")
	}
}

// TestLogoutDuringSignIn: the provider signs somebody out while their code is exchanged.
func TestLogoutDuringSignIn(t *testing.T) {
	for name, c := range map[string]struct {
		sid     any // in the ID token
		refused bool
	}{
		"of the session":              {"sid-1", true},
		"sid known at sign-out alone": {missing, true},
		"of another session":          {"sid-2", false},
	} {
		t.Run(name, func(t *testing.T) {
			is := newHostile(t)
			is.claims = func(m map[string]any) {
				m["sid"] = c.sid
				if c.sid == missing {
					delete(m, "sid")
				}
			}
			h := newHub(t, nil, is.config())
			token := is.logoutToken(nil)
			is.tokens = func(map[string]any) {
				if p := h.tell("main", token); p.status != http.StatusOK {
					t.Errorf("%d %s", p.status, p.body)
				}
			}
			// The key set is fetched beforehand, as the issuer answers one thing at a time.
			h.tell("main", url.Values{"logout_token": {signES256(t, is.key, "key-1", "logout+jwt", is.logoutClaims(map[string]any{"sub": "nobody", "sid": missing}))}})
			b := newBrowser(t)
			p := signInWith(h, is, b, "main")
			if c.refused {
				h.refused(b, p, http.StatusForbidden)
			} else if _, ok := h.session(b); !ok {
				t.Errorf("another browser's sign-out ended it: %d %s", p.status, p.body)
			}
		})
	}
}

// TestKeyFetchesAreFew: anybody can send tokens that name unknown keys.
func TestKeyFetchesAreFew(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		h.tell("main", url.Values{"logout_token": {signES256(t, other, rand.Text(), "logout+jwt", is.logoutClaims(nil))}})
	}
	if n := is.fetch.Load(); n > 5 {
		t.Errorf("100 tokens made %d fetches", n)
	}
	if p := h.tell("main", is.logoutToken(map[string]any{"sub": "subject-2", "sid": missing})); p.status != http.StatusOK {
		t.Errorf("a good one then gets %d", p.status)
	}
	b := newBrowser(t)
	signInWith(h, is, b, "main")
	if _, ok := h.session(b); !ok {
		t.Error("sign-in suffers from it")
	}
}

func TestFrontChannelLogout(t *testing.T) {
	is := newHostile(t)
	pc := is.config()
	pc.FrontChannel = true
	h := newHub(t, nil, pc)
	b := newBrowser(t)
	signInWith(h, is, b, "main")
	at := h.url + "/hub/oidc/main/frontchannel-logout?"
	for _, bad := range []url.Values{{}, {"sid": {"sid-1"}}, {"iss": {is.url}}, {"iss": {"https://evil.example.org"}, "sid": {"sid-1"}}, {"iss": {is.url, is.url}, "sid": {"sid-1"}}, {"iss": {is.url}, "sid": {"sid-2"}}} {
		b.get(at + bad.Encode())
	}
	if _, ok := h.session(b); !ok {
		t.Fatal("a bad request ended the session")
	}
	p := b.get(at + url.Values{"iss": {is.url}, "sid": {"sid-1"}}.Encode())
	if _, ok := h.session(b); ok || p.status != http.StatusOK || !strings.Contains(p.header.Get("Content-Security-Policy"), "frame-ancestors "+is.url) {
		t.Errorf("%d %v, session %v", p.status, p.header, ok)
	}
	off := newHub(t, nil, is.config())
	if p := newBrowser(t).get(off.url + "/hub/oidc/main/frontchannel-logout?" + url.Values{"iss": {is.url}, "sid": {"sid-1"}}.Encode()); p.status != http.StatusNotFound {
		t.Errorf("switched off it answers %d", p.status)
	}
}

func TestEndSessionURL(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	b := newBrowser(t)
	signInWith(h, is, b, "main")
	s, ok := h.session(b)
	if !ok {
		t.Fatal("not signed in")
	}
	address, ok := h.auth.EndSessionURL(t.Context(), s)
	u, err := url.Parse(address)
	if !ok || err != nil || !strings.HasPrefix(address, is.url+"/end?") {
		t.Fatalf("%q %v %v", address, ok, err)
	}
	q := u.Query()
	if q.Get("client_id") != testClient || q.Get("post_logout_redirect_uri") != h.url+"/hub/oidc/main/logged-out" || q.Get("state") == "" || strings.Count(q.Get("id_token_hint"), ".") != 2 {
		t.Errorf("asks with %v", q)
	}
	// Tokens that were sealed for another session are not used.
	s.Hash = hub.SecretHash(strings.Repeat("0", 64))
	if address, _ = h.auth.EndSessionURL(t.Context(), s); strings.Contains(address, "id_token_hint") {
		t.Error("another session's token was used")
	}
	if p := b.step(h.url + "/hub/oidc/main/logged-out?state=x"); p.status != http.StatusSeeOther || p.header.Get("Location") != "/hub/signed-out" {
		t.Errorf("logged-out: %d to %q", p.status, p.header.Get("Location"))
	}
	s.Provider = "gone"
	if _, ok := h.auth.EndSessionURL(t.Context(), s); ok {
		t.Error("a provider that is gone has an address")
	}
}
