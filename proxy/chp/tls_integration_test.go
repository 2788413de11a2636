//go:build integration

package chp

import (
	"crypto/tls"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTLSOptionsBesideTheOriginal: who is let in, with which protocol.
func TestTLSOptionsBesideTheOriginal(t *testing.T) {
	script, ours := realCHP(t), carrel(t)
	certs := makeCerts(t, shortDir(t))
	with, back := serverWith(t, certs)
	base := []string{"--ssl-key", certs.Key, "--ssl-cert", certs.Cert, "--client-ssl-ca", certs.CA, "--default-target", back}
	for name, options := range map[string][]string{
		"plain":             nil,
		"asks":              {"--ssl-ca", certs.CA, "--ssl-request-cert"},
		"asks and rejects":  {"--ssl-ca", certs.CA, "--ssl-request-cert", "--ssl-reject-unauthorized"},
		"rejects unasked":   {"--ssl-ca", certs.CA, "--ssl-reject-unauthorized"},
		"one protocol":      {"--ssl-protocol", "TLSv1_2"},
		"any protocol":      {"--ssl-protocol", "TLS"},
		"to servers, named": {"--client-ssl-key", certs.Key, "--client-ssl-cert", certs.Cert},
	} {
		t.Run(name, func(t *testing.T) {
			var both [2]map[string]int
			for i, command := range [][]string{{"node", script}, {ours, "chp"}} {
				p := launch(t, command[0], command, append(options[:len(options):len(options)], base...)...)
				both[i] = map[string]int{}
				for who, cfg := range map[string]*tls.Config{
					"with a certificate": with,
					"without":            {RootCAs: with.RootCAs},
					"by 1.2 only":        {RootCAs: with.RootCAs, Certificates: with.Certificates, MaxVersion: tls.VersionTLS12},
					"by 1.3 only":        {RootCAs: with.RootCAs, Certificates: with.Certificates, MinVersion: tls.VersionTLS13},
					"by 1.1":             {RootCAs: with.RootCAs, Certificates: with.Certificates, MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11},
				} {
					b := browser(cfg)
					for path, what := range map[string]string{"/_chp_healthz": "", "/x": ", to a server that asks too"} {
						res, err := b.Get("https://" + p.public.address + path)
						if err == nil {
							res.Body.Close()
							both[i][who+what] = res.StatusCode
						}
					}
					b.CloseIdleConnections()
				}
				p.end()
			}
			if diff := cmp.Diff(both[0], both[1]); diff != "" {
				t.Errorf("(-the original +carrel chp)\n%s", diff)
			}
			if both[1]["by 1.2 only"] != http.StatusOK {
				t.Errorf("%v", both[1])
			}
		})
	}
}
