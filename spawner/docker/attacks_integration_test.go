//go:build integration

package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"

	"carrel/hub"
)

// buildImage makes an image of the test's own from the kernel image, and removes it at the end.
func buildImage(t *testing.T, d *Driver, lines ...string) string {
	t.Helper()
	return buildFrom(t, d, map[string][]byte{"Dockerfile": []byte("FROM " + testImage(t) + "\n" + strings.Join(lines, "\n") + "\n")})
}

// buildFrom makes an image from the files of a context.
func buildFrom(t *testing.T, d *Driver, files map[string][]byte) string {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tag := "carrel-test/" + d.cfg.Deployment + ":" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if _, err := d.BuildImage(t.Context(), tag, &archive, nil, func(line string) { t.Log(line) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeImage(t, d, tag) })
	return tag
}

// removeImage removes an image, and the containers of the test's deployment that have it.
func removeImage(t *testing.T, d *Driver, ref string) {
	t.Helper()
	if err := d.Down(context.Background(), false); err != nil {
		t.Error(err)
	}
	if _, err := d.api.on(context.Background()).ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true, PruneChildren: true}); err != nil && !isNotFound(err) {
		t.Errorf("remove image: %v", err)
	}
}

// computes asserts that a neighbour goes on as before.
func computes(t *testing.T, d *Driver, h hub.Handle) {
	t.Helper()
	if out := python(t, d, h, `print(sum(range(10**6)))`); out != "499999500000" {
		t.Errorf("the neighbour computes %s", out)
	}
}

// TestSystemCalls is attack 14, and more: what has been a way into kernels is refused. Each line of
// the program's output is a call and how it ended.
func TestSystemCalls(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	h, _ := start(t, d, idle(t, "alice"))
	out := python(t, d, h, `
import ctypes, errno, mmap, os, platform, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() != "x86_64"
def tried(what, result):
    print(what, "worked" if result >= 0 else errno.errorcode[ctypes.get_errno()])
def call(what, numbers, *args):
    tried(what, libc.syscall(ctypes.c_long(numbers[arm]), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args]))
buf = ctypes.create_string_buffer(256)
NEWUSER, NEWNS, NEWNET, NEWPID = 0x10000000, 0x20000, 0x40000000, 0x20000000
call("mount", (165, 40), b"none", b"/tmp", b"tmpfs", 0, 0)
call("bind-mount", (165, 40), b"/", b"/tmp", 0, 4096, 0)
call("umount", (166, 39), b"/home/jovyan", 2)
call("fsopen", (430, 430), b"tmpfs", 0)
call("open_tree", (428, 428), -100, b"/", 1)
call("move_mount", (429, 429), -100, b"/", -100, b"/tmp", 0)
call("pivot_root", (155, 41), b"/", b"/tmp")
call("chroot", (161, 51), b"/tmp")
for name, flag in ("user", NEWUSER), ("mount", NEWNS), ("net", NEWNET), ("pid", NEWPID):
    call("unshare-" + name, (272, 97), flag)
    call("clone-" + name, (56, 220), flag | 17, 0, 0, 0, 0)
call("setns", (308, 268), 0, 0)
call("ptrace-attach", (101, 117), 16, 1, 0, 0)
call("ptrace-traceme", (101, 117), 0, 0, 0, 0)
call("process_vm_readv", (310, 270), 1, 0, 0, 0, 0, 0)
call("bpf", (321, 280), 5, buf, 120)
call("io_uring_setup", (425, 425), 8, buf)
call("userfaultfd", (323, 282), 0)
call("perf_event_open", (298, 241), buf, 0, -1, -1, 0)
call("keyctl", (250, 219), 0, -3, 1)
call("add_key", (248, 217), b"user", b"k", b"v", 1, -3)
call("request_key", (249, 218), b"user", b"k", 0, -3)
call("kexec_load", (246, 104), 0, 0, 0, 0)
call("init_module", (175, 105), buf, 8, b"")
call("finit_module", (313, 273), 0, b"", 0)
call("delete_module", (176, 106), b"loop", 0)
call("open_by_handle_at", (304, 265), 0, buf, 0)
call("swapon", (167, 224), b"/tmp/x", 0)
call("reboot", (169, 142), 0xfee1dead, 672274793, 0, 0)
call("sethostname", (170, 161), b"x", 1)
call("settimeofday", (164, 170), buf, 0)
call("syslog", (103, 116), 3, buf, 255)
call("setuid", (105, 146), 0)
call("setgid", (106, 144), 0)
call("setgroups", (116, 159), 0, buf)
call("acct", (163, 89), b"/tmp/x")
call("quotactl", (179, 60), 0x80000700, 0, 0, buf)
call("fanotify_init", (300, 262), 0, 0)
call("mknod-disk", (259, 33), -100, b"/tmp/disk", 0o60666, 0x700)
call("mknod-mem", (259, 33), -100, b"/tmp/mem", 0o20666, 0x101)
call("kcmp", (312, 272), 1, 1, 0, 0, 0)
call("vmsplice", (278, 75), 1, buf, 0, 0)
open("/tmp/mine", "w").close()
call("chown-root", (92, 54), b"/tmp/mine", 0, 0) if not arm else call("chown-root", (0, 54), -100, b"/tmp/mine", 0, 0, 0)
for family, name in (38, "AF_ALG"), (40, "AF_VSOCK"), (17, "AF_PACKET"), (31, "AF_BLUETOOTH"), (29, "AF_CAN"), (30, "AF_TIPC"), (21, "AF_RDS"), (44, "AF_XDP"):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
        print(name, "worked")
    except OSError as e:
        print(name, errno.errorcode[e.errno])
if not arm:
    program = """
import ctypes, mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(bytes.fromhex("%s"))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))())
"""
    # getpid by the 32-bit gate (mov eax,20; int 0x80; ret), and by the x32 one (mov eax,0x40000027; syscall; ret)
    for name, code in ("i386", "b814000000cd80c3"), ("x32", "b8270000400f05c3"):
        p = subprocess.run([sys.executable, "-c", program % code], capture_output=True, text=True)
        print(name, "worked" if p.returncode == 0 and int(p.stdout) > 0 else "EPERM")
`)
	n := 0
	for line := range strings.Lines(out) {
		n++
		what, is, _ := strings.Cut(strings.TrimSpace(line), " ")
		if is != "EPERM" && (is != "EACCES" || what != "keyctl") {
			t.Errorf("%s: %s", what, is)
		}
	}
	if n < 58 {
		t.Errorf("only %d calls were tried:\n%s", n, out)
	}
	t.Attr("seen-14", fmt.Sprintf("%d of %d calls: EPERM", strings.Count(out, "EPERM"), n))
}

