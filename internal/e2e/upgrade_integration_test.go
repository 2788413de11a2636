//go:build integration

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// load is what goes on while a proxy is upgraded. Nothing in it tries again: what fails has failed.
type load struct {
	requests, sockets atomic.Int64 // that went well
	goneAway          atomic.Int64 // websockets that were closed with 1001
	streams, moved    atomic.Int64 // requests of h2 that went well, and connections that were told GOAWAY
	mu                sync.Mutex
	failures          []string
	stop              func()
}

func (l *load) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, fmt.Sprintf(format, args...))
}

const (
	loadFresh = 4   // clients that connect for each request
	loadKept  = 16  // that keep their connection for as long as they may
	loadTabs  = 100 // websockets, which connect again after 1001

	loadStreams = 8 // clients that speak h2, each with a few requests at once
)

// start loads the edge until stop is called.
func (e *edge) load() *load {
	ctx, cancel := context.WithCancel(e.t.Context())
	l := &load{}
	var wg sync.WaitGroup
	for i := range loadFresh {
		wg.Go(func() {
			for ctx.Err() == nil {
				e.connection(ctx, l, i, 1)
			}
		})
	}
	for i := range loadKept {
		wg.Go(func() {
			for ctx.Err() == nil {
				e.connection(ctx, l, i, 1<<30)
			}
		})
	}
	for i := range loadStreams {
		wg.Go(func() {
			if e.secure {
				e.multiplex(ctx, l, i)
			}
		})
	}
	for i := range loadTabs {
		wg.Go(func() {
			for ctx.Err() == nil {
				e.tab(ctx, l, i)
			}
		})
	}
	l.stop = func() { cancel(); wg.Wait() }
	return l
}

