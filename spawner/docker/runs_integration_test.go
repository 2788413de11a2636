//go:build integration

package docker

import (
	"context"
	"encoding/json"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"carrel/hub"
)

// runJob is a run with limits of a test's.
func runJob(t *testing.T, id, code string) hub.RunJob {
	t.Helper()
	return hub.RunJob{
		ID: hub.RunID(strings.Repeat(id, 26)), Image: testImage(t), CPUs: 1, Began: func() {},
		RunSpec: hub.RunSpec{Code: []byte(code), Limits: hub.RunLimits{
			CPU: 30 * time.Second, Wall: time.Minute, Memory: 128 << 20, Processes: 16, FileSize: 8 << 20, Disk: 16 << 20, Output: 64 << 10, OpenFiles: 64, Stack: 8 << 20,
		}},
	}
}

// outcome runs a program to its end, after which nothing of it is left.
func outcome(t *testing.T, d *Driver, job hub.RunJob) hub.RunResult {
	t.Helper()
	r, err := d.RunCode(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s, exit code %d, CPU %v, wall %v, peak %d MiB", r.Status, r.ExitCode, r.CPU, r.Wall, r.PeakMemory>>20)
	noRuns(t, d)
	return r
}

func noRuns(t *testing.T, d *Driver) {
	t.Helper()
	for id, err := range d.RunsLeft(t.Context()) {
		t.Errorf("%s is left (%v)", id, err)
	}
}

// What a program prints comes back as it is, with its exit code; its arguments and its input are its own.
func TestRunCode(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	job := runJob(t, "a", `
import os, sys
print(sys.argv[1:], sys.stdin.read(), os.getcwd(), os.getuid(), sep="\n")
sys.stderr.buffer.write(b"\xff\x00<b>")
sys.exit(3)`)
	job.Argv, job.Stdin = []string{"a\nb", "; touch /tmp/x", "$(id)"}, []byte("of stdin")
	r := outcome(t, d, job)
	want := "['a\\nb', '; touch /tmp/x', '$(id)']\nof stdin\n/tmp\n" + strconv.Itoa(runUID(job.ID)) + "\n"
	if r.Status != hub.RunFinished || r.ExitCode != 3 || string(r.Stdout) != want || string(r.Stderr) != "\xff\x00<b>" || r.StdoutCut || r.StderrCut {
		t.Errorf("%+v\n%s", r, r.Stdout)
	}
	if r.CPU <= 0 || r.CPU > 10*time.Second || r.Wall <= 0 || r.PeakMemory == 0 {
		t.Errorf("CPU %v, wall %v, peak %d", r.CPU, r.Wall, r.PeakMemory)
	}
	for code, want := range map[string]int{"": 0, "syntax error": 1, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)": 143, "import os; os._exit(137)": 137, "import os; os._exit(152)": 152} {
		if r := outcome(t, d, runJob(t, "b", code+"\n")); r.Status != hub.RunFinished || r.ExitCode != want {
			t.Errorf("%q: %s, exit code %d\n%s", code, r.Status, r.ExitCode, r.Stderr)
		}
	}
}

