package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
	"carrel/internal/front"
)

// TestRedisAway: who is known goes on until the grace is over, who is not is asked to wait.
func TestRedisAway(t *testing.T) {
	w := newWorld(t, setup{grace: 2 * time.Second})
	alice, bob := w.person("alice"), w.person("bob")
	w.serve("alice", echo(nil))
	w.serve("bob", echo(nil))
	socket := w.mustSocket(alice, "ws")
	if got := w.get(w.url("alice", ""), byToken(alice)); got.status != 200 {
		t.Fatal(got.status)
	}
	w.redis.SetError("LOADING Redis is loading the dataset in memory")
	w.proxy.sessions.expire() // as after a lost connection
	w.proxy.tokens.expire()
	for name, who := range map[string]option{"session": w.as(alice), "token": byToken(alice)} {
		if got := w.get(w.url("alice", ""), who); got.status != 200 {
			t.Errorf("a known %s: %d", name, got.status)
		}
	}
	for kind, as := range kinds {
		got := w.get(w.url("bob", ""), as, w.as(bob), ownOrigin(w, "bob"))
		if got.status != 503 || got.header.Get("Retry-After") == "" {
			t.Errorf("unknown, %s: %d %v", kind, got.status, got.header)
		}
		if got := w.get(w.url("bob", ""), as, byToken(bob)); got.status != 503 {
			t.Errorf("unknown, by token, %s: %d", kind, got.status)
		}
	}
	roundTrip(t, socket, []byte("an open websocket goes on"))
	for name, who := range map[string]option{"session": w.as(alice), "token": byToken(alice)} {
		w.until("the grace is over for the "+name, func() bool { return w.get(w.url("alice", ""), who).status == 503 })
	}
	ask(w.proxy.recheck)
	wantClose(t, socket, closeTryAgain)
	w.shows(map[string]string{`carrel_proxy_tunnels_cut_total{reason="unchecked"}`: "1", `carrel_proxy_tunnels_cut_total{reason="revoked"}`: "0"})
	w.redis.SetError("")
	w.until("alice is known again", func() bool { return w.get(w.url("alice", ""), w.as(alice)).status == 200 })
	w.until("bob is known", func() bool { return w.get(w.url("bob", ""), w.as(bob)).status == 200 })
	if got := w.get("https://alice.hub.test/carrel-health"); got.status != 200 {
		t.Errorf("health: %d", got.status)
	}
}

// TestRedisRestarted: what was missed meanwhile is found out.
func TestRedisRestarted(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.person("alice"), w.person("bob")
	w.serve("alice", echo(nil))
	w.serve("bob", echo(nil))
	a, b := w.mustSocket(alice, "ws"), w.mustSocket(bob, "ws")
	roundTrip(t, a, []byte("x"))
	addr := w.redis.Addr()
	w.redis.Close()
	for _, k := range w.redis.Keys() {
		if strings.Contains(k, string(alice.session.Hash)) || strings.Contains(k, string(alice.notebook.Hash)) {
			w.redis.Del(k)
		}
	}
	must(t, w.redis.StartAddr(addr))
	wantClose(t, a, 1008)
	roundTrip(t, b, []byte("another's goes on"))
	w.until("the old cookie is dead", func() bool { return w.get(w.url("alice", ""), w.as(alice)).status == 401 })
}

// flaky is a store of routes that fails a few times.
type flaky struct {
	hub.RouteStore
	fails atomic.Int64
	says  atomic.Pointer[hub.Route] // instead of what is there
}

func (f *flaky) Routes(ctx context.Context) iter.Seq2[hub.Route, error] {
	if f.fails.Add(-1) >= 0 {
		return func(yield func(hub.Route, error) bool) { yield(hub.Route{}, errors.New("not now")) }
	}
	if r := f.says.Load(); r != nil {
		return func(yield func(hub.Route, error) bool) { yield(*r, nil) }
	}
	return f.RouteStore.Routes(ctx)
}

