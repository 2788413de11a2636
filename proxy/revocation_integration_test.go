//go:build integration

package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"carrel/hub"
	"carrel/hub/redisstore"
	"carrel/internal/frametest"
	"carrel/internal/redistest"
)

const (
	manyTabs     = 1000
	tabSessions  = 5 // of one person: each may have 300 websockets
	quietTabs    = 20
	revokedAfter = time.Second
)

// pair is two proxies on one Redis, with a way to it that can be cut.
type pair struct {
	t       *testing.T
	dir     string
	redis   *redistest.Server
	way     *way2redis
	hub     *redisstore.Store // the hub's, which has a way of its own
	origins hub.Origins
	addrs   [2]string
	proxies [2]*Proxy
}

// bothWays runs a test with websockets carried by goroutines, and by an event loop.
func bothWays(t *testing.T, test func(*testing.T, *pair)) {
	for name, loop := range map[string]bool{"goroutines": false, "event loop": true} {
		t.Run(name, func(t *testing.T) { test(t, newPair(t, loop)) })
	}
}

func newPair(t *testing.T, loop bool) *pair {
	t.Helper()
	p := &pair{t: t, dir: socketDir(t)}
	p.redis = redistest.New(t)
	p.way = &way2redis{t: t, from: filepath.Join(p.dir, "way"), to: p.redis.Socket()}
	p.way.open()
	t.Cleanup(p.way.cut)
	var err error
	p.origins, err = hub.NewOrigins(hub.OneOrigin, "http://hub.test/", "")
	must(t, err)
	keys, err := hub.NewKeyring("test", bytes.Repeat([]byte("k"), 32))
	must(t, err)
	p.hub = p.store(p.redis.Socket())
	none := onUnix(t, http.NotFoundHandler())
	for i := range p.proxies {
		store := p.store(p.way.from)
		p.proxies[i], err = New(Config{
			Origins: p.origins, Keyring: keys.ForProxy(), Sessions: store, Tickets: store, Tokens: store, Users: store, Routes: store, Names: store, Changes: store, Events: store,
			RedisGrace: 5 * time.Minute, Drain: testDrain, Logger: slog.New(slog.DiscardHandler), Hub: none, Edge: none, EventLoop: loop,
		})
		must(t, err)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		p.addrs[i] = l.Addr().String()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- p.proxies[i].Run(ctx, l) }()
		t.Cleanup(func() { cancel(); <-ended })
		within(t, patience, "the proxy is ready", func() bool { return p.proxies[i].ready.Load() })
	}
	return p
}

func (p *pair) store(socket string) *redisstore.Store {
	p.t.Helper()
	s, err := redisstore.New(redisstore.Config{URL: "unix://" + socket, Prefix: "test:", Logger: slog.New(slog.DiscardHandler)})
	must(p.t, err)
	p.t.Cleanup(func() { s.Close() })
	return s
}

// way2redis passes connections on, until it is cut.
type way2redis struct {
	t        *testing.T
	from, to string
	mu       sync.Mutex
	l        net.Listener
	conns    []net.Conn
}

func (w *way2redis) open() {
	w.t.Helper()
	l, err := net.Listen("unix", w.from)
	must(w.t, err)
	w.l = l
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", w.to)
			if err != nil {
				in.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, in, out)
			w.mu.Unlock()
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
}