// Each of these would go on for ever, or take all there is. It ends, the status says of what, and neither another
// run nor this process feels it.
func TestHostileRuns(t *testing.T) {
	d := newDriver(t)
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, c := range []struct {
		name, code string
		change     func(*hub.RunLimits)
		want       hub.RunStatus
	}{
		{"a loop", "while True: pass", func(l *hub.RunLimits) { l.CPU = time.Second }, hub.RunCPUTime},
		{"a loop that will not hear of it", "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass", func(l *hub.RunLimits) { l.CPU = time.Second }, hub.RunCPUTime},
		{"many that each take little", "import os\nfor _ in range(8):\n  if not os.fork(): break\nwhile True: pass", func(l *hub.RunLimits) { l.CPU = 2 * time.Second }, hub.RunCPUTime},
		{"sleep", "import time\nprint('so far', flush=True)\ntime.sleep(1000)", func(l *hub.RunLimits) { l.Wall = 2 * time.Second }, hub.RunWallTime},
		{"sleep with its output closed", "import os, time\nos.close(1); os.close(2)\ntime.sleep(1000)", func(l *hub.RunLimits) { l.Wall = 2 * time.Second }, hub.RunWallTime},
		{"memory", "x = []\nwhile True: x.append(bytearray(1 << 20))", nil, hub.RunMemory},
		{"memory of a child's, which it poses as its own", "import os\nif os.fork():\n  os.wait(); os._exit(0)\nx = []\nwhile True: x.append(bytearray(1 << 20))", nil, hub.RunFinished},
		{"stdout", "while True: print('x' * 1000)", nil, hub.RunOutput},
		{"stderr without a line", "import os\nwhile True: os.write(2, b'x' * 65536)", nil, hub.RunOutput},
	} {
		job := runJob(t, "c", c.code)
		if c.change != nil {
			c.change(&job.Limits)
		}
		r := outcome(t, d, job)
		if r.Status != c.want {
			t.Errorf("%s: %s, exit code %d\n%.1000s%.1000s", c.name, r.Status, r.ExitCode, r.Stdout, r.Stderr)
		}
		if c.want == hub.RunOutput && (len(r.Stdout)+len(r.Stderr) != int(job.Limits.Output) || !r.StdoutCut && !r.StderrCut) {
			t.Errorf("%s: %d and %d bytes, cut %v and %v", c.name, len(r.Stdout), len(r.Stderr), r.StdoutCut, r.StderrCut)
		}
		if c.name == "sleep" && string(r.Stdout) != "so far\n" {
			t.Errorf("what it had printed: %q", r.Stdout)
		}
		if r.Wall > 40*time.Second {
			t.Errorf("%s: it took %v", c.name, r.Wall)
		}
	}
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 32<<20 {
		t.Errorf("this process has grown by %d MiB", grown>>20)
	}
}

// Calls that pass a limit are refused, and the program hears of it.
func TestRunsAreRefused(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	for name, c := range map[string]struct{ code, want string }{
		"fork bomb": {`
import os, time
n = 0
try:
    while True:
        if not os.fork(): time.sleep(100)
        n += 1
except OSError as e: print(type(e).__name__, n < 40)`, "BlockingIOError True"},
		"disk": {`
import errno
try:
    for i in range(100): open(f"f{i}", "wb").write(bytes(1 << 20))
except OSError as e: print(errno.errorcode[e.errno])`, "ENOSPC"},
		"shared memory": {`
import errno
try:
    for i in range(100): open(f"/dev/shm/f{i}", "wb").write(bytes(1 << 20))
except OSError as e: print(errno.errorcode[e.errno])`, "ENOSPC"},
		"files": {`
import errno
try:
    for i in range(1000000): open(f"f{i}", "w").close()
except OSError as e: print(errno.errorcode[e.errno])`, "ENOSPC"},
		"one file": {`
import errno
try: open("f", "wb").write(bytes(9 << 20))
except OSError as e: print(errno.errorcode[e.errno])`, "EFBIG"},
		"open files": {`
import errno, os
try:
    while True: os.open("/", 0)
except OSError as e: print(errno.errorcode[e.errno])`, "EMFILE"},
		"recursion": {`
def f(): return f()
try: f()
except RecursionError: print("RecursionError")`, "RecursionError"},
		"elsewhere": {`
import os
bad = []
for place, dirs, files in os.walk("/"):
    dirs[:] = [d for d in dirs if os.path.join(place, d) not in ("/proc", "/sys", "/tmp", "/dev/shm")]
    try:
        open(os.path.join(place, "x"), "w"); bad.append(place)
    except OSError: pass
print(bad)`, "[]"},
		"who else there is": {`
import os, signal
for p in range(1, 10000):
    if p != os.getpid():
        try: os.kill(p, signal.SIGKILL); print("killed", p)
        except ProcessLookupError: pass
        except PermissionError: pass
print(open("/proc/self/status").read().count("CapEff:\t0000000000000000"), open("/proc/self/status").read().count("NoNewPrivs:\t1"), open("/proc/self/status").read().count("Seccomp:\t2"))`, "1 1 1"},
		"mount, trace, keys": {`
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for call, args in {"mount": (b"x", b"/tmp", b"tmpfs", 0, None), "unshare": (0x10000000,), "ptrace": (16, 1, 0, 0), "setuid": (0,)}.items():
    ctypes.set_errno(0)
    print(getattr(libc, call)(*args), end=" ")`, "-1 -1 -1 -1"},
	} {
		r := outcome(t, d, runJob(t, "d", c.code))
		if got := strings.TrimSpace(string(r.Stdout)); r.Status != hub.RunFinished || r.ExitCode != 0 || got != c.want {
			t.Errorf("%s: %s, exit code %d, %q, want %q\n%.2000s", name, r.Status, r.ExitCode, got, c.want, r.Stderr)
		}
	}
}

