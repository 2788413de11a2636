//go:build integration

package chp

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"carrel/internal/program"

	"github.com/gorilla/websocket"
)

// What is installed from PyPI, pinned.
var pythonPackages = []string{"jupyterhub==6.1.1", "jupyter-server==2.21.1", "jupyterhub-idle-culler==2.0.0"}

// hubConfig is a JupyterHub that starts servers as processes, with us in front.
const hubConfig = `
import os, sys
c = get_config()
state = os.environ["CHP_STATE"]
c.JupyterHub.db_url = f"sqlite:///{state}/hub.sqlite"
c.JupyterHub.cookie_secret_file = f"{state}/cookie_secret"
c.JupyterHub.bind_url = "http://127.0.0.1:" + os.environ["CHP_PORT"] + "/"
c.JupyterHub.hub_port = int(os.environ["CHP_HUB_PORT"])
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.last_activity_interval = 1
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:" + os.environ["CHP_API_PORT"]
c.ConfigurableHTTPProxy.command = [os.environ["CHP_CARREL"], "chp"]
c.ConfigurableHTTPProxy.should_start = os.environ["CHP_START"] == "yes"
c.ConfigurableHTTPProxy.pid_file = f"{state}/proxy.pid"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"admin"}
c.JupyterHub.services = [{"name": "test", "api_token": os.environ["CHP_TOKEN"]}]
c.JupyterHub.load_roles = [{"name": "test", "services": ["test"], "scopes": ["admin:users", "admin:servers", "access:servers", "proxy"]}]
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = state + "/{username}"
c.Spawner.args = ["--allow-root"]
c.Spawner.default_url = "/api/status"
c.Spawner.start_timeout = 60
c.Spawner.http_timeout = 60
if os.environ.get("CHP_CULL"):
    c.JupyterHub.services.append({"name": "culler", "command": [sys.executable, "-m", "jupyterhub_idle_culler", "--cull-every=1", "--timeout=" + os.environ["CHP_CULL"]]})
    c.JupyterHub.load_roles.append({"name": "culler", "services": ["culler"], "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"]})
`

// python is a virtual environment in the user's cache with JupyterHub in it.
func python(t *testing.T) (bin string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "carrel-test", "jupyterhub-culled")
	bin = filepath.Join(dir, "bin")
	want := strings.Join(pythonPackages, " ")
	stamp := filepath.Join(dir, "installed")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return bin
	}
	os.RemoveAll(dir)
	system := "/usr/bin/python3"
	if _, err := os.Stat(system); err != nil {
		system = "python3"
	}
	for _, args := range [][]string{
		{system, "-m", "venv", dir},
		append([]string{filepath.Join(bin, "python"), "-m", "pip", "install", "-q"}, pythonPackages...),
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	if err := os.WriteFile(stamp, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	return bin
}

// jupyterHub is a real one, whose hub may be restarted.
type jupyterHub struct {
	bin, dir       string
	env            []string
	public, api    endpoint
	base           string
	cmd            *exec.Cmd
	ended          chan struct{}
	out            *program.Buffer
	configFileName string
}

const serviceToken = "the-test-service-has-this-token"

func newJupyterHub(t *testing.T, start string) *jupyterHub {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "chp-hub-")
	if err != nil {
		t.Fatal(err)
	}
	port, api := freePort(), freePort()
	h := &jupyterHub{
		bin: python(t), dir: dir, public: endpoint{"tcp", "127.0.0.1:" + port}, api: endpoint{"tcp", "127.0.0.1:" + api},
		base: "http://127.0.0.1:" + port, out: &program.Buffer{}, configFileName: filepath.Join(dir, "config.py"),
	}
	h.env = append(os.Environ(), "PATH="+h.bin+":"+os.Getenv("PATH"), "CHP_STATE="+dir, "CHP_PORT="+port, "CHP_HUB_PORT="+freePort(), "CHP_API_PORT="+api,
		"CHP_CARREL="+carrel(t), "CHP_TOKEN="+serviceToken, "CONFIGPROXY_AUTH_TOKEN="+testToken, "CHP_START="+start)
	if err := os.WriteFile(h.configFileName, []byte(hubConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.stopHub(t)
		if b, err := os.ReadFile(filepath.Join(dir, "proxy.pid")); err == nil && start == "yes" {
			endPID(t, string(b))
		}
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("JupyterHub said:\n%s", h.out)
		}
	})
	return h
}

// endPID terminates a process that the hub of this test started.
func endPID(t *testing.T, text string) {
	t.Helper()
	var pid int
	if json.Unmarshal([]byte(strings.TrimSpace(text)), &pid) != nil || pid <= 1 {
		t.Errorf("no process: %q", text)
		return
	}
	syscall.Kill(pid, syscall.SIGTERM)
	until(t, "the proxy's end", func() bool { return syscall.Kill(pid, 0) != nil })
}