// TestNothingOfTheHost is attacks 13, 15, 16 and 21.
func TestNothingOfTheHost(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	spec.Image = buildImage(t, d, "USER 0", "RUN cp /usr/bin/id /suid-id && chmod 6755 /suid-id && cp /usr/bin/id /home/jovyan/ && chmod 6755 /home/jovyan/id", "USER 1000:1000")
	h, _ := start(t, d, spec)
	bobs, _ := start(t, d, idle(t, "bob"))
	out := python(t, d, h, `
import errno, glob, os, resource, subprocess
def tried(what, do):
    try:
        do()
        print(what, "worked")
    except OSError as e:
        print(what, errno.errorcode[e.errno])
for path in "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/panic_on_oom", "/proc/irq/default_smp_affinity", \
        "/sys/kernel/uevent_helper", "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/memory.max", \
        "/sys/class/net/lo/mtu", "/etc/passwd", "/usr/local/bin/python3", "/etc/resolv.conf", "/etc/hosts", "/dev/new", "/new":
    tried(path, lambda: open(path, "wb", buffering=0).write(b"1"))
for path in "/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/loop0", "/dev/loop-control", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/dm-0", \
        "/proc/kcore", "/proc/1/root/etc/shadow", "/etc/shadow":
    tried(path, lambda: open(path, "rb").read(1))
for path in "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock":
    tried(path, lambda: os.stat(path))
tried("oom_score", lambda: open("/proc/self/oom_score_adj", "wb", buffering=0).write(b"-900"))
tried("cgroup", lambda: os.mkdir("/sys/fs/cgroup/memory/x"))
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
    print("nofile worked")
except ValueError:
    print("nofile EPERM")
`)
	denied := map[string]int{}
	for line := range strings.Lines(out) {
		what, is, _ := strings.Cut(strings.TrimSpace(line), " ")
		if denied[is]++; is == "worked" {
			t.Errorf("%s is the guest's", what)
		}
	}
	t.Attr("seen-16", fmt.Sprint(denied))
	facts := python(t, d, h, `
import glob, os, resource, subprocess
status = dict(l.split(":\t", 1) for l in open("/proc/self/status").read().splitlines() if ":\t" in l)
for k in "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups":
    print(k, " ".join(status[k].split()))
print("core", *resource.getrlimit(resource.RLIMIT_CORE))
print("suid", subprocess.run(["/suid-id"], capture_output=True, text=True).stdout.strip())
print("processes", sum(1 for p in glob.glob("/proc/[0-9]*")) < 10)
print("devices", *sorted(set(os.listdir("/dev")) - {"core"})) # which some kernels have, a link to what is masked
own = other = 0
for path in glob.glob("/proc/*/environ"):
    try:
        text = open(path).read()
    except OSError:
        continue
    own += "sesame-alice" in text
    other += "sesame-bob" in text
print("tokens", own > 0, other)
`)
	want := `CapInh 0000000000000000
CapPrm 0000000000000000
CapEff 0000000000000000
CapBnd 0000000000000000
CapAmb 0000000000000000
NoNewPrivs 1
Seccomp 2
Uid 1000 1000 1000 1000
Gid 1000 1000 1000 1000
Groups 1000
core 0 0
suid uid=1000(jovyan) gid=1000(jovyan) groups=1000(jovyan)
processes True
devices fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero
tokens True 0`
	if facts != want {
		t.Errorf("inside it looks like this:\n%s\nwant:\n%s", facts, want)
	}
	for nr, about := range map[string]string{"13": "core", "15": "suid", "21": "tokens"} {
		for line := range strings.Lines(facts) {
			if strings.HasPrefix(line, about+" ") {
				t.Attr("seen-"+nr, strings.TrimSpace(line))
			}
		}
	}
	computes(t, d, bobs)
}