// A run is told nothing, and reaches nobody: no address of this machine or outside it, no socket, no name.
func TestRunsAreWalled(t *testing.T) {
	d := newDriver(t)
	w := newWorld(t, d)
	targets, err := json.Marshal(append(append(w.host(t), w.around()...), every(w.port, w.public)...))
	if err != nil {
		t.Fatal(err)
	}
	job := runJob(t, "e", strings.Replace(probe, "ThreadPoolExecutor(64)", "ThreadPoolExecutor(8)", 1))
	job.Stdin, job.Limits.Processes, job.Limits.Wall = targets, 32, 2*time.Minute
	r := outcome(t, d, job)
	var reached []bool
	if err := json.Unmarshal(r.Stdout, &reached); err != nil || len(reached) < 20 {
		t.Fatalf("the probe printed %.500s%.2000s", r.Stdout, r.Stderr)
	}
	for i, is := range reached {
		if is {
			t.Errorf("target %d of %.2000s is reached", i, targets)
		}
	}
	told := outcome(t, d, runJob(t, "f", `
import glob, os, socket
seen = dict(os.environ)
for p in os.listdir("/proc"):
    for f in ("environ", "cmdline"):
        try: seen[p + f] = open(f"/proc/{p}/{f}").read()
        except OSError: pass
print(seen, open("/proc/self/mountinfo").read(), os.listdir("/sys/class/net"))
try: socket.getaddrinfo("example.org", 80); print("NAMES")
except OSError: pass
print([p for p in ("/var/run/docker.sock", "/run/docker.sock", "/run/carrel", "/dev/mem", "/dev/kmsg") if os.path.exists(p)])`))
	out := string(told.Stdout)
	for _, secret := range []string{"sesame", "CARREL_TOKEN", d.cfg.StateDir, "NAMES", "eth0"} {
		if strings.Contains(out, secret) {
			t.Errorf("it is told of %s:\n%s", secret, out)
		}
	}
	if told.ExitCode != 0 || !strings.HasSuffix(strings.TrimSpace(out), "[]") {
		t.Errorf("exit code %d:\n%s%s", told.ExitCode, out, told.Stderr)
	}
}

