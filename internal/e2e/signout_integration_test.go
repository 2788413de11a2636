//go:build integration

package e2e

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"carrel/hub"
	"carrel/hub/redisstore"
	"carrel/internal/frametest"
	"carrel/internal/program"
	"carrel/internal/redistest"
)

const (
	crowdTabs     = 1000
	crowdBrowsers = 5 // that one person is signed in with: each may have 300 websockets
	cutWithin     = time.Second
)

// An administrator signs somebody out at the hub, and a thousand websockets on two proxies end within a
// second, each with a clean 1008 between two frames of the server's. Others' go on.
func TestSignOutAcrossProxies(t *testing.T) {
	t.Parallel()
	redis := redistest.New(t).URL()
	d := deploy(t, options{command: "hub", notReady: true, extra: "spawner: {kernel_check: false}\nredis: {url: " + redis + "}\n"})
	ports := [2]int{d.port, program.FreePort()}
	for i, port := range ports {
		startProxy(t, d, fmt.Sprintf("CARREL_LISTEN=127.0.0.1:%d", port))
		eventually(t, time.Minute, fmt.Sprintf("proxy %d answers", i), func() bool { return healthy(port) })
	}
	d.waitReady()
	d.readPeople()
	store, err := redisstore.New(redisstore.Config{URL: redis, Prefix: "carrel:" + d.name + ":", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	admin, bob := d.person("admin"), d.person("bob")
	admin.signIn()
	bob.signIn()
	bob.lodge(store)
	bobs := open(t, ports, 20, bob)
	var browsers []*person
	for i := range crowdBrowsers {
		alice := d.person("alice")
		alice.signIn()
		if i == 0 {
			alice.lodge(store)
		}
		browsers = append(browsers, alice)
	}
	alices := open(t, ports, crowdTabs, browsers...)
	began := time.Now()
	if at := admin.post("/hub/admin/sign-out/alice", url.Values{}); at.status != http.StatusOK {
		t.Fatalf("sign alice out: status %d at %s", at.status, at.url)
	}
	last := frametest.Cut(t, alices, 1008, 30*time.Second).Sub(began)
	t.Logf("%d websockets on two proxies were cut within %v", len(alices), last)
	if last > cutWithin {
		t.Errorf("the last was cut after %v, want %v", last, cutWithin)
	}
	frametest.Open(t, bobs)
	for i, b := range browsers {
		if _, err := watch(ports[i%2], b); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("browser %d opens another websocket: %v", i, err)
		}
	}
}

func healthy(port int) bool {
	res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/carrel-health", port))
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// lodge gives the person a server of the test's own, which sends frames all the time. Its record's
// handle is of a driver that the hub does not have, so that it lets the server be.
func (p *person) lodge(store *redisstore.Store) {
	p.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(frametest.Serve))
	p.t.Cleanup(server.CloseClientConnections)
	p.t.Cleanup(func() { go server.Close() }) // once those that were hijacked are gone
	at, err := hub.ParseEndpoint(server.URL)
	if err != nil {
		p.t.Fatal(err)
	}
	key, err := hub.ParseServerKey(p.name, "")
	if err != nil {
		p.t.Fatal(err)
	}
	u, err := store.User(p.t.Context(), key.User)
	if err != nil {
		p.t.Fatal(err)
	}
	now := time.Now()
	if _, err := store.PutServer(p.t.Context(), hub.Server{
		Key: key, UserID: u.ID, Generation: 1, Phase: hub.Ready, Intent: hub.WantRunning,
		Handle: hub.Handle{Driver: "lodging", Version: 1, Data: []byte("{}")}, Endpoint: at, Since: now, Started: now,
	}); err != nil {
		p.t.Fatal(err)
	}
	if err := store.PutRoute(p.t.Context(), hub.Route{Key: key, UserID: u.ID, Generation: 1, Endpoint: at}); err != nil {
		p.t.Fatal(err)
	}
}

// open has people's browsers open n websockets, to one proxy and the other in turn.
func open(t *testing.T, ports [2]int, n int, browsers ...*person) []*frametest.Watcher {
	t.Helper()
	for _, b := range browsers {
		b.enter()
	}
	list := make([]*frametest.Watcher, n)
	var group errgroup.Group
	group.SetLimit(20)
	for i := range list {
		group.Go(func() (err error) {
			list[i], err = watch(ports[i%2], browsers[i/2%len(browsers)])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, w := range list {
			w.Close()
		}
	})
	return list
}

func watch(port int, p *person) (*frametest.Watcher, error) {
	u, err := url.Parse(p.notebook("ws"))
	if err != nil {
		return nil, err
	}
	var cookies []string
	for _, c := range p.http.Jar.Cookies(u) {
		cookies = append(cookies, c.String())
	}
	slices.Sort(cookies)
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	return frametest.Watch(c, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nOrigin: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nCookie: %s\r\n\r\n",
		u.Path, u.Host, p.origin(), strings.Join(cookies, "; ")))
}
