//go:build integration

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// With Carrel's own TLS a browser loads its pages by h2, and the kernel's websocket works beside it,
// by HTTP/1.1 as browsers do.
func TestHTTP2InABrowser(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCertificate(t, dir, 1)
	d := deploy(t, options{notReady: true, publicURL: "https://localhost:PORT/", extra: fmt.Sprintf("tls: {cert_file: %s/cert.pem, key_file: %s/key.pem}\nspawner:\n  kernel_check: false\n", dir, dir)})
	eventually(t, time.Minute, "Carrel is ready", func() bool { return strings.Contains(d.output(), "Carrel is ready") })
	d.readPeople()
	b := d.browser()
	b.start()
	b.signIn(d, "alice")
	by := func(where string) {
		t.Helper()
		var protocols []string
		b.do("ask how the page came", 0, chromedp.Evaluate(`performance.getEntries().map(e => e.nextHopProtocol).filter(p => p)`, &protocols))
		other := 0
		for _, p := range protocols {
			if p != "h2" {
				other++
			}
		}
		if len(protocols) == 0 || other > 0 {
			t.Errorf("%s came by %v", where, protocols)
		}
	}
	by("the home page")
	b.startAndCompute()
	by("JupyterLab")
}
