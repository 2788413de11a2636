package hub_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// visitors opens the deployment for visitors, and starts what looks after them at a hub.
func (w *world) visitors(p *process, change func(*hub.VisitPolicy)) *hub.Visitors {
	w.t.Helper()
	w.setPolicy(func(p *hub.Policy) {
		if p.Visits.Enabled {
			return
		}
		p.Profiles = append(p.Profiles, hub.Profile{Name: "visitor", Image: "image", Visitors: true, Limits: hub.Limits{Memory: 1 << 30}})
		p.Visits = hub.VisitPolicy{Enabled: true, Profile: "visitor", Max: 2, Line: 3, Age: 10 * time.Minute, Extend: 5 * time.Minute, Extensions: 1, Grace: time.Minute}
		if change != nil {
			change(&p.Visits)
		}
	})
	v, err := hub.NewVisitors(w.visitorsConfig(p))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = v.Run(ctx)
	}()
	w.t.Cleanup(func() { cancel(); <-done })
	return v
}

func (w *world) visitorsConfig(p *process) hub.VisitorsConfig {
	return hub.VisitorsConfig{
		Manager: p.Manager, Visits: w.store, Servers: w.store, Sessions: w.store, Tokens: w.store, Leases: w.store, Keyring: w.keys, Observer: &w.seen, Logger: slog.New(slog.NewTextHandler(w, nil)),
	}
}

func from(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", n)) }

func (w *world) come(v *hub.Visitors, n int) (hub.Visit, hub.Secret) {
	w.t.Helper()
	visit, secret, err := v.Come(w.t.Context(), from(n), "", "test")
	if err != nil {
		w.t.Fatalf("visitor %d: %v", n, err)
	}
	return visit, secret
}

// gone checks that nothing is left of a visit.
func (w *world) gone(x hub.Visit, secret hub.Secret) {
	w.t.Helper()
	if _, err := w.store.Visit(w.t.Context(), x.Name); hub.KindOf(err) != hub.NotFound {
		w.t.Errorf("the visit is there: %v", err)
	}
	if _, err := w.store.Session(w.t.Context(), secret.Hash()); hub.KindOf(err) != hub.NotFound {
		w.t.Errorf("the session lives: %v", err)
	}
	if s, err := w.store.Server(w.t.Context(), x.Key()); hub.KindOf(err) != hub.NotFound {
		w.t.Errorf("the server's record is there: %+v, %v", s, err)
	}
	for r := range w.store.Routes(w.t.Context()) {
		if r.Key == x.Key() {
			w.t.Errorf("its route is there: %+v", r)
		}
	}
	for _, c := range w.machine.Containers() {
		if c.Key == x.Key() {
			w.t.Errorf("its container is there: %+v", c)
		}
	}
}

func TestVisitFromTheClickToTheEnd(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		v := w.visitors(w.hub(), nil)
		x, secret := w.come(v, 1)
		if x.Phase != hub.VisitOpen || !x.Name.IsVisitor() || x.Name != w.keys.Visitor(secret) || strings.Contains(x.Name.String(), secret.Reveal()) {
			t.Fatalf("the visit is %+v", x)
		}
		time.Sleep(5 * time.Second)
		if s, err := w.store.Server(t.Context(), x.Key()); err != nil || s.Phase != hub.Ready || s.Profile != "visitor" {
			t.Fatalf("its server is %+v, %v", s, err)
		}
		session, err := w.store.Session(t.Context(), secret.Hash())
		if err != nil || session.User != x.Name || session.Admin {
			t.Errorf("its session is %+v, %v", session, err)
		}
		if _, err := w.store.User(t.Context(), x.Name); hub.KindOf(err) != hub.NotFound {
			t.Errorf("a visitor has an account: %v", err)
		}
		if err := hub.Access(session.Principal(), x.Key(), hub.VisitorUser(x.Name).ID, false); err != nil {
			t.Errorf("it may not open its own: %v", err)
		}
		if err := v.Leave(t.Context(), x.Name, "you said so"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		w.gone(x, secret)
		if g, err := w.store.NextGeneration(t.Context(), x.Key(), 0); err != nil || g != 1 {
			t.Errorf("its starts are still counted: %d, %v", g, err)
		}
		if err := v.Leave(t.Context(), x.Name, "again"); err != nil {
			t.Errorf("a second goodbye: %v", err)
		}
	})
}

