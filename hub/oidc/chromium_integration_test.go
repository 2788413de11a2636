//go:build integration

package oidc

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"carrel/hub"
	"carrel/internal/chromiumtest"
)

// TestChromium signs in with a real browser, from another site, on the way to a page on a notebook's
// host: the provider's content policy, the cookies' SameSite and every redirect must agree.
func TestChromium(t *testing.T) {
	d := &demo{}
	idp := d.listen(t)
	front := httptest.NewUnstartedServer(nil)
	t.Cleanup(front.Close)
	address := hubAddress(front)
	origins, err := hub.NewOrigins(hub.Subdomains, address, "")
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(t, func(c *Config) { c.Origins = origins }, ProviderConfig{
		Name: "demo", Issuer: d.url, ClientID: testClient, ClientSecret: hub.NewSecret(testSecret), Allowed: Allowed{Everyone: true},
	})
	h.url = address
	mux := http.NewServeMux()
	h.auth.Mount(mux)
	mux.HandleFunc("GET /hub/ticket", func(w http.ResponseWriter, r *http.Request) {
		if _, err := r.Cookie(hub.CookieSession); err != nil {
			http.Error(w, "no session arrived", http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, strings.Replace(address, "//localhost", "//alice.localhost", 1)+"/landed", http.StatusFound)
	})
	mux.HandleFunc("GET /landed", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "<p id=landed>landed at %s with %d cookies</p>", strings.Split(r.Host, ":")[0], len(r.Cookies()))
	})
	front.Config.Handler = http.NewCrossOriginProtection().Handler(mux)
	front.Start()
	d.start(t, idp, h, "demo", testSecret)

	ctx, cancel := chromedp.NewExecAllocator(t.Context(), chromiumtest.Options(t, 1280, 900)...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var text, wrong string
	err = chromedp.Run(ctx,
		chromedp.Navigate(address+"/hub/oidc/demo/login?next=/hub/ticket"),
		chromedp.SendKeys(`input[name="username"]`, "alice"),
		chromedp.SendKeys(`input[name="password"]`, "wrong"+kb.Enter),
		chromedp.WaitVisible(`[role="alert"]`),
		chromedp.Text(`[role="alert"]`, &wrong),
		chromedp.SendKeys(`input[name="password"]`, demoPassword+kb.Enter),
		chromedp.WaitVisible(`#landed`),
		chromedp.Text(`#landed`, &text),
	)
	if err != nil {
		t.Fatal(err)
	}
	if text != "landed at alice.localhost with 0 cookies" || !strings.Contains(wrong, "wrong") {
		t.Errorf("the browser shows %q, and after a wrong password %q", text, wrong)
	}
	if len(h.store.sessions(t)) != 1 {
		t.Error("there is no session")
	}
}
