//go:build integration

package docker

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"carrel/hub"
)

// heldAddresses are those that the book says somebody has.
func heldAddresses(t *testing.T, d *Driver) int {
	t.Helper()
	p, err := d.addrs.read()
	if err != nil {
		t.Fatal(err)
	}
	return len(p.Held)
}

// TestCancelledStartLeavesNothing: no container, no mount, no address.
func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	begin := time.Now()
	h, _ := start(t, d, spec)
	took := time.Since(begin)
	stop(t, d, h)
	const rounds = 12
	cancelled := 0
	for i := range rounds {
		spec.Generation++
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(took*time.Duration(i)/rounds, cancel)
		h, err := d.Start(ctx, spec)
		cancel()
		if err == nil {
			stop(t, d, h)
			continue
		}
		cancelled++
		if hub.KindOf(err) != hub.Canceled {
			t.Errorf("round %d: %v", i, err)
		}
		if list, err := d.labelled(t.Context()); err != nil || len(list) > 0 {
			t.Errorf("round %d: %d containers are left, %v", i, len(list), err)
		}
		if mounted(d.homes.mountPoint(spec.UserID)) {
			t.Errorf("round %d: the home is mounted", i)
		}
		if n := heldAddresses(t, d); n > 0 {
			t.Errorf("round %d: %d addresses are held", i, n)
		}
	}
	if cancelled == 0 {
		t.Error("no start was cancelled: this tests nothing")
	}
}

// TestFailedStartLeavesNothing: what Docker refuses to create, or to start, is an error with a kind.
func TestFailedStartLeavesNothing(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	for name, change := range map[string]func(*hub.Spec){
		"a target in a file":   func(s *hub.Spec) { s.Mounts = []hub.Mount{{Source: "/srv", Target: "/etc/passwd/x"}} }, // found at the start
		"too little memory":    func(s *hub.Spec) { s.Limits.Memory = 1 << 20 },
		"more CPUs than are":   func(s *hub.Spec) { s.Limits.CPUs = 4096 },
		"no such path":         func(s *hub.Spec) { s.Mounts = []hub.Mount{{Source: "/no/such/path", Target: "/data"}} },
		"two mounts in a spot": func(s *hub.Spec) { s.Mounts = []hub.Mount{{Source: "/srv", Target: s.Home}} },
		"a target in no place": func(s *hub.Spec) { s.Mounts = []hub.Mount{{Source: "/srv", Target: "relative"}} },
	} {
		spec := idle(t, "alice")
		change(&spec)
		h, err := d.Start(t.Context(), spec)
		if kind := hub.KindOf(err); err == nil || kind != hub.Invalid && kind != hub.Unavailable {
			t.Errorf("%s: %s, %v of kind %v", name, h.Data, err, kind)
		}
		if list, err := d.labelled(t.Context()); err != nil || len(list) > 0 {
			t.Errorf("%s: %d containers are left, %v", name, len(list), err)
		}
		if mounted(d.homes.mountPoint(spec.UserID)) || heldAddresses(t, d) > 0 {
			t.Errorf("%s: a mount or an address is left", name)
		}
	}
	if h, st := start(t, d, idle(t, "alice")); st.Phase != hub.Ready {
		t.Errorf("after all that: %+v", h)
	}
}

// TestAddressesRest: a stopped server's address goes to nobody, over restarts of the hub.
func TestAddressesRest(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	seen := map[hub.Endpoint]bool{}
	spec := idle(t, "alice")
	for range 4 {
		h, st := start(t, d, spec)
		if seen[st.Endpoint] {
			t.Errorf("%s came again", st.Endpoint)
		}
		seen[st.Endpoint] = true
		stop(t, d, h)
		spec.Generation++
		d = reopen(t, d.cfg)
	}
}

// TestTwoHubsStartOne: the name of the container is the lock, when both think that the server is theirs.
func TestTwoHubsStartOne(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	hubs := []*Driver{d, reopen(t, d.cfg)}
	spec := idle(t, "alice")
	for round := range 3 {
		spec.Generation++
		handles := make([]hub.Handle, 4)
		errs := make([]error, 4)
		var wg sync.WaitGroup
		for i := range handles {
			wg.Go(func() { handles[i], errs[i] = hubs[i%2].Start(t.Context(), spec) })
		}
		wg.Wait()
		for i, err := range errs {
			if err != nil || string(handles[i].Data) != string(handles[0].Data) {
				t.Errorf("round %d, start %d: %s, %v", round, i, handles[i].Data, err)
			}
		}
		if st, err := d.Inspect(t.Context(), handles[0]); err != nil || st.Phase != hub.Ready {
			t.Errorf("round %d: %+v, %v", round, st, err)
		}
		if list, err := d.labelled(t.Context()); err != nil || len(list) != 1 || heldAddresses(t, d) != 1 {
			t.Errorf("round %d: %d containers and %d addresses, %v", round, len(list), heldAddresses(t, d), err)
		}
		t.Attr("seen-49", "four starts by two hubs: one container, one address")
		stop(t, hubs[1], handles[0])
	}
}

