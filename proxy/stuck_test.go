package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
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

// TestAKernelThatIsSlowToAnswer is waited for as long as Jupyter waits for it, and no longer than a little more.
func TestAKernelThatIsSlowToAnswer(t *testing.T) {
	for after, ok := range map[time.Duration]bool{60 * time.Second: true, 2 * time.Minute: false} {
		synctest.Test(t, func(t *testing.T) {
			keys, err := hub.NewKeyring("test", make([]byte, 32))
			if err != nil {
				t.Fatal(err)
			}
			origins, err := hub.NewOrigins(hub.Subdomains, "https://hub.example/", "")
			if err != nil {
				t.Fatal(err)
			}
			key, err := hub.ParseServerKey("alice", "")
			if err != nil {
				t.Fatal(err)
			}
			p := &Proxy{cfg: Config{Keyring: keys, Origins: origins}}
			back, server := net.Pipe()
			var ended sync.WaitGroup
			defer ended.Wait()
			defer back.Close()
			ended.Go(func() {
				if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
					time.Sleep(after)
					io.WriteString(server, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
				}
			})
			began := time.Now()
			a, err := p.upgrade(back, httptest.NewRequest("GET", "/user/alice/api/kernels/k/channels", nil), &route{Route: hub.Route{Key: key, Generation: 1}, rest: &rest{}}, caller{})
			if (err == nil) != ok || ok && a.res.StatusCode != http.StatusSwitchingProtocols || time.Since(began) > upgradeTimeout {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	}
}
