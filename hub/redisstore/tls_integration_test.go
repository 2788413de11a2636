//go:build integration

package redisstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of a test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// lines are the configuration of a Redis with a certificate for host, that speaks TLS alone.
func (a *authority) lines(t *testing.T, host, port string) []string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	for name, b := range map[string][]byte{
		"ca.pem": a.pem, "cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	return []string{
		"port 0", "tls-port " + port, "tls-cert-file " + filepath.Join(dir, "cert.pem"), "tls-key-file " + filepath.Join(dir, "key.pem"),
		"tls-ca-cert-file " + filepath.Join(dir, "ca.pem"), "tls-auth-clients no", "tls-replication yes",
	}
}

func startTLS(t *testing.T, a *authority, host string) *server {
	t.Helper()
	port := freePort()
	r := newServer(t, a.lines(t, host, port)...)
	r.port = port
	r.start(t)
	return r
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	byIP, byName := startTLS(t, ca, "127.0.0.1"), startTLS(t, ca, "localhost")
	elsewhere := startTLS(t, ca, "redis.example.org")
	for name, c := range map[string]struct {
		url  string
		ca   []byte
		says string // in the error; empty: it works
	}{
		"by address":               {"rediss://127.0.0.1:" + byIP.port, ca.pem, ""},
		"by name":                  {"rediss://localhost:" + byName.port + "/1", ca.pem, ""},
		"another CA":               {"rediss://127.0.0.1:" + byIP.port, newAuthority(t).pem, "certificate"},
		"the system's CAs":         {"rediss://127.0.0.1:" + byIP.port, nil, "certificate"},
		"another's certificate":    {"rediss://127.0.0.1:" + elsewhere.port, ca.pem, "certificate"},
		"a name for an address":    {"rediss://localhost:" + byIP.port, ca.pem, "certificate"},
		"TLS asked of none":        {"rediss://127.0.0.1:" + startServer(t).port, ca.pem, "deadline"},
		"TLS not asked of a Redis": {"redis://127.0.0.1:" + byIP.port, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, Config{URL: c.url, CA: c.ca})
			err := s.Ping(t.Context())
			switch {
			case strings.HasPrefix(c.url, "redis:"):
				if err == nil {
					t.Error("a Redis that wants TLS answered without")
				}
			case c.says == "":
				must(t, err)
				events := follow(t, s)
				hear(t, events, hub.Reset)
				must(t, s.CreateSession(t.Context(), session("alice")))
			case err == nil || hub.KindOf(err) != hub.Unavailable || !strings.Contains(err.Error(), c.says):
				t.Errorf("got %v", err)
			}
		})
	}
}
