package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// TestTrafficOfSeveralProxies: what several tell is added up; one that is hostile, silent or gone tells
// what it likes of itself, and holds up nobody for long.
func TestTrafficOfSeveralProxies(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "x-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	alice, err := hub.ParseServerKey("alice", "")
	if err != nil {
		t.Fatal(err)
	}
	proxy := func(name string, h http.HandlerFunc) net.Listener {
		t.Helper()
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "traffic-"+name+".sock"))
		if err != nil {
			t.Fatal(err)
		}
		if h == nil {
			t.Cleanup(func() { l.Close() }) // it accepts nothing
			return l
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- serveAside(ctx, l, h) }()
		t.Cleanup(func() { stop(); <-done })
		return l
	}
	line := func(requests, websockets int) string {
		return fmt.Sprintf(`{"key":{"user":"alice","server":""},"requests":%d,"received":1,"sent":2,"websockets":%d}`+"\n", requests, websockets)
	}
	proxy("1", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, line(5, 2)) })
	proxy("2", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, line(7, -9)) })
	m := meters{state: state{run: dir}, logger: slog.New(slog.DiscardHandler)}
	want := hub.Traffic{Key: alice, Requests: 12, Received: 2, Sent: 4, Websockets: 2}
	if got, proxies := m.Traffic(t.Context()); len(got) != 1 || proxies != 2 || got[alice] != want {
		t.Fatalf("%+v of %d", got, proxies)
	}
	proxy("3", nil)
	gone := proxy("4", nil)
	gone.(*net.UnixListener).SetUnlinkOnClose(false)
	gone.Close()
	proxy("5", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
	})
	proxy("6", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"key":{"user":"../../etc","server":"x"},"requests":1}`)
	})
	proxy("7", func(w http.ResponseWriter, _ *http.Request) {
		for name := range 10 { // the same again is not more
			_, _ = fmt.Fprintf(w, `{"key":{"user":"made-up-%d","server":""},"requests":1}`+"\n", name%2)
		}
		for range 1 << 20 {
			if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
				return
			}
		}
	})
	began := time.Now()
	got, proxies := m.Traffic(t.Context())
	if took := time.Since(began); took > 10*trafficWithin {
		t.Errorf("it took %v", took)
	}
	if proxies == 3 { // the last one, whose answer is cut after so many bytes
		proxies--
	}
	if len(got) > 3 || proxies != 2 || got[alice] != want {
		t.Errorf("%+v", got)
	}
}