// TestRoutesThatCantBeRead are read again, and nothing is accepted before.
func TestRoutesThatCantBeRead(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	_ = w.stop()
	cfg := w.proxy.cfg
	f := &flaky{RouteStore: w.store}
	f.fails.Store(2)
	cfg.Routes = f
	var err error
	w.proxy, err = New(cfg)
	must(t, err)
	w.start(false)
	if f.fails.Load() >= 0 {
		t.Error("it accepts without having read the routes")
	}
	if got := w.get(w.url("alice", ""), w.as(alice)); got.status != 200 {
		t.Errorf("%d", got.status)
	}
	// What no event told is noticed at a later reading.
	c := w.mustSocket(alice, "ws")
	roundTrip(t, c, []byte("x"))
	r := w.proxy.routes.get(serverKey(t, "alice", "")).Route
	r.Generation++
	f.says.Store(&r)
	ask(w.proxy.reload)
	wantClose(t, c, 1001)
}

// TestTheLastActivityIsRecorded however soon the proxy ends.
func TestTheLastActivityIsRecorded(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	w.send("POST", w.url("alice", "x"), "", w.as(alice), ownOrigin(w, "alice"))
	_ = w.stop()
	for a, err := range w.store.Activities(t.Context()) {
		if err == nil && a.Key == serverKey(t, "alice", "") {
			return
		}
	}
	t.Error("it is lost")
}

// TestAnEndDuringTheUpgrade: what ends between the check and the tunnel's entry ends the tunnel.
func TestAnEndDuringTheUpgrade(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	key := w.serve("alice", echo(nil))
	rt := w.proxy.routes.get(key)
	for name, c := range map[string]struct {
		who credential
		end func()
	}{
		"nothing ends": {credential{w.person("alice3").notebook.Hash, false}, nil},
		"the session":  {credential{alice.notebook.Hash, false}, func() { w.end(hub.SessionQuery{Hash: alice.session.Hash}) }},
		"the token":    {credential{alice.token.Hash(), true}, func() { must(t, w.store.DeleteToken(t.Context(), alice.user.Name, alice.tokenID)) }},
		"the route":    {credential{w.person("alice2").notebook.Hash, false}, func() { must(t, w.store.DeleteRoute(t.Context(), key, 1)) }},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			tunnel := newLive(a, b, c.who, rt)
			r := w.request("GET", w.url("alice", "ws"), "")
			if c.end == nil {
				if w.proxy.confirm(r, tunnel); tunnel.ending() != nil {
					t.Errorf("cut: %q", tunnel.ending())
				}
				return
			}
			c.end()
			w.until("it is cut", func() bool { w.proxy.confirm(r, tunnel); return tunnel.ending() != nil })
		})
		if name == "the route" {
			w.route(key, 1, rt.Endpoint)
		}
	}
}

// TestASessionThatRunsOut takes its tunnels along, at the next look.
func TestASessionThatRunsOut(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	s := alice.notebook
	s.Expires = time.Now().Add(2 * time.Second)
	must(t, w.store.CreateSession(t.Context(), s)) // in the other's place
	c := w.mustSocket(alice, "ws")
	roundTrip(t, c, []byte("x"))
	w.until("it is over", func() bool { ask(w.proxy.recheck); return w.proxy.tunnels.pick()[0].ending() != nil })
	wantClose(t, c, 1008)
}

