//go:build integration

package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"carrel/internal/acme/acmetest"
	"carrel/internal/front"
)

const patience = 60 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func listen(t *testing.T) (net.Listener, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).Port
}

// hold is the two sides: an Authority at a socket, and a client of it.
type hold struct {
	client *Client
	socket string
	asked  atomic.Int64 // how often it was asked who may have a certificate
	stop   func()
}

func start(t *testing.T, server *acmetest.Server, dir string, http01 bool) *hold {
	t.Helper()
	sockets, err := os.MkdirTemp("/tmp", "acme-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	h := &hold{socket: filepath.Join(sockets, "keys")}
	a, err := New(Config{
		Directory: server.Directory, CA: server.CA, Email: "admin@hub.test", Dir: dir, Names: []string{"hub.test"}, HTTP01: http01,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		May: func(_ context.Context, name string) (bool, error) {
			h.asked.Add(1)
			return name == "alice.hub.test", nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	a.renewCheck = time.Second
	l, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	keys := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: patience}
	go keys.Serve(l)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	h.stop = sync.OnceFunc(func() { cancel(); <-ended; keys.Close() })
	t.Cleanup(h.stop)
	h.client = NewClient(h.socket, "hub.test", func(name string) bool { return strings.HasSuffix(name, ".hub.test") })
	h.client.fresh = 0
	return h
}

// shake does a handshake for a name and gives the certificate's serial number.
func shake(t *testing.T, port int, server *acmetest.Server, name string) (serial string, c *tls.Conn, err error) {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{RootCAs: server.Roots, ServerName: name}}
	plain, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", nil, err
	}
	t.Cleanup(func() { plain.Close() })
	c = plain.(*tls.Conn)
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), c, nil
}

func serve(t *testing.T, l net.Listener, h *hold) {
	t.Helper()
	config := front.TLS(h.client.GetCertificate)
	config.NextProtos = append(config.NextProtos, Protocols()...)
	up := websocket.Upgrader{}
	s := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, b) != nil {
				return
			}
		}
	})}
	go s.Serve(front.New(l, front.Options{TLS: config}))
	t.Cleanup(func() { s.Close() })
}

