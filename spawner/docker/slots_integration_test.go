//go:build integration

package docker

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"

	"carrel/hub"
)

// keep has slots wait, and fails the test when they can't.
func keep(t *testing.T, d *Driver, spec hub.Spec, spare int) {
	t.Helper()
	if err := d.KeepSlots(t.Context(), []hub.SlotWant{{Shape: spec, Spare: spare}}); err != nil {
		t.Fatal(err)
	}
}

// TestSlotsAreMadeBehindOthers: several at once, with a small part of the processor until they are ready, and
// then with a server's.
func TestSlotsAreMadeBehindOthers(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	made := make(chan error, 1)
	go func() {
		made <- d.KeepSlots(t.Context(), []hub.SlotWant{{Shape: testSpec(t, "alice"), Spare: 2}})
	}()
	light, atOnce := false, 0
	for going := true; going; {
		select {
		case err := <-made:
			if err != nil {
				t.Fatal(err)
			}
			going = false
		case <-time.After(20 * time.Millisecond):
			shares := d.slotShares(t)
			light = light || slices.Contains(shares, madeWeight)
			atOnce = max(atOnce, len(shares)-len(d.slots.ready()))
		}
	}
	if !light || atOnce < min(2, runtime.NumCPU()) {
		t.Errorf("made with a small part of the processor: %v; at most %d at once", light, atOnce)
	}
	if shares := d.slotShares(t); !slices.Equal(shares, []int64{fullWeight, fullWeight}) {
		t.Errorf("ready, they have shares of %v", shares)
	}
}

// TestAShapeThatAils keeps no other from being made.
func TestAShapeThatAils(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	good, bad := testSpec(t, "alice"), testSpec(t, "bob")
	bad.Mounts = []hub.Mount{{Source: filepath.Join(t.TempDir(), "gone"), Target: "/data"}}
	err := d.KeepSlots(t.Context(), []hub.SlotWant{{Shape: bad, Spare: 2 * runtime.NumCPU()}, {Shape: good, Spare: 1}})
	if err == nil || len(d.slots.ready()) != 1 {
		t.Errorf("%d slots are ready, %v", len(d.slots.ready()), err)
	}
	claimOne(t, d, good)
}

// slotShares are the parts of the processor that the slots there are may have.
func (d *Driver) slotShares(t *testing.T) (shares []int64) {
	t.Helper()
	all, err := d.labelled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if !d.isSlot(c.Labels) {
			continue
		}
		is, err := d.api.on(t.Context()).ContainerInspect(t.Context(), c.ID)
		if isNotFound(err) {
			continue // Docker lists one a moment before it is there
		}
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, is.HostConfig.CPUShares)
	}
	return shares
}

// claimOne claims a slot and gives the server's status.
func claimOne(t *testing.T, d *Driver, spec hub.Spec) (hub.Handle, hub.Status) {
	t.Helper()
	h, err := d.ClaimSlot(t.Context(), spec)
	if err != nil {
		t.Fatalf("claim: %v", err)
	}
	st, err := d.Inspect(t.Context(), h)
	if err != nil || st.Phase != hub.Ready || st.Endpoint.IsZero() || st.UserID != spec.UserID || st.Key != spec.Key || st.Generation != spec.Generation {
		t.Fatalf("inspect: %+v, %v", st, err)
	}
	return h, st
}

