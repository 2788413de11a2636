package kernelimage

import (
	"os"
	"strings"
)

// argNames are the variables of the host that a build is given. Docker keeps proxies out of an
// image's history by itself; the others are known to a stage that is no part of the image.
var argNames = []string{
	"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy",
	"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT",
}

// caNames are the variables by which programs are told of the certificates to trust, and after them
// Debian's own list: what this machine trusts is what a build on it trusts.
var caNames = []string{"PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"}

const hostCA = "/etc/ssl/certs/ca-certificates.crt"

// HostOptions are the options with which a build gets through this machine's proxy and to its
// package index. getenv is os.Getenv.
func HostOptions(getenv func(string) string) Options {
	opts := Options{Args: map[string]string{}}
	for _, name := range argNames {
		if v := getenv(name); v != "" && !strings.ContainsAny(v, "\r\n") {
			opts.Args[name] = v
		}
	}
	paths := make([]string, 0, len(caNames)+1)
	for _, name := range caNames {
		paths = append(paths, getenv(name))
	}
	for _, path := range append(paths, hostCA) {
		if path == "" {
			continue
		}
		if bundle, err := os.ReadFile(path); err == nil {
			if _, err := certificates(bundle); err == nil {
				opts.ExtraCA = bundle
				break
			}
		}
	}
	return opts
}
