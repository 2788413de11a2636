//go:build integration

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"carrel/hub"
	"carrel/hub/redisstore"
	"carrel/internal/program"
)

const (
	crowdTabs     = 1000
	crowdBrowsers = 5 // that one person is signed in with: each may have 300 websockets
	cutWithin     = time.Second

	chatSize = 3000 // of each frame's payload
)

// An administrator signs somebody out at the hub, and a thousand websockets on two proxies end within a
// second, each with a clean 1008 between two frames of the server's. Others' go on.
func TestSignOutAcrossProxies(t *testing.T) {
	redis := newRedis(t)
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
	var last time.Duration
	enough := time.After(30 * time.Second)
	for i, x := range alices {
		select {
		case <-x.done:
		case <-enough:
			t.Fatalf("websocket %d is open still", i)
		}
		if x.code != 1008 || x.err != nil {
			t.Fatalf("websocket %d of proxy %d ended with code %d, %v", i, i%2, x.code, x.err)
		}
		last = max(last, x.at.Sub(began))
	}
	t.Logf("%d websockets on two proxies were cut within %v", len(alices), last)
	if last > cutWithin {
		t.Errorf("the last was cut after %v, want %v", last, cutWithin)
	}
	for _, x := range bobs {
		select {
		case <-x.done:
			t.Fatalf("bob's websocket ended with code %d, %v", x.code, x.err)
		default:
		}
	}
	for i, b := range browsers {
		if _, err := watch(ports[i%2], b); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("browser %d opens another websocket: %v", i, err)
		}
	}
}

// newRedis starts one of the test's own, and gives its address.
func newRedis(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "crl-redis-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "redis.sock")
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--unixsocketperm", "777", "--dir", dir, "--appendonly", "yes", "--save", "")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	eventually(t, 20*time.Second, "Redis listens", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return "unix://" + socket
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
	server := httptest.NewServer(http.HandlerFunc(chatter))
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

// chatter answers an upgrade, and sends frames for as long as somebody reads, each in two parts, so that
// whoever cuts it comes between them; it answers anything else at once.
func chatter(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		return
	}
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	frame := append([]byte{0x82, 126, chatSize >> 8, chatSize & 255}, bytes.Repeat([]byte("c"), chatSize)...)
	for half := len(frame) / 2; ; half = len(frame) - half {
		part := frame[:half]
		frame = append(frame[half:], part...)
		if _, err := c.Write(part); err != nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// watcher is a client that takes nothing but whole frames of chatter's (RFC 6455, section 5.2), and a
// close frame as the last of all.
type watcher struct {
	conn net.Conn
	r    *bufio.Reader
	at   time.Time // of the close frame
	code int
	err  error
	done chan struct{}
}

// open has people's browsers open n websockets, to one proxy and the other in turn.
func open(t *testing.T, ports [2]int, n int, browsers ...*person) []*watcher {
	t.Helper()
	for _, b := range browsers {
		b.enter()
	}
	list := make([]*watcher, n)
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
		for _, x := range list {
			x.conn.Close()
			<-x.done
		}
	})
	return list
}

func watch(port int, p *person) (*watcher, error) {
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
	w := &watcher{conn: c, r: bufio.NewReaderSize(c, 512), done: make(chan struct{})}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nOrigin: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nCookie: %s\r\n\r\n",
		u.Path, u.Host, p.origin(), strings.Join(cookies, "; "))
	c.SetReadDeadline(time.Now().Add(time.Minute))
	res, err := http.ReadResponse(w.r, nil)
	if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("websocket: %s", res.Status)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	go w.read()
	return w, nil
}

func (w *watcher) read() {
	defer close(w.done)
	defer w.conn.Close()
	for {
		if w.err = w.frame(); w.err != nil || w.code != 0 {
			return
		}
	}
}

// frame reads one, and after a close frame the connection's end.
func (w *watcher) frame() error {
	var head [2]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return err
	}
	n := int(head[1])
	if n == 126 {
		var more [2]byte
		if _, err := io.ReadFull(w.r, more[:]); err != nil {
			return err
		}
		n = int(more[0])<<8 | int(more[1])
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(w.r, payload); err != nil {
		return err
	}
	switch {
	case head[0] == 0x88 && n >= 2:
		w.at, w.code = time.Now(), int(payload[0])<<8|int(payload[1])
		if rest, err := io.ReadAll(w.r); err != nil || len(rest) > 0 {
			return fmt.Errorf("after the close frame come %d bytes, %w", len(rest), err)
		}
	case head[0] != 0x82 || n != chatSize || strings.Trim(string(payload), "c") != "":
		return fmt.Errorf("the frame %x of %d bytes is none that was sent", head, n)
	}
	return nil
}
