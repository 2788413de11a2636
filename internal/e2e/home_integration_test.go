//go:build integration

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// guideBlock is one of the operator guide's blocks of commands, by its first line.
func guideBlock(t *testing.T, first string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operator-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```sh\n"+first+"\n")
	block, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatalf("the guide has no block that begins with %q", first)
	}
	return block
}

// follow runs commands of the guide with this deployment's places; what systemctl does there, the test does.
func (d *deployment) follow(block, backup string) {
	d.t.Helper()
	block = strings.NewReplacer("/etc/carrel/carrel.yaml", d.config, "/var/lib/carrel", filepath.Join(d.dir, "state"), "/backup", backup).Replace(block)
	export, rest, _ := strings.Cut(block, "\n")
	systemctl := regexp.MustCompile(`(?m)^systemctl (stop|start) carrel$`)
	for {
		at := systemctl.FindStringSubmatchIndex(rest)
		script := rest
		if at != nil {
			script = rest[:at[0]]
		}
		cmd := exec.Command("sh", "-euc", export+"\n"+script)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "not exported") {
			d.t.Fatalf("%v: %s\nin\n%s", err, out, script)
		}
		if at == nil {
			return
		}
		if rest[at[2]:at[3]] == "stop" {
			d.signal(syscall.SIGTERM)
			d.wait(time.Minute)
		} else {
			d.start()
			d.waitReady()
		}
		rest = rest[at[1]:]
	}
}

// TestGuidesBackup: the guide's commands back a deployment up while people work, and bring it back on a machine
// that has nothing of it: files, names and sessions.
func TestGuidesBackup(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\n"})
	alice, bob := d.person("alice"), d.person("bob")
	for _, p := range []*person{alice, bob} {
		p.signIn()
		p.start("")
		p.newKernel().run("open('mine.txt','w').write('" + p.name + "')")
	}
	bob.stop()
	backup := filepath.Join(d.dir, "backup")
	d.follow(guideBlock(t, "# backup"), backup)
	if out := alice.newKernel().run("print(open('mine.txt').read())"); out != "alice" {
		t.Errorf("after the backup, alice's server says %q", out)
	}

	d.signal(syscall.SIGTERM)
	d.wait(time.Minute)
	if out, code := carrel(t, 2*time.Minute, "down", "--volumes", "--config", d.config); code != 0 {
		t.Fatalf("down: %s", out)
	}
	if err := os.RemoveAll(filepath.Join(d.dir, "state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(d.config); err != nil {
		t.Fatal(err)
	}

	d.follow(guideBlock(t, "# restore"), backup)
	for _, p := range []*person{alice, bob} {
		if status, body := p.api(http.MethodGet, "/user", ""); status != http.StatusOK {
			t.Errorf("%s is signed out: %d %s", p.name, status, body)
		}
		eventually(t, 30*time.Second, "the hub has seen that nothing runs here", func() bool { return !p.runs() })
		p.start("")
		if out := p.newKernel().run("print(open('mine.txt').read())"); out != p.name {
			t.Errorf("%s finds %q", p.name, out)
		}
	}
}

// TestHomeCommands: what they say, and what they refuse.
func TestHomeCommands(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\n"})
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	alice.newKernel().run("open('mine.txt','w').write('first')")
	run := func(args ...string) (string, int) {
		t.Helper()
		return carrel(t, 2*time.Minute, append(append([]string{"home"}, args...), "--config", d.config)...)
	}
	refused := func(says string, args ...string) {
		t.Helper()
		if out, code := run(args...); code == 0 || !strings.Contains(out, says) || !strings.Contains(out, "what to do:") {
			t.Errorf("home %v: exit code %d\n%s", args, code, out)
		}
	}
	archive := filepath.Join(d.dir, "alice.tar.gz")
	if out, code := run("list"); code != 0 || !regexp.MustCompile(`(?m)^alice +\S+ +loop +\d+\.\dGiB +\d+\.\d[KM]iB +\d+ +20\d\d-\S+ \S+ +alice \(running\)$`).MatchString(out) {
		t.Errorf("list: exit code %d\n%s", code, out)
	}
	if out, code := run("list", "--names"); code != 0 || out != "alice\n" {
		t.Errorf("list --names: exit code %d\n%s", code, out)
	}
	if out, code := run("list", "--json"); code != 0 || !strings.Contains(out, `"user":"alice"`) || !strings.Contains(out, `"servers":[{"server":"alice","state":"running"}]`) {
		t.Errorf("list --json: exit code %d\n%s", code, out)
	}
	refused("a server with this home runs", "export", "alice", archive)
	if _, err := os.Stat(archive); err == nil {
		t.Error("an export that was refused left a file")
	}
	refused("does not tell how", "export", "alice", filepath.Join(d.dir, "alice.rar"))
	refused("no such compression", "export", "alice", archive, "--compress", "lzma")
	refused("nobody has signed in as", "export", "zoe", archive)
	refused("user name", "export", "../alice", archive)
	refused("a server with this home is there", "import", "alice", d.config)
	if out, code := run("export", "alice", archive, "--pause"); code != 0 {
		t.Fatalf("export: exit code %d\n%s", code, out)
	}
	if info, err := os.Stat(archive); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive: %v, %v", info, err)
	}
	if out, err := exec.Command("tar", "-xzOf", archive, "./mine.txt").CombinedOutput(); err != nil || string(out) != "first" {
		t.Errorf("tar finds %q, %v", out, err)
	}
	alice.newKernel().run("open('mine.txt','w').write('second')")
	alice.stop()

	refused("has a home already", "import", "alice", archive)
	refused("there is no file", "import", "alice", filepath.Join(d.dir, "none.tar"))
	refused("not look like a tar archive", "import", "alice", d.config, "--replace")
	if out, code := run("import", "alice", archive, "--replace", "--merge"); code == 0 {
		t.Errorf("both ways at once: %s", out)
	}
	if out, code := run("import", "alice", archive, "--replace"); code != 0 || out != "The archive is in alice's home.\n" {
		t.Fatalf("import: exit code %d\n%s", code, out)
	}
	alice.start("")
	if out := alice.newKernel().run("print(open('mine.txt').read())"); out != "first" {
		t.Errorf("alice finds %q", out)
	}

	config, err := os.ReadFile(d.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.config, []byte(strings.Replace(string(config), "spawner:\n", "spawner:\n  docker:\n    home_kind: volume\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a server with this home is there", "move", "alice")
	refused("not said whose", "move")
	alice.stop()
	if out, code := run("move", "--all"); code != 0 || out != "alice's home is moved.\n" {
		t.Fatalf("move: exit code %d\n%s", code, out)
	}
	if out, code := run("move", "alice"); code != 0 || !strings.Contains(out, "already") {
		t.Errorf("a second move: exit code %d\n%s", code, out)
	}
	refused("only the kind loop can grow", "grow", "alice", "1TiB")
	if out, code := run("list"); code != 0 || !regexp.MustCompile(`(?m)^alice +\S+ +volume `).MatchString(out) || strings.Contains(out, "loop") {
		t.Errorf("list: exit code %d\n%s", code, out)
	}
	alice.start("") // by the hub that runs, whose configuration is the one from before
	if out := alice.newKernel().run("print(open('mine.txt').read())"); out != "first" {
		t.Errorf("in the moved home alice finds %q", out)
	}
}
