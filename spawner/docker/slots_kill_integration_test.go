//go:build integration

package docker

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"carrel/hub"
)

// claimSteps are where a hub is killed; see [Driver.at]. At the last one the claim is whole.
var claimSteps = []string{"taken", "home open", "recorded", "renamed", "home shown", "listening", "handed in", "marked"}

// What tells the test's process that it is the hub to be killed.
const (
	killAt         = "CARREL_TEST_KILL_AT"
	killDeployment = "CARREL_TEST_KILL_DEPLOYMENT"
	killState      = "CARREL_TEST_KILL_STATE"
	killGeneration = "CARREL_TEST_KILL_GENERATION"
)

// TestKillDuringClaim kills a hub's process at each step of a claim, CARREL_KILL_ROUNDS times or once:
// the person has their server then, once, with the files of all rounds, and nothing of the slot stays.
func TestKillDuringClaim(t *testing.T) {
	if step := os.Getenv(killAt); step != "" {
		claimUntilKilled(t, step)
		return
	}
	rounds, err := strconv.Atoi(os.Getenv("CARREL_KILL_ROUNDS"))
	if err != nil {
		rounds = 1
	}
	for _, step := range claimSteps {
		t.Run(step, func(t *testing.T) {
			d := newDriver(t)
			spec := testSpec(t, "alice")
			h, _ := start(t, d, spec)
			for round := range rounds {
				wrote(t, d, h, 2*round+1)
				stop(t, d, h)
				d.Close()
				spec.Generation++
				killHub(t, d.cfg, step, spec)
				d = reopen(t, d.cfg)
				h = afterKill(t, d, step, spec)
				wrote(t, d, h, 2*round+2)
				stop(t, d, h)
				if n := len(mountsOf(t, d)); n != 0 {
					t.Errorf("the home is mounted at %d places with no server", n)
				}
				spec.Generation++
				h, _ = start(t, d, spec)
			}
			stop(t, d, h)
		})
	}
}

// wrote has the server write a line to its home, and checks that all earlier ones are there.
func wrote(t *testing.T, d *Driver, h hub.Handle, lines int) {
	t.Helper()
	got := python(t, d, h, `
with open("/home/jovyan/lines.txt", "a") as f: f.write("x\n")
print(len(open("/home/jovyan/lines.txt").readlines()))`)
	if got != strconv.Itoa(lines) {
		t.Errorf("the home has %s lines, want %d", got, lines)
	}
}

// killHub is a hub that makes a slot, begins to claim it, and is killed.
func killHub(t *testing.T, cfg Config, step string, spec hub.Spec) {
	t.Helper()
	killProcess(t, "TestKillDuringClaim", cfg, spec, killAt+"="+step, killGeneration+"="+strconv.FormatUint(uint64(spec.Generation), 10))
}

// killProcess runs one of these tests in a process of its own, which kills itself.
func killProcess(t *testing.T, test string, cfg Config, spec hub.Spec, env ...string) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), 3*time.Minute)
	defer done()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), killDeployment+"="+cfg.Deployment, killState+"="+cfg.StateDir, "CARREL_TEST_IMAGE="+spec.Image)
	cmd.Env = append(cmd.Env, env...)
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("the process ended with %v: %s", err, said)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed with %v, but ended with %v: %s", env, err, said)
	}
}

// killed is that process's driver, which kills it at a step of a claim or of work on a home.
func killed(t *testing.T, step string) *Driver {
	t.Helper()
	deployment := os.Getenv(killDeployment)
	keys, err := hub.NewKeyring(deployment, []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	d := reopen(t, Config{Deployment: deployment, Keyring: keys, StateDir: os.Getenv(killState), HomeKind: os.Getenv(killKind), Subnets: "10.199.0.0/16", Quarantine: 10 * time.Minute, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	d.crash = func(at string) {
		if at == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it takes a moment
		}
	}
	d.homes.crash = d.crash
	return d
}

// claimUntilKilled is that hub.
func claimUntilKilled(t *testing.T, step string) {
	t.Helper()
	generation, err := strconv.ParseUint(os.Getenv(killGeneration), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	d := killed(t, step)
	spec := testSpec(t, "alice")
	spec.Generation = hub.Generation(generation)
	keep(t, d, spec, 1)
	eventually(t, "the slot is ready", func() bool { // one of the last round connects again
		stock, err := d.SlotStock(t.Context())
		return err == nil && stock.Ready == 1
	})
	_, err = d.ClaimSlot(t.Context(), spec)
	t.Fatalf("the claim ended: %v", err)
}

// afterKill is what the next hub does: it finds the server where the claim was whole and nowhere else,
// and starts it where it does not.
func afterKill(t *testing.T, d *Driver, step string, spec hub.Spec) hub.Handle {
	t.Helper()
	var found []hub.Status
	for st, err := range d.List(t.Context()) {
		if err != nil {
			t.Error(err)
		} else if st.Phase == hub.Ready {
			found = append(found, st)
		}
	}
	whole := step == "marked"
	if whole != (len(found) == 1) || len(found) > 1 {
		t.Errorf("the next hub finds %+v", found)
	}
	keep(t, d, spec, 1)
	h, st := start(t, d, spec) // one that is there is not started twice
	if st.Phase != hub.Ready || st.Generation != spec.Generation {
		t.Errorf("%+v", st)
	}
	keep(t, d, spec, 1)
	if n := len(slotContainers(t, d)); n != 1 {
		t.Errorf("%d slots wait, want 1", n)
	}
	slots := 1
	if whole {
		slots = 2 // that of the server itself
	}
	if dirs, err := os.ReadDir(d.slotsDir()); err != nil || len(dirs) != slots {
		t.Errorf("the slots' directories are %v, %v", dirs, err)
	}
	all, err := d.labelled(t.Context())
	if err != nil || len(all) != 2 { // the server and the slot
		t.Errorf("%d containers are there, %v", len(all), err)
	}
	return h
}

// mountsOf are the places where homes of the deployment are mounted on the host.
func mountsOf(t *testing.T, d *Driver) (places []string) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], d.homes.mountPoints()+"/") {
			places = append(places, fields[4])
		}
	}
	return places
}