// TestDrain: requests finish, websockets are told, and an endless answer takes none of their time.
func TestDrain(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	begun, finish := make(chan struct{}, 2), make(chan struct{})
	ws := echo(nil)
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/slow"):
			begun <- struct{}{}
			<-finish
			io.WriteString(rw, "finished")
		case strings.HasSuffix(r.URL.Path, "/endless"):
			rw.WriteHeader(http.StatusOK)
			rw.(http.Flusher).Flush()
			begun <- struct{}{}
			<-r.Context().Done()
		default:
			ws.ServeHTTP(rw, r)
		}
	}))
	c := w.mustSocket(alice, "ws")
	roundTrip(t, c, []byte("x"))
	slow, endless := make(chan reply, 1), make(chan error, 1)
	go func() { slow <- w.get(w.url("alice", "slow"), w.as(alice)) }()
	<-begun
	res, err := w.transport().RoundTrip(w.request("GET", w.url("alice", "endless"), "", w.as(alice)))
	must(t, err)
	<-begun
	go func() { _, err := io.ReadAll(res.Body); endless <- err }()
	must(t, w.store.RecordActivity(t.Context(), []hub.Activity{{Key: serverKey(t, "alice", ""), Last: time.Now().Add(-time.Hour)}}))
	roundTrip(t, c, []byte("activity"))
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- w.stop() }()
	w.until("nothing new is accepted", func() bool {
		conn, err := w.dial(t.Context(), "", "")
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(finish)
	if got := <-slow; got.status != 200 || got.body != "finished" {
		t.Errorf("the request under way: %d %q", got.status, got.body)
	}
	wantClose(t, c, 1001)
	if err := <-endless; err == nil {
		t.Error("the endless answer ended well")
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if took := time.Since(began); took > testDrain.Requests+tunnelsTimeout+2*time.Second {
		t.Errorf("took %v", took)
	}
	for a, err := range w.store.Activities(t.Context()) {
		if err != nil || time.Since(a.Last) > time.Minute {
			t.Errorf("the last activity is not recorded: %v %v", a, err)
		}
	}
}

// TestActivity: input counts, what browsers do by themselves does not.
func TestActivity(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	push := make(chan struct{})
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			return
		}
		c, err := up.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		go func() {
			for range push {
				_ = c.WriteMessage(websocket.TextMessage, []byte("output"))
			}
		}()
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
		}
	}))
	rt := w.proxy.routes.get(serverKey(t, "alice", ""))
	c := w.mustSocket(alice, "api/kernels/1/channels")
	var pongs atomic.Int64
	c.SetPongHandler(func(string) error { pongs.Add(1); return nil })
	outputs := make(chan struct{}, 100)
	go func() {
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
			outputs <- struct{}{}
		}
	}()
	own := ownOrigin(w, "alice")
	for _, s := range []struct {
		name   string
		do     func()
		counts bool
	}{
		{"a poll", func() { w.get(w.url("alice", "api/kernels"), w.as(alice)) }, false},
		{"HEAD", func() { w.send("HEAD", w.url("alice", "x"), "", w.as(alice)) }, false},
		{"a ping", func() {
			n := pongs.Load()
			must(t, c.WriteControl(websocket.PingMessage, []byte("p"), time.Now().Add(patience)))
			w.until("the pong is there", func() bool { return pongs.Load() > n })
		}, false},
		{"a pong, then a ping", func() {
			n := pongs.Load()
			must(t, c.WriteControl(websocket.PongMessage, nil, time.Now().Add(patience)))
			must(t, c.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)))
			w.until("the pong is there", func() bool { return pongs.Load() > n })
		}, false},
		{"output", func() { push <- struct{}{}; <-outputs }, false},
		{"input", func() {
			must(t, c.WriteMessage(websocket.TextMessage, []byte("1+1")))
			w.until("it is noted", func() bool { return rt.stats.used.Load() > 0 })
		}, true},
		{"POST", func() { w.send("POST", w.url("alice", "api/kernels"), "", w.as(alice), own) }, true},
		{"DELETE by token", func() { w.send("DELETE", w.url("alice", "api/kernels/1"), "", byToken(alice)) }, true},
		{"a foreign POST", func() { w.send("POST", w.url("alice", "x"), "", w.as(alice), header("Origin", "https://evil.test")) }, false},
		{"nobody's POST", func() { w.send("POST", w.url("alice", "x"), "", own) }, false},
	} {
		t.Run(s.name, func(t *testing.T) {
			rt.stats.used.Store(0)
			s.do()
			if got := rt.stats.used.Load() > 0; got != s.counts {
				t.Errorf("counts: %v, want %v", got, s.counts)
			}
		})
	}
}

