package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carrel/internal/deployed"
	"carrel/internal/measured"
	"carrel/internal/program"
)

// A run is one soak from its begin to its report.
type run struct {
	o        options
	out      io.Writer
	site     *site
	registry registry
	judge    *judge
	people   []*person
	backends *program.Process
	ramp     time.Duration

	scripts sync.Map       // hashes of JupyterLab's scripts by name
	readers sync.WaitGroup // of websockets
	chats   atomic.Int64   // open
	actions atomic.Int64
	over    atomic.Bool // what ends from now on is our own doing

	mu           sync.Mutex
	disturbances []disturbance
	lags         []time.Duration   // from a sign-out to the cut of its websocket
	samples      []deployed.Sample // measure's own until it has ended
}

const dirPrefix = "soak-"

// soak does everything, and cleans up after it whatever happens.
func soak(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("/tmp", dirPrefix)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(dir, 0o711), os.Mkdir(filepath.Join(dir, "b"), 0o711)); err != nil { //nolint:gosec // the proxy's user passes through
		return err
	}
	fmt.Fprintf(out, "soak: seed %d, %v, %d clients (one action each %v), %d people with a server, %d without, in %s\n", o.seed, o.length, o.clients, o.think, o.people, o.madeUp, dir)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r := &run{o: o, out: out, judge: newJudge(stop), ramp: min(o.length/10, 30*time.Second)}
	if r.site, err = newSite(o, dir); err != nil {
		return err
	}
	rep := &report{Seed: o.seed, Length: o.length.Seconds(), Clients: o.clients, People: o.people, MadeUp: o.madeUp, Think: o.think.Seconds()}
	err = r.day(ctx, rep)
	clean, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
	defer done()
	err = errors.Join(err, r.finish(clean, rep))
	r.fill(rep)
	return errors.Join(err, measured.Write(o.out, rep), rep.print(out))
}

// day is everything between the first process and the last.
func (r *run) day(ctx context.Context, rep *report) error {
	clients, err := r.open(ctx)
	if err != nil {
		return err
	}
	if rep.Made, err = r.site.Count(ctx); err != nil {
		return err
	}
	before := r.descriptors()
	begun := time.Now()
	r.say("everything is up; %v", rep.Made)
	day, evening := context.WithCancel(ctx) // no deadline: what runs into one fails a moment before it is over
	defer evening()
	defer time.AfterFunc(r.o.length, evening).Stop()
	var helpers sync.WaitGroup
	helpers.Go(func() { r.measure(day, begun) })
	chance := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(r.o.seed, n<<32)) }
	helpers.Go(func() { (&disturber{r, chance(1), begun}).containers(day) })
	helpers.Go(func() { (&disturber{r, chance(2), begun}).processes(day) })
	helpers.Go(func() { r.tell(day) })
	var load sync.WaitGroup
	for _, c := range clients {
		load.Go(func() { c.live(day) })
	}
	load.Wait()
	helpers.Wait()
	r.over.Store(true)
	r.readers.Wait()
	rep.Lasted = time.Since(begun).Seconds()
	if ctx.Err() != nil {
		return errors.New("the run was cut short")
	}
	r.checkBackends()
	r.backends.Kill()
	rep.Descriptors = r.released(ctx, before)
	return nil
}

