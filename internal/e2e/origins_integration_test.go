//go:build integration

package e2e

import (
	"net/url"
	"testing"

	"github.com/chromedp/chromedp"
)

// The two other forms of origins, in a browser: notebooks on a second port, and everything on one
// origin as with JupyterHub. (Subdomains are what all other tests use.)
func TestBrowserOrigins(t *testing.T) { //nolint:tparallel // its parts come one after another
	t.Parallel()
	for name, opt := range map[string]options{
		"paths":      {second: true, extra: "origins: paths\nnotebook_host: localhost:PORT2\n"},
		"one-origin": {extra: "origins: one-origin\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d := deploy(t, opt)
			b := d.browser()
			b.start()
			b.signIn(d, "alice")
			b.startAndCompute()
			var at string
			b.do("look where the notebook is", 0, chromedp.Location(&at))
			u, err := url.Parse(at)
			if err != nil {
				t.Fatal(err)
			}
			ofHub, err := url.Parse(d.url)
			if err != nil {
				t.Fatal(err)
			}
			if (u.Host == ofHub.Host) != (name == "one-origin") || u.Hostname() != "localhost" {
				t.Errorf("the notebook is at %s, the hub at %s", at, d.url)
			}
			if name == "one-origin" {
				return
			}
			// A page of the notebook's origin reads nothing of the hub's.
			var read string
			b.do("read the hub's page", 0, chromedp.Evaluate(`fetch("`+d.url+`/hub/home", {credentials: "include"}).then(r => r.text()).catch(() => "refused")`, &read, awaited))
			if read != "refused" {
				t.Errorf("the notebook's page read %.200q", read)
			}
		})
	}
}