// TestCreatedContainerIsStarted: a hub died between creating a container and starting it, and the
// machine came up anew since, with the home not mounted.
func TestCreatedContainerIsStarted(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	if out, code := run(t, d, h, "sh", "-c", "echo kept > /home/jovyan/note"); code != 0 {
		t.Fatal(out)
	}
	stop(t, d, h)
	spec.Generation++
	name := d.containerName(spec.Key, spec.Generation)
	img, err := d.ensureImage(t.Context(), spec.Image, spec.Progress)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.create(t.Context(), name, spec, img); err != nil {
		t.Fatal(err)
	}
	if err := unmountHome(t.Context(), d.homes.mountPoint(spec.UserID)); err != nil {
		t.Fatal(err)
	}
	next := reopen(t, d.cfg)
	found := 0
	for st, err := range next.List(t.Context()) {
		if err != nil || st.Phase != hub.Starting || !st.Endpoint.IsZero() || st.Key != spec.Key {
			t.Errorf("listed: %+v, %v", st, err)
		}
		found++
	}
	if found != 1 {
		t.Errorf("%d are listed", found)
	}
	h, st := start(t, next, spec)
	if st.Phase != hub.Ready {
		t.Errorf("it is %+v", st)
	}
	if note, _ := run(t, next, h, "cat", "/home/jovyan/note"); note != "kept\n" {
		t.Errorf("the note reads %q", note)
	}
}

