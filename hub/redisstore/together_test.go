package redisstore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// gate holds a store's scripts up until they are let through.
type gate struct {
	mu    sync.Mutex
	sizes []int         // of the scripts that came: how many routes each changes
	came  chan struct{} // one for each
	pass  chan struct{} // likewise; closed: all pass
}

func newGate(s *Store) *gate {
	g := &gate{came: make(chan struct{}, 100), pass: make(chan struct{})}
	s.rdb.AddHook(g)
	return g
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook { return next }

func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" {
			keys, _ := cmd.Args()[2].(int)
			g.mu.Lock()
			g.sizes = append(g.sizes, keys-3)
			g.mu.Unlock()
			g.came <- struct{}{}
			select {
			case <-g.pass:
			case <-ctx.Done():
				cmd.SetErr(ctx.Err())
				return ctx.Err()
			}
		}
		return next(ctx, cmd)
	}
}

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func numbered(t testing.TB, i int) hub.Route {
	t.Helper()
	key, err := hub.ParseServerKey(fmt.Sprintf("person%d", i), "")
	if err != nil {
		t.Fatal(err)
	}
	return hub.Route{Key: key, UserID: "u", Generation: 5}
}

// queue is a store whose scripts a gate holds up, where one change is under way and more wait.
type queue struct {
	store   *Store
	gate    *gate
	first   chan error
	answers []chan error // in order
}

func newQueue(t *testing.T, n int, call func(s *Store, i int) error) *queue {
	t.Helper()
	s := openStore(t, Config{URL: "redis://" + startMini(t).Addr()})
	must(t, s.PutRoute(t.Context(), numbered(t, 10_000))) // the script is known from here on
	q := &queue{store: s, gate: newGate(s), first: make(chan error, 1)}
	second := numbered(t, 10_001)
	go func() { q.first <- s.PutRoute(t.Context(), second) }()
	<-q.gate.came
	for i := range n {
		answer := make(chan error, 1)
		go func() { answer <- call(s, i) }()
		q.answers = append(q.answers, answer)
		waits(t, s, i+1)
	}
	return q
}

// waits for n calls to wait for a script.
func waits(t *testing.T, s *Store, n int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		s.routes.mu.Lock()
		have := len(s.routes.waiting)
		s.routes.mu.Unlock()
		if have == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d calls wait, want %d", have, n)
		}
	}
}

func stored(t *testing.T, s *Store) map[hub.ServerKey]hub.Generation {
	t.Helper()
	have := map[hub.ServerKey]hub.Generation{}
	for r, err := range s.Routes(t.Context()) {
		must(t, err)
		have[r.Key] = r.Generation
	}
	return have
}

// TestRoutesAtOnce share scripts, of a bounded size.
func TestRoutesAtOnce(t *testing.T) {
	const n = 150
	q := newQueue(t, n, func(s *Store, i int) error { return s.PutRoute(t.Context(), numbered(t, i)) })
	close(q.gate.pass)
	must(t, <-q.first)
	for _, a := range q.answers {
		must(t, <-a)
	}
	if want := []int{1, maxTogether, maxTogether, n - 2*maxTogether}; !slices.Equal(q.gate.sizes, want) {
		t.Errorf("scripts of %v changes, want %v", q.gate.sizes, want)
	}
	if have := stored(t, q.store); len(have) != n+2 {
		t.Errorf("%d routes are there, want %d", len(have), n+2)
	}
}