func TestLineIsFair(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		v := w.visitors(w.hub(), nil)
		var visits []hub.Visit
		for n := range 5 {
			x, _ := w.come(v, n)
			visits = append(visits, x)
			time.Sleep(10 * time.Millisecond)
		}
		if _, _, err := v.Come(t.Context(), from(9), "", ""); hub.KindOf(err) != hub.Unavailable {
			t.Errorf("beyond the line: %v", err)
		}
		if began, refused := w.seen.of("began"), w.seen.of("refused"); began != "began 0s, began 0s" || refused != "refused full" {
			t.Errorf("the observer was told %q, %q", began, refused)
		}
		places := func(want ...int) {
			t.Helper()
			for n, x := range visits {
				_, place, err := v.Visit(t.Context(), x.Name)
				if gone := hub.KindOf(err) == hub.NotFound && err != nil; gone != (want[n] < 0) || !gone && place.N != want[n] {
					t.Errorf("visitor %d has place %d, want %d (%v)", n, place.N, want[n], err)
				}
			}
		}
		places(0, 0, 1, 2, 3)
		time.Sleep(20 * time.Second)
		places(0, 0, 1, 2, 3)
		if err := v.Leave(t.Context(), visits[0].Name, "done"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		places(-1, 0, 0, 1, 2)
		// Whoever closes the waiting page loses the place, and nobody else's.
		for range 6 {
			time.Sleep(10 * time.Second)
			if _, _, err := v.Visit(t.Context(), visits[4].Name); err != nil {
				t.Fatal(err)
			}
		}
		places(-1, 0, 0, -1, 1)
	})
}

// TestNoServerJustNow: a visit whose server can't be started yet keeps its place in line.
func TestNoServerJustNow(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		v := w.visitors(w.hub(), nil)
		w.store.FailBefore(func(op string) error {
			if op == "PutServer" {
				return hub.Errorf(hub.Unavailable, op, "told to fail")
			}
			return nil
		})
		first, _ := w.come(v, 1)
		time.Sleep(10 * time.Millisecond)
		second, _ := w.come(v, 2)
		time.Sleep(5 * time.Second)
		for n, name := range []hub.UserName{first.Name, second.Name} {
			x, place, err := v.Visit(t.Context(), name)
			if err != nil || x.Phase != hub.VisitWaiting || !x.Admitted.IsZero() || !x.Expires.IsZero() || place.N != n+1 {
				t.Errorf("visit %d is %+v at place %d, %v", n, x, place.N, err)
			}
		}
		w.store.FailBefore(nil)
		time.Sleep(5 * time.Second)
		for n, name := range []hub.UserName{first.Name, second.Name} {
			x, _, err := v.Visit(t.Context(), name)
			if err != nil || x.Phase != hub.VisitOpen || x.Expires.Sub(x.Admitted) != 10*time.Minute {
				t.Errorf("later visit %d is %+v, %v", n, x, err)
			}
		}
		if got := w.seen.of("over"); got != "" {
			t.Errorf("the observer was told %q", got)
		}
	})
}

func TestVisitsEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		end  hub.VisitEnd
		do   func(*world, *hub.Visitors, hub.Visit)
		at   time.Duration // when it is over by
		not  time.Duration // and not before
	}{
		{name: "of age", end: hub.EndAge, at: 10*time.Minute + 10*time.Second, not: 10*time.Minute - 10*time.Second},
		{name: "closed", end: hub.EndClosed, at: 75 * time.Second, not: 50 * time.Second, do: func(w *world, v *hub.Visitors, x hub.Visit) { _ = v.Away(w.t.Context(), x.Name) }},
		{name: "ended by an administrator", end: hub.EndAdmin, at: 5 * time.Second, do: func(w *world, v *hub.Visitors, x hub.Visit) { _ = v.Expel(w.t.Context(), x.Name) }},
		{name: "its server ended", end: hub.EndServer, at: 15 * time.Second, do: func(w *world, _ *hub.Visitors, x hub.Visit) { w.machine.Die(x.Key(), "out of memory") }},
		{name: "visits are switched off", end: hub.EndOff, at: 15 * time.Second, do: func(w *world, _ *hub.Visitors, _ hub.Visit) {
			w.setPolicy(func(p *hub.Policy) { p.Visits.Enabled = false })
		}},
		{name: "reloaded", end: hub.EndAge, not: 9 * time.Minute, at: 10*time.Minute + 10*time.Second, do: func(w *world, v *hub.Visitors, x hub.Visit) {
			_ = v.Away(w.t.Context(), x.Name)
			time.Sleep(30 * time.Second)
			_, _ = v.Back(w.t.Context(), x.Name)
		}},
		{name: "extended, once", end: hub.EndAge, not: 14 * time.Minute, at: 15*time.Minute + 10*time.Second, do: func(w *world, v *hub.Visitors, x hub.Visit) {
			if _, err := v.Extend(w.t.Context(), x.Name); err != nil {
				w.t.Error(err)
			}
			if _, err := v.Extend(w.t.Context(), x.Name); hub.KindOf(err) != hub.Forbidden {
				w.t.Errorf("extended twice: %v", err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				v := w.visitors(w.hub(), nil)
				x, secret := w.come(v, 1)
				began := time.Now()
				time.Sleep(3 * time.Second)
				if c.do != nil {
					c.do(w, v, x)
				}
				if c.not > 0 {
					time.Sleep(c.not - time.Since(began))
					if s, err := w.store.Server(t.Context(), x.Key()); err != nil || s.Phase != hub.Ready {
						t.Errorf("after %v it is over: %+v, %v", c.not, s, err)
					}
				}
				time.Sleep(c.at - time.Since(began))
				w.gone(x, secret)
				if got := w.seen.of("over"); got != "over "+string(c.end) {
					t.Errorf("the observer was told %q", got)
				}
			})
		})
	}
}

