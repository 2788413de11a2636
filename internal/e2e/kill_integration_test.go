//go:build integration

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// rounds is how often the kills are made: CARREL_KILL_ROUNDS, or 2.
func rounds(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("CARREL_KILL_ROUNDS"))
	if err != nil || n < 1 {
		return 2
	}
	t.Logf("%d rounds", n)
	return n
}

// desk is one person's running notebook with a variable in its kernel.
type desk struct {
	*person
	kernel string
	secret string
}

// seat signs people in and gives each a kernel with a variable.
func seat(t *testing.T, d *deployment, n int) []desk {
	t.Helper()
	desks := make([]desk, n)
	for i := range desks {
		p := d.person(fmt.Sprintf("person%d", i))
		p.signIn()
		if status, out := p.api("POST", "/users/"+p.name+"/server", ""); status != 202 && status != 201 {
			t.Fatalf("start: status %d, %v", status, out)
		}
		desks[i] = desk{person: p, secret: strconv.FormatUint(rand.Uint64(), 36)}
	}
	for i := range desks {
		desks[i].waitReady(3 * time.Minute)
		desks[i].enter()
		k := desks[i].newKernel()
		desks[i].kernel = k.id
		k.run("x = '" + desks[i].secret + "'")
		k.conn.Close()
	}
	return desks
}

// unharmed checks that every desk is signed in, answers, and still has its variable, and that each
// person has exactly one container.
func unharmed(t *testing.T, d *deployment, desks []desk, after string) {
	t.Helper()
	for _, p := range desks {
		eventually(t, 20*time.Second, p.name+" answers after "+after, func() bool {
			status, _ := p.jupyter("GET", "api/kernels/"+p.kernel, "")
			return status == 200
		})
		k := p.openKernel(p.kernel)
		if out := k.run("print(x)"); out != p.secret {
			t.Fatalf("after %s, %s's variable reads %q, want %q", after, p.name, out, p.secret)
		}
		k.conn.Close()
	}
	if names := d.containers(); len(names) != len(desks) {
		t.Fatalf("after %s there are %d containers for %d people: %v", after, len(names), len(desks), names)
	}
}

// containers are the names of the deployment's, running or ended.
func (d *deployment) containers() []string {
	d.t.Helper()
	cmd := exec.Command("docker", "ps", "-a", "--format", "{{.Names}}", "--filter", "name=carrel-"+d.name+"-")
	if d.docker != "" {
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.docker)
	}
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatal(err)
	}
	// Others are nobody's yet, or no servers.
	return slices.DeleteFunc(strings.Fields(string(out)), func(name string) bool { return !serverName.MatchString(name) })
}

// serverName ends the name of a server's container.
var serverName = regexp.MustCompile(`-[0-9a-f]{24}-g[0-9]+$`)

// peopleNamed is the configuration of demo people that seat signs in.
func peopleNamed(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("person%d", i)
	}
	return "demo:\n  people: [" + strings.Join(names, ", ") + "]\n"
}

// kill -9 of the hub, of its proxy and of Redis while ten notebooks run: nothing is lost.
func TestKills(t *testing.T) {
	t.Parallel()
	const people = 10
	d := deploy(t, options{extra: peopleNamed(people) + "spawner:\n  kernel_check: false\n"})
	desks := seat(t, d, people)
	for round := range rounds(t) {
		d.signal(syscall.SIGKILL)
		d.wait(10 * time.Second)
		d.start()
		d.waitReady()
		unharmed(t, d, desks, fmt.Sprintf("kill -9 of carrel, round %d", round))

		d.killChild("carrel-proxy")
		unharmed(t, d, desks, fmt.Sprintf("kill -9 of the proxy, round %d", round))

		d.killChild("redis-server")
		unharmed(t, d, desks, fmt.Sprintf("kill -9 of Redis, round %d", round))
		eventually(t, 20*time.Second, "the hub works after the kill of Redis", func() bool {
			status, _ := desks[0].api("GET", "/user", "")
			return status == 200
		})
	}
}

// A Redis that was wiped: servers and routes come back from the containers, with their kernels;
// people sign in again and have the same homes.
func TestKillsOfRedisData(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: peopleNamed(2) + "spawner:\n  kernel_check: false\n  reconcile_every: 2s\n"})
	desks := seat(t, d, 2)
	for round := range rounds(t) {
		d.wipeRedis()
		for i := range desks {
			p := desks[i].person
			eventually(t, 20*time.Second, p.name+" is signed out", func() bool {
				status, _ := p.api("GET", "/user", "")
				return status == 403
			})
			p.signIn()
			p.waitReady(30 * time.Second)
			p.enter()
		}
		unharmed(t, d, desks, fmt.Sprintf("a wiped Redis, round %d", round))
	}
}

// wipeRedis empties the deployment's private Redis.
func (d *deployment) wipeRedis() {
	d.t.Helper()
	acl, err := os.ReadFile(filepath.Join(d.dir, "state", "redis", "users.acl"))
	if err != nil {
		d.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(acl), "user hub on >")
	password, _, _ := strings.Cut(rest, " ")
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: filepath.Join(d.dir, "state", "run", "redis", "redis.sock"), Username: "hub", Password: password})
	defer c.Close()
	if err := c.FlushAll(d.t.Context()).Err(); err != nil {
		d.t.Fatal(err)
	}
}

// killChild kills the process of the deployment's that has this name: one that carrel started, or
// the private Redis, which may have another parent by now.
func (d *deployment) killChild(name string) {
	d.t.Helper()
	carrel := strconv.Itoa(d.cmd.Process.Pid)
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range dirs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile("/proc/" + e.Name() + "/comm")
		if strings.TrimSpace(string(comm)) != name {
			continue
		}
		status, _ := os.ReadFile("/proc/" + e.Name() + "/status")
		cwd, _ := os.Readlink("/proc/" + e.Name() + "/cwd")
		if strings.Contains(string(status), "\nPPid:\t"+carrel+"\n") || strings.HasPrefix(cwd, d.dir+"/") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				d.t.Fatal(err)
			}
			return
		}
	}
	d.t.Fatalf("the deployment has no process %s", name)
}
