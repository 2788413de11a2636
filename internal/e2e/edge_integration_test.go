//go:build integration

package e2e

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
	"carrel/hub/redisstore"
	"carrel/internal/program"
	"carrel/internal/redistest"
)

// edge is `carrel proxy` alone, between a Redis of the test's own and a server that echoes: what it
// takes to try the proxy's process itself, without hub and Docker.
type edge struct {
	t      *testing.T
	dir    string
	bin    string // a copy of the binary, which an upgrade replaces
	config string
	port   int
	redis  *redistest.Server
	store  *redisstore.Store
	tokens []string // of alice's
	notes  *net.UnixConn
	log    *os.File // of all its processes: a pipe would not end with the first
	pid    int      // of the process that serves

	secure  bool // it speaks TLS
	proxied bool // connections begin with the PROXY protocol
}

// newEdge makes all but the proxy's process; extra is YAML appended to its configuration, in which PORT
// is where it listens and DIR is where cert.pem and key.pem are.
func newEdge(t *testing.T, extra string) *edge {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "crl-edge-")
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{t: t, dir: dir, bin: filepath.Join(dir, "carrel"), config: filepath.Join(dir, "carrel.yaml"), port: program.FreePort()}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if e.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.log.Close() })
	e.install()
	e.redis = redistest.New(t)
	if e.proxied = strings.Contains(extra, "PORT"); e.proxied {
		extra = strings.ReplaceAll(extra, "PORT", strconv.Itoa(e.port))
	}
	if e.secure = strings.Contains(extra, "tls: "); e.secure {
		extra = strings.ReplaceAll(extra, "DIR", dir)
		writeCertificate(t, dir, 1)
	}
	e.write(extra)
	var opened error
	e.store, opened = redisstore.New(redisstore.Config{URL: e.redis.URL(), Prefix: "carrel:edge:", Logger: slog.New(slog.DiscardHandler)})
	if opened != nil {
		t.Fatal(opened)
	}
	t.Cleanup(func() { e.store.Close() })
	e.people()
	e.notes, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify.sock"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.notes.Close() })
	return e
}

func (e *edge) write(extra string) {
	e.t.Helper()
	text := fmt.Sprintf("deployment: edge\nstate_dir: %s/state\npublic_url: %s/\nlisten: [\"127.0.0.1:%d\"]\nredis: {url: %s}\nlog: {level: warn}\n%s\n", e.dir, e.origin("http"), e.port, e.redis.URL(), extra)
	if err := os.WriteFile(e.config, []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// install puts the binary in its place as install(1) does: as another file of the same name.
func (e *edge) install() {
	e.t.Helper()
	e.put(binary)
}

func (e *edge) put(from string) {
	e.t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(e.bin+".new", raw, 0o755); err != nil {
		e.t.Fatal(err)
	}
	if err := os.Rename(e.bin+".new", e.bin); err != nil {
		e.t.Fatal(err)
	}
}

// people makes alice, her tokens, and a server of hers that echoes.
func (e *edge) people() {
	e.t.Helper()
	key, err := hub.ParseServerKey("alice", "")
	if err != nil {
		e.t.Fatal(err)
	}
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s", r.URL.Query().Get("n"), b)
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
	}))
	e.t.Cleanup(server.Close)
	at, err := hub.ParseEndpoint(server.URL)
	if err != nil {
		e.t.Fatal(err)
	}
	ctx := e.t.Context()
	alice := hub.User{Name: key.User, ID: "id-alice", Identity: hub.Identity{Issuer: "https://id.test", Subject: "alice"}}
	if _, err := e.store.BindUser(ctx, alice); err != nil {
		e.t.Fatal(err)
	}
	for i := range 4 {
		secret := hub.RandomSecret()
		token := hub.Token{ID: "t" + strconv.Itoa(i), Hash: secret.Hash(), User: key.User, UserID: alice.ID, Scopes: []hub.Scope{hub.ScopeSelf}, Created: time.Now(), Expires: time.Now().Add(time.Hour)}
		if err := e.store.CreateToken(ctx, token); err != nil {
			e.t.Fatal(err)
		}
		e.tokens = append(e.tokens, secret.Reveal())
	}
	if err := e.store.PutRoute(ctx, hub.Route{Key: key, UserID: alice.ID, Generation: 1, Endpoint: at}); err != nil {
		e.t.Fatal(err)
	}
}

func (e *edge) output() string {
	raw, _ := os.ReadFile(e.log.Name())
	return string(raw)
}

// start runs the proxy until the test ends; change edits the command. What succeeds it is ended too.
func (e *edge) start(change func(*exec.Cmd)) *exec.Cmd {
	e.t.Helper()
	cmd := exec.Command(e.bin, "proxy", "--config", e.config)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(e.dir, "notify.sock"))
	cmd.Stdout, cmd.Stderr = e.log, e.log
	if change != nil {
		change(cmd)
	}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.pid = cmd.Process.Pid
	first := e.pid
	e.t.Cleanup(func() {
		if e.pid != first && !gone(e.pid) {
			e.signal(syscall.SIGTERM)
			eventually(e.t, 30*time.Second, "the last process ends", func() bool { return gone(e.pid) })
		}
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if e.t.Failed() {
			e.t.Logf("the proxy's output:\n%s", e.output())
		}
	})
	return cmd
}

// note waits for what systemd would be told, and returns the value of a field of it.
func (e *edge) note(field string) string {
	e.t.Helper()
	e.notes.SetReadDeadline(time.Now().Add(60 * time.Second))
	var heard []string
	b := make([]byte, 4096)
	for {
		n, err := e.notes.Read(b)
		if err != nil {
			e.t.Fatalf("no %s among what systemd is told, %q: %v; the output:\n%s", field, heard, err, e.output())
		}
		for line := range strings.Lines(string(b[:n])) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			if heard = append(heard, k); k == field {
				return v
			}
		}
	}
}

// signal sends a signal to the process that serves.
func (e *edge) signal(s syscall.Signal) {
	e.t.Helper()
	if e.pid <= 1 { // which would be everybody's
		e.t.Fatalf("%d is no process of ours", e.pid)
	}
	if err := syscall.Kill(e.pid, s); err != nil {
		e.t.Fatal(err)
	}
}

// gone tells whether a process has ended, be it that nobody has asked how yet.
func gone(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(raw), ") ")
	return err != nil || strings.HasPrefix(rest, "Z")
}

// upgrade has the process that serves succeeded by another, and returns that one's id.
func (e *edge) upgrade() {
	e.t.Helper()
	e.signal(syscall.SIGUSR2)
	e.note("RELOADING")
	pid, err := strconv.Atoi(e.note("MAINPID"))
	if err != nil || pid <= 1 || pid == e.pid {
		e.t.Fatalf("the next process is %d, %v", pid, err)
	}
	e.pid = pid
}

// origin is the public address, of scheme http or ws, or what is that with TLS.
func (e *edge) origin(scheme string) string {
	if e.secure {
		scheme += "s"
	}
	return fmt.Sprintf("%s://localhost:%d", scheme, e.port)
}

func (e *edge) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(e.port)) }

func (e *edge) request(ctx context.Context, i int, body string) *http.Request {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s/user/alice/x?n=%d", e.origin("http"), i), strings.NewReader(body))
	if err != nil {
		panic(err) // an address made up here
	}
	r.Header.Set("Authorization", "token "+e.tokens[i%len(e.tokens)])
	return r
}