func TestVisitorsOfOneNetwork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		v := w.visitors(w.hub(), func(p *hub.VisitPolicy) {
			p.Max, p.Line, p.AtOnce, p.Arrivals, p.ArrivalsIn = 100, 100, 1, 3, 10*time.Minute
			p.Exempt = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
			p.Bans = []hub.Ban{{Network: netip.MustParsePrefix("198.51.100.0/24"), Until: time.Now().Add(10 * time.Minute)}, {Network: netip.MustParsePrefix("2001:db8:bad::/48")}}
		})
		come := func(want hub.Kind, addr string) hub.Visit {
			t.Helper()
			x, _, err := v.Come(t.Context(), netip.MustParseAddr(addr), "", "")
			if want == hub.Internal && err != nil || want != hub.Internal && (err == nil || hub.KindOf(err) != want) {
				t.Errorf("from %s: %v, want %v", addr, err, want)
			}
			return x
		}
		const welcome = hub.Internal
		first := come(welcome, "192.0.2.1")
		come(hub.TooMany, "192.0.2.1")
		come(hub.TooMany, "::ffff:192.0.2.1")
		come(welcome, "192.0.2.2")
		if err := v.Leave(t.Context(), first.Name, "done"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		come(hub.TooMany, "192.0.2.1") // the fourth within the window
		for range 6 {
			come(welcome, "10.1.2.3")
		}
		come(hub.Forbidden, "198.51.100.200")
		come(hub.Forbidden, "::ffff:198.51.100.200")
		come(hub.Forbidden, "2001:db8:bad:1::1")
		// One customer's addresses are one; who takes many networks has a limit too.
		come(welcome, "2001:db8:0:100::1")
		come(hub.TooMany, "2001:db8:0:100::2")
		for n := 1; n < 4; n++ {
			come(welcome, fmt.Sprintf("2001:db8:0:1%02x::1", n))
		}
		come(hub.TooMany, "2001:db8:0:104::1")
		for n := 2; n < 5; n++ {
			for m := range 4 {
				come(welcome, fmt.Sprintf("2001:db8:0:%x%02x::1", n, m))
			}
		}
		come(hub.TooMany, "2001:db8:0:900::1")
		time.Sleep(10 * time.Minute)
		come(welcome, "198.51.100.200")
		if got := w.seen.of("refused"); !strings.HasPrefix(got, "refused at_once, refused at_once, refused arrivals, refused ban, refused ban, refused ban, refused at_once") {
			t.Errorf("the observer was told %q", got)
		}
	})
}

// TestPurgeSurvivesFaults: whatever fails while a visit is purged, and whichever hub goes on, it is purged
// at the end.
func TestPurgeSurvivesFaults(t *testing.T) {
	for _, op := range []string{"EndSessions", "Tokens", "DeleteServer", "DeleteVisit", "PutServer", "DeleteRoute"} {
		t.Run(op, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				p := w.hub()
				v := w.visitors(p, nil)
				x, secret := w.come(v, 1)
				token := hub.RandomSecret()
				if err := w.store.CreateToken(t.Context(), hub.Token{ID: "t", Hash: token.Hash(), User: x.Name}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
				var called atomic.Int32
				w.store.FailBefore(func(o string) error {
					if o == op && called.Add(1) <= 3 {
						return hub.Errorf(hub.Unavailable, op, "told to fail")
					}
					return nil
				})
				if err := v.Leave(t.Context(), x.Name, "done"); err != nil {
					t.Fatal(err)
				}
				p.kill()
				w.visitors(w.hub(), nil)
				time.Sleep(3 * time.Minute)
				w.gone(x, secret)
				if _, err := w.store.Token(t.Context(), token.Hash()); hub.KindOf(err) != hub.NotFound {
					t.Errorf("a token lives: %v", err)
				}
				if called.Load() < 4 {
					t.Errorf("%s was not called", op)
				}
			})
		})
	}
}