// TestCertificates: from a real ACME server, by TLS-ALPN-01: got, shown, renewed with no websocket
// dropped, kept over a restart; for people who exist, and for nobody else; and no key leaves its keeper.
func TestCertificates(t *testing.T) {
	l, port := listen(t)
	_, nowhere := listen(t)
	server := acmetest.Start(t, port, nowhere, 20*time.Second)
	dir := t.TempDir()
	h := start(t, server, dir, false)
	serve(t, l, h)

	var first string
	eventually(t, "the hub's certificate is shown", func() bool {
		serial, _, err := shake(t, port, server, "hub.test")
		first = serial
		return err == nil
	})
	ws := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: server.Roots, ServerName: "hub.test"}, HandshakeTimeout: patience}
	c, _, err := ws.DialContext(t.Context(), fmt.Sprintf("wss://127.0.0.1:%d/", port), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	t.Run("on demand", func(t *testing.T) {
		if _, _, err := shake(t, port, server, "alice.hub.test"); err != nil {
			t.Errorf("alice's host: %v", err)
		}
		before := strings.Count(server.Output(), "There are now")
		for _, name := range []string{"bob.hub.test", "evil.test", "alice.hub.test.evil.test"} {
			if _, _, err := shake(t, port, server, name); err == nil {
				t.Errorf("%s has a certificate", name)
			}
		}
		if after := strings.Count(server.Output(), "There are now"); after != before {
			t.Errorf("%d orders were made for strangers", after-before)
		}
		asked := h.asked.Load()
		for range 20 {
			_, _, _ = shake(t, port, server, "evil.test")
		}
		if h.asked.Load() != asked {
			t.Error("names that can't be ours are asked for")
		}
	})
	t.Run("what a taken-over proxy gets", func(t *testing.T) { hostile(t, h, dir) })

	eventually(t, "the certificate is renewed", func() bool {
		serial, _, err := shake(t, port, server, "hub.test")
		return err == nil && serial != first
	})
	if err := c.WriteMessage(websocket.TextMessage, []byte("still there")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := c.ReadMessage(); err != nil || string(b) != "still there" {
		t.Errorf("the websocket after the renewal: %q %v", b, err)
	}

	h.stop()
	accounts := strings.Count(server.Output(), "There are now")
	again := start(t, server, dir, false)
	l2, port2 := listen(t)
	serve(t, l2, again)
	eventually(t, "a kept certificate is shown after a restart", func() bool { _, _, err := shake(t, port2, server, "hub.test"); return err == nil })
	if now := strings.Count(server.Output(), "There are now"); now != accounts {
		t.Errorf("%d accounts were made anew", now-accounts)
	}
}

// hostile asks everything that the proxy's side can, and finds no key and no account.
func hostile(t *testing.T, h *hold, dir string) {
	t.Helper()
	ask := func(method, path, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://keys"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := h.client.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	status, own := ask("GET", "/certificate?name=hub.test", "")
	var shown struct {
		ID    string   `json:"id"`
		Chain [][]byte `json:"chain"`
	}
	plain := json.NewDecoder(strings.NewReader(own))
	plain.DisallowUnknownFields() // a key would be one
	if err := plain.Decode(&shown); err != nil || status != http.StatusOK || len(shown.Chain) == 0 {
		t.Errorf("a certificate: %d %.100s, %v", status, own, err)
	}
	for _, der := range shown.Chain {
		if _, err := x509.ParseCertificate(der); err != nil {
			t.Errorf("what is no certificate is in the chain: %v", err)
		}
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/certificate?name=bob.hub.test", "", 404},
		{"GET", "/certificate?name=../acme/account", "", 404},
		{"GET", "/certificate", "", 404},
		{"POST", "/sign", `{"id":"account","hash":5,"digest":"AAAA"}`, 400},
		{"POST", "/sign", `{"id":"","hash":5,"digest":"` + strings.Repeat("A", 43) + `="}`, 400},
		{"POST", "/sign", strings.Repeat("[", 1<<20), 400},
		{"GET", "/challenge/tls?name=hub.test", "", 404},
		{"GET", "/challenge/http?name=hub.test&token=x", "", 404},
		{"POST", "/order?name=bob.hub.test", "", 404},
		{"GET", "/", "", 404},
	} {
		if status, body := ask(c.method, c.path, c.body); status != c.status {
			t.Errorf("%s %s: %d %.100s", c.method, c.path, status, body)
		}
	}
	found := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v", path, info.Mode())
		}
		if raw, err := os.ReadFile(path); err == nil && (bytes.Contains(raw, []byte("PRIVATE KEY")) || strings.HasSuffix(path, "account.json")) {
			found++
		}
		return err
	})
	if err != nil || found < 2 {
		t.Errorf("%d files with keys: %v", found, err)
	}
}

// TestCertificatesByHTTP01: where port 443 is another's, the redirecting listener answers.
func TestCertificatesByHTTP01(t *testing.T) {
	closed, nowhere := listen(t)
	closed.Close()
	web, port := listen(t)
	server := acmetest.Start(t, nowhere, port, time.Hour)
	h := start(t, server, t.TempDir(), true)
	var answered atomic.Int64
	s := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if text, ok := h.client.HTTPChallenge(r.Context(), host, strings.TrimPrefix(r.URL.Path, "/.well-known/acme-challenge/")); ok {
			answered.Add(1)
			io.WriteString(w, text)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})}
	go s.Serve(web)
	t.Cleanup(func() { s.Close() })
	eventually(t, "the certificate is there", func() bool {
		c, err := h.client.ask(t.Context(), "hub.test")
		return err == nil && c.Leaf.DNSNames[0] == "hub.test"
	})
	if answered.Load() == 0 {
		t.Error("no challenge was answered by HTTP")
	}
	if _, ok := h.client.HTTPChallenge(t.Context(), "evil.test", "x"); ok {
		t.Error("a challenge of nobody's is answered")
	}
}
