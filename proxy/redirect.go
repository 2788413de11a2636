package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"carrel/hub"
	"carrel/internal/front"
)

type redirectKey struct{}

// markRedirects has requests know that they came to a listener that only leads to HTTPS.
func markRedirects(ctx context.Context, c net.Conn) context.Context {
	if front.Redirects(c) {
		return context.WithValue(ctx, redirectKey{}, true)
	}
	return ctx
}

// toHTTPS leads to the same page by HTTPS: of our hosts alone, so that nobody is led astray.
func (p *Proxy) toHTTPS(w http.ResponseWriter, r *http.Request) error {
	origin := p.secureOrigin(r.Host)
	if origin == "" {
		return errMisdirected
	}
	if token, ok := strings.CutPrefix(r.URL.Path, "/.well-known/acme-challenge/"); ok && p.cfg.Challenge != nil {
		if text, ok := p.cfg.Challenge(r.Context(), hostOf(origin), token); ok {
			w.Header().Set("Content-Type", "application/octet-stream")
			_, err := io.WriteString(w, text)
			return err
		}
	}
	status := http.StatusMovedPermanently
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		status = http.StatusPermanentRedirect // which keeps the method
	}
	w.Header().Set("Location", origin+r.URL.RequestURI())
	w.Header().Set("Cache-Control", "max-age=3600")
	w.WriteHeader(status)
	return nil
}

// hostOf is an origin's host without its port.
func hostOf(origin string) string {
	u, err := url.Parse(origin)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// secureOrigin finds the origin of ours that a host is the name of, whatever its port, or "".
func (p *Proxy) secureOrigin(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
	}
	for _, origin := range []string{p.cfg.Origins.HubOrigin(), p.cfg.Origins.ServerOrigin(hub.UserName{})} {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "https" {
			continue
		}
		at := strings.ToLower(host)
		if u.Port() != "" {
			at += ":" + u.Port()
		}
		place := p.cfg.Origins.Classify(at)
		if _, known := hub.ParseServerLabel(place.Label); place.Label != "" && !known {
			return ""
		}
		if place.Hub || place.Notebooks {
			return "https://" + at
		}
	}
	return ""
}
