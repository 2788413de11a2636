//go:build integration

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// topReport is what carrel top prints as JSON.
type topReport struct {
	Servers []struct {
		User       string   `json:"user"`
		State      string   `json:"state"`
		Websockets int      `json:"websockets"`
		Requests   int      `json:"requests"`
		Sent       int      `json:"bytes_sent"`
		Rate       float64  `json:"requests_per_second"`
		Received   float64  `json:"bytes_received_per_second"`
		Memory     *int64   `json:"memory_bytes"`
		Cores      *float64 `json:"cpu_cores"`
	} `json:"servers"`
}

// pty is a terminal of a test's own: what the program shows, and keys for it.
type pty struct {
	master *os.File
	mu     sync.Mutex
	shown  bytes.Buffer
}

// onPTY runs the binary on a terminal; ended tells how it ended.
func onPTY(t *testing.T, width, height uint16, args ...string) (p *pty, ended <-chan error) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number uint32
	raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetUint32(int(fd), unix.TIOCGPTN)
		}
		if err == nil {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	cmd := exec.Command(binary, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p = &pty{master: master}
	done := make(chan error, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		for b := make([]byte, 4096); ; {
			n, err := master.Read(b) // EIO at the end
			p.mu.Lock()
			p.shown.Write(b[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); master.Close(); reading.Wait() })
	return p, done
}

// screen is what was shown since, escapes included.
func (p *pty) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown.String()
}

// TestTop watches a server whose owner works: on the host, from elsewhere with a token, on a terminal.
func TestTop(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\n"})
	alice, admin := d.person("alice"), d.person("admin")
	alice.signIn()
	admin.signIn()
	alice.start("")
	k := alice.newKernel()
	k.run("print(1)")
	top := func(args ...string) topReport {
		t.Helper()
		out, code := carrel(t, time.Minute, append([]string{"top", "--once", "--json"}, args...)...)
		var r topReport
		if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil {
			t.Fatalf("exit code %d, %v\n%s", code, err, out)
		}
		return r
	}
	eventually(t, time.Minute, "top shows alice's server", func() bool {
		alice.visit(d.url + "/hub/home")
		alice.jupyter(http.MethodGet, "api/status", "")
		r := top("--config", d.config)
		return len(r.Servers) == 1 && r.Servers[0].User == "alice" && r.Servers[0].State == "ready" && r.Servers[0].Websockets == 1 &&
			r.Servers[0].Requests > 2 && r.Servers[0].Sent > 100 && r.Servers[0].Memory != nil && *r.Servers[0].Memory > 1<<20
	})
	if out, code := carrel(t, time.Minute, "top", "--once", "--config", d.config); code != 0 || !strings.Contains(out, "1 servers, 1 ready") || !strings.Contains(out, "alice") || strings.ContainsRune(out, '\x1b') {
		t.Errorf("as text: exit code %d\n%s", code, out)
	}
	topElsewhere(t, d, alice, admin, top)
	topFiles(t, d)
	topOnATerminal(t, d)
	d.signal(syscall.SIGTERM)
	d.wait(time.Minute)
	if left, _ := filepath.Glob(filepath.Join(d.dir, "state", "run", "traffic-*.sock")); len(left) > 0 {
		t.Errorf("a stopped carrel leaves %v", left)
	}
	if out, code := carrel(t, time.Minute, "top", "--once", "--config", d.config); code == 0 || !strings.Contains(out, "does not answer") {
		t.Errorf("of a carrel that is stopped: exit code %d\n%s", code, out)
	}
}

// topElsewhere: an administrator's token with the scope is let in, and nothing else.
func topElsewhere(t *testing.T, d *deployment, alice, admin *person, top func(...string) topReport) {
	t.Helper()
	file := filepath.Join(d.dir, "token")
	token := func(who *person, scope string) {
		t.Helper()
		status, made := who.api("POST", "/users/"+who.name+"/tokens", fmt.Sprintf(`{"note":"top","scopes":[%q]}`, scope))
		if status != http.StatusCreated {
			t.Fatalf("%d %v", status, made)
		}
		if err := os.WriteFile(file, []byte(fmt.Sprint(made["token"], "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token(admin, "read:users")
	if r := top("--url", d.url, "--token-file", file); len(r.Servers) != 1 || r.Servers[0].Websockets != 1 {
		t.Errorf("from elsewhere: %+v", r)
	}
	for name, give := range map[string]func(){
		"alice":                     func() { token(alice, "read:users") },
		"an administrator's other":  func() { token(admin, "read:metrics") },
		"a token that there is not": func() { os.WriteFile(file, []byte("made-up"), 0o600) },
	} {
		give()
		if out, code := carrel(t, time.Minute, "top", "--once", "--url", d.url, "--token-file", file); code == 0 || strings.Contains(out, "ready") || !strings.Contains(out, "carrel: ") {
			t.Errorf("%s: exit code %d\n%s", name, code, out)
		}
	}
	for name, args := range map[string][]string{
		"plain HTTP to elsewhere": {"--url", "http://hub.example.org/", "--token-file", file}, "no token": {"--url", d.url},
		"another scheme": {"--url", "file:///etc/passwd", "--token-file", file}, "another order": {"--sort", "name"},
	} {
		if out, code := carrel(t, time.Minute, append([]string{"top", "--once", "--config", d.config}, args...)...); code == 0 || !strings.Contains(out, "what to do:") {
			t.Errorf("%s: exit code %d\n%s", name, code, out)
		}
	}
	if status, _ := alice.api(http.MethodGet, "/top", ""); status != http.StatusForbidden {
		t.Errorf("alice's browser is told everything: %d", status)
	}
}

// topFiles: the sockets are for whoever runs carrel, and not for its proxy, which strangers talk to.
func topFiles(t *testing.T, d *deployment) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(d.dir, "state", "run", "t*.sock"))
	if err != nil || len(paths) != 2 {
		t.Fatalf("%v %v", paths, err)
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
}

// topOnATerminal: it is drawn on a page of its own, follows keys and size, and leaves at q.
func topOnATerminal(t *testing.T, d *deployment) {
	t.Helper()
	for _, key := range []string{"q", "\x03"} {
		p, ended := onPTY(t, 60, 10, "top", "--config", d.config)
		eventually(t, time.Minute, "it is drawn", func() bool { return strings.Contains(p.screen(), "alice") })
		if s := p.screen(); !strings.HasPrefix(s, "\x1b[?1049h\x1b[?25l") || strings.Contains(s, "IN/S") {
			t.Errorf("on a small terminal: %q", s)
		}
		p.master.WriteString("m")
		raw, err := p.master.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 20, Col: 120}) })
		eventually(t, time.Minute, "it follows the key and the size", func() bool {
			return strings.Contains(p.screen(), "by memory") && strings.Contains(p.screen(), "IN/S")
		})
		p.master.WriteString(key)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("it ended with %v: %q", err, p.screen())
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("it does not end at %q", key)
		}
		eventually(t, 10*time.Second, "the terminal is given back", func() bool { return strings.HasSuffix(p.screen(), "\x1b[?25h\x1b[?1049l") })
	}
}