// TestUseOfSessions is told to the store, of the hub's session alone and at most once a minute, without
// what the hub wrote meanwhile being lost.
func TestUseOfSessions(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	s := alice.session
	s.LastSeen = time.Now().Add(-10 * time.Minute)
	must(t, w.store.CreateSession(t.Context(), s)) // in the other's place
	w.get(w.url("alice", ""), w.as(alice))
	if _, noted := w.proxy.seen[s.Hash]; !noted || len(w.proxy.seen) != 1 {
		t.Errorf("%v are noted as used", w.proxy.seen)
	}
	must(t, w.store.UpdateSession(t.Context(), s.Hash, func(s *hub.Session) { s.Groups, s.Tokens = []string{"new"}, []byte("rotated") }))
	w.proxy.flushSeen(t.Context())
	for _, h := range []hub.SecretHash{alice.session.Hash, alice.notebook.Hash} {
		w.until("the store knows", func() bool {
			s, err := w.store.Session(t.Context(), h)
			return err == nil && time.Since(s.LastSeen) < time.Minute && (s.Parent != "" || string(s.Tokens) == "rotated" && len(s.Groups) == 1)
		})
	}
	w.get(w.url("alice", ""), w.as(alice))
	if len(w.proxy.seen) != 0 {
		t.Error("it is told again within a minute")
	}
}

// pipes is a listener without a network, whose time is the bubble's.
type pipes struct{ conns chan net.Conn }

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p *pipes) Close() error   { return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestSlowloris: heads, bodies and idle connections have an end (attack 35).
func TestSlowloris(t *testing.T) {
	origins, err := hub.NewOrigins(hub.Subdomains, "https://hub.test/", "")
	must(t, err)
	for _, c := range []struct {
		name  string
		first string
		drip  string        // one byte of it at a time
		every time.Duration // between them
		ended time.Duration // by then the connection is over
		want  string
	}{
		{"nothing at all", "", "", 0, headerTimeout, ""},
		{"a slow head", "GET / HTTP/1.1\r\n", strings.Repeat("X: y\r\n", 1000), time.Second, headerTimeout, ""},
		{"an idle connection", "GET /x HTTP/1.1\r\nHost: nowhere.test\r\n\r\n", "", 0, idleTimeout, "421"},
		{"a body that nobody wants", "POST /x HTTP/1.1\r\nHost: nowhere.test\r\nContent-Length: 100000\r\n\r\n", strings.Repeat("x", 1000), 5 * time.Second, bodyPatience, "421"},
		{"a body that never comes", "POST /read HTTP/1.1\r\nHost: hub.test\r\nContent-Length: 100\r\n\r\n", "", 0, bodyPatience, "408"},
		{"a slow body", "POST /read HTTP/1.1\r\nHost: hub.test\r\nContent-Length: 100000\r\n\r\n", strings.Repeat("x", 1000), 5 * time.Second, bodyPatience + 5*time.Second, "408"},
		{"a slow chunked body", "POST /read HTTP/1.1\r\nHost: hub.test\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n", strings.Repeat("x", 1000), 5 * time.Second, bodyPatience + 5*time.Second, "408"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &Proxy{cfg: Config{Origins: origins, Logger: slog.New(slog.DiscardHandler)}}
				p.crowd.exempt = p.trusted
				p.sessions, p.tokens = newCache[hub.Session](0, nil), newCache[permit](0, nil)
				p.metrics = newMetrics(p)
				plain := p.Handler()
				server := p.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/read" {
						plain.ServeHTTP(w, r)
						return
					}
					r = guardBody(newRecorder(w, r), r)
					if _, err := io.Copy(io.Discard, r.Body); err != nil {
						w.WriteHeader(http.StatusRequestTimeout)
					}
				}))
				l := &pipes{make(chan net.Conn)}
				go server.Serve(p.strict(l))
				near, far := net.Pipe()
				l.conns <- far
				began := time.Now()
				dripped := make(chan struct{})
				go func() {
					defer close(dripped)
					io.WriteString(near, c.first)
					for i := range len(c.drip) {
						time.Sleep(c.every)
						if _, err := near.Write([]byte{c.drip[i]}); err != nil {
							return
						}
					}
				}()
				answer, _ := io.ReadAll(near)
				if took := time.Since(began); took > c.ended+2*time.Second {
					t.Errorf("held open for %v", took)
				}
				if !strings.Contains(string(answer), c.want) {
					t.Errorf("%q, want %s", answer, c.want)
				}
				near.Close()
				<-dripped
				close(l.conns)
				server.Close()
				synctest.Wait()
			})
		})
	}
}