// ask asks a server over its unix socket, once, and waits for its answer.
func ask(t *testing.T, e hub.Endpoint, path, token string) (int, string) {
	t.Helper()
	conn, err := net.DialTimeout("unix", strings.TrimPrefix(e.String(), "unix://"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://slot"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "token "+token)
	}
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// A slot becomes a person's server with their home, their limits and walls, and answers at once;
// what they write is there in the next server, be it cold or a slot again.
func TestSlotBecomesAServer(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := testSpec(t, "alice")
	spec.Env = map[string]string{"GREETING": "hello"}
	keep(t, d, spec, 1)
	began := time.Now()
	h, st := claimOne(t, d, spec)
	claimed := time.Since(began)
	if code, body := ask(t, st.Endpoint, spec.BasePath+"lab", spec.Token.Reveal()); code != http.StatusOK || !strings.Contains(body, "jupyter-config-data") {
		t.Fatalf("/lab: status %d, %.300s", code, body)
	}
	t.Logf("claimed in %v, /lab after %v", claimed, time.Since(began))
	if code, _ := ask(t, st.Endpoint, spec.BasePath+"api/contents", ""); code != http.StatusForbidden {
		t.Errorf("without a token: status %d", code)
	}
	var seen struct {
		Home     string   `json:"home"`
		Bytes    int64    `json:"bytes"`
		Writable []string `json:"writable"`
		Links    []string `json:"links"`
		Token    bool     `json:"token"`
		Cwd      string   `json:"cwd"`
	}
	const look = `
import json, os, pathlib
home = os.environ["HOME"]
pathlib.Path(home, "mine.txt").write_text("of alice")
stat = os.statvfs(home)
server = next(p for p in os.listdir("/proc") if p.isdigit() and b"carrel-slot" in open(f"/proc/{p}/cmdline", "rb").read() and b"tini" not in open(f"/proc/{p}/cmdline", "rb").read())
writable = [d for d in ("/", "/usr/local", "/run/carrel", "/etc") if os.access(d, os.W_OK)]
print(json.dumps({"home": home, "bytes": stat.f_blocks * stat.f_frsize, "writable": writable, "links": os.listdir("/sys/class/net"),
    "token": "sesame" in open(f"/proc/{server}/environ").read() + open(f"/proc/{server}/cmdline").read(), "cwd": os.readlink(f"/proc/{server}/cwd")}))
`
	if err := json.Unmarshal([]byte(python(t, d, h, look)), &seen); err != nil {
		t.Fatal(err)
	}
	if seen.Home != spec.Home || seen.Bytes > spec.Limits.Disk || seen.Bytes < spec.Limits.Disk/2 || len(seen.Writable) > 0 || len(seen.Links) != 1 || seen.Token || seen.Cwd != spec.Home {
		t.Errorf("inside it is %+v", seen)
	}
	if _, err := d.ClaimSlot(t.Context(), testSpec(t, "bob")); hub.KindOf(err) != hub.NotFound {
		t.Errorf("a second claim of the only slot: %v", err)
	}
	absent := testSpec(t, "bob")
	absent.Image = "carrel.invalid/no-such-image:1"
	if _, err := d.ClaimSlot(t.Context(), absent); hub.KindOf(err) != hub.NotFound {
		t.Errorf("a claim with an image that is not here: %v", err) // a cold start fetches it, with its progress shown
	}
	const talk = `
import errno, socket
s = socket.socket(socket.AF_UNIX)
print(errno.errorcode[s.connect_ex("/run/carrel/control.sock")])
`
	if got := python(t, d, h, talk); got != "ECONNREFUSED" {
		t.Errorf("the control socket of a slot that is a server says %s", got)
	}
	stop(t, d, h)
	if mounted(d.homes.mountPoint(spec.UserID)) {
		t.Error("the home is mounted after the stop")
	}
	spec.Generation = 2
	h, _ = start(t, d, spec)
	if got := python(t, d, h, `print(open("/home/jovyan/mine.txt").read())`); got != "of alice" {
		t.Errorf("a cold server finds %q", got)
	}
	stop(t, d, h)
	spec.Generation = 3
	keep(t, d, spec, 1)
	h, _ = claimOne(t, d, spec)
	if got := python(t, d, h, `print(open("/home/jovyan/mine.txt").read())`); got != "of alice" {
		t.Errorf("a slot finds %q", got)
	}
	stop(t, d, h)
}

// execute starts a kernel of a server and runs code in it; the time is that from asking for a kernel to
// its output.
func execute(t *testing.T, e hub.Endpoint, spec hub.Spec, code string) (string, time.Duration) {
	t.Helper()
	path := strings.TrimPrefix(e.String(), "unix://")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	began := time.Now()
	client := &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://slot"+spec.BasePath+"api/kernels", strings.NewReader(`{"name":"python3"}`))
	if err != nil {
		t.Fatal(err)
	}
	auth := http.Header{"Authorization": {"token " + spec.Token.Reveal()}}
	req.Header = auth.Clone()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var k struct {
		ID string `json:"id"`
	}
	if err := json.NewDecoder(res.Body).Decode(&k); err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("kernel: status %d, %v", res.StatusCode, err)
	}
	ws := websocket.Dialer{NetDialContext: dial, HandshakeTimeout: time.Minute}
	conn, answer, err := ws.DialContext(t.Context(), "ws://slot"+spec.BasePath+"api/kernels/"+k.ID+"/channels", auth)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	defer conn.Close()
	message := map[string]any{
		"header":        map[string]string{"msg_id": "m1", "msg_type": "execute_request", "session": "s", "username": "u", "version": "5.3"},
		"parent_header": map[string]string{}, "metadata": map[string]string{}, "channel": "shell",
		"content": map[string]any{"code": code, "silent": false, "store_history": true, "user_expressions": map[string]string{}, "allow_stdin": false},
	}
	if err := conn.WriteJSON(message); err != nil {
		t.Fatal(err)
	}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		var m struct {
			Header struct {
				Type string `json:"msg_type"`
			} `json:"header"`
			Content struct {
				Text, Evalue string
			} `json:"content"`
		}
		if err := conn.ReadJSON(&m); err != nil {
			t.Fatal(err)
		}
		switch m.Header.Type {
		case "stream":
			return strings.TrimSpace(m.Content.Text), time.Since(began)
		case "error":
			t.Fatalf("the kernel failed: %s", m.Content.Evalue)
		}
	}
}

