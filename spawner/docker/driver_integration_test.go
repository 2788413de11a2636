//go:build integration

package docker

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/pkg/stdcopy"

	"carrel/hub"
	"carrel/hub/hubtest"
	"carrel/kernelimage"
)

var built struct {
	sync.Mutex
	name string
}

// testImage is Carrel's kernel image: the one that CARREL_TEST_IMAGE names, or this tree's, which is
// built when it is missing.
func testImage(t *testing.T) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.name == "" {
		built.name = os.Getenv("CARREL_TEST_IMAGE")
	}
	if built.name == "" {
		ctx, done := context.WithTimeout(t.Context(), 20*time.Minute)
		defer done()
		name, err := kernelimage.Build(ctx, newDriver(t), kernelimage.HostOptions(os.Getenv), func(string, int, string) {})
		if err != nil {
			t.Fatal(err)
		}
		built.name = name
	}
	return built.name
}

// newDriver makes a driver with a deployment and directory of the test's own, and takes everything
// down at its end: nothing may be left then.
func newDriver(t *testing.T, change ...func(*Config)) *Driver {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "crl-docker-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	deployment := "t" + strings.ToLower(rand.Text()[:8])
	keys, err := hub.NewKeyring(deployment, []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Deployment: deployment, Keyring: keys, StateDir: dir, Subnets: "10.199.0.0/16", Quarantine: 10 * time.Minute, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, c := range change {
		c(&cfg)
	}
	d := reopen(t, cfg)
	t.Cleanup(func() {
		if err := d.Down(context.Background(), true); err != nil {
			t.Errorf("down: %v", err)
		}
		checkNothingLeft(t, d)
		os.RemoveAll(dir)
	})
	return d
}

func reopen(t *testing.T, cfg Config) *Driver {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// checkNothingLeft looks for whatever a deployment could leave on the host.
func checkNothingLeft(t *testing.T, d *Driver) {
	t.Helper()
	ctx, label := context.Background(), filters.NewArgs(filters.Arg("label", labelDeployment+"="+d.cfg.Deployment))
	if list, err := d.api.on(ctx).ContainerList(ctx, container.ListOptions{All: true, Filters: label}); err != nil || len(list) > 0 {
		t.Errorf("containers are left: %v, %v", list, err)
	}
	for file, mark := range map[string]string{"/proc/self/mountinfo": d.cfg.StateDir, "/proc/net/dev": strings.TrimSuffix(d.networks.device(hub.NetworkNone), "n")} {
		if raw, err := os.ReadFile(file); err != nil || strings.Contains(string(raw), mark) {
			t.Errorf("%s still tells of %s (%v)", file, mark, err)
		}
	}
	if setFilter(ctx, "list table inet "+d.networks.table()+"\n") == nil {
		t.Error("the packet filter is left")
	}
	eventually(t, "no loop device is left", func() bool {
		for i := range 64 {
			raw, _ := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", i))
			if strings.HasPrefix(string(raw), d.cfg.StateDir) {
				return false
			}
		}
		return true
	})
}

// eventually polls; the machine may be busy.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("half a minute went by, and it is not so that %s", what)
		}
	}
}

func testSpec(t *testing.T, user string) hub.Spec {
	t.Helper()
	key, err := hub.ParseServerKey(user, "")
	if err != nil {
		t.Fatal(err)
	}
	return hub.Spec{
		Key: key, Generation: 1, UserID: hub.UserID("u" + user), Profile: "small", Image: testImage(t), Network: hub.NetworkNone,
		Limits: hub.Limits{CPUs: 1, Memory: 512 << 20, Disk: 32 << 20, PIDs: 128, Files: 1024, Tmp: 16 << 20},
		UID:    1000, GID: 1000, Home: "/home/jovyan", BasePath: key.Path(), Token: hub.NewSecret("sesame-" + user), DefaultURL: "/lab",
		Progress: func(hub.Progress) {},
	}
}

// idle is a server that only waits: what is tried in it comes by run.
func idle(t *testing.T, user string) hub.Spec {
	t.Helper()
	spec := testSpec(t, user)
	spec.Command = []string{"sleep", "1000"}
	return spec
}

func start(t *testing.T, d *Driver, spec hub.Spec) (hub.Handle, hub.Status) {
	t.Helper()
	h, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	st, err := d.Inspect(t.Context(), h)
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	return h, st
}

func stop(t *testing.T, d *Driver, h hub.Handle) {
	t.Helper()
	if err := d.Stop(t.Context(), h, 0); err != nil {
		t.Fatalf("stop: %v", err)
	}
}

// run runs a program inside a server's walls, as a cell of its notebook would, and gives what it
// printed and its exit code.
func run(t *testing.T, d *Driver, h hub.Handle, command ...string) (string, int) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), 2*time.Minute)
	defer done()
	name, err := d.open(h)
	if err != nil {
		t.Fatal(err)
	}
	made, err := d.api.on(ctx).ContainerExecCreate(ctx, name, container.ExecOptions{Cmd: command, AttachStdout: true, AttachStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := d.api.on(ctx).ContainerExecAttach(ctx, made.ID, container.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, stream.Reader); err != nil {
		t.Fatal(err)
	}
	end, err := d.api.on(ctx).ContainerExecInspect(ctx, made.ID)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), end.ExitCode
}

// python runs a program with the Python of the image.
func python(t *testing.T, d *Driver, h hub.Handle, program string, args ...string) string {
	t.Helper()
	out, code := run(t, d, h, append([]string{"python3", "-c", program}, args...)...)
	if code != 0 {
		t.Fatalf("the program ended with %d:\n%s", code, out)
	}
	return strings.TrimSpace(out)
}

// get asks a server over HTTP, until it answers with the status.
func get(t *testing.T, d *Driver, h hub.Handle, url, token string, status int) string {
	t.Helper()
	body := ""
	answered := func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "token "+token)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		body = string(raw)
		return err == nil && res.StatusCode == status
	}
	for end := time.Now().Add(time.Minute); !answered(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			lines, _ := d.Logs(t.Context(), h, 30)
			t.Fatalf("%s does not answer with %d; the server's log:\n%s", url, status, strings.Join(lines, "\n"))
		}
	}
	return body
}

func TestContract(t *testing.T) {
	t.Parallel()
	hubtest.Spawner(t, hubtest.SpawnerSetup{
		Open:   func(t *testing.T) hub.Spawner { return newDriver(t) },
		Reopen: func(t *testing.T, d hub.Spawner) hub.Spawner { return reopen(t, d.(*Driver).cfg) },
		Spec: func(t *testing.T, user string, does hubtest.Behaviour) hub.Spec {
			spec := idle(t, user)
			if does == hubtest.Ends {
				spec.Command = []string{"sh", "-c", hubtest.Farewell}
			}
			return spec
		},
	})
}

// TestLife: Carrel's own image answers below its base path, and to nobody without its token.
func TestLife(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := testSpec(t, "alice")
	h, st := start(t, d, spec)
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api", "", http.StatusOK)
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api/contents", "", http.StatusForbidden)
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api/contents", spec.Token.Reveal(), http.StatusOK)
	if u, err := d.Usage(t.Context(), h); err != nil || u.Memory < 10<<20 || u.CPUSeconds <= 0 || u.PIDs < 1 || u.MemoryLimit != spec.Limits.Memory {
		t.Errorf("usage %+v, %v", u, err)
	}
	if err := d.Stop(t.Context(), h, 10*time.Second); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if mounted(d.homes.mountPoint(spec.UserID)) {
		t.Error("the home is mounted after the stop")
	}
}
