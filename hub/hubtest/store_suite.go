package hubtest

import (
	"context"
	"encoding/json"
	"iter"
	"sync"
	"testing"
	"time"

	"carrel/hub"
)

// FullStore keeps every store contract, as [Store] and Redis do.
type FullStore interface {
	hub.SessionStore
	hub.SessionUpdater
	hub.TicketStore
	hub.UserStore
	hub.TokenStore
	hub.ServerStore
	hub.ServerNames
	hub.RouteStore
	hub.Changes
	hub.VisitStore
	hub.RunStore
	hub.Leases
	hub.Events
}

// Stores runs the suite of every store contract. Each call of open gives an empty store, and what
// cuts the connection of those who are subscribed to it.
func Stores(t *testing.T, open func(testing.TB) (s FullStore, cut func())) {
	one := func(tb testing.TB) FullStore {
		s, _ := open(tb)
		return s
	}
	t.Run("sessions", func(t *testing.T) { Sessions(t, func(tb testing.TB) SessionStore { return one(tb) }) })
	t.Run("tickets", func(t *testing.T) { Tickets(t, func(tb testing.TB) TicketSessionStore { return one(tb) }) })
	t.Run("users", func(t *testing.T) { Users(t, func(tb testing.TB) hub.UserStore { return one(tb) }) })
	t.Run("tokens", func(t *testing.T) { Tokens(t, func(tb testing.TB) hub.TokenStore { return one(tb) }) })
	t.Run("servers", func(t *testing.T) { Servers(t, func(tb testing.TB) hub.ServerStore { return one(tb) }) })
	t.Run("server names", func(t *testing.T) { ServerNames(t, func(tb testing.TB) NamedServerStore { return one(tb) }) })
	t.Run("routes", func(t *testing.T) { Routes(t, func(tb testing.TB) hub.RouteStore { return one(tb) }) })
	t.Run("changes", func(t *testing.T) { Changes(t, func(tb testing.TB) FullStore { return one(tb) }) })
	t.Run("visits", func(t *testing.T) { Visits(t, one) })
	t.Run("runs", func(t *testing.T) { RunRecords(t, func(tb testing.TB) hub.RunStore { return one(tb) }) })
	t.Run("leases", func(t *testing.T) { Leases(t, func(tb testing.TB) hub.Leases { return one(tb) }) })
	t.Run("events", func(t *testing.T) { Events(t, open) })
	t.Run("contexts", func(t *testing.T) { contexts(t, one) })
}