const kernelSays = `
import os, sys, IPython
shell = IPython.get_ipython()
print(os.getppid() != 1, os.getcwd(), os.environ.get("GREETING"), "CARREL_TOKEN" in os.environ, os.environ["HOME"],
    str(shell.history_manager.hist_file).startswith(os.environ["HOME"]), globals().get("mine"), any(".local/lib" in p for p in sys.path), "carrel_slot.kernel" in open("/proc/self/cmdline").read())
`

// oneWaits tells whether a kernel reads from its pipe whose it is, which it does once it is ready.
const oneWaits = `
import os
def waits(pid):
    try:
        args = open(f"/proc/{pid}/cmdline").read().split("\0")[:-1]
        return "carrel_slot.kernel" in args and "pipe_read" in open(f"/proc/{pid}/wchan").read()
    except OSError:
        return False
print(any(waits(pid) for pid in os.listdir("/proc") if pid.isdigit()))
`

// The first kernel waited too, and so does one more, which is made then: it answers at once, and is where
// and what one is that was started then. The next is started as ever.
func TestSpareKernel(t *testing.T) { //nolint:tparallel // its parts come one after another
	t.Parallel()
	d := newDriver(t)
	spec := testSpec(t, "alice")
	spec.Env = map[string]string{"GREETING": "hello"}
	for home, prepare := range map[string]string{
		"an empty home":                 "",
		"packages of one's own":         `import site, os; os.makedirs(site.getusersitepackages() + "/mine")`,
		"its own version of a package":  `import comm, shutil, site; shutil.copytree(comm.__path__[0], site.getusersitepackages() + "/comm")`,
		"a startup file of one's own":   `import os; p = os.path.expanduser("~/.ipython/profile_default/startup"); os.makedirs(p); open(p + "/00.py", "w").write("mine = 42")`,
		"configuration of the kernel's": `import os; p = os.path.expanduser("~/.ipython/profile_default"); os.makedirs(p, exist_ok=True); open(p + "/ipython_kernel_config.py", "w").write("c.InteractiveShellApp.exec_lines = ['mine = 42']")`,
	} {
		t.Run(home, func(t *testing.T) {
			spec := spec
			spec.Key, spec.UserID = key(t, "alice", ""), hub.UserID("u"+strings.ToLower(rand.Text()[:8]))
			if prepare != "" {
				h, _ := start(t, d, spec)
				python(t, d, h, prepare)
				stop(t, d, h)
			}
			spec.Generation = 2
			keep(t, d, spec, 1)
			h, st := claimOne(t, d, spec)
			defer stop(t, d, h)
			if code, _ := ask(t, st.Endpoint, spec.BasePath+"api", ""); code != http.StatusOK {
				t.Fatalf("status %d", code)
			}
			mine := strings.Contains(prepare, "mine = 42")
			customised := mine || strings.Contains(prepare, "comm") // a new Python takes over
			want := "True /home/jovyan hello False /home/jovyan True " + map[bool]string{true: "42", false: "None"}[mine]
			for i, waited := range []bool{!customised, !customised, false} {
				if i == 1 {
					eventually(t, "another kernel waits", func() bool { return python(t, d, h, oneWaits) == "True" })
				}
				out, took := execute(t, st.Endpoint, spec, kernelSays)
				t.Logf("kernel %d answers in %v", i, took)
				if !strings.HasPrefix(out, want) || strings.HasSuffix(out, "True") != waited {
					t.Errorf("kernel %d says %q, want %q and %v at its end", i, out, want, waited)
				}
			}
			if lines, err := d.Logs(t.Context(), h, 100); err != nil || strings.Contains(strings.Join(lines, "\n"), "restarting kernel") {
				t.Errorf("a kernel died: %v, %s", err, strings.Join(lines, "\n"))
			}
		})
	}
}