// TestErrorsOfRoutesAtOnce: each call has its own answer, and its change, whatever becomes of others'.
func TestErrorsOfRoutesAtOnce(t *testing.T) {
	lower := numbered(t, 10_000)
	lower.Generation--
	calls := []struct {
		call func(s *Store) error
		want hub.Kind // Internal: none
	}{
		{func(s *Store) error { return s.PutRoute(t.Context(), numbered(t, 0)) }, hub.Internal},
		{func(s *Store) error { return s.PutRoute(t.Context(), lower) }, hub.Conflict},
		{func(s *Store) error { return s.PutRoute(t.Context(), numbered(t, 1)) }, hub.Unavailable},
		{func(s *Store) error { return s.DeleteRoute(t.Context(), lower.Key, 4) }, hub.Internal},
		{func(s *Store) error { return s.DeleteRoute(t.Context(), numbered(t, 2).Key, 4) }, hub.Internal},
		{func(s *Store) error { return s.PutRoute(t.Context(), numbered(t, 3)) }, hub.Internal},
		{func(s *Store) error { return s.DeleteRoute(t.Context(), numbered(t, 10_001).Key, 5) }, hub.Internal},
	}
	q := newQueue(t, len(calls), func(s *Store, i int) error { return calls[i].call(s) })
	must(t, q.store.rdb.RPush(t.Context(), q.store.key("route", numbered(t, 1).Key.Label()), "no route").Err())
	close(q.gate.pass)
	must(t, <-q.first)
	for i, a := range q.answers {
		if err := <-a; (err == nil) != (calls[i].want == hub.Internal) || err != nil && hub.KindOf(err) != calls[i].want {
			t.Errorf("call %d: %v", i, err)
		}
	}
	have := stored(t, q.store)
	for i, want := range map[int]bool{0: true, 1: false, 2: false, 3: true, 10_000: true, 10_001: false} {
		if g := have[numbered(t, i).Key]; (g == 5) != want {
			t.Errorf("route %d is of generation %d; there: %v", i, g, want)
		}
	}
	if len(q.gate.sizes) != 2 {
		t.Errorf("scripts of %v changes", q.gate.sizes)
	}
}

// TestCallsThatLeave: a change whose call ended before its turn is not made; one that runs for others
// goes on without its first call, and is abandoned when all of them left.
func TestCallsThatLeave(t *testing.T) {
	ctxs, leave := make([]context.Context, 4), make([]context.CancelFunc, 4)
	for i := range ctxs {
		ctxs[i], leave[i] = context.WithCancel(t.Context())
		t.Cleanup(leave[i])
	}
	q := newQueue(t, 3, func(s *Store, i int) error { return s.PutRoute(ctxs[i], numbered(t, i)) })
	left := func(i int) {
		t.Helper()
		leave[i]()
		if err := <-q.answers[i]; hub.KindOf(err) != hub.Canceled {
			t.Errorf("a call that left got %v", err)
		}
	}
	left(1)
	waits(t, q.store, 2)
	q.gate.pass <- struct{}{}
	must(t, <-q.first)
	<-q.gate.came // one of the two runs the script of both
	leave[0]()
	q.gate.pass <- struct{}{}
	must(t, <-q.answers[2])
	if err := <-q.answers[0]; err != nil && hub.KindOf(err) != hub.Canceled {
		t.Error(err)
	}
	if have := stored(t, q.store); have[numbered(t, 0).Key] != 5 || have[numbered(t, 1).Key] != 0 || have[numbered(t, 2).Key] != 5 {
		t.Errorf("there are %v", have)
	}
	last := make(chan error, 1)
	go func() { last <- q.store.PutRoute(ctxs[3], numbered(t, 3)) }()
	<-q.gate.came
	leave[3]() // nothing lets this script through
	if err := <-last; hub.KindOf(err) != hub.Canceled {
		t.Errorf("the last call got %v", err)
	}
	close(q.gate.pass)
	must(t, q.store.PutRoute(t.Context(), numbered(t, 4)))
}

// TestAnswerToRoutesLost: go-redis runs the script again, and all is as if it had run once.
func TestAnswerToRoutesLost(t *testing.T) {
	through := forward(t, startMini(t).Addr())
	s := openStore(t, Config{URL: "redis://" + through.addr()})
	must(t, s.PutRoute(t.Context(), numbered(t, 0)))
	through.loseAnswer.Store(true)
	must(t, s.PutRoute(t.Context(), numbered(t, 1)))
	if through.loseAnswer.Load() {
		t.Error("no answer was lost")
	}
	if have := stored(t, s); len(have) != 2 {
		t.Errorf("there are %v", have)
	}
}
