package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gorilla/websocket"

	"carrel/hub"
	"carrel/hub/redisstore"
	"carrel/internal/front"
)

// patience is how long anything that must come is waited for; machines of CI are loaded.
const patience = 20 * time.Second

// testDrain is how a test's proxy goes away.
var testDrain = Drain{Requests: 8 * time.Second, Handed: 20 * time.Second, Tunnels: 200 * time.Millisecond}

// setup is what a test wants of its proxy; zero is a hub on HTTPS with subdomains.
type setup struct {
	mode     hub.OriginMode
	public   string
	notebook string
	admin    bool
	trusted  []string
	grace    time.Duration
	statics  string // directory of images' files
	tls      bool   // the proxy speaks TLS itself
	edge     http.Handler
	ping     time.Duration // of browsers at paused servers
	loop     bool          // an event loop carries websockets
}

// world is a proxy on a real listener, between Redis' stand-in, a hub on a unix socket and servers.
type world struct {
	t       testing.TB
	redis   *miniredis.Miniredis
	store   *redisstore.Store
	origins hub.Origins
	keys    *hub.Keyring
	proxy   *Proxy
	addr    string
	tls     *tls.Config
	log     *shared
	hubGot  *inbox
	edgeGot *inbox
	stop    func() error // ends the proxy and waits
}

// shared is a buffer that several write to.
type shared struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shared) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newWorld(t testing.TB, s setup) *world {
	t.Helper()
	if s.mode == "" {
		s.mode = hub.Subdomains
	}
	if s.public == "" {
		s.public = "https://hub.test/"
	}
	if s.notebook == "" && s.mode == hub.Paths {
		s.notebook = "books.test"
	}
	if s.grace == 0 {
		s.grace = 5 * time.Minute
	}
	w := &world{t: t, log: &shared{}, hubGot: &inbox{}, edgeGot: &inbox{}, redis: miniredis.RunT(t)}
	logger := slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	w.origins, err = hub.NewOrigins(s.mode, s.public, s.notebook)
	must(t, err)
	w.keys, err = hub.NewKeyring("test", bytes.Repeat([]byte("k"), 32))
	must(t, err)
	w.store, err = redisstore.New(redisstore.Config{URL: "redis://" + w.redis.Addr(), Prefix: "test", Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() { w.store.Close() })
	if s.edge == nil {
		s.edge = w.edgeGot.handler("edge")
	}
	cfg := Config{
		Origins: w.origins, Keyring: w.keys.ForProxy(), Sessions: w.store, Tickets: w.store, Tokens: w.store, Users: w.store, Routes: w.store, Names: w.store, Changes: w.store, Events: w.store,
		AdminAccess: s.admin, RedisGrace: s.grace, PausePing: s.ping, EventLoop: s.loop, Statics: s.statics, Drain: testDrain, Logger: logger,
		Hub: onUnix(t, w.hubGot.handler("hub")), Edge: onUnix(t, s.edge),
	}
	for _, p := range s.trusted {
		cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix(p))
	}
	w.proxy, err = New(cfg)
	must(t, err)
	w.start(s.tls)
	return w
}

// start runs the proxy until the test ends, or stop is called.
func (w *world) start(secure bool) {
	w.t.Helper()
	var l net.Listener
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	w.addr = l.Addr().String()
	if secure {
		cert := httptest.NewUnstartedServer(nil)
		cert.StartTLS()
		w.t.Cleanup(cert.Close)
		l = front.New(l, front.Options{TLS: front.TLS(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert.TLS.Certificates[0], nil })})
		w.tls = &tls.Config{InsecureSkipVerify: true}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.proxy.Run(ctx, l) }()
	w.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	w.t.Cleanup(func() { w.stop() })
	w.until("the proxy is ready", func() bool { return w.proxy.ready.Load() })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until polls for what must become true.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	within(w.t, patience, what, ok)
}

func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v still not so: %s", d, what)
		}
	}
}

// socketDir is a directory whose paths are short enough for sockets.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "px-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func onUnix(t testing.TB, h http.Handler) hub.Endpoint {
	t.Helper()
	path := filepath.Join(socketDir(t), "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}}
	s.Start()
	t.Cleanup(s.Close)
	return endpoint(t, "unix://"+path)
}

