package chp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
)

// makeCerts writes an authority and one certificate for 127.0.0.1 that serves both sides.
func makeCerts(t *testing.T, dir string) Certs {
	t.Helper()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	caKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, _ := x509.MarshalPKCS8PrivateKey(key)
	return Certs{Key: write("key.pem", "PRIVATE KEY", keyDER), Cert: write("cert.pem", "CERTIFICATE", der), CA: write("ca.pem", "CERTIFICATE", caDER)}
}

// TestTLSEverywhere: JupyterHub's internal_ssl has both sides show certificates on every connection.
func TestTLSEverywhere(t *testing.T) {
	certs := makeCerts(t, shortDir(t))
	mutual := certs
	mutual.RequestCert = true
	serve, err := certs.Server("--ssl")
	if err != nil {
		t.Fatal(err)
	}
	both, err := mutual.Server("--api-ssl")
	if err != nil {
		t.Fatal(err)
	}
	client, err := certs.Client("--client-ssl")
	if err != nil {
		t.Fatal(err)
	}
	b := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	b.TLS = both.Clone()
	b.StartTLS()
	t.Cleanup(b.Close)

	for _, c := range []struct {
		name   string
		client *tls.Config
		status int
	}{{"with a certificate", client, 200}, {"without", nil, 503}} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, Config{TLS: serve, APITLS: both, ClientTLS: c.client})
			dial := func(address string, cfg *tls.Config) net.Conn {
				conn, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				return conn
			}
			if got := askOn(t, dial(r.api.address, client), request("POST", "/api/routes/", `{"target": "`+b.URL+`"}`)); got.status != 201 {
				t.Fatalf("%+v", got)
			}
			nameless := &tls.Config{RootCAs: client.RootCAs, MinVersion: tls.VersionTLS12}
			got := askOn(t, dial(r.public.address, nameless), strings.Replace(request("GET", "/x", ""), ":8000", "", 1))
			if got.status != c.status || got.status == 200 && (!strings.Contains(got.body, `"x-forwarded-proto":["https"]`) || !strings.Contains(got.body, `"x-forwarded-port":["443"]`)) {
				t.Errorf("%+v", got)
			}
			ws := websocket.Dialer{TLSClientConfig: nameless, HandshakeTimeout: patient}
			conn, res, err := ws.DialContext(t.Context(), "wss://"+r.public.address+"/push", nil)
			if c.status != 200 {
				if err == nil {
					t.Error("a websocket came through")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if res.Header.Get("X-Proto") != "wss" {
				t.Errorf("%v", res.Header)
			}
			if _, got, err := conn.ReadMessage(); err != nil || string(got) != "pushed" {
				t.Errorf("%q %v", got, err)
			}
			// Nobody gets at the API without a certificate.
			if refused := dial(r.api.address, nameless); !askOn(t, refused, request("GET", "/api/routes", "")).closed {
				t.Error("the API answers a stranger")
			}
		})
	}
}

func TestCertificateFaults(t *testing.T) {
	dir := shortDir(t)
	good := makeCerts(t, dir)
	locked := filepath.Join(dir, "locked.pem")
	if err := os.WriteFile(locked, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		certs Certs
		field string
	}{
		"key alone":         {Certs{Key: good.Key}, "--ssl-key"},
		"authority alone":   {Certs{CA: good.CA}, "--ssl-cert"},
		"no such file":      {Certs{Key: good.Key, Cert: dir + "/none"}, "--ssl-cert"},
		"passphrase":        {Certs{Key: locked, Cert: good.Cert}, "--ssl-key"},
		"not each other's":  {Certs{Key: good.Key, Cert: good.CA}, "--ssl-cert"},
		"no certificate":    {Certs{Key: good.Key, Cert: good.Cert, CA: good.Key}, "--ssl-ca"},
		"old protocol":      {Certs{Key: good.Key, Cert: good.Cert, Protocol: "TLSv1"}, "--ssl-protocol"},
		"asks without any":  {Certs{RequestCert: true}, "--ssl-cert"},
		"authority missing": {Certs{Key: good.Key, Cert: good.Cert, CA: dir + "/none"}, "--ssl-ca"},
	} {
		if _, err := c.certs.Server("--ssl"); hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != c.field {
			t.Errorf("%s: %v, of %s", name, err, hub.FieldOf(err))
		}
	}
	if cfg, err := (Certs{}).Server("--ssl"); cfg != nil || err != nil {
		t.Errorf("nothing asked: %v %v", cfg, err)
	}
	only := good
	only.Protocol = "TLSv1_2"
	if cfg, err := only.Server("--ssl"); err != nil || cfg.MaxVersion != tls.VersionTLS12 {
		t.Errorf("%v", err)
	}
}