// TestWatchIsQuick: a server that dies is told of within a second.
func TestWatchIsQuick(t *testing.T) {
	d := newDriver(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan hub.Status, 10)
	go func() {
		defer close(told)
		for st, err := range d.Watch(ctx) {
			if err != nil {
				t.Errorf("watch: %v", err)
				return
			}
			told <- st
		}
	}()
	quick := 0
	for round := 0; quick < 2; round++ { // a stream takes a moment to stand, and the machine may be busy
		if round == 10 {
			t.Fatalf("of %d servers that died, %d were told of within a second", round, quick)
		}
		spec := idle(t, fmt.Sprintf("user%d", round))
		h, _ := start(t, d, spec)
		if out, err := exec.Command("docker", "kill", d.containerName(spec.Key, spec.Generation)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for late := false; !late; {
			select {
			case st := <-told:
				if st.Reason != "it was killed" || st.Phase != hub.Failed {
					t.Errorf("told %+v", st)
				}
				if st.Key != spec.Key {
					continue // of one before, late
				}
				quick++
			case <-time.After(time.Second):
			}
			late = true
		}
		stop(t, d, h)
	}
	cancel()
	for range told { // until it ends
	}
}

// calls are all that the hub asks of the driver about servers.
func calls(ctx context.Context, d *Driver, h hub.Handle, spec hub.Spec) map[string]func() error {
	return map[string]func() error{
		"ping":    func() error { return d.Ping(ctx) },
		"facts":   func() error { _, err := d.Facts(ctx); return err },
		"start":   func() error { _, err := d.Start(ctx, spec); return err },
		"inspect": func() error { _, err := d.Inspect(ctx, h); return err },
		"logs":    func() error { _, err := d.Logs(ctx, h, 5); return err },
		"usage":   func() error { _, err := d.Usage(ctx, h); return err },
		"list": func() error {
			for _, err := range d.List(ctx) {
				return err
			}
			return nil
		},
		"stop":  func() error { c, done := context.WithTimeout(ctx, 3*time.Second); defer done(); return d.Stop(c, h, 0) },
		"image": func() error { _, _, err := d.ImageLabels(ctx, "x"); return err },
		"pull": func() error {
			c, done := context.WithTimeout(ctx, 3*time.Second)
			defer done()
			return d.PullImage(c, "x", nil)
		},
		"ensure": func() error {
			c, done := context.WithTimeout(ctx, 3*time.Second)
			defer done()
			_, err := d.networks.ensure(c, hub.NetworkOpen)
			return err
		},
	}
}

// TestDockerAway: no daemon, or one that accepts and says nothing: every call ends with Unavailable,
// at once or at its deadline.
func TestDockerAway(t *testing.T) {
	spec := hub.Spec{Key: key(t, "alice", ""), Generation: 1, UserID: "ualice", Image: "x", Home: "/home/jovyan", Progress: func(hub.Progress) {}}
	dir, err := os.MkdirTemp("/tmp", "crl-away-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", dir+"/mute.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for where, within := range map[string]time.Duration{"/none.sock": 5 * time.Second, "/mute.sock": callTimeout + 5*time.Second} {
		cfg := offline(t, "away").cfg
		cfg.Host = "unix://" + dir + where
		d := reopen(t, cfg)
		h := d.handle(d.containerName(spec.Key, 1))
		var wg sync.WaitGroup
		for name, call := range calls(t.Context(), d, h, spec) {
			wg.Go(func() {
				began := time.Now()
				err := call()
				if took := time.Since(began); hub.KindOf(err) != hub.Unavailable || took > within {
					t.Errorf("%s at %s: %v, after %v", name, where, err, took)
				}
			})
		}
		wg.Wait()
	}
}

// TestListOfMany is one call for those that run, whatever their number, and a few at once for those
// that ended.
func TestListOfMany(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	var wg sync.WaitGroup
	for i := range 12 {
		spec := idle(t, fmt.Sprintf("user%d", i))
		spec.Home = ""
		if i%2 == 0 {
			spec.Command = []string{"sh", "-c", fmt.Sprintf("exit %d", i+1)}
		}
		wg.Go(func() {
			if _, err := d.Start(t.Context(), spec); err != nil {
				t.Error(err)
			}
		})
		if i%4 == 3 {
			wg.Wait()
		}
	}
	wg.Wait()
	eventually(t, "all are listed as they are", func() bool {
		reasons := map[string]bool{}
		running := 0
		for st, err := range d.List(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			inspected, err := d.Inspect(t.Context(), st.Handle)
			if err != nil || fmt.Sprint(inspected) != fmt.Sprint(st) {
				return false // one ended meanwhile
			}
			if st.Phase == hub.Ready {
				running++
			} else {
				reasons[st.Reason] = true
			}
		}
		return running == 6 && len(reasons) == 6
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for st, err := range d.List(ctx) {
		if hub.KindOf(err) != hub.Canceled {
			t.Errorf("cancelled: %+v, %v", st, err)
		}
	}
}

// TestForeignNetwork: a network under our name that we did not make is not used.
func TestForeignNetwork(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	name := d.networks.name(hub.NetworkNone)
	if out, err := exec.Command("docker", "network", "create", "--label", labelMAC+"=00", "--subnet", "10.198.7.0/24", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("docker", "network", "rm", name).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}()
	if h, err := d.Start(t.Context(), idle(t, "alice")); hub.KindOf(err) != hub.Conflict {
		t.Errorf("%s, %v", h.Data, err)
	}
	if list, err := d.api.on(t.Context()).ContainerList(t.Context(), container.ListOptions{All: true}); err != nil {
		t.Error(err)
	} else {
		for _, c := range list {
			if c.Labels[labelDeployment] == d.cfg.Deployment {
				t.Errorf("%v is there", c.Names)
			}
		}
	}
}

// TestTwoHubsMakeOneNetwork, on a pool of which somebody has a part.
func TestTwoHubsMakeOneNetwork(t *testing.T) {
	t.Parallel()
	d := newDriver(t, func(c *Config) { c.Subnets = "10.197.240.0/20" }) // four subnets
	squatter := d.cfg.Deployment + "squatter"
	if out, err := exec.Command("docker", "network", "create", "--subnet", "10.197.240.0/21", squatter).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("docker", "network", "rm", squatter).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}()
	var wg sync.WaitGroup
	for _, hubs := range []*Driver{d, reopen(t, d.cfg)} {
		for _, mode := range []hub.NetworkMode{hub.NetworkNone, hub.NetworkOpen} {
			wg.Go(func() {
				if b, err := hubs.networks.ensure(t.Context(), mode); err != nil || b.prefix.Bits() != bridgeBits {
					t.Errorf("%s: %+v, %v", mode, b, err)
				}
			})
		}
	}
	wg.Wait()
	none, _, err1 := d.networks.find(t.Context(), hub.NetworkNone)
	open, _, err2 := d.networks.find(t.Context(), hub.NetworkOpen)
	if err1 != nil || err2 != nil || none.prefix == open.prefix || none.prefix.Overlaps(open.prefix) {
		t.Errorf("%v and %v, %v, %v", none.prefix, open.prefix, err1, err2)
	}
}
