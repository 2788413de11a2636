//go:build integration

package kernelimage_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/hub"
	"carrel/kernelimage"
	"carrel/spawner/docker"
)

var _ kernelimage.Docker = (*docker.Driver)(nil)

// engine is the driver that builds images in the product, too.
func engine(t *testing.T) *docker.Driver {
	t.Helper()
	keys, err := hub.NewKeyring("kernelimage-test", []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := docker.New(docker.Config{Deployment: "kernelimage-test", Keyring: keys, StateDir: t.TempDir(), HomeKind: "volume", Subnets: "10.249.0.0/16", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var built struct {
	sync.Mutex
	tag string
}

// image gives the kernel image of this tree, and builds it when it is missing.
func image(t *testing.T) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.tag != "" {
		return built.tag
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	last := -1
	tag, err := kernelimage.Build(ctx, engine(t), kernelimage.HostOptions(os.Getenv), func(step string, percent int, message string) {
		if percent < last {
			t.Errorf("progress went from %d to %d percent at %q", last, percent, message)
		}
		last = percent
		t.Logf("%3d %% %s: %s", percent, step, message)
	})
	if err != nil {
		t.Fatal(err)
	}
	if last != 100 {
		t.Errorf("progress ended at %d percent", last)
	}
	built.tag = tag
	return tag
}

func run(t *testing.T, command ...string) []byte {
	t.Helper()
	out, err := engine(t).RunImage(t.Context(), image(t), command, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNotebookRunsInsideTheWalls(t *testing.T) {
	r, err := kernelimage.CheckSmoke(run(t, kernelimage.SmokeCommand()...))
	if err != nil {
		t.Fatal(err)
	}
	if r.Capabilities != 0 || !r.NoNewPrivileges || r.RootWritable || len(r.Interfaces) != 1 || r.Interfaces[0] != "lo" {
		t.Errorf("the notebook ran with more than it needs: %+v", r)
	}
}

func TestImageSaysWhatIsInIt(t *testing.T) {
	e, err := kernelimage.EnvironmentOf(t.Context(), engine(t), image(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"jupyterlab", "ipykernel", "numpy", "pandas", "matplotlib", "scipy"} {
		if e.Packages[name] == "" {
			t.Errorf("the record has no version of %s", name)
		}
	}
	if !strings.HasPrefix(e.Python, "3.") || !strings.Contains(e.System, "Debian") {
		t.Errorf("the record says Python %q on %q", e.Python, e.System)
	}
}

func TestSecondBuildFindsTheImage(t *testing.T) {
	tag := image(t)
	begin, steps := time.Now(), 0
	again, err := kernelimage.Build(t.Context(), engine(t), kernelimage.HostOptions(os.Getenv), func(string, int, string) { steps++ })
	if err != nil || again != tag || steps != 1 || time.Since(begin) > 2*time.Second {
		t.Errorf("a second build gave %s, %v in %v and %d steps; the first gave %s", again, err, time.Since(begin), steps, tag)
	}
}

// TestNothingOfTheBuildStays: what a build is told of its host's network is no part of the image.
func TestNothingOfTheBuildStays(t *testing.T) {
	var left struct {
		Certificates []string `json:"certificates"`
		Setuid       []string `json:"setuid"`
		Writable     []string `json:"writable"`
		Uncompiled   []string `json:"uncompiled"`
		Environment  []string `json:"environment"`
	}
	const program = `
import importlib.util, json, os, pathlib, stat
setuid, writable, uncompiled = [], [], []
for top, dirs, names in os.walk("/"):
    dirs[:] = [d for d in dirs if os.path.join(top, d) not in ("/proc", "/sys", "/dev", "/tmp", "/home/jovyan")]
    for name in names + dirs:
        path = os.path.join(top, name)
        s = os.lstat(path)
        if s.st_mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(s.st_mode):
            setuid.append(path)
        if not stat.S_ISLNK(s.st_mode) and (s.st_uid == os.getuid() or s.st_mode & stat.S_IWOTH) and not s.st_mode & stat.S_ISVTX:
            writable.append(path)
        if name.endswith(".py") and "/jupyter" in path:
            cached = importlib.util.cache_from_source(path)
            if not os.path.exists(cached):
                uncompiled.append(path)
            elif int.from_bytes(open(cached, "rb").read(12)[8:], "little") != int(s.st_mtime):
                uncompiled.append(path + " (stale)")
print(json.dumps({
    "certificates": os.listdir("/usr/local/share/ca-certificates"),
    "setuid": setuid, "writable": writable, "uncompiled": uncompiled, "environment": sorted(os.environ),
}))
`
	if err := json.Unmarshal(run(t, "python3", "-c", program), &left); err != nil {
		t.Fatal(err)
	}
	if len(left.Certificates) > 0 {
		t.Errorf("certificates of the build's host are trusted in the image: %q", left.Certificates)
	}
	if len(left.Setuid) > 0 {
		t.Errorf("the image has setuid files: %q", left.Setuid)
	}
	if len(left.Writable) > 0 {
		t.Errorf("the notebook's user can write outside of its home: %q", left.Writable)
	}
	if len(left.Uncompiled) > 0 {
		t.Errorf("%d modules of Jupyter are compiled at each start: %q", len(left.Uncompiled), left.Uncompiled[:1])
	}
	for _, name := range left.Environment {
		if strings.Contains(strings.ToUpper(name), "PROXY") || strings.Contains(name, "INDEX") || strings.Contains(name, "TRUSTED") {
			t.Errorf("the image's environment has %s", name)
		}
	}
}
