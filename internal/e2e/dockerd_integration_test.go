//go:build integration

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inNamespace tells that this process is the one that [ownNetwork] started.
const inNamespace = "CARREL_E2E_NAMESPACE"

// ownNetwork runs the test again in a network namespace of its own, where a second dockerd's bridges
// and rules disturb nobody, and tells whether this is that run.
func ownNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("ip link: %v: %s", err, out)
		}
		letGo(t)
		return true
	}
	kernelImage(t) // in there is no network to build it from
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A process namespace too: whatever the run leaves, shims and containers, ends with it.
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "60m")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("in a namespace of its own:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatal("the test did not run in its namespace")
	}
	return false
}

// letGo unmounts what other tests had mounted when this process got a mount namespace of its own: their homes
// would stay attached until it ends.
func letGo(t *testing.T) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(table), "\n"), "\n")
	for _, line := range slices.Backward(lines) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, "/tmp/crl-") {
			if err := syscall.Unmount(point, 0); err != nil {
				t.Fatalf("unmount %s: %v", point, err)
			}
		}
	}
}

// dockerd is a Docker daemon of a test's own.
type dockerd struct {
	t    *testing.T
	dir  string
	args []string
	cmd  *exec.Cmd
	log  *os.File

	containerd *exec.Cmd // a service of its own, as distributions have it: it outlives a killed dockerd
}

func (d *dockerd) host() string { return "unix://" + filepath.Join(d.dir, "docker.sock") }

// newDockerd starts one with the kernel image of the machine's own daemon in it.
func newDockerd(t *testing.T, args ...string) *dockerd {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "crl-dockerd-")
	if err != nil {
		t.Fatal(err)
	}
	d := &dockerd{t: t, dir: dir}
	d.args = append([]string{
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--host", d.host(), "--bridge", "none", "--group", "root", "--containerd", filepath.Join(dir, "containerd.sock"),
	}, args...)
	if d.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.destroy)
	d.startContainerd()
	d.start()
	image := kernelImage(t)
	load := fmt.Sprintf("docker save %s | docker --host %s load", image, d.host())
	if out, err := exec.Command("sh", "-c", load).CombinedOutput(); err != nil {
		t.Fatalf("load the kernel image: %v: %s", err, out)
	}
	return d
}

// kernelImage builds the kernel image with the machine's own daemon if it is missing.
func kernelImage(t *testing.T) string {
	t.Helper()
	path := writeConfig(t, "deployment: e2eimage\nstate_dir: DIR/state\n")
	out, code := carrel(t, 10*time.Minute, "image", "build", "--config", path)
	lines := strings.Fields(out)
	if code != 0 || len(lines) == 0 {
		t.Fatalf("carrel image build: exit code %d\n%s", code, out)
	}
	return lines[len(lines)-1]
}

func (d *dockerd) startContainerd() {
	d.t.Helper()
	config := filepath.Join(d.dir, "containerd.toml")
	text := "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.containerd = exec.Command("containerd", "--config", config, "--root", filepath.Join(d.dir, "containerd"),
		"--state", filepath.Join(d.dir, "containerd-state"), "--address", filepath.Join(d.dir, "containerd.sock"))
	d.containerd.Stdout, d.containerd.Stderr = d.log, d.log
	d.containerd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := d.containerd.Start(); err != nil {
		d.t.Fatal(err)
	}
	eventually(d.t, 30*time.Second, "containerd listens", func() bool {
		_, err := os.Stat(filepath.Join(d.dir, "containerd.sock"))
		return err == nil
	})
}