func endpoint(t testing.TB, s string) hub.Endpoint {
	t.Helper()
	e, err := hub.ParseEndpoint(s)
	must(t, err)
	return e
}

// inbox keeps what a backend got.
type inbox struct {
	mu   sync.Mutex
	reqs []*http.Request
	body []string
}

func (i *inbox) take(r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.reqs, i.body = append(i.reqs, r), append(i.body, string(b))
}

func (i *inbox) handler(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.take(r)
		io.WriteString(w, name+" "+r.URL.Path)
	})
}

func (i *inbox) all() []*http.Request {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]*http.Request(nil), i.reqs...)
}

func (i *inbox) last(t testing.TB) *http.Request {
	t.Helper()
	all := i.all()
	if len(all) == 0 {
		t.Fatal("the backend got nothing")
	}
	return all[len(all)-1]
}

func serverKey(t testing.TB, user, server string) hub.ServerKey {
	t.Helper()
	k, err := hub.ParseServerKey(user, server)
	must(t, err)
	return k
}

// person is someone who is signed in everywhere.
type person struct {
	user     hub.User
	session  hub.Session // the hub's
	cookie   hub.Secret  // of the session that counts on their notebooks' host
	notebook hub.Session // that session
	token    hub.Secret
	tokenID  string
}

func (w *world) person(name string) *person { return w.personOn(name, name) }

// personOn is someone with a session on owner's host.
func (w *world) personOn(name, owner string) *person {
	w.t.Helper()
	u, o := serverKey(w.t, name, "").User, serverKey(w.t, owner, "").User
	p := &person{user: hub.User{Name: u, ID: hub.UserID("id-" + name), Identity: hub.Identity{Issuer: "https://id.test", Subject: name}, Admin: strings.HasPrefix(name, "root")}}
	_, err := w.store.BindUser(w.t.Context(), p.user)
	must(w.t, err)
	secret := hub.RandomSecret()
	p.session = hub.Session{
		Hash: secret.Hash(), User: u, UserID: p.user.ID, Admin: p.user.Admin, Identity: p.user.Identity, SID: "sid-" + name,
		Created: time.Now(), LastSeen: time.Now(), Expires: time.Now().Add(time.Hour),
	}
	must(w.t, w.store.CreateSession(w.t.Context(), p.session))
	p.cookie, p.notebook = secret, p.session
	if w.origins.Mode() != hub.OneOrigin {
		p.cookie = hub.RandomSecret()
		p.notebook.Hash, p.notebook.Parent, p.notebook.Host = p.cookie.Hash(), p.session.Hash, w.origins.Host(o)
		must(w.t, w.store.CreateSession(w.t.Context(), p.notebook))
	}
	p.token, p.tokenID = hub.RandomSecret(), "tok-"+rand.Text()
	must(w.t, w.store.CreateToken(w.t.Context(), hub.Token{ID: p.tokenID, Hash: p.token.Hash(), User: u, UserID: p.user.ID, Scopes: []hub.Scope{hub.ScopeSelf}, Created: time.Now(), Expires: time.Now().Add(time.Hour)}))
	return p
}

func (w *world) cookieName() string {
	if w.origins.Mode() == hub.OneOrigin {
		return w.origins.Cookie(hub.CookieSession)
	}
	return w.origins.Cookie(hub.CookieNotebook)
}

// route leads a person's server to an endpoint.
func (w *world) route(key hub.ServerKey, g hub.Generation, e hub.Endpoint) {
	w.t.Helper()
	r := hub.Route{Key: key, UserID: hub.UserID("id-" + key.User.String()), Generation: g, Endpoint: e}
	must(w.t, w.store.PutRoute(w.t.Context(), r))
	w.until("the proxy knows the route", func() bool { x := w.proxy.routes.get(key); return x != nil && x.Route == r })
}

// serve starts a server of a person's, on TCP, and routes it.
func (w *world) serve(user string, h http.Handler) hub.ServerKey {
	w.t.Helper()
	s := httptest.NewServer(h)
	w.t.Cleanup(s.Close)
	key := serverKey(w.t, user, "")
	w.route(key, 1, endpoint(w.t, s.URL))
	return key
}

func (w *world) serverToken(key hub.ServerKey) string { return w.keys.ServerToken(key, 1).Reveal() }

// url is a page of alice's or another's server, on its own host.
func (w *world) url(user, page string) string {
	k := serverKey(w.t, user, "")
	return w.origins.ServerURL(k, page)
}

