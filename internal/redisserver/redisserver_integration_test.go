//go:build integration

package redisserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
	"carrel/internal/program"
)

const within = 60 * time.Second

// helperDir tells a copy of this test program to be a hub that keeps a Redis there.
const helperDir = "REDISSERVER_TEST_HUB"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperDir); dir != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		s, err := New(config(dir, slog.New(slog.DiscardHandler)))
		if err == nil {
			err = s.Run(ctx, sync.OnceFunc(func() { fmt.Println("ready") }))
		}
		fmt.Println("ended:", err)
		return
	}
	os.Exit(m.Run())
}

func config(dir string, logger *slog.Logger) Config {
	return Config{
		Dir: filepath.Join(dir, "redis"), SocketDir: filepath.Join(dir, "run"), GID: os.Getgid(), Prefix: "carrel:test:",
		Hub: hub.NewSecret("hub-password"), Proxy: hub.NewSecret("proxy-password"), Logger: logger,
	}
}

// place is a directory with a short path, whose redis-server is ended with the test.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "rs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range serversOf(dir) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		eventually(t, "the last redis-server to end", func() bool { return len(serversOf(dir)) == 0 })
		os.RemoveAll(dir)
	})
	return dir
}

// hubIn starts another process that keeps a Redis in dir, and waits until it answers.
func hubIn(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), helperDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		said <- line
	}()
	select {
	case line := <-said:
		if line != "ready\n" {
			t.Fatalf("the other hub says %q", line)
		}
	case <-time.After(within):
		t.Fatal("the other hub does not get ready")
	}
	return cmd
}

// killedHub is the redis-server that a hub left which was killed.
func killedHub(t *testing.T, dir string) (pid int) {
	t.Helper()
	cmd := hubIn(t, dir)
	cmd.Process.Kill() // seen below
	cmd.Wait()         // it was killed
	if pid = serverOf(dir); pid <= 0 {
		t.Fatal("its redis-server ended with it")
	}
	return pid
}

// serverOf is the pid of the redis-server that has a directory; 0 for none, -1 for several.
func serverOf(dir string) int {
	switch pids := serversOf(dir); len(pids) {
	case 0:
		return 0
	case 1:
		return pids[0]
	}
	return -1
}

// serversOf finds in /proc the redis-servers that have a directory.
func serversOf(dir string) (pids []int) {
	want, err := filepath.EvalSymlinks(filepath.Join(dir, "redis"))
	if err != nil {
		return nil
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		comm, _ := os.ReadFile(p + "/comm")
		cwd, _ := os.Readlink(p + "/cwd")
		if strings.TrimSpace(string(comm)) == "redis-server" && cwd == want {
			pid, _ := strconv.Atoi(filepath.Base(p))
			pids = append(pids, pid)
		}
	}
	return pids
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

// running is a Server that runs in this process.
type running struct {
	*Server

	ready chan struct{} // one for each time that it answered
	ended chan error
	stop  context.CancelFunc
	log   *program.Buffer
}

func run(t *testing.T, dir string, change ...func(*Config)) *running {
	t.Helper()
	log := &program.Buffer{}
	cfg := config(dir, slog.New(slog.NewTextHandler(log, nil)))
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Server: s, ready: make(chan struct{}, 100), ended: make(chan error, 1), stop: cancel, log: log}
	go func() { r.ended <- s.Run(ctx, func() { r.ready <- struct{}{} }) }()
	t.Cleanup(r.end)
	return r
}

// end stops it, and waits.
func (r *running) end() {
	r.stop()
	err := <-r.ended
	r.ended <- err
}

func (r *running) await(t *testing.T) {
	t.Helper()
	select {
	case <-r.ready:
	case err := <-r.ended:
		r.ended <- err
		t.Fatal("it ended: ", err)
	case <-time.After(within):
		t.Fatalf("it does not get ready: %s", r.log)
	}
}