// Calls are one call of every operation of s, on things of its own.
func Calls(s FullStore) iter.Seq2[string, func(context.Context) error] {
	x, u, token := madeSession("calls"), madeUser("calls"), madeToken("calls", "id")
	key := hub.ServerKey{User: x.User}
	calls := []struct {
		op   string
		call func(context.Context) error
	}{
		{"CreateSession", func(ctx context.Context) error { return s.CreateSession(ctx, x) }},
		{"Session", func(ctx context.Context) error { _, err := s.Session(ctx, x.Hash); return err }},
		{"TouchSession", func(ctx context.Context) error { return s.TouchSession(ctx, x.Hash, time.Now()) }},
		{"UpdateSession", func(ctx context.Context) error {
			return s.UpdateSession(ctx, x.Hash, func(x *hub.Session) { x.Admin = true })
		}},
		{"Sessions", func(ctx context.Context) error { _, err := collect(s.Sessions(ctx)); return err }},
		{"PutTicket", func(ctx context.Context) error {
			return s.PutTicket(ctx, "calls", hub.Ticket{Parent: x.Hash}, time.Hour)
		}},
		{"TakeTicket", func(ctx context.Context) error { _, err := s.TakeTicket(ctx, "calls"); return err }},
		{"Once", func(ctx context.Context) error { _, err := s.Once(ctx, "calls", time.Hour); return err }},
		{"EndSessions", func(ctx context.Context) error {
			_, err := s.EndSessions(ctx, hub.SessionQuery{Hash: x.Hash})
			return err
		}},
		{"BindUser", func(ctx context.Context) error { _, err := s.BindUser(ctx, u); return err }},
		{"User", func(ctx context.Context) error { _, err := s.User(ctx, u.Name); return err }},
		{"Rebind", func(ctx context.Context) error { return s.Rebind(ctx, u) }},
		{"Users", func(ctx context.Context) error { _, err := collect(s.Users(ctx)); return err }},
		{"DeleteUser", func(ctx context.Context) error { return s.DeleteUser(ctx, u.Name) }},
		{"CreateToken", func(ctx context.Context) error { return s.CreateToken(ctx, token) }},
		{"Token", func(ctx context.Context) error { _, err := s.Token(ctx, token.Hash); return err }},
		{"Tokens", func(ctx context.Context) error { _, err := collect(s.Tokens(ctx, u.Name)); return err }},
		{"DeleteToken", func(ctx context.Context) error { return s.DeleteToken(ctx, u.Name, token.ID) }},
		{"PutServer", func(ctx context.Context) error { _, err := s.PutServer(ctx, hub.Server{Key: key}); return err }},
		{"Server", func(ctx context.Context) error { _, err := s.Server(ctx, key); return err }},
		{"Servers", func(ctx context.Context) error { _, err := collect(s.Servers(ctx)); return err }},
		{"ServerLabels", func(ctx context.Context) error { _, err := collect(s.ServerLabels(ctx)); return err }},
		{"DeleteServer", func(ctx context.Context) error { return s.DeleteServer(ctx, hub.Server{Key: key}) }},
		{"NextGeneration", func(ctx context.Context) error { _, err := s.NextGeneration(ctx, key, 0); return err }},
		{"PutVisit", func(ctx context.Context) error { _, err := s.PutVisit(ctx, madeVisit(3)); return err }},
		{"Visit", func(ctx context.Context) error { _, err := s.Visit(ctx, madeVisit(3).Name); return err }},
		{"Visits", func(ctx context.Context) error { _, err := collect(s.Visits(ctx)); return err }},
		{"DeleteVisit", func(ctx context.Context) error { return s.DeleteVisit(ctx, madeVisit(3)) }},
		{"CountArrival", func(ctx context.Context) error { _, err := s.CountArrival(ctx, "calls", time.Hour); return err }},
		{"CreateRun", func(ctx context.Context) error { return s.CreateRun(ctx, madeRun("calls", 0), time.Hour) }},
		{"UpdateRun", func(ctx context.Context) error { return s.UpdateRun(ctx, madeRun("calls", 0), time.Hour) }},
		{"Run", func(ctx context.Context) error { _, err := s.Run(ctx, madeRun("calls", 0).ID); return err }},
		{"Runs", func(ctx context.Context) error { _, err := collect(s.Runs(ctx, u.Name)); return err }},
		{"DeleteRun", func(ctx context.Context) error { return s.DeleteRun(ctx, madeRun("calls", 0).ID) }},
		{"PutRoute", func(ctx context.Context) error { return s.PutRoute(ctx, hub.Route{Key: key, Generation: 1}) }},
		{"Routes", func(ctx context.Context) error { _, err := collect(s.Routes(ctx)); return err }},
		{"DeleteRoute", func(ctx context.Context) error { return s.DeleteRoute(ctx, key, 1) }},
		{"RecordActivity", func(ctx context.Context) error {
			return s.RecordActivity(ctx, []hub.Activity{{Key: key, Last: time.Now()}})
		}},
		{"Activities", func(ctx context.Context) error { _, err := collect(s.Activities(ctx)); return err }},
		{"LastChange", func(ctx context.Context) error { _, err := s.LastChange(ctx); return err }},
		{"Acquire", func(ctx context.Context) error { _, err := s.Acquire(ctx, "calls", time.Hour); return err }},
	}
	return func(yield func(string, func(context.Context) error) bool) {
		for _, c := range calls {
			if !yield(c.op, c.call) {
				return
			}
		}
	}
}

