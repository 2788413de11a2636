package chp

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"

	"carrel/hub"
)

// Certs names the files of one side's TLS.
type Certs struct {
	Key, Cert, CA string
	RequestCert   bool   // of clients, who need one that CA vouches for
	Protocol      string // as OpenSSL names them
}

func (c Certs) fault(field, message, remedy string, err error) error {
	return &hub.Error{Kind: hub.Invalid, Op: "read certificates", Field: field, Message: message, Remedy: remedy, Err: err}
}

// Server gives what a listener needs, or nil where no files are named. The option's prefix is for faults.
func (c Certs) Server(option string) (*tls.Config, error) {
	if c.Key == "" && c.Cert == "" {
		if c.CA != "" || c.RequestCert {
			return nil, c.fault(option+"-cert", "there is no certificate to be served", "give "+option+"-key and "+option+"-cert too", nil)
		}
		return nil, nil //nolint:nilnil // no TLS is asked for
	}
	cfg, err := c.base(option)
	if err != nil {
		return nil, err
	}
	if c.RequestCert {
		cfg.ClientAuth, cfg.ClientCAs, cfg.RootCAs = tls.RequireAndVerifyClientCert, cfg.RootCAs, nil
	}
	switch c.Protocol {
	case "", "TLS", "SSLv23":
	case "TLSv1_2":
		cfg.MaxVersion = tls.VersionTLS12
	default:
		return nil, c.fault("--ssl-protocol", c.Protocol+" is not supported", "leave it out: TLS 1.2 and 1.3 are spoken; TLSv1_2 allows 1.2 only", nil)
	}
	return cfg, nil
}

// Client gives what connections to servers need. Their certificates are always verified.
func (c Certs) Client(option string) (*tls.Config, error) { return c.base(option) }

func (c Certs) base(option string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if c.CA != "" {
		raw, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, c.fault(option+"-ca", c.CA+" can't be read", "check its name and permissions", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(raw) {
			return nil, c.fault(option+"-ca", c.CA+" holds no certificate", "it must be PEM", nil)
		}
	}
	if c.Key == "" && c.Cert == "" {
		return cfg, nil
	}
	if c.Key == "" || c.Cert == "" {
		return nil, c.fault(option+"-key", "key and certificate go together", "give "+option+"-key and "+option+"-cert", nil)
	}
	key, err := os.ReadFile(c.Key)
	if err != nil {
		return nil, c.fault(option+"-key", c.Key+" can't be read", "check its name and permissions", err)
	}
	cert, err := os.ReadFile(c.Cert)
	if err != nil {
		return nil, c.fault(option+"-cert", c.Cert+" can't be read", "check its name and permissions", err)
	}
	if b, _ := pem.Decode(key); b != nil && (b.Type == "ENCRYPTED PRIVATE KEY" || b.Headers["DEK-Info"] != "") {
		return nil, c.fault(option+"-key", c.Key+" has a passphrase, which is not supported", "take it off with `openssl pkey`, and keep the file readable to this process alone", nil)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, c.fault(option+"-cert", "certificate and key do not fit together", "check both files", err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}
