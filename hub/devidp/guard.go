package devidp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// forwarding are the headers by which a request says that it comes from elsewhere.
var forwarding = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Real-Ip", "X-Scheme", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "Via"}

// ours are those that our own proxy sets, and Via, which it passes on from one in front of it that it trusts.
var ours = []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via"}

// insideKey marks the requests that [Provider.Transport] makes.
type insideKey struct{}

// guard refuses what does not come from this machine.
func (p *Provider) guard(r *http.Request) error {
	if r.Context().Value(insideKey{}) != nil {
		return nil
	}
	if !loopbackHost(r.Host) {
		return fmt.Errorf("host %.60q is no loopback address", r.Host)
	}
	trusted := p.cfg.Trusted != nil && p.cfg.Trusted(r)
	for _, name := range forwarding {
		if r.Header.Get(name) == "" {
			continue
		}
		if !trusted || !slices.Contains(ours, name) {
			return fmt.Errorf("forwarding header %s", name)
		}
	}
	if !trusted {
		return loopbackClient(r.RemoteAddr)
	}
	for _, name := range r.Header.Values("X-Forwarded-Host") {
		if !loopbackHost(name) {
			return fmt.Errorf("forwarded host %.60q is no loopback address", name)
		}
	}
	from := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	if from == "" {
		return fmt.Errorf("the proxy did not say for whom it asks")
	}
	for one := range strings.SplitSeq(from, ",") {
		if err := loopbackClient(strings.TrimSpace(one)); err != nil {
			return err
		}
	}
	return nil
}

// loopbackHost tells whether a Host value, with or without a port, names this machine.
func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback() && a.Zone() == ""
}

func loopbackClient(addr string) error {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		addr = h
	}
	a, err := netip.ParseAddr(strings.Trim(addr, "[]"))
	if err != nil || !a.Unmap().IsLoopback() {
		return fmt.Errorf("client %.60q is not on this machine", addr)
	}
	return nil
}

// Transport reaches the provider within this process, so that the hub needs neither its own proxy
// nor a certificate to ask its own demo provider. Requests to any other address fail.
func (p *Provider) Transport() http.RoundTripper { return inside{p} }

type inside struct{ p *Provider }

// RoundTrip serves the request.
func (i inside) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close() // a RoundTripper closes; nothing was written
	}
	if r.URL.Host != i.p.issuer.Host || r.URL.Scheme != i.p.issuer.Scheme {
		return nil, fmt.Errorf("%s is not the demo provider", r.URL.Host)
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	in := r.Clone(context.WithValue(r.Context(), insideKey{}, true))
	in.Host, in.RequestURI, in.RemoteAddr = r.URL.Host, r.URL.RequestURI(), "127.0.0.1:0"
	if in.Body == nil {
		in.Body = http.NoBody
	}
	out := &buffered{header: http.Header{}}
	i.p.ServeHTTP(out, in)
	if out.status == 0 {
		out.status = http.StatusOK
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", out.status, http.StatusText(out.status)), StatusCode: out.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: out.header,
		Body: io.NopCloser(&out.body), ContentLength: int64(out.body.Len()), Request: r,
	}, nil
}

// buffered keeps a response.
type buffered struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (b *buffered) Header() http.Header { return b.header }

func (b *buffered) WriteHeader(status int) {
	if b.status == 0 {
		b.status = status
	}
}

func (b *buffered) Write(p []byte) (int, error) {
	b.WriteHeader(http.StatusOK)
	return b.body.Write(p)
}
