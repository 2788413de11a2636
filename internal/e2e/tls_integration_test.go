//go:build integration

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// Behind a proxy that ends TLS, and below a base path, everything works as in front.
func TestBehindTLSAndBasePath(t *testing.T) {
	t.Parallel()
	front := httptest.NewUnstartedServer(nil)
	frontPort := front.Listener.Addr().(*net.TCPAddr).Port
	d := deploy(t, options{publicURL: fmt.Sprintf("https://localhost:%d/carrel/", frontPort), extra: "trusted_proxies: [127.0.0.1/32]"})
	back := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", d.port)}
	front.Config.Handler = &httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) {
		pr.SetURL(back)
		pr.Out.Host = pr.In.Host
		pr.SetXForwarded()
	}}
	front.StartTLS()
	t.Cleanup(front.Close)

	alice := d.person("alice")
	home := alice.signIn()
	if home.url.Scheme != "https" || !strings.HasPrefix(home.url.Path, "/carrel/hub/home") {
		t.Errorf("home is at %s", home.url)
	}
	for _, c := range alice.http.Jar.Cookies(home.url) {
		if strings.Contains(c.Name, "carrel-") && !strings.HasPrefix(c.Name, "__Host-") {
			t.Errorf("cookie %s lacks the __Host- prefix", c.Name)
		}
	}
	alice.start("")
	if lab := alice.visit(alice.notebook("lab")); lab.status != http.StatusOK || !strings.Contains(lab.body, "jupyter-config-data") {
		t.Fatalf("%s: status %d", lab.url, lab.status)
	}
	if out := alice.newKernel().run("print(6*7)"); out != "42" {
		t.Errorf("print(6*7) gave %q", out)
	}
	b := d.browser()
	b.start()
	b.signIn(d, "bob")
	b.startAndCompute()

	if at := alice.post("/hub/logout", url.Values{}); at.url.Scheme != "https" {
		t.Errorf("signing out leads to %s", at.url)
	}
	if status, _ := alice.jupyter(http.MethodGet, "api/contents", ""); status != http.StatusUnauthorized {
		t.Errorf("after signing out a call got status %d", status)
	}
}
