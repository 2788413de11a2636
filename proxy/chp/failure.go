package chp

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	errorTimeout = 10 * time.Second // of the error target
	maxErrorPage = 4 << 20
)

// fail answers for a server that could not: with the error target's page, a file, or a few words.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, status int, cause error) {
	p.metrics.answered(status)
	attrs := []any{"status", status, "method", r.Method, "path", withoutQuery(r.RequestURI)}
	if cause != nil {
		attrs = append(attrs, "error", cause)
	}
	p.cfg.Logger.ErrorContext(r.Context(), "Not proxied", attrs...)
	if isUpgrade(r) {
		failUpgrade(w, status)
		return
	}
	switch {
	case p.cfg.ErrorTarget != "":
		p.failByTarget(w, r, status)
	case p.cfg.ErrorPath != "":
		p.failByFile(w, r, status)
	default:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = w.Write(page(status)) //nolint:gosec // nothing of the request is in it
	}
}

func page(status int) []byte {
	title := strconv.Itoa(status) + ": " + http.StatusText(status)
	said := map[int]string{
		http.StatusNotFound:           "No service is registered at this URL",
		http.StatusServiceUnavailable: "The upstream service is unavailable",
	}[status]
	if said == "" {
		said = "The proxy could not forward this request"
	}
	return []byte("<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>" + title + "</title></head>\n<body><h1>" + title +
		"</h1><p>" + said + "</p></body>\n</html>\n")
}

// failByTarget relays another server's page; the status stays.
func (p *Proxy) failByTarget(w http.ResponseWriter, r *http.Request, status int) {
	res, err := p.askErrorTarget(r.Context(), origin(r.RequestURI), status)
	if err != nil {
		p.cfg.Logger.ErrorContext(r.Context(), "Failed to get custom error page", "error", err)
		text(w, status, "")
		return
	}
	defer res.Body.Close()
	for _, name := range []string{"Content-Type", "Content-Encoding"} {
		if v := res.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(status)
	_, _ = io.Copy(w, io.LimitReader(res.Body, maxErrorPage)) // the client may be gone
}

func (p *Proxy) askErrorTarget(ctx context.Context, asked string, status int) (*http.Response, error) {
	t, err := parseTarget(p.cfg.ErrorTarget)
	if err != nil {
		return nil, err
	}
	m := match{to: t, at: t.join(location{"/" + strconv.Itoa(status), url.Values{"url": {asked}}.Encode()}, true)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/", nil)
	if err != nil {
		return nil, err
	}
	req.URL, req.Host = m.url(), t.host
	req.Header["User-Agent"] = nil // or Go tells of itself
	c := http.Client{
		Transport: p.dialer.transport(), Timeout: errorTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c.Do(req)
}

func (p *Proxy) failByFile(w http.ResponseWriter, r *http.Request, status int) {
	var all error
	for _, name := range []string{strconv.Itoa(status) + ".html", "error.html"} {
		b, err := os.ReadFile(filepath.Join(p.cfg.ErrorPath, name))
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = w.Write(b) // the client may be gone
		return
	}
	p.cfg.Logger.ErrorContext(r.Context(), "There is no page for this error", "error", all)
	text(w, status, "")
}

// failUpgrade tells a websocket's client no more than the status.
func failUpgrade(w http.ResponseWriter, status int) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(errorTimeout))
	_, _ = io.WriteString(c, "HTTP/1.1 "+strconv.Itoa(status)+"\r\nContent-Length: 0\r\n\r\n")
}
