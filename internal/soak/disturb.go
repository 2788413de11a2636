package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"carrel/internal/deployed"
	"carrel/internal/program"
)

// A disturber breaks things on purpose, as days do: the judge is told before.
type disturber struct {
	run   *run
	rng   *rand.Rand
	begun time.Time
}

// A disturbance is one that was made, for the report.
type disturbance struct {
	At   float64 `json:"at"` // seconds from the begin
	What string  `json:"what"`
	Took float64 `json:"took"` // seconds until it worked again
}

// everythingWithin is when whatever was disturbed must work again.
const everythingWithin = 2 * time.Minute

// calm is the end of the run, in which nothing is disturbed any more.
const calm = 20 * time.Second

func (d *disturber) left() bool { return time.Since(d.begun) < d.run.o.length-calm }

// make makes one disturbance of the named parts, and waits until it is over.
func (d *disturber) make(ctx context.Context, what string, disturb func(context.Context) error, scopes ...string) {
	over := d.run.judge.disturb(scopes...)
	defer over()
	began := time.Now()
	within, done := context.WithTimeout(ctx, everythingWithin)
	defer done()
	err := disturb(within)
	took := time.Since(began)
	if err != nil && ctx.Err() == nil {
		d.run.judge.find("%s: %v", what, err)
	}
	d.run.disturbed(disturbance{began.Sub(d.begun).Seconds(), what, took.Seconds()})
}

// containers kills servers, which their owners then start again, one after another until the calm.
func (d *disturber) containers(ctx context.Context) {
	real := d.run.real()
	if len(real) == 0 {
		return
	}
	every := max(15*time.Second, d.run.o.length/40)
	for d.left() && program.Pause(ctx, time.Duration((0.5+d.rng.Float64())*float64(every))) == nil {
		p := real[d.rng.IntN(len(real))]
		d.make(ctx, "kill the container of "+p.name.String(), func(ctx context.Context) error { return d.killContainer(ctx, p) }, p.scope())
	}
}

func (d *disturber) killContainer(ctx context.Context, p *person) error {
	id, err := program.Output(ctx, "docker", "ps", "-q", "--filter", "label=dev.carrel.deployment="+d.run.site.Name, "--filter", "label=dev.carrel.user="+p.name.String())
	if err != nil {
		return err
	}
	if id == "" {
		return fmt.Errorf("%s has no container", p.name)
	}
	if _, err := program.Output(ctx, "docker", append([]string{"kill"}, strings.Fields(id)...)...); err != nil {
		return err
	}
	killed := time.Now()
	return until(ctx, "the owner has it running again", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.seen.After(killed)
	})
}

// until polls until ok; its error says what did not come about.
func until(ctx context.Context, what string, ok func() bool) error {
	for !ok() {
		if err := program.Pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("not within %v: %s: %w", everythingWithin, what, err)
		}
	}
	return nil
}

// A breakage is something done to a process, with the share of the run at which it is done.
type breakage struct {
	what   string
	do     func(context.Context) error
	scopes []string
}

// processes kills and restarts hub, proxies, Redis and backends. Hub and second proxy are left alone
// after the first part of the warm-up, so that what they hold can be compared after it.
func (d *disturber) processes(ctx context.Context) {
	r := d.run
	first := []breakage{
		{"SIGTERM to the hub, and its Redis with it", d.restartHub(false), []string{"hub", "redis"}},
		{"kill -9 of proxy 1's child", d.killChild(1), []string{proxyScope(1)}},
		{"kill -9 of the hub", d.restartHub(true), []string{"hub", "redis"}},
		{"SIGTERM to proxy 1", d.restartProxy(1, false), []string{proxyScope(1)}},
		{"kill -9 of Redis", d.killRedis, []string{"redis", "hub"}},
	}
	always := []breakage{
		{"kill -9 of proxy 0's child", d.killChild(0), []string{proxyScope(0)}},
		{"kill -9 of Redis", d.killRedis, []string{"redis", "hub"}},
		{"upgrade of proxy 0 in place", d.upgradeProxy(0), []string{toldScope(0)}},
		{"SIGTERM to proxy 0", d.restartProxy(0, false), []string{proxyScope(0)}},
		{"kill -9 of the backends", r.restartBackends, []string{"backends"}},
		{"kill -9 of proxy 0 whole", d.restartProxy(0, true), []string{proxyScope(0)}},
	}
	d.sequence(ctx, first, time.Duration(warmUp/2*float64(r.o.length))/time.Duration(len(first)+1))
	every := max(r.o.length/12, min(r.o.length/30, 2*time.Minute))
	for d.left() && ctx.Err() == nil {
		d.sequence(ctx, always, every)
	}
}