// One slot is claimed by one of many at once; the others are told that there is none.
// TestSlotWithAHomeInMemory has it from the start, with its own caps; nothing is mounted at the claim, and
// the next slot's is empty.
func TestSlotWithAHomeInMemory(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := testSpec(t, "alice")
	spec.HomeKind, spec.Limits.Disk = hub.HomeTmpfs, 24<<20
	for _, user := range []string{"alice", "bob"} {
		next := testSpec(t, user)
		next.HomeKind, next.Limits.Disk = spec.HomeKind, spec.Limits.Disk
		keep(t, d, spec, 1)
		h, st := claimOne(t, d, next)
		if code, body := ask(t, st.Endpoint, next.BasePath+"lab", next.Token.Reveal()); code != http.StatusOK {
			t.Fatalf("/lab: status %d, %.300s", code, body)
		}
		const look = `
import os
s = os.statvfs("/home/jovyan")
print(s.f_blocks * s.f_frsize >> 20, sorted(n for n in os.listdir("/home/jovyan") if not n.startswith(".")))
open("/home/jovyan/mine.txt", "w").write("of somebody")
`
		if got := python(t, d, h, look); got != "24 []" {
			t.Errorf("%s's home: %s", user, got)
		}
		if mounted(d.homes.mountPoint(next.UserID)) {
			t.Errorf("%s has a home on disk", user)
		}
		stop(t, d, h)
	}
}

func TestOneOfManyClaims(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	keep(t, d, testSpec(t, "alice"), 2)
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]hub.Handle{}
	for _, user := range []string{"alice", "bob", "carol", "dave", "erin"} {
		spec := testSpec(t, user)
		wg.Go(func() {
			h, err := d.ClaimSlot(t.Context(), spec)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				got[user] = h
			case hub.KindOf(err) != hub.NotFound:
				t.Errorf("%s: %v", user, err)
			}
		})
	}
	wg.Wait()
	if len(got) != 2 {
		t.Fatalf("%d claimed two slots", len(got))
	}
	t.Attr("seen-22", "of five who claim two slots two get one each")
	for user, h := range got {
		if name := python(t, d, h, `import os; print(os.stat(os.environ["HOME"]).st_uid)`); name != "1000" {
			t.Errorf("%s's home belongs to %s", user, name)
		}
		stop(t, d, h)
	}
}