// reply is a whole answer.
type reply struct {
	status int
	header http.Header
	body   string
}

type option func(*http.Request)

func header(k, v string) option { return func(r *http.Request) { r.Header.Add(k, v) } }

var navigation = option(func(r *http.Request) {
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	r.Header.Set("Sec-Fetch-Dest", "document")
	r.Header.Set("Sec-Fetch-Site", "none")
	r.Header.Set("Accept", "text/html")
})

func (w *world) as(p *person) option {
	return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: w.cookieName(), Value: p.cookie.Reveal()}) }
}

func byToken(p *person) option { return header("Authorization", "token "+p.token.Reveal()) }

func ownOrigin(w *world, user string) option {
	return header("Origin", w.origins.ServerOrigin(serverKey(w.t, user, "").User))
}

// dial reaches the proxy, whatever the host's name.
func (w *world) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := w.dialPlain(ctx, "", "")
	if err == nil && w.tls != nil {
		c = tls.Client(c, w.tls)
	}
	return c, err
}

func (w *world) dialPlain(ctx context.Context, _, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", w.addr)
}

func (w *world) transport() *http.Transport {
	t := &http.Transport{DialContext: w.dial, DialTLSContext: w.dial, DisableCompression: true, ExpectContinueTimeout: patience}
	w.t.Cleanup(t.CloseIdleConnections)
	return t
}

func (w *world) request(method, url, body string, opts ...option) *http.Request {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, url, strings.NewReader(body))
	must(w.t, err)
	for _, o := range opts {
		o(r)
	}
	return r
}

func (w *world) send(method, url, body string, opts ...option) reply {
	w.t.Helper()
	tr := w.transport()
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(w.request(method, url, body, opts...))
	must(w.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(w.t, err)
	return reply{res.StatusCode, res.Header, string(b)}
}

func (w *world) get(url string, opts ...option) reply {
	w.t.Helper()
	return w.send("GET", url, "", opts...)
}

// socket opens a websocket on a server's page; the answer is there when it is refused, too.
func (w *world) socket(user, page string, opts ...option) (*websocket.Conn, *http.Response, error) {
	return w.socketWith(websocket.Dialer{}, user, page, opts...)
}

func (w *world) socketWith(d websocket.Dialer, user, page string, opts ...option) (*websocket.Conn, *http.Response, error) {
	d.NetDialContext, d.NetDialTLSContext, d.HandshakeTimeout = w.dial, w.dial, patience
	r := w.request("GET", w.url(user, page), "", opts...)
	u := "ws" + strings.TrimPrefix(r.URL.String(), "http")
	c, res, err := d.DialContext(w.t.Context(), u, r.Header)
	if err == nil {
		w.t.Cleanup(func() { c.Close() })
	}
	return c, res, err
}

// mustSocket opens a websocket as a person does in their own page.
func (w *world) mustSocket(p *person, page string) *websocket.Conn {
	w.t.Helper()
	user := p.user.Name.String()
	c, _, err := w.socket(user, page, w.as(p), ownOrigin(w, user))
	must(w.t, err)
	return c
}

// raw writes bytes to the proxy and gives back all that comes until the connection ends.
func (w *world) raw(text string) string {
	w.t.Helper()
	c, err := w.dial(w.t.Context(), "", "")
	must(w.t, err)
	defer c.Close()
	must(w.t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, text)
	must(w.t, err)
	b, _ := io.ReadAll(c) // a reset is an end, too
	return string(b)
}

// echo is a server that echoes websockets and tells of what it got.
func echo(got *inbox) http.Handler {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }, Subprotocols: []string{"v1.kernel.websocket.jupyter.org"}, EnableCompression: true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got != nil {
			got.take(r)
		}
		if !websocket.IsWebSocketUpgrade(r) {
			io.WriteString(w, "echo")
			return
		}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, b) != nil {
				return
			}
		}
	})
}

// listenerOf makes a listener of a descriptor, which it takes over.
func listenerOf(fd int, name string) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return net.FileListener(f)
}

func hubRoute(key hub.ServerKey, e hub.Endpoint) hub.Route {
	return hub.Route{Key: key, UserID: hub.UserID("id-" + key.User.String()), Generation: 1, Endpoint: e}
}