// open starts everything, makes everybody, and signs them in.
func (r *run) open(ctx context.Context) ([]*client, error) {
	if err := r.site.up(ctx); err != nil {
		return nil, err
	}
	var err error
	if r.registry, err = r.site.registry(); err != nil {
		return nil, err
	}
	r.say("hub and proxies are up")
	clients, err := r.openReal(ctx)
	if err != nil {
		return nil, err
	}
	r.say("%d real servers are up", r.o.people)
	for i := range r.o.madeUp {
		p, err := madeUp(i, r.site.Dir)
		if err != nil {
			return nil, err
		}
		if err := r.registry.settleIn(ctx, p); err != nil {
			return nil, err
		}
		r.people = append(r.people, p)
	}
	if err := r.startBackends(ctx); err != nil {
		return nil, err
	}
	made := r.made()
	for i := len(clients); i < r.o.clients; i++ {
		c := r.newClient(i, made[i%len(made)])
		if c.jar, err = r.registry.signIn(ctx, c.who); err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	return clients, nil
}

// openReal signs real people in, some at a time, and starts their servers.
func (r *run) openReal(ctx context.Context) ([]*client, error) {
	passwords, err := r.site.passwords()
	if err != nil {
		return nil, err
	}
	var clients []*client
	for i := range r.o.people {
		p, err := newPerson(realName(i))
		if err != nil {
			return nil, err
		}
		p.real, p.password, p.profile = true, passwords[realName(i)], profileOf(i)
		r.people = append(r.people, p)
		for range r.o.tabs {
			clients = append(clients, r.newClient(len(clients), p))
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(clients))
	slots := make(chan struct{}, 4)
	for i, c := range clients {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := c.signInForReal(ctx)
			if err == nil && i%r.o.tabs == 0 {
				err = c.revive(ctx, 5*time.Minute)
			}
			if err == nil && i%r.o.tabs == 0 {
				err = c.signInForReal(ctx) // now there is a page to open
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return clients, errors.Join(errs...)
}

func (r *run) real() []*person {
	return slices.DeleteFunc(slices.Clone(r.people), func(p *person) bool { return !p.real })
}

func (r *run) made() []*person {
	return slices.DeleteFunc(slices.Clone(r.people), func(p *person) bool { return p.real })
}

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.out, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// tell shows life, once in a while.
func (r *run) tell(ctx context.Context) {
	for program.Pause(ctx, 30*time.Second) == nil {
		r.judge.mu.Lock()
		wrong := len(r.judge.findings)
		r.judge.mu.Unlock()
		r.say("%d actions, %d websockets, %d findings; %s", r.actions.Load(), r.chats.Load(), wrong, r.held())
	}
}

// held says what the processes hold now.
func (r *run) held() string {
	var parts []string
	pids := r.processes()
	for _, name := range []string{"hub", "proxy 0", "proxy 1", "redis", "load"} {
		if s, ok := deployed.Take(name, pids[name]); ok && pids[name] != 0 {
			parts = append(parts, fmt.Sprintf("%s %d MiB %d fds", name, s.RSS>>10, s.FDs))
		}
	}
	return strings.Join(parts, ", ")
}

func (r *run) disturbed(d disturbance) {
	r.mu.Lock()
	r.disturbances = append(r.disturbances, d)
	r.mu.Unlock()
	r.say("%s: %.1f s", d.What, d.Took)
}

func (r *run) lag(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lags = append(r.lags, d)
}

func (r *run) backendLog() string { return filepath.Join(r.site.Dir, "backends.log") }

// checkBackends reads what the backends said: each line of theirs but "ready" is a fault.
func (r *run) checkBackends() {
	b, err := os.ReadFile(r.backendLog())
	if err != nil {
		r.judge.find("the backends' log: %v", err)
	}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "ready" {
			r.judge.find("a backend says: %.300s", line)
		}
	}
}

// descriptors are those of the processes that outlive the load.
func (r *run) descriptors() map[string]int {
	held := map[string]int{}
	for name, pid := range r.site.pids() {
		if s, ok := deployed.Take(name, pid); ok && name != "redis" {
			held[name] = s.FDs
		}
	}
	return held
}

const (
	releaseWithin = 70 * time.Second // the pools' connections to servers stay for 50 s
	poolOfRedis   = 64               // connections that a process may keep to Redis, which it opens as it needs them
)

// released waits until, with the load gone, descriptors are back where they were before it.
func (r *run) released(ctx context.Context, before map[string]int) map[string][2]int {
	out := map[string][2]int{}
	for deadline := time.Now().Add(releaseWithin); ; {
		late := false
		for name, now := range r.descriptors() {
			out[name] = [2]int{before[name], now}
			late = late || now > before[name]+poolOfRedis
		}
		if !late {
			return out
		}
		if time.Now().After(deadline) || program.Pause(ctx, time.Second) != nil {
			break
		}
	}
	r.judge.find("descriptors stay after the load (before, after): %v", out)
	return out
}

// finish removes everything and counts what is left.
func (r *run) finish(ctx context.Context, rep *report) error {
	r.over.Store(true)
	if r.backends != nil {
		r.backends.Kill()
	}
	var errs []error
	keys := 0
	if r.registry.store != nil {
		for _, p := range r.made() {
			errs = append(errs, r.registry.moveOut(ctx, p))
		}
		n, err := r.site.keys(ctx)
		keys, errs = n, append(errs, err, r.registry.store.Close())
	}
	errs = append(errs, r.site.down(ctx))
	logs := r.site.faults()
	if len(logs) > 0 || len(r.judge.findings) > 0 {
		errs = append(errs, r.site.keepLogs(filepath.Dir(r.o.out)))
	}
	for _, l := range logs {
		r.judge.find("%s", l)
	}
	errs = append(errs, os.RemoveAll(r.site.Dir))
	left, err := r.site.Count(ctx)
	left.Keys = keys
	rep.Left = left
	if !left.None() {
		r.judge.find("left behind: %v", left)
	}
	return errors.Join(append(errs, err)...)
}

// dialable tells whether somebody listens on a unix socket.
func dialable(ctx context.Context, path string) bool {
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