// connection makes requests on one connection until it is told to close it. The end of the load is no
// fault: a connection that is being made then is made.
func (e *edge) connection(ctx context.Context, l *load, i, most int) {
	c, err := e.connect(context.WithoutCancel(ctx), "http/1.1")
	if err != nil {
		l.fail("connect: %v", err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	br := bufio.NewReader(c)
	for n := 0; n < most && ctx.Err() == nil; n++ {
		body := strings.Repeat("x", n%2*1000) // every other one a POST
		r := e.request(context.Background(), i, body)
		if err := r.Write(c); err != nil {
			l.fail("request %d of a connection: %v", n, err)
			return
		}
		res, err := http.ReadResponse(br, r)
		if err != nil {
			l.fail("answer %d of a connection: %v", n, err)
			return
		}
		got, err := io.ReadAll(res.Body)
		if want := strconv.Itoa(i) + " " + body; err != nil || res.StatusCode != http.StatusOK || string(got) != want {
			l.fail("answer %d of a connection: %d, %d bytes, %v", n, res.StatusCode, len(got), err)
			return
		}
		l.requests.Add(1)
		if res.Close {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// tab opens a websocket and uses it until it ends, which must be by 1001 between two frames.
func (e *edge) tab(ctx context.Context, l *load, i int) {
	h := http.Header{"Authorization": {"token " + e.tokens[i%len(e.tokens)]}, "Origin": {e.origin("http")}}
	through := func(ctx context.Context, _, _ string) (net.Conn, error) { return e.connect(ctx, "http/1.1") }
	dialer := websocket.Dialer{NetDialContext: through, NetDialTLSContext: through, HandshakeTimeout: time.Minute}
	c, res, err := dialer.Dial(e.origin("ws")+"/user/alice/ws", h)
	if err != nil {
		l.fail("websocket: %v, %v", res, err)
		return
	}
	defer c.Close()
	l.sockets.Add(1)
	for n := 0; ctx.Err() == nil; n++ {
		c.SetReadDeadline(time.Now().Add(time.Minute))
		sent := c.WriteMessage(websocket.TextMessage, []byte(strconv.Itoa(n))) // fails after the close, which says more
		_, b, err := c.ReadMessage()
		if websocket.IsCloseError(err, websocket.CloseGoingAway) {
			l.goneAway.Add(1)
			return
		}
		if err != nil || string(b) != strconv.Itoa(n) {
			l.fail("message %d: %q, %v, %v", n, b, sent, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// check stops the load, of which nothing may have failed.
func (l *load) check(t *testing.T) {
	t.Helper()
	l.stop()
	t.Logf("%d requests, %d of h2, whose connections were told to go %d times; %d websockets of which %d were told 1001; %d failures",
		l.requests.Load(), l.streams.Load(), l.moved.Load(), l.sockets.Load(), l.goneAway.Load(), len(l.failures))
	for i, f := range l.failures {
		if i < 10 {
			t.Error(f)
		}
	}
}

// An upgrade under load, twice: nothing fails, every websocket is told 1001 and connects again; so with
// TLS, where eight of the clients that keep their connection speak h2, and behind a load balancer.
func TestUpgrade(t *testing.T) { //nolint:tparallel // its parts come one after another
	t.Parallel()
	const (
		secure  = "\ntls: {cert_file: DIR/cert.pem, key_file: DIR/key.pem}"
		proxied = "\nproxy_protocol: [\"127.0.0.1:PORT\"]\ntrusted_proxies: [127.0.0.1/32]"
	)
	for name, extra := range map[string]string{"plain": "", "TLS": secure, "PROXY protocol and TLS": proxied + secure} {
		t.Run(name, func(t *testing.T) {
			upgraded(t, newEdge(t, "proxy: {drain_spread: 1s}"+extra))
		})
	}
}

func upgraded(t *testing.T, e *edge) {
	t.Helper()
	first := e.start(nil)
	e.note("READY")
	l := e.load()
	defer l.stop()
	for round := 1; round <= 2; round++ {
		eventually(t, time.Minute, "every tab is connected", func() bool { return l.sockets.Load() == int64(round*loadTabs) })
		old := e.pid
		e.install()
		e.upgrade()
		eventually(t, time.Minute, "every tab is told", func() bool { return l.goneAway.Load() == int64(round*loadTabs) })
		if old == first.Process.Pid {
			first.Wait()
		}
		eventually(t, time.Minute, "the old process is gone", func() bool { return gone(old) })
		if want := int64(round * loadStreams); e.secure && l.moved.Load() < want {
			t.Errorf("%d connections of h2 were told to go, want %d", l.moved.Load(), want)
		}
		if got := len(e.children()); got != 1 {
			t.Errorf("the new process has %d children, want its proxy", got)
		}
	}
	eventually(t, time.Minute, "every tab is connected again", func() bool { return l.sockets.Load() == 3*loadTabs })
	l.check(t)
	if want := int64(2 * loadTabs); l.goneAway.Load() != want {
		t.Errorf("%d websockets were told 1001, want %d", l.goneAway.Load(), want)
	}
}

// children are the ids of the processes that the one that serves has started.
func (e *edge) children() (list []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range dirs {
		raw, _ := os.ReadFile(path) // it may be gone by now
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && strings.Contains(string(raw), fmt.Sprintf("\nPPid:\t%d\n", e.pid)) {
			list = append(list, pid)
		}
	}
	return list
}

// An upgrade that can't succeed changes nothing, and says why.
func TestUpgradeThatFails(t *testing.T) {
	t.Parallel()
	e := newEdge(t, "")
	e.start(nil)
	e.note("READY")
	l := e.load()
	defer l.stop()
	broken := filepath.Join(e.dir, "broken")
	for _, c := range []struct{ name, program, says string }{
		{"the configuration has a fault", "", "exit status 1"},
		{"the program ends at once", "#!/bin/sh\nexit 7\n", "exit status 7"},
		{"the program can't be run", "no program\n", "exec format error"},
	} {
		if c.program == "" {
			e.write("nonsense: true")
		} else {
			e.write("")
			if err := os.WriteFile(broken, []byte(c.program), 0o700); err != nil {
				t.Fatal(err)
			}
			e.put(broken)
		}
		before := strings.Count(e.output(), "upgrade failed")
		e.signal(syscall.SIGUSR2)
		e.note("READY")
		told := e.output()
		if strings.Count(told, "upgrade failed") != before+1 || !strings.Contains(told, c.says) {
			t.Errorf("%s: it is not told; %q is expected", c.name, c.says)
		}
	}
	l.check(t)
	if l.goneAway.Load() > 0 {
		t.Errorf("%d websockets were told 1001", l.goneAway.Load())
	}
	e.install()
	e.upgrade() // and then it works
}

// SIGTERM: not ready first, then what is under way ends well, and websockets are told, by a deadline.
func TestStopped(t *testing.T) {
	t.Parallel()
	e := newEdge(t, "proxy: {drain_notice: 1s, drain_timeout: 5s, drain_spread: 500ms}")
	cmd := e.start(nil)
	e.note("READY")
	health := func() int {
		res, err := http.Get("http://" + e.address() + "/carrel-health")
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := health(); got != http.StatusOK {
		t.Fatalf("health: %d", got)
	}
	l := &load{}
	var tabs sync.WaitGroup
	for i := range 50 {
		tabs.Go(func() { e.tab(t.Context(), l, i) })
	}
	eventually(t, time.Minute, "the tabs are connected", func() bool { return l.sockets.Load() == 50 })
	began := time.Now()
	cmd.Process.Signal(syscall.SIGTERM)
	e.note("STOPPING")
	eventually(t, time.Second, "it says that it is not ready", func() bool { return health() == http.StatusServiceUnavailable })
	tabs.Wait()
	cmd.Wait()
	if took := time.Since(began); took > 12*time.Second || took < time.Second {
		t.Errorf("it took %v", took)
	}
	for _, f := range l.failures {
		t.Error(f)
	}
	if l.goneAway.Load() != 50 {
		t.Errorf("%d of 50 websockets were told 1001", l.goneAway.Load())
	}
	if got := health(); got != 0 {
		t.Errorf("then something answers with %d", got)
	}
}

// systemd's sockets are listened on, an upgrade hands them on, and what connects while no process is
// there waits for the next. They are passed by hand, as sd_listen_fds(3) says.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	e := newEdge(t, "")
	l, err := net.Listen("tcp", e.address())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	activated := func(cmd *exec.Cmd) {
		cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=carrel.socket exec "$@"`, "sh", e.bin, "proxy", "--config", e.config}
		cmd.Path = "/bin/sh"
		cmd.ExtraFiles = []*os.File{f}
	}
	asked := make(chan error, 2)
	ask := func() {
		res, err := http.DefaultClient.Do(e.request(t.Context(), 1, ""))
		if err == nil {
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", res.StatusCode)
			}
		}
		asked <- err
	}
	go ask() // before anything runs
	cmd := e.start(activated)
	e.note("READY")
	if err := <-asked; err != nil {
		t.Errorf("who was there before the proxy: %v", err)
	}
	e.upgrade()
	cmd.Wait()
	go ask()
	if err := <-asked; err != nil {
		t.Errorf("after an upgrade: %v", err)
	}
	e.signal(syscall.SIGTERM)
	last := e.pid
	eventually(t, 30*time.Second, "nothing runs", func() bool { return gone(last) })
	go ask()
	e.start(activated)
	if err := <-asked; err != nil {
		t.Errorf("who came between two: %v", err)
	}

	stray, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	g, err := stray.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	cmd = exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"`, "sh", e.bin, "proxy", "--config", e.config)
	cmd.ExtraFiles = []*os.File{f, g}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "listen") || !strings.Contains(string(out), stray.Addr().String()) {
		t.Errorf("a socket that listen does not name: %v\n%s", err, out)
	}
}

// `carrel serve` is replaced as a whole, twice: nobody is signed out, kernels and their variables go on,
// Redis is the same process, and neither the hub's pages nor a notebook ever fail.
func TestUpgradeOfServe(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\nproxy: {drain_spread: 500ms}\n"})
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	k := alice.newKernel()
	k.run("x = 41")
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer stop()
	for _, address := range []string{d.url + "/hub/home", d.url + "/hub/api/user", alice.notebook("api/status")} {
		asking.Go(func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				res, err := alice.http.Get(address)
				if err != nil {
					t.Errorf("%s: %v", address, err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					t.Errorf("%s: status %d", address, res.StatusCode)
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Logf("%s: %d times", address, n)
		})
	}
	redis := d.redisPID()
	for round := 1; round <= 2; round++ {
		old := d.cmd.Process.Pid
		d.succeed()
		for closed := false; !closed; {
			_, _, err := k.conn.ReadMessage()
			if closed = err != nil; closed && !websocket.IsCloseError(err, websocket.CloseGoingAway) {
				t.Errorf("round %d: the kernel's websocket ended with %v, want 1001", round, err)
			}
		}
		k = alice.openKernel(k.id)
		if out := k.run("print(x + 1)"); out != "42" {
			t.Errorf("round %d: the variable gives %q", round, out)
		}
		awaitEnd(t, old)
	}
	if got := d.redisPID(); got != redis {
		t.Errorf("Redis is process %s, and was %s", got, redis)
	}
	stop()
	asking.Wait()
	alice.post("/hub/logout", nil)
	if status, _ := alice.jupyter(http.MethodGet, "api/status", ""); status != http.StatusUnauthorized {
		t.Errorf("after signing out: status %d", status)
	}
}

// awaitEnd waits for a process to end by itself. One that does not is made to tell where it hangs.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !gone(pid); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			syscall.Kill(pid, syscall.SIGQUIT)
			t.Fatalf("process %d has not ended; its goroutines are in the log", pid)
		}
	}
}

// redisPID is the private Redis's.
func (d *deployment) redisPID() string {
	d.t.Helper()
	raw, err := os.ReadFile(filepath.Join(d.dir, "state", "redis", "redis.pid"))
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// succeed has the deployment's process upgraded, and makes the next one the deployment's.
func (d *deployment) succeed() {
	d.t.Helper()
	before := len(d.output())
	d.signal(syscall.SIGUSR2)
	var pid int
	eventually(d.t, time.Minute, "the next process serves", func() bool {
		_, rest, found := strings.Cut(d.output()[before:], "the new process serves")
		_, rest, _ = strings.Cut(rest, "pid=")
		if found {
			pid, _ = strconv.Atoi(strings.Fields(rest + " 0")[0])
		}
		return pid > 1
	})
	next, err := os.FindProcess(pid)
	if err != nil {
		d.t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cmd.Process = next
}