// TestASlowServerIsNobodysFault: a body that the server takes its time with is not cut, and a
// steady one may take as long as it likes.
func TestASlowServerIsNobodysFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const steps = 20
		l := &pipes{make(chan net.Conn)}
		server := front.NewServer(&http.Server{ReadHeaderTimeout: headerTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = guardBody(newRecorder(w, r), r)
			b := make([]byte, bodyStep)
			for range steps {
				time.Sleep(2 * bodyPatience) // the server does not take it
				if _, err := io.ReadFull(r.Body, b); err != nil {
					t.Error(err)
					return
				}
			}
			if _, err := r.Body.Read(b); err != io.EOF {
				t.Error(err)
			}
			time.Sleep(2 * bodyPatience) // the wait for the answer has no deadline
			if r.Context().Err() != nil {
				t.Error("the request was given up")
			}
			io.WriteString(w, "taken")
		})})
		go server.Serve(front.New(l, front.Options{}))
		near, far := net.Pipe()
		l.conns <- far
		go func() {
			io.WriteString(near, "POST /read HTTP/1.1\r\nHost: hub.test\r\nContent-Length: 81920\r\n\r\n")
			for range steps {
				time.Sleep(bodyPatience - time.Second)
				near.Write(make([]byte, bodyStep))
			}
		}()
		res, err := http.ReadResponse(bufio.NewReader(near), nil)
		must(t, err)
		if b := make([]byte, 5); res.StatusCode != http.StatusOK {
			t.Errorf("%d %s", res.StatusCode, b)
		}
		near.Close()
		close(l.conns)
		server.Close()
		synctest.Wait()
	})
}

func TestACrowdFromOneAddress(t *testing.T) {
	c := crowd{exempt: (&Proxy{}).trusted}
	var in []func()
	come := func(addr string) bool {
		leave, ok := c.enter(&net.TCPAddr{IP: net.ParseIP(addr), Port: 1})
		if ok {
			in = append(in, leave)
		}
		return ok
	}
	for i := range maxPerAddress {
		if !come("2001:db8::" + string(rune('1'+i%9))) {
			t.Fatalf("number %d is refused", i)
		}
	}
	if come("2001:db8::ffff") {
		t.Error("one too many from a /64 is let in")
	}
	if !come("2001:db8:0:1::1") || !come("192.0.2.1") {
		t.Error("another address is refused")
	}
	in[0]()
	if in = in[1:]; !come("2001:db8::1") {
		t.Error("still refused when another has left")
	}
	for _, leave := range in {
		leave()
	}
	if len(c.open) != 0 {
		t.Errorf("%d addresses are still counted", len(c.open))
	}
}

// TestASlowBodyOnItsWayToAServer is answered with 408, and the connection ends.
func TestASlowBodyOnItsWayToAServer(t *testing.T) {
	w := newWorld(t, setup{})
	key := w.serve("alice", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	rt := w.proxy.routes.get(key)
	server := front.NewServer(&http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rec := newRecorder(rw, r)
		r = guardBody(rec, r)
		r.Body.(*body).left = 50 * time.Millisecond
		if err := w.proxy.forward(rec, r, rt, caller{}, tabPoll{}); err != nil {
			w.proxy.refuse(rec, r, err)
		}
	})})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go server.Serve(front.New(l, front.Options{}))
	defer server.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	io.WriteString(c, "POST /user/alice/x HTTP/1.1\r\nHost: alice.hub.test\r\nContent-Length: 10\r\n\r\nhalf")
	if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408") {
		t.Errorf("%q %v", answer, err)
	}
}