func (h *jupyterHub) startHub(t *testing.T) {
	t.Helper()
	h.cmd = exec.Command(filepath.Join(h.bin, "python"), "-m", "jupyterhub", "-f", h.configFileName)
	h.cmd.Dir, h.cmd.Env, h.cmd.Stdout, h.cmd.Stderr = h.dir, h.env, h.out, h.out
	h.cmd.WaitDelay = time.Second // servers that go on have its output open
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.ended = make(chan struct{})
	go func(c *exec.Cmd, ended chan struct{}) { c.Wait(); close(ended) }(h.cmd, h.ended)
	slow(t, "the hub is up", func() bool {
		select {
		case <-h.ended:
			t.Fatal("JupyterHub ended")
		default:
		}
		status, _ := h.rest(t, "GET", "/hub/api/proxy", "")
		return status == http.StatusOK
	})
}

func (h *jupyterHub) stopHub(t *testing.T) {
	t.Helper()
	if h.cmd == nil {
		return
	}
	h.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.ended:
	case <-time.After(patient):
		h.cmd.Process.Kill()
		<-h.ended
	}
	h.cmd = nil
}

// slow polls what Python does.
func slow(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came: %s", what)
		}
	}
}

// rest asks through the proxy, as a program with a token.
func (h *jupyterHub) rest(t *testing.T, method, path, body string) (int, []byte) {
	t.Helper()
	ctx, done := context.WithTimeout(context.WithoutCancel(t.Context()), patient)
	defer done()
	req, err := http.NewRequestWithContext(ctx, method, h.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "token "+serviceToken)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, b
}

// routes are what the proxy's own API says.
func (h *jupyterHub) routes(t *testing.T) map[string]map[string]any {
	t.Helper()
	var all map[string]map[string]any
	if err := json.Unmarshal([]byte(h.api.ask(t, apiRequest("GET", "/api/routes", "")).body), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// login is a person's, by the form, which is the only way into the dummy authenticator.
func (h *jupyterHub) login(t *testing.T, name string) *http.Client {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	c := &http.Client{Jar: jar, Timeout: 60 * time.Second}
	res, err := c.Get(h.base + "/hub/login")
	if err != nil {
		t.Fatal(err)
	}
	page, _ := io.ReadAll(res.Body)
	res.Body.Close()
	xsrf := regexp.MustCompile(`name="_xsrf"\s+value="([^"]+)"`).FindSubmatch(page)
	if xsrf == nil {
		t.Fatalf("no form: %d %.500s", res.StatusCode, page)
	}
	res, err = c.PostForm(h.base+"/hub/login?next=%2Fhub%2Fhome", url.Values{"username": {name}, "password": {"x"}, "_xsrf": {string(xsrf[1])}})
	if err != nil {
		t.Fatal(err)
	}
	page, _ = io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Request.URL.Path != "/hub/home" || !bytes.Contains(page, []byte(name)) {
		t.Fatalf("after the sign-in: %d at %s", res.StatusCode, res.Request.URL)
	}
	return c
}

// startProxy runs a proxy that the hub finds, and doesn't start itself.
func (h *jupyterHub) startProxy(t *testing.T) *exec.Cmd {
	t.Helper()
	env := map[string]string{}
	for _, e := range h.env {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	p := exec.Command(linked(t), "--ip", "127.0.0.1", "--port", env["CHP_PORT"], "--api-ip", "127.0.0.1", "--api-port", env["CHP_API_PORT"],
		"--error-target", "http://127.0.0.1:"+env["CHP_HUB_PORT"]+"/hub/error", "--pid-file", filepath.Join(h.dir, "pid"))
	p.Env, p.Stdout, p.Stderr = h.env, h.out, h.out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	until(t, "the proxy is up", func() bool { return h.api.open(t) })
	return p
}

// spawn makes a person and starts their server.
func (h *jupyterHub) spawn(t *testing.T, user string) {
	t.Helper()
	if status, b := h.rest(t, "POST", "/hub/api/users/"+user, ""); status != http.StatusCreated {
		t.Fatalf("%d %s", status, b)
	}
	if status, b := h.rest(t, "POST", "/hub/api/users/"+user+"/server", ""); status != http.StatusCreated && status != http.StatusAccepted {
		t.Fatalf("%d %s", status, b)
	}
	slow(t, user+"'s server", func() bool {
		status, _ := h.rest(t, "GET", "/user/"+user+"/api/status", "")
		return status == http.StatusOK
	})
}

// terminal opens a shell on a person's server: a websocket of JupyterHub's.
func (h *jupyterHub) terminal(t *testing.T, user string) (shell *websocket.Conn, name string) {
	t.Helper()
	status, b := h.rest(t, "POST", "/user/"+user+"/api/terminals", "{}")
	var term struct{ Name string }
	if err := json.Unmarshal(b, &term); err != nil || status != http.StatusOK {
		t.Fatalf("terminal: %d %s", status, b)
	}
	d := websocket.Dialer{HandshakeTimeout: patient}
	c, res, err := d.DialContext(t.Context(), strings.Replace(h.base, "http", "ws", 1)+"/user/"+user+"/terminals/websocket/"+term.Name,
		http.Header{"Authorization": {"token " + serviceToken}, "Origin": {h.base}})
	if err != nil {
		t.Fatalf("websocket: %v %+v", err, res)
	}
	t.Cleanup(func() { c.Close() })
	return c, term.Name
}

// calculate has a person's shell say something.
func (h *jupyterHub) calculate(t *testing.T, user string) {
	t.Helper()
	c, name := h.terminal(t, user)
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(60 * time.Second))
	if err := c.WriteJSON([]string{"stdin", "echo $((6*7))-said\r"}); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for !strings.Contains(all.String(), "42-said") {
		_, b, err := c.ReadMessage()
		if err != nil {
			t.Fatalf("%v after %q", err, all.String())
		}
		all.Write(b)
	}
	if status, b := h.rest(t, "DELETE", "/user/"+user+"/api/terminals/"+name, ""); status != http.StatusNoContent {
		t.Errorf("end of terminal: %d %s", status, b)
	}
}

func TestRealJupyterHub(t *testing.T) {
	h := newJupyterHub(t, "yes")
	h.startHub(t)
	if r := h.routes(t)["/"]; r == nil || r["hub"] != true || r["jupyterhub"] != true {
		t.Errorf("the hub's route: %v", h.routes(t))
	}
	alice := h.login(t, "alice")

	// JupyterHub's own page answers for what has no route: the error target.
	res, err := alice.Get(h.base + "/hub/spawn")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	slow(t, "alice's server", func() bool { return h.routes(t)["/user/alice"] != nil })
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			if status, b := h.rest(t, "DELETE", "/hub/api/users/alice/server", ""); status != http.StatusNoContent && status != http.StatusAccepted {
				t.Errorf("stop: %d %s", status, b)
			}
			slow(t, "the route's end", func() bool { return h.routes(t)["/user/alice"] == nil })
		}
	}
	t.Cleanup(stop)

	// The person's browser gets through, by the cookies and redirects between hub and server.
	if err := os.WriteFile(filepath.Join(h.dir, "alice", "hello.txt"), []byte("hello alice"), 0o600); err != nil {
		t.Fatal(err)
	}
	slow(t, "alice reaches her server", func() bool {
		res, err := alice.Get(h.base + "/user/alice/files/hello.txt")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode == http.StatusOK && string(b) == "hello alice"
	})
	h.calculate(t, "alice")

	// A proxy that dies is started again, and gets its routes back.
	pid, err := os.ReadFile(filepath.Join(h.dir, "proxy.pid"))
	if err != nil {
		t.Fatal(err)
	}
	endPID(t, string(pid))
	slow(t, "another proxy with the same routes", func() bool {
		now, err := os.ReadFile(filepath.Join(h.dir, "proxy.pid"))
		return err == nil && !bytes.Equal(now, pid) && h.api.open(t) && h.routes(t)["/user/alice"] != nil
	})
	if status, _ := h.rest(t, "GET", "/user/alice/api/status", ""); status != http.StatusOK {
		t.Errorf("with another proxy: %d", status)
	}
	stop()
	if status, _ := h.rest(t, "GET", "/user/alice/api/status", ""); status == http.StatusOK {
		t.Errorf("a stopped server answers")
	}
}

