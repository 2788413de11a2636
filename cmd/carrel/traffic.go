package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"carrel/hub"
)

const (
	trafficWithin = 2 * time.Second
	trafficMost   = 16 << 20 // bytes that one proxy is listened to; 100,000 servers in use take 13 MB
)

// listenTraffic opens the socket at which this process's proxies tell what they count. It is this
// process that opens it, in a directory where a proxy can make no file: whoever connects there reaches
// the one that has the descriptor.
func (d *deployment) listenTraffic(ctx context.Context) (socket, error) {
	d.state.dropDeadSockets()
	l, kept, err := d.listenUnix(ctx, &inheritance{}, d.state.trafficSocket(), ownersOnly)
	if err != nil {
		return socket{}, err
	}
	l.Close() // the copy stays
	return kept, nil
}

// serveTraffic answers at the descriptor that the parent left for it, until ctx ends.
func serveTraffic(ctx context.Context, l net.Listener, h http.Handler, logger *slog.Logger) {
	if err := serveAside(ctx, l, h); err != nil && ctx.Err() == nil {
		logger.WarnContext(ctx, "carrel top sees nothing of this proxy", "error", err)
	}
}

// meters tell the API what servers use: the hub what they take of the machine, this host's proxies what
// goes by.
type meters struct {
	*hub.Manager
	state  state
	logger *slog.Logger
}

// Traffic implements [carrel/hub/api.Meters].
func (m meters) Traffic(ctx context.Context) (map[hub.ServerKey]hub.Traffic, int) {
	paths, _ := filepath.Glob(filepath.Join(m.state.run, "traffic-*.sock")) // the pattern is right
	ctx, done := context.WithTimeout(ctx, trafficWithin)
	defer done()
	var mu sync.Mutex
	var asking sync.WaitGroup
	all, proxies := map[hub.ServerKey]hub.Traffic{}, 0
	for _, path := range paths {
		asking.Go(func() {
			told, err := readTraffic(ctx, path)
			if err != nil {
				m.logger.DebugContext(ctx, "a proxy did not tell its traffic", "socket", filepath.Base(path), "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			proxies++
			for key, t := range told {
				all[key] = t.Plus(all[key])
			}
		})
	}
	asking.Wait()
	return all, proxies
}

// readTraffic asks one proxy, which strangers may have taken over: it can tell wrong numbers of its own
// and hold up nobody.
func readTraffic(ctx context.Context, path string) (map[hub.ServerKey]hub.Traffic, error) {
	told := map[hub.ServerKey]hub.Traffic{}
	client := overSocket(path)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://proxy/", nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, hub.Errorf(hub.Unavailable, "read traffic", "the proxy answers %d", res.StatusCode)
	}
	for dec := json.NewDecoder(io.LimitReader(res.Body, trafficMost)); ; {
		var t hub.Traffic
		if err := dec.Decode(&t); errors.Is(err, io.EOF) {
			return told, nil
		} else if err != nil {
			return nil, err
		}
		t.Websockets = max(0, t.Websockets)
		told[t.Key] = t
	}
}

// overSocket is a client of whoever listens at a unix socket.
func overSocket(path string) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
			DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, ResponseHeaderTimeout: 10 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// removeSocket ends a socket of this process's own.
func removeSocket(s socket) {
	if s.file == nil {
		return
	}
	s.file.Close()
	_ = os.Remove(s.name) // it may have been taken down
}