func (w *way2redis) cut() {
	w.l.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// person makes someone with sessions and a server that sends frames all the time.
func (p *pair) person(name string, sessions int) (hub.User, []hub.Secret) {
	p.t.Helper()
	key := serverKey(p.t, name, "")
	u := hub.User{Name: key.User, ID: hub.UserID("id-" + name), Identity: hub.Identity{Issuer: "https://id.test", Subject: name}}
	_, err := p.hub.BindUser(p.t.Context(), u)
	must(p.t, err)
	server := httptest.NewServer(http.HandlerFunc(frametest.Serve))
	p.t.Cleanup(server.CloseClientConnections)
	p.t.Cleanup(func() { go server.Close() })
	must(p.t, p.hub.PutRoute(p.t.Context(), hubRoute(key, endpoint(p.t, server.URL))))
	for _, x := range p.proxies {
		within(p.t, patience, "the route is known", func() bool { return x.routes.known(key) })
	}
	return u, p.sessions(u, sessions)
}

func (p *pair) sessions(u hub.User, n int) (list []hub.Secret) {
	p.t.Helper()
	for range n {
		secret := hub.RandomSecret()
		must(p.t, p.hub.CreateSession(p.t.Context(), hub.Session{
			Hash: secret.Hash(), User: u.Name, UserID: u.ID, Identity: u.Identity, Created: time.Now(), LastSeen: time.Now(), Expires: time.Now().Add(time.Hour),
		}))
		list = append(list, secret)
	}
	return list
}

func (p *pair) tab(i int, user string, cookie hub.Secret) (*frametest.Watcher, error) {
	c, err := net.Dial("tcp", p.addrs[i%2])
	if err != nil {
		return nil, err
	}
	return frametest.Watch(c, fmt.Sprintf("GET /user/%s/ws HTTP/1.1\r\nHost: hub.test\r\nOrigin: http://hub.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nCookie: %s=%s\r\n\r\n",
		user, p.origins.Cookie(hub.CookieSession), cookie.Reveal()))
}

func (p *pair) tabs(n int, user string, cookies []hub.Secret) (list []*frametest.Watcher) {
	p.t.Helper()
	list = make([]*frametest.Watcher, n)
	var group errgroup.Group
	group.SetLimit(20)
	for i := range list {
		group.Go(func() (err error) {
			list[i], err = p.tab(i, user, cookies[i%len(cookies)])
			return err
		})
	}
	must(p.t, group.Wait())
	return list
}

// cut checks that each ended with a clean 1008, and tells after how long the last did.
func (p *pair) cut(list []*frametest.Watcher, since time.Time) time.Duration {
	p.t.Helper()
	return frametest.Cut(p.t, list, closePolicy, patience).Sub(since)
}

// A sign-out, by a person everywhere or by the provider's back channel, cuts a thousand websockets on
// two proxies within a second, each between two frames of the server's.
func TestSignOutOnTwoProxies(t *testing.T) { bothWays(t, signOutOnTwo) }

func signOutOnTwo(t *testing.T, p *pair) {
	alice, cookies := p.person("alice", tabSessions)
	_, others := p.person("bob", 1)
	bob := p.tabs(quietTabs, "bob", others)
	for name, q := range map[string]hub.SessionQuery{"signed out everywhere": {User: alice.Name}, "back channel": {Identity: alice.Identity}} {
		open := p.tabs(manyTabs, "alice", cookies)
		began := time.Now()
		ended, err := p.hub.EndSessions(t.Context(), q)
		must(t, err)
		last := p.cut(open, began)
		t.Logf("%s: %d websockets of %d sessions are cut after %v", name, len(open), len(ended), last)
		if last > revokedAfter || len(ended) != tabSessions {
			t.Errorf("%s: %d sessions ended, the last websocket after %v", name, len(ended), last)
		}
		cookies = p.sessions(alice, tabSessions)
	}
	frametest.Open(t, bob)
}

// Redis is killed, comes back with what it had, and somebody is signed out before the proxies hear of
// it again: nothing of that is lost.
func TestSignOutWhileRedisIsAway(t *testing.T) { bothWays(t, signOutWhileAway) }

func signOutWhileAway(t *testing.T, p *pair) {
	alice, cookies := p.person("alice", tabSessions)
	_, others := p.person("bob", 1)
	bob := p.tabs(quietTabs, "bob", others)
	for round := range 2 {
		open := p.tabs(manyTabs/4, "alice", cookies)
		p.way.cut()
		p.redis.End(syscall.SIGKILL)
		p.redis.Start()
		within(t, patience, "Redis has read what it had", func() bool { return p.hub.Ping(t.Context()) == nil })
		ended, err := p.hub.EndSessions(t.Context(), hub.SessionQuery{User: alice.Name})
		must(t, err)
		if len(ended) != tabSessions {
			t.Errorf("%d sessions were there, want %d", len(ended), tabSessions)
		}
		frametest.Open(t, open) // nobody has told the proxies
		began := time.Now()
		p.way.open()
		last := p.cut(open, began)
		t.Logf("round %d: %d websockets are cut %v after Redis can be reached", round, len(open), last)
		frametest.Open(t, bob)
		for _, addr := range p.addrs {
			if res := askWith(t, addr, p.origins.Cookie(hub.CookieSession), cookies[0]); res != http.StatusUnauthorized {
				t.Errorf("the old cookie: %d", res)
			}
		}
		cookies = p.sessions(alice, tabSessions)
	}
}

func askWith(t *testing.T, addr, name string, cookie hub.Secret) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/user/alice/api", nil)
	must(t, err)
	r.Host = "hub.test"
	r.AddCookie(&http.Cookie{Name: name, Value: cookie.Reveal()})
	res, err := http.DefaultClient.Do(r)
	must(t, err)
	res.Body.Close()
	return res.StatusCode
}