func contexts(t *testing.T, open func(testing.TB) FullStore) {
	for _, c := range []struct {
		name string
		end  func(context.Context) (context.Context, context.CancelFunc)
		want hub.Kind
	}{
		{"cancelled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}, hub.Canceled},
		{"past its deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadline(ctx, time.Now().Add(-time.Second))
		}, hub.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			for op, call := range Calls(s) {
				ctx, cancel := c.end(t.Context())
				if err := call(ctx); err == nil || hub.KindOf(err) != c.want {
					t.Errorf("%s: got %v (%v), want %v", op, err, hub.KindOf(err), c.want)
				}
				cancel()
			}
			if users := all(t, s.Users(t.Context())); len(users) > 0 {
				t.Error("a person was kept by a call whose context was over")
			}
			l, err := s.Acquire(t.Context(), "calls", time.Hour)
			ok(t, err)
			ctx, cancel := c.end(t.Context())
			defer cancel()
			kind(t, l.Extend(ctx, time.Hour), c.want)
			kind(t, l.Release(ctx), c.want)
			ok(t, l.Extend(t.Context(), time.Hour))
		})
	}
}

// What the suites are written with.

type testCase[S any] struct {
	name string
	run  func(t *testing.T, s S)
}

func runAll[S any](t *testing.T, open func(testing.TB) S, cases []testCase[S]) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, open(t))
		})
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func kind(t *testing.T, err error, want hub.Kind) {
	t.Helper()
	if err == nil || hub.KindOf(err) != want {
		t.Fatalf("got %v (%v), want %v", err, hub.KindOf(err), want)
	}
}

// same compares values by what a wire would carry of them.
func same(t *testing.T, got, want any) {
	t.Helper()
	if g, w := asJSON(t, got), asJSON(t, want); g != w {
		t.Fatalf("got  %s\nwant %s", g, w)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	ok(t, err)
	return string(b)
}

func collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var list []T
	for v, err := range seq {
		if err != nil {
			return list, err
		}
		list = append(list, v)
	}
	return list, nil
}

func all[T any](t *testing.T, seq iter.Seq2[T, error]) []T {
	t.Helper()
	list, err := collect(seq)
	ok(t, err)
	return list
}

// stopsEarly tests that a listing can be left at its first element.
func stopsEarly[T any](t *testing.T, seq iter.Seq2[T, error]) {
	t.Helper()
	n := 0
	for _, err := range seq {
		ok(t, err)
		n++
		break
	}
	if n != 1 {
		t.Fatalf("%d elements were yielded, want 1", n)
	}
}

// patience bounds every wait of the suites; it is only ever used up by a fault.
const patience = 20 * time.Second

// clockSkew is what a store's clock may differ from ours by.
const clockSkew = 100 * time.Millisecond

// eventually waits for what happens by itself.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen that %s", what)
		}
	}
}

// endsAt waits for there to be nothing any more, which must not be so before end.
func endsAt(t *testing.T, what string, end time.Time, find func() error) {
	t.Helper()
	eventually(t, what+" ended", func() bool {
		err := find()
		if err == nil {
			return false
		}
		kind(t, err, hub.NotFound)
		// A store's clock may differ from ours by a moment.
		if early := time.Until(end); early > clockSkew {
			t.Fatalf("%s ended %v early", what, early)
		}
		return true
	})
	eventually(t, "time passes", func() bool { return time.Since(end) > clockSkew })
}

// race runs n at once, as near to one another as goroutines start.
func race(n int, do func(i int)) {
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-gate
			do(i)
		})
	}
	close(gate)
	wg.Wait()
}

func name(s string) hub.UserName {
	n, err := hub.ParseUserName(s)
	if err != nil {
		panic(err) // a name that a suite made up
	}
	return n
}

func serverKey(user, server string) hub.ServerKey {
	k, err := hub.ParseServerKey(user, server)
	if err != nil {
		panic(err) // likewise
	}
	return k
}

func endpoint(s string) hub.Endpoint {
	e, err := hub.ParseEndpoint(s)
	if err != nil {
		panic(err) // likewise
	}
	return e
}