func (d *dockerd) start() {
	d.t.Helper()
	d.cmd = exec.Command("dockerd", d.args...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.answers()
}

func (d *dockerd) answers() {
	d.t.Helper()
	eventually(d.t, time.Minute, "dockerd answers", func() bool {
		return exec.Command("docker", "--host", d.host(), "info").Run() == nil
	})
}

// end sends a signal to the daemon, and waits until it is gone.
func (d *dockerd) end(s syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { d.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		d.t.Fatal("dockerd did not end")
	}
}

func (d *dockerd) destroy() {
	if out, err := exec.Command("docker", "--host", d.host(), "ps", "-aq").Output(); err == nil && len(out) > 0 {
		exec.Command("docker", append([]string{"--host", d.host(), "rm", "-f", "-v"}, strings.Fields(string(out))...)...).Run()
	}
	d.cmd.Process.Signal(syscall.SIGTERM)
	d.cmd.Wait()
	d.containerd.Process.Signal(syscall.SIGTERM)
	d.containerd.Wait()
	if d.t.Failed() {
		if raw, err := os.ReadFile(d.log.Name()); err == nil {
			d.t.Logf("dockerd's last lines:\n%s", raw[max(0, len(raw)-4000):])
		}
	}
	d.log.Close()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], d.dir) {
			syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
	os.RemoveAll(d.dir)
}

// A dockerd that is restarted, or killed, with live-restore takes nothing away. A dockerd killed
// together with carrel neither.
func TestKillsOfDocker(t *testing.T) {
	t.Parallel()
	if !ownNetwork(t) {
		return
	}
	engine := newDockerd(t, "--live-restore")
	d := deploy(t, options{extra: peopleNamed(3) + "spawner:\n  kernel_check: false\n  docker:\n    host: " + engine.host() + "\n"})
	d.docker = engine.host()
	desks := seat(t, d, 3)
	for round := range rounds(t) {
		for what, ending := range map[string]syscall.Signal{"a restart": syscall.SIGTERM, "kill -9": syscall.SIGKILL} {
			engine.end(ending)
			engine.start()
			unharmed(t, d, desks, fmt.Sprintf("%s of dockerd, round %d", what, round))
			startsAndStops(t, d, desks[0].person)
		}
		engine.end(syscall.SIGKILL)
		d.signal(syscall.SIGKILL)
		d.wait(10 * time.Second)
		d.start()
		engine.start()
		d.waitReady()
		unharmed(t, d, desks, fmt.Sprintf("kill -9 of dockerd and carrel, round %d", round))
	}
}

// startsAndStops shows that the hub can still start servers: one more of a person's own.
func startsAndStops(t *testing.T, d *deployment, p *person) {
	t.Helper()
	path := "/users/" + p.name + "/servers/more"
	eventually(t, 30*time.Second, "another server is started", func() bool {
		status, _ := p.api("POST", path, "")
		return status == 201 || status == 202
	})
	eventually(t, time.Minute, "another server is ready", func() bool {
		_, user := p.api("GET", "/users/"+p.name, "")
		servers, _ := user["servers"].(map[string]any)
		more, _ := servers["more"].(map[string]any)
		return more["ready"] == true
	})
	if status, out := p.api("DELETE", path, ""); status != 202 && status != 204 {
		t.Fatalf("stop: status %d, %v", status, out)
	}
	eventually(t, time.Minute, "the other server is gone", func() bool {
		_, user := p.api("GET", "/users/"+p.name, "")
		servers, _ := user["servers"].(map[string]any)
		return servers != nil && servers["more"] == nil
	})
}

// Without live-restore, kernels end with dockerd: the page says so, and a start brings files back.
func TestDockerWithoutLiveRestore(t *testing.T) {
	t.Parallel()
	if !ownNetwork(t) {
		return
	}
	engine := newDockerd(t)
	d := deploy(t, options{extra: peopleNamed(1) + "spawner:\n  kernel_check: false\n  docker:\n    host: " + engine.host() + "\n"})
	d.docker = engine.host()
	desks := seat(t, d, 1)
	p := desks[0]
	p.openKernel(p.kernel).run("open('kept.txt','w').write('yes')")
	engine.end(syscall.SIGTERM)
	engine.start()
	eventually(t, time.Minute, "the page says that the server ended", func() bool {
		return strings.Contains(p.visit("/hub/home").body, "ended by itself")
	})
	p.start("")
	if out := p.newKernel().run("print(open('kept.txt').read())"); out != "yes" {
		t.Errorf("the file reads %q", out)
	}
	out, code := carrel(t, 30*time.Second, "doctor", "--config", d.config)
	if !strings.Contains(out, "live restore") || !strings.Contains(out, "live-restore") {
		t.Errorf("doctor does not ask for live-restore (exit code %d):\n%s", code, out)
	}
}
