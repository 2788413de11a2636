//go:build integration

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"carrel/hub"
	"carrel/hub/redisstore"
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
	redis   *exec.Cmd
	way     *way2redis
	hub     *redisstore.Store // the hub's, which has a way of its own
	origins hub.Origins
	addrs   [2]string
	proxies [2]*Proxy
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, dir: socketDir(t)}
	p.startRedis()
	t.Cleanup(func() { p.redis.Process.Kill(); p.redis.Wait() })
	p.way = &way2redis{t: t, from: filepath.Join(p.dir, "way"), to: p.socket()}
	p.way.open()
	t.Cleanup(p.way.cut)
	var err error
	p.origins, err = hub.NewOrigins(hub.OneOrigin, "http://hub.test/", "")
	must(t, err)
	keys, err := hub.NewKeyring("test", bytes.Repeat([]byte("k"), 32))
	must(t, err)
	p.hub = p.store(p.socket())
	none := onUnix(t, http.NotFoundHandler())
	for i := range p.proxies {
		store := p.store(p.way.from)
		p.proxies[i], err = New(Config{
			Origins: p.origins, Keyring: keys.ForProxy(), Sessions: store, Tickets: store, Tokens: store, Users: store, Routes: store, Names: store, Events: store,
			RedisGrace: 5 * time.Minute, Drain: testDrain, Logger: slog.New(slog.DiscardHandler), Hub: none, Edge: none,
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

func (p *pair) socket() string { return filepath.Join(p.dir, "redis") }

func (p *pair) store(socket string) *redisstore.Store {
	p.t.Helper()
	s, err := redisstore.New(redisstore.Config{URL: "unix://" + socket, Prefix: "test:", Logger: slog.New(slog.DiscardHandler)})
	must(p.t, err)
	p.t.Cleanup(func() { s.Close() })
	return s
}

// startRedis starts one that keeps what it is given.
func (p *pair) startRedis() {
	p.t.Helper()
	p.redis = exec.Command("redis-server", "--port", "0", "--unixsocket", p.socket(), "--dir", p.dir, "--appendonly", "yes", "--save", "")
	must(p.t, p.redis.Start())
	within(p.t, patience, "Redis listens", func() bool {
		c, err := net.Dial("unix", p.socket())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
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
	server := httptest.NewServer(http.HandlerFunc(chatter))
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

// chatter answers an upgrade, and sends frames for as long as somebody reads: small and large ones,
// and each in two parts, so that whoever cuts it comes between them.
func chatter(w http.ResponseWriter, _ *http.Request) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	small := append([]byte{0x82, 100}, bytes.Repeat([]byte("s"), 100)...)
	large := append(binary.BigEndian.AppendUint16([]byte{0x82, 126}, 3000), bytes.Repeat([]byte("l"), 3000)...)
	for _, part := 0, 0; ; part++ {
		frame := small
		if part/2%2 == 1 {
			frame = large
		}
		half := frame[:len(frame)/2]
		if part%2 == 1 {
			half = frame[len(frame)/2:]
		}
		if _, err := c.Write(half); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// viewer is a client that takes nothing but whole frames (RFC 6455, section 5.2), and its end.
type viewer struct {
	conn net.Conn
	r    *bufio.Reader
	at   time.Time // of the close frame
	code uint16
	err  error
	done chan struct{}
}

func (p *pair) tab(i int, user string, cookie hub.Secret) (*viewer, error) {
	c, err := net.Dial("tcp", p.addrs[i%2])
	if err != nil {
		return nil, err
	}
	t := &viewer{conn: c, r: bufio.NewReaderSize(c, 512), done: make(chan struct{})}
	fmt.Fprintf(c, "GET /user/%s/ws HTTP/1.1\r\nHost: hub.test\r\nOrigin: http://hub.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nCookie: %s=%s\r\n\r\n",
		user, p.origins.Cookie(hub.CookieSession), cookie.Reveal())
	res, err := http.ReadResponse(t.r, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("websocket: %s", res.Status)
	}
	go t.read()
	return t, nil
}

func (t *viewer) read() {
	defer close(t.done)
	defer t.conn.Close()
	for {
		var head [2]byte
		if _, t.err = io.ReadFull(t.r, head[:]); t.err != nil {
			return
		}
		n := int(head[1])
		if n == 126 {
			var more [2]byte
			if _, t.err = io.ReadFull(t.r, more[:]); t.err != nil {
				return
			}
			n = int(binary.BigEndian.Uint16(more[:]))
		}
		payload := make([]byte, n)
		if _, t.err = io.ReadFull(t.r, payload); t.err != nil {
			return
		}
		switch {
		case head[0] == 0x88 && n >= 2:
			t.at, t.code = time.Now(), binary.BigEndian.Uint16(payload)
			rest, _ := io.ReadAll(t.r)
			if len(rest) > 0 {
				t.err = fmt.Errorf("%d bytes come after the close frame", len(rest))
			}
			return
		case head[0] != 0x82 || strings.Trim(string(payload), "s") != "" && strings.Trim(string(payload), "l") != "":
			t.err = fmt.Errorf("the frame %x of %d bytes is not one that was sent", head, n)
			return
		}
	}
}

func (p *pair) tabs(n int, user string, cookies []hub.Secret) (list []*viewer) {
	p.t.Helper()
	list = make([]*viewer, n)
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
func (p *pair) cut(list []*viewer, since time.Time) time.Duration {
	p.t.Helper()
	var last time.Duration
	enough := time.After(patience)
	for i, x := range list {
		select {
		case <-x.done:
		case <-enough:
			p.t.Fatalf("number %d of %d is open still", i, len(list))
		}
		if x.code != closePolicy || x.err != nil {
			p.t.Fatalf("number %d ended with code %d, %v", i, x.code, x.err)
		}
		last = max(last, x.at.Sub(since))
	}
	return last
}

func (p *pair) goesOn(list []*viewer) {
	p.t.Helper()
	for _, x := range list {
		select {
		case <-x.done:
			p.t.Errorf("another person's websocket ended with code %d, %v", x.code, x.err)
		default:
		}
	}
}

// A sign-out, by a person everywhere or by the provider's back channel, cuts a thousand websockets on
// two proxies within a second, each between two frames of the server's.
func TestSignOutOnTwoProxies(t *testing.T) {
	p := newPair(t)
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
	p.goesOn(bob)
}

// Redis is killed, comes back with what it had, and somebody is signed out before the proxies hear of
// it again: nothing of that is lost.
func TestSignOutWhileRedisIsAway(t *testing.T) {
	p := newPair(t)
	alice, cookies := p.person("alice", tabSessions)
	_, others := p.person("bob", 1)
	bob := p.tabs(quietTabs, "bob", others)
	for round := range 2 {
		open := p.tabs(manyTabs/4, "alice", cookies)
		p.way.cut()
		must(t, p.redis.Process.Kill())
		_ = p.redis.Wait()
		p.startRedis()
		within(t, patience, "Redis has read what it had", func() bool { return p.hub.Ping(t.Context()) == nil })
		ended, err := p.hub.EndSessions(t.Context(), hub.SessionQuery{User: alice.Name})
		must(t, err)
		if len(ended) != tabSessions {
			t.Errorf("%d sessions were there, want %d", len(ended), tabSessions)
		}
		p.goesOn(open) // nobody has told the proxies
		began := time.Now()
		p.way.open()
		last := p.cut(open, began)
		t.Logf("round %d: %d websockets are cut %v after Redis can be reached", round, len(open), last)
		p.goesOn(bob)
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
