package front

import "crypto/tls"

// TLS is what a browser of today speaks, with h2 for whoever can (RFC 9113) and HTTP/1.1 for the rest
// and for websockets. show gives the certificate for a connection.
func TLS(show func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{GetCertificate: show, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
}
