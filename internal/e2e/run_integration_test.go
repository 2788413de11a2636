//go:build integration

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// runsOn lets code be run.
const runsOn = `
spawner: {kernel_check: false}
runs: {enabled: true, concurrent: 2}
profiles:
  - {name: small, default: true, memory: 512MiB, disk: 64MiB}
`

// runToken makes a token for runs, and gives the file that it is in.
func (p *person) runToken() string {
	p.t.Helper()
	status, made := p.api(http.MethodPost, "/users/"+p.name+"/tokens", `{"note":"runs","scopes":["runs"]}`)
	if status != http.StatusCreated {
		p.t.Fatalf("%d %v", status, made)
	}
	file := filepath.Join(p.d.dir, "token-"+p.name)
	if err := os.WriteFile(file, []byte(fmt.Sprint(made["token"], "\n")), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return file
}

// runsHere counts the containers of runs.
func (d *deployment) runsHere() int {
	d.t.Helper()
	out, err := exec.Command("docker", "ps", "-aq", "--filter", "label=dev.carrel.deployment="+d.name, "--filter", "label=dev.carrel.run").Output()
	if err != nil {
		d.t.Fatal(err)
	}
	return len(strings.Fields(string(out)))
}

// carrelRun gives what `carrel run` prints on both streams, and its exit code.
func carrelRun(t *testing.T, stdin string, args ...string) (out, errOut string, code int) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"run"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// Code goes in and output comes out: through the proxy, with a token, by curl's call and by carrel run.
func TestRun(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: runsOn})
	alice, bob := d.person("alice"), d.person("bob")
	alice.signIn()
	bob.signIn()
	token := alice.runToken()
	at := []string{"--url", d.url, "--token-file", token}
	script := filepath.Join(d.dir, "script.py")
	if err := os.WriteFile(script, []byte("import sys\nprint(6*7, sys.argv[1:], sys.stdin.buffer.read())\nprint('aside', file=sys.stderr)\nsys.exit(3)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := carrelRun(t, "in\x00\xff", append(at, "--stdin", script, "-x", "--memory")...)
	if code != 3 || out != "42 ['-x', '--memory'] b'in\\x00\\xff'\n" || errOut != "aside\n" {
		t.Errorf("exit code %d, %q, %q", code, out, errOut)
	}
	if out, errOut, code := carrelRun(t, "print('from stdin')", append(at, "-")...); code != 0 || out != "from stdin\n" || errOut != "" {
		t.Errorf("exit code %d, %q, %q", code, out, errOut)
	}
	for want, args := range map[string][]string{
		"wall_time": {"--time", "2s"}, "cpu_time": {"--cpu-time", "1s"}, "limits.memory": {"--memory", "100GiB"}, "processes": {"--limit", "threads=1"},
	} {
		program := "while True: pass"
		if want == "wall_time" {
			program = "import time; time.sleep(1000)"
		}
		wantCode := 124
		if !strings.HasSuffix(want, "_time") {
			wantCode = 125
		}
		if out, errOut, code := carrelRun(t, program, append(append(at, args...), "-")...); code != wantCode || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("%v: exit code %d, %q, %q", args, code, out, errOut)
		}
	}
	status, made := alice.api(http.MethodPost, "/runs", `{"code":"import time; print(1, flush=True); time.sleep(1000)","wait_seconds":0}`)
	if status != http.StatusAccepted {
		t.Fatalf("%d %v", status, made)
	}
	mine := "/runs/" + fmt.Sprint(made["id"])
	if status, _ := bob.api(http.MethodGet, mine, ""); status != http.StatusNotFound {
		t.Errorf("bob is told of alice's run: %d", status)
	}
	eventually(t, time.Minute, "it runs", func() bool {
		_, r := alice.api(http.MethodGet, mine, "")
		return r["status"] == "running" && d.runsHere() == 1
	})
	if status, _ := alice.api(http.MethodDelete, mine, ""); status != http.StatusNoContent {
		t.Errorf("end it: %d", status)
	}
	eventually(t, time.Minute, "nothing is left", func() bool { return d.runsHere() == 0 })

	// A caller who goes away takes the run along.
	cmd := exec.Command(binary, append(append([]string{"run"}, at...), "-")...)
	cmd.Stdin = strings.NewReader("import time; time.sleep(1000)")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "it runs", func() bool { return d.runsHere() == 1 })
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("interrupted: exit code %d", code)
	}
	eventually(t, time.Minute, "nothing is left", func() bool { return d.runsHere() == 0 })
}

// Many at once: each caller gets the output of their own program, or is told to come later, and nothing is left.
func TestRunsTogether(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: strings.Replace(runsOn, "concurrent: 2", "concurrent: 4, per_person: 8, line: 12", 1)})
	var people []*person
	for _, name := range []string{"alice", "bob", "admin"} {
		p := d.person(name)
		p.signIn()
		people = append(people, p)
	}
	var done, later atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for i := range 30 {
		all.Go(func() {
			p := people[i%len(people)]
			want := fmt.Sprintf("%s %d\n", p.name, i)
			status, r := p.api(http.MethodPost, "/runs", fmt.Sprintf(`{"code":"import sys\nprint(*sys.argv[1:])","argv":[%q,"%d"],"wait_seconds":60}`, p.name, i))
			switch {
			case status == http.StatusCreated && r["stdout"] == want && r["status"] == "finished":
				done.Add(1)
			case status == http.StatusTooManyRequests:
				later.Add(1)
			default:
				t.Errorf("%s's run %d: %d %v", p.name, i, status, r)
			}
		})
	}
	all.Wait()
	t.Logf("%d runs in %v, %d told to come later", done.Load(), time.Since(began), later.Load())
	if done.Load() < 16 || done.Load()+later.Load() != 30 || later.Load() < 6 {
		t.Errorf("%d done, %d told to come later", done.Load(), later.Load())
	}
	if n := d.runsHere(); n > 0 {
		t.Errorf("%d are left", n)
	}
}

// A hub that is killed in the middle leaves nothing, once the next is there, and its run's record says so.
func TestRunOfAKilledHub(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: runsOn})
	alice := d.person("alice")
	alice.signIn()
	status, made := alice.api(http.MethodPost, "/runs", `{"code":"import time; time.sleep(1000)","wait_seconds":0,"limits":{"wall_seconds":100}}`)
	if status != http.StatusAccepted {
		t.Fatalf("%d %v", status, made)
	}
	eventually(t, time.Minute, "it runs", func() bool { return d.runsHere() == 1 })
	d.signal(syscall.SIGKILL)
	d.wait(time.Minute)
	d.start()
	d.waitReady()
	eventually(t, time.Minute, "nothing is left", func() bool { return d.runsHere() == 0 })
	eventually(t, time.Minute, "its record says so", func() bool {
		status, r := alice.api(http.MethodGet, "/runs/"+fmt.Sprint(made["id"]), "")
		return status == http.StatusOK && r["status"] == "failed" && strings.Contains(fmt.Sprint(r["message"]), "killed")
	})
	if out, errOut, code := carrelRun(t, "print('again')", "--url", d.url, "--token-file", alice.runToken(), "-"); code != 0 || out != "again\n" {
		t.Errorf("afterwards: exit code %d, %q, %q", code, out, errOut)
	}
}
