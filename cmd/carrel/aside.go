package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// asideRetry is how long a listener for operators waits for its port, which a process that goes away
// may still have.
const asideRetry = 500 * time.Millisecond

// serveMetrics serves /metrics at an address until ctx ends. It never fails: nobody's notebook is to
// wait for a port that only operators use.
func serveMetrics(ctx context.Context, address string, h http.Handler, logger *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	var lc net.ListenConfig
	for told := false; ctx.Err() == nil; {
		l, err := lc.Listen(ctx, "tcp", address)
		if err == nil {
			err = serveAside(ctx, l, mux)
		}
		if !told && ctx.Err() == nil {
			logger.WarnContext(ctx, "metrics are not served yet: is the port in use?", "address", address, "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(asideRetry):
		}
	}
}

// serveAside serves operators on a listener until ctx ends, whose end waits for nobody.
func serveAside(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() }) //nolint:errcheck // its end is wanted
	defer stop()
	return srv.Serve(l)
}
