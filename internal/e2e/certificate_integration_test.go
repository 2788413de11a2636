//go:build integration

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCertificate makes a self-signed pair with a serial number and puts it where carrel reads it.
func writeCertificate(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "carrel test"}, DNSNames: []string{"localhost", "*.localhost"},
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
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// serial is that of the certificate that a new connection is shown; 0 for none.
func (d *deployment) serial() int64 {
	c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", d.port), &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
	if err != nil {
		return 0
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// A renewed certificate is served without a restart, and nobody is dropped; one that does not fit
// its key is told of and not served.
func TestCertificateRenewed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCertificate(t, dir, 1)
	d := deploy(t, options{notReady: true, publicURL: "https://localhost:PORT/", extra: fmt.Sprintf("tls: {cert_file: %s/cert.pem, key_file: %s/key.pem}\nspawner:\n  kernel_check: false\n", dir, dir)})
	eventually(t, time.Minute, "the first certificate is served", func() bool { return d.serial() == 1 && strings.Contains(d.output(), "Carrel is ready") })
	d.readPeople()
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	k := alice.newKernel()
	k.run("x = 41")

	writeCertificate(t, dir, 2)
	eventually(t, 15*time.Second, "the renewed certificate is served", func() bool { return d.serial() == 2 })
	if out := k.run("print(x + 1)"); out != "42" {
		t.Errorf("the open websocket gives %q", out)
	}
	if status, _ := alice.jupyter(http.MethodGet, "api/contents", ""); status != http.StatusOK {
		t.Errorf("a call after the renewal: status %d", status)
	}

	key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	writeCertificate(t, dir, 3)
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600); err != nil { // the second's
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, "it is told that they do not fit", func() bool { return strings.Contains(d.output(), "certificate not renewed") })
	if got := d.serial(); got != 2 {
		t.Errorf("the certificate served is number %d", got)
	}
	d.killChild("carrel-proxy")
	eventually(t, 15*time.Second, "the next proxy has the renewed certificate", func() bool { return d.serial() == 2 })

	out, code := carrel(t, 30*time.Second, "serve", "--config", writeConfig(t, fmt.Sprintf("deployment: e2ecert\nstate_dir: DIR/state\npublic_url: https://localhost:1/\nlisten: [\"127.0.0.1:1\"]\ntls: {cert_file: %s/cert.pem, key_file: /nonexistent}\n", dir)))
	if code == 0 || !strings.Contains(out, "key_file") {
		t.Errorf("a key that is not there: exit code %d\n%s", code, out)
	}
}