// TestWritablePaths is attacks 7 and 8: every place that can be written is full at some point, and
// nothing else can be written.
func TestWritablePaths(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	spec.Limits.Tmp, spec.Limits.Shm = 8<<20, 4<<20
	spec.Image = buildImage(t, d, "USER 0", "RUN mkdir /opt/cache && chown 1000:1000 /opt/cache", "VOLUME /opt/cache /srv/other", "USER 1000:1000")
	h, _ := start(t, d, spec)
	bobs, _ := start(t, d, idle(t, "bob"))
	for _, where := range []string{"/tmp", "/run", "/dev/shm", "/opt/cache", "/srv/other", "/home/jovyan"} {
		word, n, _ := strings.Cut(python(t, d, h, fill, where, "bytes", "no"), " ")
		if bytes, _ := strconv.Atoi(n); word != "ENOSPC" || bytes > 32<<20 {
			t.Errorf("%s: %s after %s bytes", where, word, n)
		}
		t.Attr("seen-8", where+": "+word+" after "+n+" bytes")
	}
	begin := time.Now()
	word := python(t, d, h, fill, "/tmp", "files", "no")
	if !strings.HasPrefix(word, "ENOSPC 6") {
		t.Errorf("/tmp takes files without end: %s", word)
	}
	t.Attr("seen-9", fmt.Sprintf("/tmp: %s files, made and removed in %.1f s", word, time.Since(begin).Seconds()))
	writable, _ := run(t, d, h, "sh", "-c", `find / -xdev \( -path /proc -o -path /sys \) -prune -o -writable ! -type l -print 2>/dev/null; find /dev /sys /opt /srv /var -writable ! -type l ! -path '/dev/pts*' ! -type c -print 2>/dev/null`)
	for path := range strings.Lines(writable) {
		switch path = strings.TrimSpace(path); path {
		case "/tmp", "/run", "/home/jovyan", "/dev/shm", "/dev/mqueue", "/opt/cache", "/srv/other": // all filled above but the queue's, which takes no files
		default:
			t.Errorf("%s is writable", path)
		}
	}
	// A memory file counts as memory: this one asks for more than there is.
	if out, code := run(t, d, h, "python3", "-c", "import os; f = os.memfd_create('x')\nwhile True: os.write(f, b'x' * (1 << 20))"); code != 137 {
		t.Errorf("a memory file without end: exit code %d: %s", code, out)
	}
	out, code := run(t, d, h, "python3", "-c", "import mmap\nkept = []\nwhile True: kept.append(mmap.mmap(-1, 1 << 20)); kept[-1].write(b'x' * (1 << 20))")
	if code != 137 {
		t.Errorf("mappings without end: exit code %d: %s", code, out)
	}
	t.Attr("seen-7", fmt.Sprintf("a memory file without end: killed; mappings without end: exit code %d; tmpfs and /dev/shm: ENOSPC", code))
	c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), d.containerName(spec.Key, spec.Generation))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Mounts {
		if m.Type == "volume" {
			t.Errorf("%s is a volume on the disk, without a cap", m.Destination)
		}
	}
	computes(t, d, h)
	computes(t, d, bobs)
}

