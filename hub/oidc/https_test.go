package oidc

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"carrel/hub"
)

// TestCookiesOnHTTPS: behind HTTPS and a base path every cookie has the __Host- prefix, which no
// other host, path or plain connection can set.
func TestCookiesOnHTTPS(t *testing.T) {
	is := newHostile(t)
	origins, err := hub.NewOrigins(hub.Subdomains, "https://hub.example.org/carrel/", "")
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(t, func(c *Config) { c.Origins = origins }, is.config())
	handler := h.auth.Handler()
	ask := func(path string, cookies ...*http.Cookie) *http.Response {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://hub.example.org"+path, nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Result()
	}
	begun := ask("/carrel/hub/oidc/main/login?next=/carrel/hub/spawn/alice")
	to, err := url.Parse(begun.Header.Get("Location"))
	if err != nil || to.Query().Get("redirect_uri") != "https://hub.example.org/carrel/hub/oidc/main/callback" {
		t.Fatalf("login led to %q", begun.Header.Get("Location"))
	}
	done := ask("/carrel/hub/oidc/main/callback?"+url.Values{"code": {is.code(to.Query())}, "state": {to.Query().Get("state")}}.Encode(), begun.Cookies()...)
	if done.Header.Get("Location") != "/carrel/hub/spawn/alice" {
		t.Fatalf("callback: %d to %q", done.StatusCode, done.Header.Get("Location"))
	}
	var names []string
	for _, c := range append(begun.Cookies(), done.Cookies()...) {
		names = append(names, c.Name)
		if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode {
			t.Errorf("cookie %+v", c)
		}
	}
	if !slices.Contains(names, "__Host-"+hub.CookieSession) || !strings.HasPrefix(names[0], "__Host-"+hub.CookieSignIn+"-") {
		t.Errorf("cookies %s", names)
	}
	for _, header := range []string{"Cache-Control", "Referrer-Policy"} {
		if v := done.Header.Get(header); v != "no-store" && v != "no-referrer" {
			t.Errorf("%s is %q", header, v)
		}
	}
}