func dial(t *testing.T, address string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestItIsReachedByItsSocketAlone(t *testing.T) {
	dir := place(t)
	r := run(t, dir)
	r.await(t)
	for path, mode := range map[string]os.FileMode{"redis": 0o700, "run": 0o750 | os.ModeSetgid, "redis/users.acl": 0o600, "redis/redis.conf": 0o600, "run/redis.sock": 0o770} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() &^ os.ModeType; got != mode && info.Mode()&(os.ModePerm|os.ModeSetgid) != mode {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), mode)
		}
	}
	if ports := listeners(t, serverOf(dir)); len(ports) > 0 {
		t.Errorf("it listens on %v", ports)
	} else {
		t.Attr("seen-18", "Redis: a socket of the hub's directory, no port")
	}
	c := dial(t, r.HubURL())
	for key, want := range map[string]string{"port": "0", "appendonly": "yes", "maxmemory-policy": "noeviction", "appendfsync": "everysec"} {
		if got, err := c.ConfigGet(t.Context(), key).Result(); err != nil || got[key] != want {
			t.Errorf("%s is %v, %v", key, got, err)
		}
	}
	if sid, err := unixGetsid(serverOf(dir)); err != nil || sid != serverOf(dir) {
		t.Errorf("its session is %d, %v: Ctrl-C would reach it", sid, err)
	}
}

// listeners are the TCP addresses that a process listens on.
func listeners(t *testing.T, pid int) (list []string) {
	t.Helper()
	own := map[string]bool{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if len(fds) == 0 {
		t.Fatal("its descriptors can't be seen")
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			own[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue // no IPv6 here
		}
		for line := range strings.Lines(string(raw)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && own[f[9]] {
				list = append(list, f[1])
			}
		}
	}
	return list
}

func unixGetsid(pid int) (int, error) {
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sid), nil
}

// TestTheNextHubAdoptsIt: a killed hub's Redis goes on, and the next one's is the same process with
// the same data, not a second server on one directory.
func TestTheNextHubAdoptsIt(t *testing.T) {
	dir := place(t)
	first := hubIn(t, dir)
	pid := serverOf(dir)
	address := mustNew(t, dir).HubURL()
	if err := dial(t, address).Set(t.Context(), "carrel:test:x", "kept", 0).Err(); err != nil {
		t.Fatal(err)
	}
	rival := run(t, dir)
	if err := <-rival.ended; hub.KindOf(err) != hub.Conflict || hub.FieldOf(err) != "state_dir" {
		t.Errorf("a second hub on one directory: %v", err)
	}
	rival.ended <- nil
	if err := mustNew(t, dir).Stop(); hub.KindOf(err) != hub.Conflict {
		t.Errorf("stopping it while its hub runs: %v", err)
	}
	first.Process.Kill() // seen below
	first.Wait()         // it was killed
	if serverOf(dir) != pid {
		t.Fatal("it ended with its hub")
	}
	r := run(t, dir)
	r.await(t)
	if got := serverOf(dir); got != pid {
		t.Errorf("it is %d now, was %d", got, pid)
	}
	if got, err := dial(t, address).Get(t.Context(), "carrel:test:x").Result(); err != nil || got != "kept" {
		t.Errorf("the data: %q, %v", got, err)
	}
	if !strings.Contains(r.log.String(), "adopting") {
		t.Errorf("it does not say so: %s", r.log)
	}
	// The adopted one's end is noticed too.
	syscall.Kill(pid, syscall.SIGKILL)
	r.await(t)
	if got := serverOf(dir); got == pid || got <= 0 {
		t.Errorf("after the crash it is %d", got)
	}
	if got, err := dial(t, address).Get(t.Context(), "carrel:test:x").Result(); err != nil || got != "kept" {
		t.Errorf("the data after the crash: %q, %v", got, err)
	}
	r.end()
	if got := serverOf(dir); got != 0 {
		t.Errorf("it goes on as %d after an orderly end", got)
	}
}