func TestRealJupyterHubRestartsBehindARunningProxy(t *testing.T) {
	h := newJupyterHub(t, "no")
	p := h.startProxy(t)
	h.startHub(t)
	h.spawn(t, "bob")
	// Activity is what JupyterHub culls by.
	if !counts(t, h.api, "/user/bob", func() { h.rest(t, "GET", "/user/bob/api/status", "") }) {
		t.Error("a request is no activity")
	}
	before := h.routes(t)["/user/bob"]
	h.stopHub(t)
	if status, _ := h.rest(t, "GET", "/user/bob/api", ""); status != http.StatusOK {
		t.Errorf("without a hub bob's server answers %d", status)
	}
	h.startHub(t)
	after := h.routes(t)["/user/bob"]
	if after == nil || after["target"] != before["target"] {
		t.Errorf("over the restart %v became %v", before, after)
	}
	h.calculate(t, "bob")
	if status, b := h.rest(t, "DELETE", "/hub/api/users/bob/server", ""); status != http.StatusNoContent && status != http.StatusAccepted {
		t.Errorf("stop: %d %s", status, b)
	}
	slow(t, "the route's end", func() bool { return h.routes(t)["/user/bob"] == nil })
	p.Process.Signal(syscall.SIGTERM)
	p.Wait()
	if status := p.ProcessState.ExitCode(); status != 2 {
		t.Errorf("exit status %d, not 2", status)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "pid")); err == nil {
		t.Error("the pid file is left")
	}
}

// linked is the binary by the name that JupyterHub looks for.
func linked(t *testing.T) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "configurable-http-proxy")
	if err := os.Symlink(carrel(t), link); err != nil {
		t.Fatal(err)
	}
	return link
}