// TestWaitIsTold is what those who wait are told beside what they then wait, whatever it is that they wait for.
func TestWaitIsTold(t *testing.T) {
	for _, c := range []struct {
		name       string
		max, cores int
		every      time.Duration // one comes
		start      time.Duration
		stay       time.Duration
		learns     int // the first of whom it must be true
	}{
		{name: "a place", max: 4, cores: 10, every: 10 * time.Second, stay: 40 * time.Second, learns: 16},
		{name: "the starts before", max: 100, cores: 2, every: 2 * time.Second, start: 6 * time.Second, stay: 20 * time.Second, learns: 8},
		{name: "both", max: 6, cores: 2, every: 2 * time.Second, start: 6 * time.Second, stay: 20 * time.Second, learns: 24},
		{name: "their own start", max: 100, cores: 10, every: 10 * time.Second, start: 12 * time.Second, stay: 20 * time.Second, learns: 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.setPolicy(func(p *hub.Policy) { p.ConcurrentMax = c.cores })
				w.machine.On(hubtest.AtStart, hubtest.Slow(c.start))
				v := w.visitors(w.hub(), func(p *hub.VisitPolicy) { p.Max, p.Line = c.max, 100 })
				for n := range 40 {
					x, _ := w.come(v, n)
					_, place, err := v.Visit(t.Context(), x.Name)
					if err != nil {
						t.Fatal(err)
					}
					if n == 0 && place.Known {
						t.Errorf("the first is told %v, of which nothing can be known", place.Wait)
					}
					go func() { // ends with the bubble's last visit
						waited := w.waits(v, x)
						if off := waited - place.Wait; n >= c.learns && (!place.Known || off > 3*time.Second+waited/10 || off < -3*time.Second-waited/10) {
							t.Errorf("visitor %d was told %+v and waited %v", n, place, waited)
						}
						time.Sleep(c.stay)
						_ = v.Leave(t.Context(), x.Name, "done")
					}()
					time.Sleep(c.every)
				}
				time.Sleep(10 * time.Minute)
				if all := w.machine.Containers(); len(all) > 0 {
					t.Errorf("%d containers are left", len(all))
				}
			})
		})
	}
}

// waits is how long a visitor waits for the notebook, whose browser asks each second.
func (w *world) waits(v *hub.Visitors, x hub.Visit) time.Duration {
	began := time.Now()
	for ; ; time.Sleep(time.Second) {
		if _, _, err := v.Visit(w.t.Context(), x.Name); err != nil {
			w.t.Errorf("%s: %v", x.Name, err)
			return 0
		}
		if s, err := w.store.Server(w.t.Context(), x.Key()); err == nil && s.Phase == hub.Ready {
			return time.Since(began)
		}
	}
}

// TestStrayServerOfAVisitor: after a wipe of the store its container is adopted, and let run for as long as
// the visit might have lasted.
func TestStrayServerOfAVisitor(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		v := w.visitors(w.hub(), nil)
		x, secret := w.come(v, 1)
		time.Sleep(3 * time.Second)
		w.store.Wipe()
		time.Sleep(10 * time.Minute)
		if n := len(w.machine.Containers()); n != 1 {
			t.Errorf("ten minutes later there are %d containers", n)
		}
		time.Sleep(10 * time.Minute)
		w.gone(x, secret)
		if got := w.seen.of("over"); got != "over lost" {
			t.Errorf("the observer was told %q", got)
		}
	})
}

// TestProfileOfVisitors is nobody else's, and theirs only.
func TestProfileOfVisitors(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.hub()
		v := w.visitors(p, nil)
		x, _ := w.come(v, 1)
		alice := keyOf(t, "alice", "")
		if _, err := p.Start(t.Context(), hub.StartRequest{Key: alice, By: hub.Principal{User: alice.User, Admin: true}, Profile: "visitor"}); hub.KindOf(err) != hub.Forbidden {
			t.Errorf("alice starts a visitor's: %v", err)
		}
		other, err := hub.ParseServerName("more")
		if err != nil {
			t.Fatal(err)
		}
		own := hub.ServerKey{User: x.Name, Server: other}
		if _, err := p.Start(t.Context(), hub.StartRequest{Key: own, By: hub.Principal{User: x.Name}, Profile: "small"}); hub.KindOf(err) != hub.Forbidden {
			t.Errorf("a visitor starts a person's: %v", err)
		}
	})
}

var _ hub.VisitStore = (*hubtest.Store)(nil)