func mustNew(t *testing.T, dir string) *Server {
	t.Helper()
	s, err := New(config(dir, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestACrashLosesNothing that was written a second before (appendfsync everysec).
func TestACrashLosesNothing(t *testing.T) {
	dir := place(t)
	r := run(t, dir)
	r.await(t)
	c := dial(t, r.HubURL())
	for i := range 5 {
		key := "carrel:test:" + strconv.Itoa(i)
		if err := c.Set(t.Context(), key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		// What was written to the file survives the process; only the machine's crash needs the fsync.
		syscall.Kill(serverOf(dir), syscall.SIGKILL)
		r.await(t)
		for j := range i + 1 {
			eventually(t, "an answer", func() bool { return c.Ping(t.Context()).Err() == nil })
			if got, err := c.Get(t.Context(), "carrel:test:"+strconv.Itoa(j)).Int(); err != nil || got != j {
				t.Errorf("after crash %d: %d is %d, %v", i, j, got, err)
			}
		}
	}
}

// TestLeftoversDoNotConfuse: a socket on which nobody listens, a pid file that names somebody else.
func TestLeftoversDoNotConfuse(t *testing.T) {
	dir := place(t)
	for _, d := range []string{"redis", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "run", "redis.sock")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for name, text := range map[string]string{"redis.pid": strconv.Itoa(os.Getpid()), "server.lock": "", "lock": "", "redis.conf": "port 6379\n", "users.acl": "garbage"} {
		if err := os.WriteFile(filepath.Join(dir, "redis", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := run(t, dir)
	r.await(t)
	if info, err := os.Stat(filepath.Join(dir, "redis")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory was left open: %v, %v", info.Mode(), err)
	}
	if ports := listeners(t, serverOf(dir)); len(ports) > 0 {
		t.Errorf("the old configuration counts: %v", ports)
	}
}

// TestAServerThatDoesNotAnswerIsWaitedFor, though its socket, and its pid file, are gone: a second
// one on the same data would ruin it.
func TestAServerThatDoesNotAnswerIsWaitedFor(t *testing.T) {
	dir := place(t)
	link := dir + "-link"
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(link) })
	pid := killedHub(t, dir)
	syscall.Kill(pid, syscall.SIGSTOP)
	for _, name := range []string{"redis/redis.pid", "run/redis.sock"} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, name+".away")); err != nil {
			t.Fatal(err)
		}
	}
	// The same directory by another name, as after a move of /var/lib to another disk.
	r := run(t, link, func(c *Config) { c.Dir, c.SocketDir = filepath.Join(link, "redis"), filepath.Join(dir, "run") })
	select {
	case <-r.ready:
		t.Fatal("ready while the server sleeps")
	case <-time.After(2 * time.Second):
	}
	if got := serverOf(dir); got != pid {
		t.Fatalf("a second server was started: %d", got)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	r.await(t)
}

// TestAnotherConfigurationEndsTheSurvivor: it would keep its old users.
func TestAnotherConfigurationEndsTheSurvivor(t *testing.T) {
	dir := place(t)
	pid := killedHub(t, dir)
	if err := dial(t, mustNew(t, dir).HubURL()).Set(t.Context(), "carrel:test:x", "kept", 0).Err(); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, func(c *Config) { c.Proxy = hub.NewSecret("another") })
	r.await(t)
	if got := serverOf(dir); got == pid {
		t.Error("the old one goes on")
	}
	if err := dial(t, r.ProxyURL()).Ping(t.Context()).Err(); err != nil {
		t.Errorf("the proxy's new password: %v", err)
	}
	if got, err := dial(t, r.HubURL()).Get(t.Context(), "carrel:test:x").Result(); err != nil || got != "kept" {
		t.Errorf("the data: %q, %v", got, err)
	}
}

func TestStopEndsASurvivor(t *testing.T) {
	dir := place(t)
	killedHub(t, dir)
	for range 2 { // the second time there is none
		if err := mustNew(t, dir).Stop(); err != nil || serverOf(dir) != 0 {
			t.Errorf("%v, and it is %d", err, serverOf(dir))
		}
	}
}

// TestAServerThatCannotStartIsTold of, with where to look; and a missing one with what to install.
func TestAServerThatCannotStartIsTold(t *testing.T) {
	dir := place(t)
	r := run(t, dir, func(c *Config) { c.Hub = hub.NewSecret("a b") }) // no password of an ACL
	eventually(t, "a line in the log", func() bool { return strings.Contains(r.log.String(), "redis.log") })
	r.end()

	t.Setenv("PATH", "/nonexistent")
	r = run(t, place(t))
	eventually(t, "a line in the log", func() bool { return strings.Contains(r.log.String(), "redis-server can't be started") })
	r.end()
	if err := <-r.ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	r.ended <- nil
}
