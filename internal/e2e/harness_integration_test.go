//go:build integration

package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carrel/internal/program"
)

var (
	binary string // what CARREL_TEST_BINARY names, or built once by TestMain
	shared string // a directory of all tests
)

func TestMain(m *testing.M) {
	var err error
	if shared, err = os.MkdirTemp("/tmp", "carrel-e2e-bin-"); err != nil {
		panic(err)
	}
	if binary = os.Getenv("CARREL_TEST_BINARY"); binary == "" {
		binary = filepath.Join(shared, "carrel")
		build := exec.Command("go", "build", "-o", binary, "carrel/cmd/carrel")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build carrel: %v\n%s", err, out)
			os.Exit(1)
		}
	}
	code := m.Run()
	os.RemoveAll(shared)
	os.Exit(code)
}

// deployment is one running carrel of a test's own.
type deployment struct {
	t      *testing.T
	name   string
	dir    string // state, config and logs
	config string
	url    string // the hub's, without a trailing slash
	port   int
	people map[string]string // passwords by user name
	docker string            // address of a Docker of the test's own

	command string // serve, or hub

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	log  bytes.Buffer
}

// options change a deployment's configuration; extra is YAML appended to the file.
type options struct {
	extra     string
	publicURL string // default http://localhost:PORT/
	notReady  bool   // do not wait until it serves
	command   string // default serve
	port      int    // listen here; 0: on a free one
	second    bool   // listen on a second port, PORT2 in extra
}

// deploy starts a carrel with a name, state directory and port of its own; at the test's end it is
// stopped, and taken down with its volumes.
func deploy(t *testing.T, opt options) *deployment {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "crl-")
	if err != nil {
		t.Fatal(err)
	}
	d := &deployment{t: t, name: "e2e" + strings.ToLower(filepath.Base(dir)[4:]), dir: dir, port: cmp.Or(opt.port, program.FreePort()), command: cmp.Or(opt.command, "serve")}
	d.config = filepath.Join(dir, "carrel.yaml")
	public := strings.ReplaceAll(cmp.Or(opt.publicURL, "http://localhost:PORT/"), "PORT", strconv.Itoa(d.port))
	d.url = strings.TrimSuffix(public, "/")
	listen := fmt.Sprintf("%q", fmt.Sprintf("127.0.0.1:%d", d.port))
	if opt.second {
		port := program.FreePort()
		listen += fmt.Sprintf(", %q", fmt.Sprintf("127.0.0.1:%d", port))
		opt.extra = strings.ReplaceAll(opt.extra, "PORT2", strconv.Itoa(port))
	}
	text := fmt.Sprintf("deployment: %s\nstate_dir: %s/state\npublic_url: %s\nlisten: [%s]\n%s\n", d.name, dir, public, listen, opt.extra)
	if err := os.WriteFile(d.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.destroy)
	d.borrowStatics()
	d.start()
	if !opt.notReady {
		d.waitReady()
		if !strings.Contains(opt.extra, "\noidc:") { // then the demo provider is not there
			d.readPeople()
		}
	}
	return d
}

// start runs `carrel serve`; its output is kept for the test's log.
func (d *deployment) start() {
	d.t.Helper()
	cmd := exec.Command(binary, d.command, "--config", d.config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	done := make(chan struct{})
	d.mu.Lock()
	d.cmd, d.done = cmd, done
	d.mu.Unlock()
	go func() {
		defer close(done)
		sc := bufio.NewScanner(out)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			d.mu.Lock()
			d.log.WriteString(sc.Text() + "\n")
			d.mu.Unlock()
		}
		cmd.Wait()
	}()
}

// signal sends a signal to the hub process alone.
func (d *deployment) signal(s syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cmd.Process.Signal(s)
}

// wait waits for the hub process to end.
func (d *deployment) wait(within time.Duration) {
	d.t.Helper()
	select {
	case <-d.done:
	case <-time.After(within):
		d.t.Fatalf("carrel did not end within %v; its output:\n%s", within, d.output())
	}
}

func (d *deployment) output() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// waitReady waits until the hub answers through the proxy.
func (d *deployment) waitReady() {
	d.t.Helper()
	deadline := time.Now().Add(5 * time.Minute) // a fresh machine builds the kernel image first
	for time.Now().Before(deadline) {
		select {
		case <-d.done:
			d.t.Fatalf("carrel ended at start; its output:\n%s", d.output())
		default:
		}
		req, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d%shub/health", d.port, d.base()), nil)
		if err != nil {
			d.t.Fatal(err)
		}
		if u, err := url.Parse(d.url); err == nil {
			req.Host = u.Host // as whoever is in front of it would say
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	d.t.Fatalf("carrel is not ready; its output:\n%s", d.output())
}

// base is the path of the public address, with both slashes.
func (d *deployment) base() string {
	_, rest, _ := strings.Cut(d.url, "://")
	_, path, _ := strings.Cut(rest, "/")
	if path == "" {
		return "/"
	}
	return "/" + path + "/"
}

func (d *deployment) readPeople() {
	d.t.Helper()
	raw, err := os.ReadFile(filepath.Join(d.dir, "state", "demo-users.json"))
	if err != nil {
		d.t.Fatal(err)
	}
	var people []struct{ Name, Password string }
	if err := json.Unmarshal(raw, &people); err != nil {
		d.t.Fatal(err)
	}
	d.people = map[string]string{}
	for _, p := range people {
		d.people[p.Name] = p.Password
	}
}

// destroy ends the process and takes down everything that the deployment made.
func (d *deployment) destroy() {
	if d.cmd != nil && d.cmd.Process != nil {
		d.signal(syscall.SIGTERM)
		select {
		case <-d.done:
		case <-time.After(30 * time.Second):
			d.signal(syscall.SIGKILL)
			<-d.done
		}
	}
	d.lendStatics()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "down", "--volumes", "--config", d.config).CombinedOutput()
	if err != nil {
		d.t.Errorf("carrel down: %v\n%s", err, out)
	}
	if d.t.Failed() {
		d.t.Logf("carrel's output:\n%s", d.output())
	}
	os.RemoveAll(d.dir)
}

// eventually polls until ok, or fails the test.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %v: %s", within, what)
}
