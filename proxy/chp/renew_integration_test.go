//go:build integration

package chp

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestCertificatesAreReadAgainOnHangup: all three sides, with nobody dropped.
func TestCertificatesAreReadAgainOnHangup(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "chp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	certs := makeCerts(t, dir)
	certs.RequestCert = true
	former, formerBack := serverWith(t, certs)
	p := launch(t, "carrel chp", []string{carrel(t), "chp"}, "--ssl-key", certs.Key, "--ssl-cert", certs.Cert,
		"--api-ssl-key", certs.Key, "--api-ssl-cert", certs.Cert, "--api-ssl-ca", certs.CA, "--api-ssl-request-cert",
		"--client-ssl-key", certs.Key, "--client-ssl-cert", certs.Cert, "--client-ssl-ca", certs.CA)
	route := func(of *tls.Config, path, target string) {
		t.Helper()
		c, err := (&tls.Dialer{Config: of}).DialContext(t.Context(), "tcp", p.api.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := askOn(t, c, apiRequest("POST", "/api/routes"+path, `{"target": "`+target+`"}`)); got.status != http.StatusCreated {
			t.Fatalf("%s: %+v", path, got)
		}
	}
	route(former, "/former", formerBack)
	if got := (browser(former)).status(t, "https://"+p.public.address+"/former/x"); got != http.StatusOK {
		t.Fatalf("at first: %d", got)
	}
	c, _, err := (&websocket.Dialer{TLSClientConfig: former, HandshakeTimeout: patient}).DialContext(t.Context(), "wss://"+p.public.address+"/former/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	open := browser(former) // with a connection that stays open, and a body on its way
	r, w := io.Pipe()
	sent := make(chan string, 1)
	go func() {
		res, err := open.Post("https://"+p.public.address+"/former/upload", "text/x", r)
		if err != nil {
			sent <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		sent <- string(b)
	}()
	io.WriteString(w, "begun and ")

	makeCerts(t, dir)
	now, nowBack := serverWith(t, certs)
	p.cmd.Process.Signal(syscall.SIGHUP)
	until(t, "the new certificates", func() bool { return strings.Contains(p.out.String(), "Certificates read again") })
	route(now, "/now", nowBack)
	for path, want := range map[string]int{"/now/x": http.StatusOK, "/former/x": http.StatusServiceUnavailable} { // whose authority is not trusted any more
		if got := (browser(now)).status(t, "https://"+p.public.address+path); got != want {
			t.Errorf("%s: %d, not %d", path, got, want)
		}
	}
	if _, err := (&tls.Dialer{Config: former}).DialContext(t.Context(), "tcp", p.public.address); err == nil {
		t.Error("the former certificate is still shown")
	}
	io.WriteString(w, "ended")
	w.Close()
	if got := <-sent; !strings.Contains(got, "begun and ended") {
		t.Errorf("the request on its way: %s", got)
	}
	c.SetReadDeadline(time.Now().Add(patient))
	c.WriteMessage(websocket.TextMessage, []byte("still"))
	if _, b, err := c.ReadMessage(); err != nil || string(b) != "still" {
		t.Errorf("the websocket: %q %v", b, err)
	}

	// Files that are no good change nothing.
	if err := os.WriteFile(certs.Cert, []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd.Process.Signal(syscall.SIGHUP)
	until(t, "the complaint", func() bool { return strings.Contains(p.out.String(), "the former ones are kept") })
	if got := (browser(now)).status(t, "https://"+p.public.address+"/now/x"); got != http.StatusOK {
		t.Errorf("after a bad file: %d", got)
	}
}

// serverWith is a server that wants and shows what the files hold now, and a client of the same.
func serverWith(t *testing.T, certs Certs) (client *tls.Config, url string) {
	t.Helper()
	both, err := certs.Server("--ssl")
	if err != nil {
		t.Fatal(err)
	}
	b := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	b.TLS = both.Clone()
	b.StartTLS()
	t.Cleanup(b.Close)
	ca, err := os.ReadFile(certs.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: roots, Certificates: both.Certificates, MinVersion: tls.VersionTLS12}, b.URL
}

// secureBrowser is a client with connections of its own.
type secureBrowser struct{ http.Client }

func browser(cfg *tls.Config) *secureBrowser {
	return &secureBrowser{http.Client{Timeout: patient, Transport: &http.Transport{TLSClientConfig: cfg.Clone()}}}
}

func (b *secureBrowser) status(t *testing.T, url string) int {
	t.Helper()
	res, err := b.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	b.CloseIdleConnections()
	return res.StatusCode
}
