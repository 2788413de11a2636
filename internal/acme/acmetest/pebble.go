// Package acmetest runs a real ACME server, Let's Encrypt's pebble, for tests.
//
// It owns the server, its configuration and a resolver in which every name is this machine; all end
// with the test. It refuses to own what is tested with it.
package acmetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"carrel/internal/program"
)

// Server is a running one.
type Server struct {
	Directory string         // its address
	CAFile    string         // who signed its own certificate, in PEM
	CA        *x509.CertPool // likewise
	Roots     *x509.CertPool // who signs what it gives

	mu     sync.Mutex
	output []byte
}

// Output is what it said.
func (s *Server) Output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.output)
}

// Write implements [io.Writer] for its output.
func (s *Server) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.output = append(s.output, b...)
	return len(b), nil
}

// Start runs one that looks for TLS-ALPN-01 and HTTP-01 at these ports of loopback, and whose
// certificates last for so long.
func Start(t testing.TB, tlsPort, httpPort int, validity time.Duration) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{CAFile: filepath.Join(dir, "cert.pem"), CA: x509.NewCertPool(), Roots: x509.NewCertPool()}
	pair := writePair(t, dir)
	s.CA.AppendCertsFromPEM(pair)
	at, management, dns := program.FreePort(), program.FreePort(), program.FreePort()
	config := map[string]any{"pebble": map[string]any{
		"listenAddress": local(at), "managementListenAddress": local(management), "certificate": s.CAFile, "privateKey": filepath.Join(dir, "key.pem"),
		"httpPort": httpPort, "tlsPort": tlsPort, "ocspResponderURL": "", "externalAccountBindingRequired": false, "certificateValidityPeriod": int(validity.Seconds()),
	}}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(t, nil, "pebble-challtestsrv", "-dns01", local(dns), "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", local(program.FreePort()), "-defaultIPv6", "")
	s.run(t, []string{"PEBBLE_VA_NOSLEEP=1"}, "pebble", "-config", file, "-dnsserver", local(dns))
	s.Directory = "https://" + local(at) + "/dir"
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CA, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if root, err := get(t.Context(), client, "https://"+local(management)+"/roots/0"); err == nil && s.Roots.AppendCertsFromPEM(root) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("pebble does not answer:\n%s", s.Output())
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

// run starts a program that ends with the test.
func (s *Server) run(t testing.TB, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...) //nolint:noctx // ended below, by hand
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = s, s
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v (`make test` installs it)", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
	})
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// writePair makes the server's own certificate and gives it in PEM.
func writePair(t testing.TB, dir string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pebble"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, raw := range map[string][]byte{"cert.pem": pair, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pair
}