// TestBombs is attacks 1, 4, 6, 10.
func TestBombs(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	spec.Limits = hub.Limits{CPUs: 0.25, Memory: 128 << 20, Disk: 32 << 20, PIDs: 40, Files: 300}
	h, _ := start(t, d, spec)
	bobs, _ := start(t, d, idle(t, "bob"))

	if out := python(t, d, h, `
import time
begin, cpu = time.monotonic(), time.process_time()
while time.monotonic() - begin < 2: pass
share = (time.process_time() - cpu) / (time.monotonic() - begin)
print("bounded" if share < 0.4 else share)`); out != "bounded" {
		t.Errorf("a quarter of a CPU gave %s", out)
	} else {
		t.Attr("seen-1", "with a quarter of a CPU: "+out)
	}
	if out := python(t, d, h, `
import errno, os, threading, time
n = 0
try:
    while n < 10000:
        if os.fork() == 0:
            time.sleep(1000)
        n += 1
except OSError as e:
    print("forks", errno.errorcode[e.errno], n < 40)
try:
    threading.Thread(target=print).start()
except RuntimeError:
    print("no thread")`); out != "forks EAGAIN True\nno thread" {
		t.Errorf("a fork bomb: %s", out)
	} else {
		t.Attr("seen-4", "EAGAIN below 40 processes, and no thread")
	}
	computes(t, d, bobs)
	if u, err := d.Usage(t.Context(), h); err != nil || u.PIDs > 40 {
		t.Errorf("%+v, %v", u, err)
	}
	begin := time.Now()
	stop(t, d, h)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("stopping a fork bomb took %v", took)
	} else {
		t.Attr("seen-4", fmt.Sprintf("stopped in %.1f s", took.Seconds()))
	}

	spec.Generation++
	h, _ = start(t, d, spec)
	if out := python(t, d, h, `
import errno, os
files = []
try:
    while len(files) < 10000: files.append(os.open("/dev/null", os.O_RDONLY))
except OSError as e:
    print(errno.errorcode[e.errno], len(files) < 300)`); out != "EMFILE True" {
		t.Errorf("a bomb of files: %s", out)
	} else {
		t.Attr("seen-10", "EMFILE below 300 files")
	}
	// One process of the server's grows too large: it alone dies.
	if out, code := run(t, d, h, "python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))"); code != 137 {
		t.Errorf("a memory bomb ended with %d: %s", code, out)
	} else {
		t.Attr("seen-6", "the bomb alone ends, by SIGKILL")
	}
	computes(t, d, h)
	computes(t, d, bobs)
}

