package hub_test

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carrel/hub"
)

// work gives a challenge to somebody, and does it.
func (w *world) work(v *hub.Visitors, from netip.Addr) hub.Proof {
	w.t.Helper()
	c, err := v.Challenge(from)
	if err != nil {
		w.t.Fatal(err)
	}
	answer, err := hub.Work(w.t.Context(), c)
	if err != nil {
		w.t.Fatal(err)
	}
	return hub.Proof{Challenge: c.Text, Answer: answer}
}

func refused(t *testing.T, what string, err error) {
	t.Helper()
	if hub.KindOf(err) != hub.Forbidden || err == nil {
		t.Errorf("%s: %v", what, err)
	}
}

// TestWork is good once, for whom it was given to, for a while, and only as much as is asked for.
func TestWork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, other := w.visitors(w.hub(), func(p *hub.VisitPolicy) { p.Captcha = hub.CaptchaPolicy{Kind: hub.CaptchaWork, Bits: 9} }), w.visitors(w.hub(), nil)
		me := netip.MustParseAddr("192.0.2.1")
		good := w.work(one, me)
		for what, err := range map[string]error{
			"nothing":            one.Prove(t.Context(), me, hub.Proof{}),
			"no answer":          one.Prove(t.Context(), me, hub.Proof{Challenge: good.Challenge}),
			"a wrong answer":     one.Prove(t.Context(), me, hub.Proof{Challenge: good.Challenge, Answer: "x" + good.Answer}),
			"a long answer":      one.Prove(t.Context(), me, hub.Proof{Challenge: good.Challenge, Answer: strings.Repeat("0", 1000)}),
			"one's own text":     one.Prove(t.Context(), me, hub.Proof{Challenge: "abc", Answer: good.Answer}),
			"a changed text":     one.Prove(t.Context(), me, hub.Proof{Challenge: "A" + good.Challenge[1:], Answer: good.Answer}),
			"another address":    one.Prove(t.Context(), netip.MustParseAddr("192.0.2.2"), good),
			"no address at all":  one.Prove(t.Context(), netip.Addr{}, good),
			"another address, 6": one.Prove(t.Context(), netip.MustParseAddr("2001:db8::1"), good),
		} {
			refused(t, what, err)
		}
		if err := other.Prove(t.Context(), netip.MustParseAddr("::ffff:192.0.2.1"), good); err != nil {
			t.Fatalf("good work at another hub: %v", err)
		}
		refused(t, "a replay", one.Prove(t.Context(), me, good))
		refused(t, "a replay at another hub", other.Prove(t.Context(), me, good))
		six := w.work(one, netip.MustParseAddr("2001:db8:0:1::5"))
		if err := one.Prove(t.Context(), netip.MustParseAddr("2001:db8:0:1:ffff::9"), six); err != nil {
			t.Errorf("from another address of the same customer: %v", err)
		}

		late, less := w.work(one, me), w.work(one, me)
		time.Sleep(9 * time.Minute)
		w.setPolicy(func(p *hub.Policy) { p.Visits.Captcha.Bits = 10 })
		refused(t, "less than is asked for by now", one.Prove(t.Context(), me, less))
		w.setPolicy(func(p *hub.Policy) { p.Visits.Captcha.Bits = 9 })
		time.Sleep(2 * time.Minute)
		refused(t, "late work", one.Prove(t.Context(), me, late))
		again := w.work(one, me)
		if err := one.Prove(t.Context(), me, again); err != nil {
			t.Error(err)
		}
		time.Sleep(10*time.Minute - time.Second) // its trace must last as long as it
		refused(t, "a late replay", one.Prove(t.Context(), me, again))

		// Of many at once one is good.
		once := w.work(one, me)
		var all sync.WaitGroup
		var passed atomic.Int32
		for range 20 {
			all.Go(func() {
				if one.Prove(t.Context(), me, once) == nil {
					passed.Add(1)
				}
			})
		}
		all.Wait()
		if passed.Load() != 1 {
			t.Errorf("%d of 20 were let in with one piece of work", passed.Load())
		}
	})
}

// service is a captcha's.
type service struct{ err error }

// Verify implements [hub.Captcha].
func (s *service) Verify(_ context.Context, answer string, _ netip.Addr) error {
	if answer != "solved" && s.err == nil {
		return hub.Errorf(hub.Forbidden, "check captcha", "it is wrong")
	}
	return s.err
}

// TestCaptchaOfAService: nobody is let in where it can't be checked, and each answer is good once.
func TestCaptchaOfAService(t *testing.T) {
	me := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name    string
		service hub.Captcha
		proof   hub.Proof
		want    hub.Kind
		ok      bool
	}{
		{name: "solved", service: &service{}, proof: hub.Proof{Response: "solved"}, ok: true},
		{"wrong", &service{}, hub.Proof{Response: "guess"}, hub.Forbidden, false},
		{"none", &service{}, hub.Proof{}, hub.Forbidden, false},
		{"too long", &service{}, hub.Proof{Response: strings.Repeat("x", 9000)}, hub.Forbidden, false},
		{"away", &service{err: hub.Errorf(hub.Unavailable, "check captcha", "away")}, hub.Proof{Response: "solved"}, hub.Unavailable, false},
		{"no service", nil, hub.Proof{Response: "solved"}, hub.Forbidden, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				p := w.hub()
				w.visitors(p, func(p *hub.VisitPolicy) { p.Captcha.Kind = hub.CaptchaSite })
				cfg := w.visitorsConfig(p)
				cfg.Captcha = c.service
				v, err := hub.NewVisitors(cfg)
				if err != nil {
					t.Fatal(err)
				}
				err = v.Prove(t.Context(), me, c.proof)
				if (err == nil) != c.ok || err != nil && hub.KindOf(err) != c.want {
					t.Errorf("it is answered with %v", err)
				}
				if c.ok {
					refused(t, "a replay", v.Prove(t.Context(), me, c.proof))
				}
				if _, err := v.Challenge(me); hub.KindOf(err) != hub.NotFound || err == nil {
					t.Errorf("work is given where none is asked for: %v", err)
				}
			})
		})
	}
}

// TestBannedIsNotAskedAbout: no service is asked about the answer of somebody whose network is shut out.
func TestBannedIsNotAskedAbout(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.hub()
		w.visitors(p, func(p *hub.VisitPolicy) {
			p.Captcha.Kind, p.Bans = hub.CaptchaSite, []hub.Ban{{Network: netip.MustParsePrefix("198.51.100.0/24")}}
		})
		cfg := w.visitorsConfig(p)
		cfg.Captcha = &service{err: hub.Errorf(hub.Unavailable, "check captcha", "it was asked")}
		v, err := hub.NewVisitors(cfg)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, "from a banned network", v.Prove(t.Context(), netip.MustParseAddr("198.51.100.7"), hub.Proof{Response: "solved"}))
		if got := w.seen.of("refused"); got != "refused ban" {
			t.Errorf("the observer was told %q", got)
		}
	})
}
