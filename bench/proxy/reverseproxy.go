package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// serveReverseProxy is the proxy that a Go programmer writes in an afternoon: the standard library's,
// with forwarded headers, no waiting before it flushes, and enough idle connections to its backend.
// ports is "own:backend", on loopback.
func serveReverseProxy(ctx context.Context, ports string) error {
	own, backend, ok := strings.Cut(ports, ":")
	if !ok {
		return fmt.Errorf("%q is no pair of ports", ports)
	}
	target := &url.URL{Scheme: "http", Host: "127.0.0.1:" + backend}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second}
	server := &http.Server{
		Addr: "127.0.0.1:" + own, ReadHeaderTimeout: 10 * time.Second,
		Handler: &httputil.ReverseProxy{
			Transport: transport, FlushInterval: -1,
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(target)
				r.Out.Host = r.In.Host
				r.SetXForwarded()
			},
		},
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