// Slots of a process that ended are adopted by the next, or go when nobody wants them.
func TestSlotsOutliveTheHub(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := testSpec(t, "alice")
	keep(t, d, spec, 2)
	before := slotContainers(t, d)
	d.Close()
	next := reopen(t, d.cfg)
	keep(t, next, spec, 2)
	if after := slotContainers(t, next); len(after) != 2 || after[0] != before[0] || after[1] != before[1] {
		t.Errorf("before it were %v, after it %v", before, after)
	}
	eventually(t, "an adopted slot is ready", func() bool {
		h, err := next.ClaimSlot(t.Context(), spec)
		if err == nil {
			stop(t, next, h)
		}
		return err == nil
	})
	other := spec
	other.Limits.Memory += 64 << 20
	if err := next.KeepSlots(t.Context(), []hub.SlotWant{{Shape: other, Spare: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := next.ClaimSlot(t.Context(), spec); hub.KindOf(err) != hub.NotFound {
		t.Errorf("a slot of a shape that nobody wants: %v", err)
	}
	if n := len(slotContainers(t, next)); n != 1 {
		t.Errorf("%d slots wait, want 1", n)
	}
}

func slotContainers(t *testing.T, d *Driver) (ids []string) {
	t.Helper()
	all, err := d.labelled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if strings.Contains(c.Names[0], "-slot-") {
			ids = append(ids, c.ID)
		}
	}
	if len(ids) == 2 && ids[0] > ids[1] {
		ids[0], ids[1] = ids[1], ids[0]
	}
	return ids
}

func logsOf(t *testing.T, d *Driver, id string) string {
	t.Helper()
	c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := d.Logs(context.WithoutCancel(t.Context()), d.handle(strings.TrimPrefix(c.Name, "/")), 10)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// A home that brings its own version of what the server is made of, and a safe start, get a Python
// that was started with it; packages in the home come before the image's.
func TestHomeDecidesAgain(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := testSpec(t, "alice")
	h, _ := start(t, d, spec)
	python(t, d, h, `
import os, site
user = site.getusersitepackages()
os.makedirs(user + "/mine")
open(user + "/mine/__init__.py", "w").write("x = 1")
os.makedirs(os.path.expanduser("~/.jupyter"))
open(os.path.expanduser("~/.jupyter/jupyter_server_config.py"), "w").write("import mine; c.ServerApp.max_body_size = 1234; open('/tmp/read', 'w').write(mine.__file__)")
`)
	stop(t, d, h)
	spec.Generation++
	keep(t, d, spec, 1)
	h, st := claimOne(t, d, spec)
	if code, _ := ask(t, st.Endpoint, spec.BasePath+"api", ""); code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	if got := python(t, d, h, `print(open("/tmp/read").read())`); !strings.HasPrefix(got, "/home/jovyan/.local/lib/python3") {
		t.Errorf("the home's configuration found its package at %q", got)
	}
	python(t, d, h, `
import site, os
os.makedirs(site.getusersitepackages() + "/tornado")
`)
	stop(t, d, h)
	spec.Generation++
	keep(t, d, spec, 1)
	h, _ = claimOne(t, d, spec)
	eventually(t, "a new Python is the server", func() bool {
		out, _ := run(t, d, h, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
		return strings.Contains(out, "carrel_server.launch") && !strings.Contains(out, "bin/carrel-slot -P")
	})
	stop(t, d, h)
	spec.SafeStart = true
	spec.Generation++
	keep(t, d, spec, 1)
	if _, err := d.ClaimSlot(t.Context(), spec); hub.KindOf(err) != hub.NotFound {
		t.Errorf("a safe start from a slot: %v", err)
	}
}

// TestSlotsShareOneMount: slots that are made at once share their directory's one mount. A second would hide homes
// from slots on the first, and keep the directory from being removed.
func TestSlotsShareOneMount(t *testing.T) {
	t.Parallel()
	for range 5 {
		d := newDriver(t)
		var together errgroup.Group
		for i := range 8 {
			together.Go(func() error { return d.makeSlotDir(fmt.Sprintf("%016x", i)) })
		}
		if err := together.Wait(); err != nil {
			t.Error(err)
		}
		table, err := os.ReadFile("/proc/self/mountinfo")
		if n := strings.Count(string(table), " "+d.slotsDir()+" "); err != nil || n != 1 {
			t.Errorf("%d mounts, %v", n, err)
		}
	}
}