// What a program leaves running ends with it, and keeps nobody waiting.
func TestRunsLeaveNothing(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	mark := "crlrun" + d.cfg.Deployment
	r := outcome(t, d, runJob(t, "g", `
import subprocess
subprocess.Popen(["python3", "-c", "import time; time.sleep(1000)", "`+mark+`"], start_new_session=True)
print("done")`))
	if r.Status != hub.RunFinished || string(r.Stdout) != "done\n" || r.Wall > 20*time.Second {
		t.Errorf("%+v", r)
	}
	if out, err := exec.Command("pgrep", "-f", mark).CombinedOutput(); err == nil {
		t.Errorf("processes are left: %s", out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	job := runJob(t, "h", "import time\ntime.sleep(1000)")
	job.Began = cancel
	if _, err := d.RunCode(ctx, job); hub.KindOf(err) != hub.Canceled || err == nil {
		t.Errorf("cancelled: %v", err)
	}
	noRuns(t, d)
}

// A run that another process has is found and removed, for good; a server beside it stays.
func TestRunsAreFound(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	server, _ := start(t, d, idle(t, "alice"))
	job := runJob(t, "i", "import time\ntime.sleep(1000)")
	began := make(chan struct{})
	job.Began = func() { close(began) }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	dead := reopen(t, d.cfg)
	go func() {
		defer close(ended)
		_, _ = dead.RunCode(ctx, job)
	}()
	<-began
	next := reopen(t, d.cfg)
	var left []hub.RunID
	for id, err := range next.RunsLeft(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, id)
	}
	if len(left) != 1 || left[0] != job.ID {
		t.Fatalf("there is %v", left)
	}
	for range 2 {
		if err := next.RemoveRun(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
	}
	noRuns(t, next)
	if st, err := next.Inspect(t.Context(), server); err != nil || st.Phase != hub.Ready {
		t.Errorf("the server is %s, %v", st.Phase, err)
	}
	cancel()
	<-ended
}

// A program that can't be begun is no program that printed Docker's complaint.
func TestRunsThatCannotBegin(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	job := runJob(t, "l", "print(1)")
	job.Image = buildImage(t, d, "USER root", "RUN mkdir /only && cp /bin/dd /bin/sleep /only/", "ENV PATH=/only")
	for _, room := range []int64{10, 64 << 10} {
		job.Limits.Output = room
		if r, err := d.RunCode(t.Context(), job); err == nil || hub.KindOf(err) != hub.Unavailable {
			t.Errorf("%+v, %v", r, err)
		}
		noRuns(t, d)
	}
}

// With the least of every limit that a caller can name a program still runs.
func TestSmallestRun(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	job := runJob(t, "k", "print(6*7)")
	job.Limits = hub.RunLimits{CPU: 100 * time.Millisecond, Wall: 10 * time.Second, Memory: 32 << 20, Processes: 1, FileSize: 4096, Disk: 1 << 20, Output: 3, OpenFiles: 16, Stack: 256 << 10}
	if name := job.Limits.TooSmall(); name != "" {
		t.Errorf("%s is too small to be named", name)
	}
	for range 5 {
		if r := outcome(t, d, job); r.Status != hub.RunFinished || r.ExitCode != 0 || string(r.Stdout) != "42\n" {
			t.Errorf("%+v\n%s%s", r, r.Stdout, r.Stderr)
		}
	}
}

// A run that no hub is there to end ends by itself, and whatever runs in it.
func TestRunsEndByThemselves(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	job := runJob(t, "j", "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nif not os.fork(): os.setsid()\ntime.sleep(1000)")
	job.Limits.Wall = 3*time.Second - runOverrun // it sleeps for three seconds
	img, err := d.facts(t.Context(), job.Image)
	if err != nil {
		t.Fatal(err)
	}
	profile, err := seccompProfile()
	if err != nil {
		t.Fatal(err)
	}
	cfg, host := runWalls(job, img, d.runLabels(job.ID), profile)
	made, err := d.api.on(t.Context()).ContainerCreate(t.Context(), cfg, host, nil, nil, d.runName(job.ID))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.api.on(t.Context()).ContainerStart(t.Context(), made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := d.bring(t.Context(), made.ID, job); err != nil {
		t.Fatal(err)
	}
	talk, program, err := d.begin(t.Context(), made.ID, runExec(job, "python3", runProgram))
	if err != nil {
		t.Fatal(err)
	}
	defer talk.Close()
	eventually(t, "it has ended", func() bool {
		c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), made.ID)
		return err == nil && !c.State.Running
	})
	if code, err := d.exitCode(t.Context(), program); !isNotFound(err) && (err != nil || code != killedCode) && hub.KindOf(err) != hub.NotFound {
		t.Errorf("the program ended with %d, %v", code, err)
	}
	for id, err := range d.RunsLeft(t.Context()) { // for the next hub to remove
		if err != nil || id != job.ID {
			t.Errorf("%s is there, %v", id, err)
		}
		if err := d.RemoveRun(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	noRuns(t, d)
}