// TestOutOfMemoryBefore: a server that ends for a reason of its own says that, though one of its
// kernels ran out of memory before.
func TestOutOfMemoryBefore(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	spec.Limits.Memory = 64 << 20
	spec.Command = []string{"sh", "-c", `python3 -c "x = []
while True: x.append(bytearray(1 << 20))"; echo "ended with $?"; exit 3`}
	h, _ := start(t, d, spec)
	name, err := d.open(h)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server ends", func() bool {
		c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return !c.State.Running && c.State.OOMKilled // else this tests nothing
	})
	lines, err := d.Logs(t.Context(), h, 9)
	if err != nil || !slices.Contains(lines, "ended with 137") {
		t.Errorf("its kernel: %q, %v", lines, err)
	}
	if st, err := d.Inspect(t.Context(), h); err != nil || st.Reason != "exit code 3" {
		t.Errorf("it ended: %+v, %v", st, err)
	}
}

// TestOutOfMemory: a server whose own process dies of it says so.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	spec.Limits.Memory = 64 << 20
	spec.Command = []string{"python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))"}
	h, _ := start(t, d, spec)
	var st hub.Status
	eventually(t, "the server ends", func() bool {
		var err error
		st, err = d.Inspect(t.Context(), h)
		return err != nil || st.Phase == hub.Failed
	})
	if st.Reason != "out of memory (its limit is 64 MiB)" {
		t.Errorf("it ended: %+v", st)
	}
	t.Attr("seen-6", "a server that is one: "+st.Reason)
	for listed, err := range d.List(t.Context()) {
		if err != nil || listed.Reason != st.Reason {
			t.Errorf("listed: %+v, %v", listed, err)
		}
	}
}

// TestLogFlood is attacks 11 and 12: printing without end fills no disk, and the last lines are still
// to be had.
func TestLogFlood(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	spec.Command = []string{"python3", "-c", `
import sys, time
line = b"\x1b[31m\xff\x00" + b"x" * 100000 + b"\n"
for _ in range(300): sys.stdout.buffer.write(line)
sys.stdout.buffer.write("\u202elast\n".encode())
sys.stdout.flush()
time.sleep(1000)
`}
	h, _ := start(t, d, spec)
	c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), d.containerName(spec.Key, spec.Generation))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last line is there", func() bool {
		lines, err := d.Logs(t.Context(), h, 20)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			if len(l) > maxLogLine || strings.ContainsAny(l, "\x1b\x00\u202e\ufffd") {
				t.Fatalf("a line: %q", l)
			}
		}
		return len(lines) > 0 && lines[len(lines)-1] == "last"
	})
	var total int64
	files, _ := filepath.Glob(c.LogPath + "*")
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			total += info.Size()
		}
	}
	if total == 0 || total > 3<<20 {
		t.Errorf("30 MB were printed, and %d bytes are kept in %d files", total, len(files))
	}
	t.Attr("seen-11", fmt.Sprintf("a log of 30 MB: %d KiB are kept", total>>10))
	t.Attr("seen-12", "in a log: no escape, NUL or broken character is told")
}

// TestIgnoresSIGTERM is attack 5.
func TestIgnoresSIGTERM(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	for _, paused := range []bool{false, true} {
		spec := idle(t, "alice")
		spec.Command = []string{"python3", "-c", "import signal, time\nfor s in signal.SIGTERM, signal.SIGINT, signal.SIGHUP: signal.signal(s, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(1000)"}
		h, _ := start(t, d, spec)
		eventually(t, "it is deaf", func() bool { lines, _ := d.Logs(t.Context(), h, 1); return len(lines) == 1 })
		if paused {
			if err := d.api.on(t.Context()).ContainerPause(t.Context(), d.containerName(spec.Key, spec.Generation)); err != nil {
				t.Fatal(err)
			}
			if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Paused || st.Endpoint.IsZero() {
				t.Errorf("paused: %+v, %v", st, err)
			}
		}
		begin := time.Now()
		if err := d.Stop(t.Context(), h, 1500*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 1500*time.Millisecond || took > 20*time.Second {
			t.Errorf("it was given 1.5 s, and stopped after %v", took)
		} else {
			t.Attr("seen-5", fmt.Sprintf("paused %v: gone after %.1f s of 1.5", paused, took.Seconds()))
		}
		if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Absent {
			t.Errorf("after the stop: %+v, %v", st, err)
		}
	}
}
