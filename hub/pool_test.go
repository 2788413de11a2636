package hub_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// pool is a driver's slots: a claim of one is a start that says so.
type pool struct {
	mu     sync.Mutex
	spare  map[string]int // by profile
	wants  int            // calls of KeepSlots
	claims []string       // profiles
	fault  error          // what a claim comes to
}

type pooledSpawner struct {
	gatedSpawner
	p *pool
}

func (s pooledSpawner) KeepSlots(_ context.Context, wants []hub.SlotWant) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.wants++
	s.p.spare = map[string]int{}
	for _, w := range wants {
		if w.Shape.Token.Reveal() != "" || !w.Shape.Key.IsZero() || w.Shape.UserID != "" {
			return errors.New("a slot was given an identity")
		}
		s.p.spare[w.Shape.Profile] = w.Spare
	}
	return nil
}

func (s pooledSpawner) SlotStock(context.Context) (hub.SlotStock, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	n := 0
	for _, spare := range s.p.spare {
		n += spare
	}
	return hub.SlotStock{Ready: n, Memory: int64(n) << 20}, nil
}

func (s pooledSpawner) ClaimSlot(ctx context.Context, spec hub.Spec) (hub.Handle, error) {
	s.p.mu.Lock()
	if s.p.fault == nil && s.p.spare[spec.Profile] == 0 {
		s.p.mu.Unlock()
		return hub.Handle{}, hub.Errorf(hub.NotFound, "claim", "there is none")
	}
	s.p.claims = append(s.p.claims, spec.Profile)
	err := s.p.fault
	if err == nil {
		s.p.spare[spec.Profile]--
	}
	s.p.mu.Unlock()
	if err != nil {
		return hub.Handle{}, err
	}
	return s.Start(ctx, spec)
}

func (p *pool) claimed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.claims)
}

// withPool runs a test with a driver that keeps two servers of the profile small ready.
func withPool(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	inWorld(t, func(t *testing.T, w *world) {
		w.pool = &pool{}
		w.setPolicy(func(p *hub.Policy) { p.Profiles[0].Spare.Always = 2 })
		test(t, w)
	})
}

// A start takes a server that waits, if its profile keeps some; the driver is asked for another at once.
func TestStartClaimsASlot(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		h := w.hub()
		before := w.pool.wants
		w.ready(h, keyOf(t, "alice", ""))
		settle()
		if n := w.pool.claimed(); n != 1 || w.pool.spare["small"] != 2 || w.pool.wants == before {
			t.Errorf("%d claims; %d wait; the driver was asked %d times", n, w.pool.spare["small"], w.pool.wants-before)
		}
		if _, err := h.Start(t.Context(), hub.StartRequest{Key: keyOf(t, "alice", "other"), By: hub.Principal{User: keyOf(t, "alice", "").User}, Profile: "big"}); hub.KindOf(err) != hub.Invalid {
			t.Fatal(err) // beyond the machine, as ever
		}
		w.agrees(keyOf(t, "alice", ""), hub.Ready)
	})
}

// Where no slot is to be had, or a claim fails, the server is started cold, and its owner sees no more
// than a slower start.
func TestStartsColdWithoutASlot(t *testing.T) {
	for name, fault := range map[string]error{"none waits": hub.Errorf(hub.NotFound, "claim", "none"), "Docker stumbles": hub.Errorf(hub.Unavailable, "claim", "it stumbled")} {
		t.Run(name, func(t *testing.T) {
			withPool(t, func(t *testing.T, w *world) {
				w.pool.fault = fault
				h := w.hub()
				w.ready(h, keyOf(t, "alice", ""))
				w.agrees(keyOf(t, "alice", ""), hub.Ready)
				if told := strings.Contains(w.logged(), "started cold"); told != (hub.KindOf(fault) != hub.NotFound) {
					t.Errorf("the log tells of it: %v", told)
				}
			})
		})
	}
}

// A slot that is claimed and does not come to answer, or ends, is replaced by a server started cold,
// under the same generation.
func TestSilentSlotIsReplaced(t *testing.T) {
	for _, dies := range []bool{false, true} {
		withPool(t, func(t *testing.T, w *world) {
			key := keyOf(t, "alice", "")
			w.notebook.Set(key, hubtest.Mood{After: time.Second})
			starts := 0
			w.machine.Plan(func(hub.Spec) hubtest.Plan {
				starts++
				if starts > 1 {
					return hubtest.Plan{}
				}
				return hubtest.Plan{NoEndpoint: !dies, Dies: dies, After: time.Millisecond, Reason: "exit code 1"}
			})
			if _, err := w.hub().Start(t.Context(), ask(key)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Second)
			settle()
			w.agrees(key, hub.Ready)
			if rec := w.record(key); rec.Generation != 1 || starts != 2 {
				t.Errorf("generation %d after %d starts", rec.Generation, starts)
			}
		})
	}
}

// A person who changes their mind while a slot is claimed gets what they ask for: no server.
func TestStartOfASlotIsCancelled(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		w.notebook.Set(key, hubtest.Mood{Deaf: true})
		h := w.hub()
		if _, err := h.Start(t.Context(), ask(key)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := h.Stop(t.Context(), key, "changed my mind"); err != nil {
			t.Fatal(err)
		}
		settle()
		w.agrees(key, hub.Absent)
	})
}
