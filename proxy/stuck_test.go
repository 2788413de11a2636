package proxy

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestAWriteThatDoesNotGoOn ends its tunnel after a time, either way, and no other does.
func TestAWriteThatDoesNotGoOn(t *testing.T) {
	for _, c := range []struct {
		name      string
		up, taken bool
	}{{"to the browser", false, false}, {"to the server", true, false}, {"that goes on", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				front, browser := net.Pipe()
				back, server := net.Pipe()
				defer browser.Close()
				defer server.Close()
				ended := false
				var s tunnels
				tunnel := newLive(front, back, credential{}, &route{stats: &routeStats{}, rest: &rest{}})
				s.add(tunnel)
				go tunnel.start([]byte("head"), nil, nil, func(l *live) { s.remove(l); ended = true })
				io.ReadFull(browser, make([]byte, 4))
				from, to := server, browser
				if c.up {
					from, to = browser, server
				}
				go from.Write([]byte("\x81\x01x"))
				synctest.Wait()
				time.Sleep(writeTimeout - time.Second)
				s.giveUp(time.Now())
				synctest.Wait()
				if ended {
					t.Error("it ends too early")
				}
				if c.taken {
					io.ReadFull(to, make([]byte, 3))
				}
				time.Sleep(2 * time.Second)
				s.giveUp(time.Now())
				synctest.Wait()
				time.Sleep(2 * halfOpen)
				synctest.Wait()
				if ended == c.taken {
					t.Errorf("ended: %v", ended)
				}
			})
		})
	}
}