func (d *disturber) sequence(ctx context.Context, list []breakage, every time.Duration) {
	for _, b := range list {
		if program.Pause(ctx, time.Duration((0.8+0.4*d.rng.Float64())*float64(every))) != nil || !d.left() {
			return
		}
		// One that is under way at the end of the run is brought to its end: a process that an upgrade just
		// started would be left otherwise.
		d.make(context.WithoutCancel(ctx), b.what, b.do, b.scopes...)
	}
}

func (d *disturber) restartHub(kill bool) func(context.Context) error {
	s := d.run.site
	return func(ctx context.Context) error {
		if kill {
			s.hub.Kill()
		} else if err := s.hub.Stop(); err != nil {
			return err
		}
		if err := s.startHub(ctx); err != nil {
			return err
		}
		return until(ctx, "the hub answers", func() bool { return s.hubAnswers(ctx) && d.redisAnswers(ctx) })
	}
}

func (d *disturber) redisAnswers(ctx context.Context) bool {
	ctx, done := context.WithTimeout(ctx, 2*time.Second)
	defer done()
	return d.run.registry.store.Ping(ctx) == nil
}

func (d *disturber) killRedis(ctx context.Context) error {
	old := d.run.site.RedisPID()
	if old == 0 {
		return errors.New("there is no Redis")
	}
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		return err
	}
	return until(ctx, "a new Redis answers", func() bool {
		pid := d.run.site.RedisPID()
		return pid != 0 && pid != old && d.redisAnswers(ctx)
	})
}

func (d *disturber) restartProxy(i int, kill bool) func(context.Context) error {
	s := d.run.site
	return func(ctx context.Context) error {
		child := deployed.ProxyChild(s.proxies[i].PID())
		if kill {
			s.proxies[i].Kill()
		} else if err := s.proxies[i].Stop(); err != nil {
			return err
		}
		if err := s.startProxy(ctx, i); err != nil {
			return err
		}
		return until(ctx, "the old child has told its websockets and ended", func() bool { return deployed.Comm(child) != "carrel-proxy" })
	}
}

// upgradeProxy has a proxy succeeded by another in place. No request fails for it, so that nothing
// but the websockets' being told to come back is forgiven.
func (d *disturber) upgradeProxy(i int) func(context.Context) error {
	s := d.run.site
	return func(ctx context.Context) error {
		old, next := s.proxies[i], 0
		if err := syscall.Kill(old.PID(), syscall.SIGUSR2); err != nil {
			return err
		}
		err := until(ctx, "a successor serves, and the old process has ended", func() bool {
			next = s.successor(i, old.PID())
			return old.Ended() && next != 0 && deployed.ProxyChild(next) != 0
		})
		if err != nil {
			return err
		}
		return s.adopt(i, next)
	}
}

// killChild kills the process that carries the bytes; its parent, which has the listener, starts another.
func (d *disturber) killChild(i int) func(context.Context) error {
	s := d.run.site
	return func(ctx context.Context) error {
		old := deployed.ProxyChild(s.proxies[i].PID())
		if old == 0 {
			return errors.New("the proxy has no child")
		}
		defer s.beginsAnew(i)
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			return err
		}
		return until(ctx, "a new child answers", func() bool {
			pid := deployed.ProxyChild(s.proxies[i].PID())
			return pid != 0 && pid != old && s.answers(ctx, i, "carrel-health")
		})
	}
}

// restartBackends kills the process of all small backends and starts it again.
func (r *run) restartBackends(ctx context.Context) error {
	if r.backends != nil {
		r.backends.Kill()
	}
	return r.startBackends(ctx)
}

func (r *run) startBackends(ctx context.Context) error {
	self, err := exec.LookPath("/proc/self/exe")
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "backends", "-dir", r.site.Dir, "-deployment", r.site.Name, "-people", strconv.Itoa(r.o.madeUp)) //nolint:noctx // ended by finish
	if r.backends, err = program.Launch(cmd, r.backendLog()); err != nil {
		return err
	}
	last := r.made()[r.o.madeUp-1].endpoint.Address()
	return r.backends.Answers(ctx, time.Minute, func() bool { return dialable(ctx, last) })
}
