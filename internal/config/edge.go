package config

import (
	"fmt"
	"net/url"
	"slices"
	"time"
)

// StrictTransport is the value of Strict-Transport-Security (RFC 6797, section 6.1), or "" where there
// is none: without HTTPS, where it is switched off, and on this machine's own names, which other
// programs use without HTTPS.
func (c *Config) StrictTransport() string {
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Scheme != "https" || c.HSTS.MaxAge <= 0 || loopback(u.Hostname()) {
		return ""
	}
	value := fmt.Sprintf("max-age=%d", int64(time.Duration(c.HSTS.MaxAge).Seconds()))
	if c.HSTS.Subdomains {
		value += "; includeSubDomains"
	}
	return value
}

// Door is one listener.
type Door struct {
	Address       string `json:"-"` // host:port
	Field         string `json:"-"` // listen or listen_redirect
	Redirect      bool   `json:"redirect,omitempty"`
	ProxyProtocol bool   `json:"proxy_protocol,omitempty"`
}

// Doors lists the proxy's listeners; none of the first len(Listen) redirects.
func (c *Config) Doors() []Door {
	var list []Door
	for _, a := range c.Listen {
		list = append(list, Door{Address: a, Field: "listen", ProxyProtocol: slices.Contains(c.ProxyProtocol, a)})
	}
	for _, a := range c.ListenRedirect {
		list = append(list, Door{Address: a, Field: "listen_redirect", Redirect: true, ProxyProtocol: slices.Contains(c.ProxyProtocol, a)})
	}
	return list
}
