package hubtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"carrel/hub"
)

// Events tests that a store keeps the contract of [hub.Events], and that its changes are told. Each
// call of open gives an empty store, and what cuts the connection of those who are subscribed.
func Events(t *testing.T, open func(testing.TB) (s FullStore, cut func())) {
	one := func(tb testing.TB) FullStore {
		s, _ := open(tb)
		return s
	}
	runAll(t, one, []testCase[FullStore]{
		{"ended sessions are told", toldSessions},
		{"revoked tokens are told", toldTokens},
		{"changed servers are told", toldServers},
		{"changed routes are told", toldRoutes},
		{"everyone is told, in order", toldAll},
		{"what was refused is not told", toldNothing},
		{"a slow consumer gets Reset for what it missed", toldSlowly},
		{"it ends with its context", toldUntil},
		{"it ends when the consumer has enough", toldEnough},
	})
	t.Run("a connection that is cut begins anew with Reset", func(t *testing.T) {
		t.Parallel()
		s, cut := open(t)
		heard := listen(t, s)
		for i := range 3 {
			cut()
			heard.until(t, hub.Reset)
			ok(t, s.PutRoute(t.Context(), madeRoute(serverKey("alice", ""), hub.Generation(i+1))))
			if e := heard.until(t, hub.RouteChanged); e.Route == nil || e.Route.Generation != hub.Generation(i+1) {
				t.Errorf("heard %s", asJSON(t, e))
			}
		}
	})
}

// ear is one subscription.
type ear chan hub.Event

// listen subscribes until the test ends, and waits for the first Reset.
func listen(t *testing.T, s hub.Events) ear {
	t.Helper()
	heard := make(ear)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range s.Subscribe(ctx) {
			select {
			case heard <- e:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the subscription did not end with its context")
		}
	})
	if e := heard.next(t); e.Kind != hub.Reset {
		t.Fatalf("the first event is %s", asJSON(t, e))
	}
	return heard
}

func (h ear) next(t *testing.T) hub.Event {
	t.Helper()
	select {
	case e := <-h:
		return e
	case <-time.After(patience):
		t.Fatal("no event came")
		return hub.Event{}
	}
}

// unnamed is an event but for the names of its change, which [Changes] is about.
func unnamed(e hub.Event) hub.Event {
	e.Change, e.After = "", ""
	return e
}

// until skips what was told twice because a connection was made anew.
func (h ear) until(t *testing.T, want hub.EventKind) hub.Event {
	t.Helper()
	for {
		if e := h.next(t); e.Kind == want {
			return e
		}
	}
}

func toldSessions(t *testing.T, s FullStore) {
	heard := listen(t, s)
	x := madeSession("alice")
	ok(t, s.CreateSession(t.Context(), x))
	a, b := madeChild(x, "a.example.org"), madeChild(x, "b.example.org")
	ok(t, s.CreateSession(t.Context(), a))
	ok(t, s.CreateSession(t.Context(), b))
	_, err := s.EndSessions(t.Context(), hub.SessionQuery{Hash: a.Hash})
	ok(t, err)
	same(t, heard.next(t), hub.Event{Kind: hub.SessionsEnded, Sessions: []hub.SecretHash{a.Hash}})
	_, err = s.EndSessions(t.Context(), hub.SessionQuery{User: x.User})
	ok(t, err)
	same(t, heard.next(t), hub.Event{Kind: hub.SessionsEnded, Sessions: []hub.SecretHash{x.Hash, b.Hash}})
}

func toldTokens(t *testing.T, s FullStore) {
	heard := listen(t, s)
	x := madeToken("alice", "one")
	ok(t, s.CreateToken(t.Context(), x))
	ok(t, s.DeleteToken(t.Context(), x.User, x.ID))
	same(t, heard.next(t), hub.Event{Kind: hub.TokenRevoked, Sessions: []hub.SecretHash{x.Hash}})
}

func toldServers(t *testing.T, s FullStore) {
	heard := listen(t, s)
	x, err := s.PutServer(t.Context(), madeServer(serverKey("alice", "gpu")))
	ok(t, err)
	for range 2 {
		e := heard.next(t)
		if e.Kind != hub.ServerChanged || e.Key != x.Key || e.Server == nil {
			t.Fatalf("heard %s", asJSON(t, e))
		}
		told, want := *e.Server, x
		told.LogTail, want.LogTail = nil, nil // it need not be told, being long
		same(t, told, want)
		x.Phase = hub.Stopping
		x, err = s.PutServer(t.Context(), x)
		ok(t, err)
	}
	heard.next(t)
	ok(t, s.DeleteServer(t.Context(), x))
	same(t, unnamed(heard.next(t)), hub.Event{Kind: hub.ServerChanged, Key: x.Key})
}

func toldRoutes(t *testing.T, s FullStore) {
	heard := listen(t, s)
	r := madeRoute(serverKey("alice", "gpu"), 2)
	ok(t, s.PutRoute(t.Context(), r))
	same(t, unnamed(heard.next(t)), hub.Event{Kind: hub.RouteChanged, Key: r.Key, Route: &r})
	ok(t, s.DeleteRoute(t.Context(), r.Key, 2))
	same(t, unnamed(heard.next(t)), hub.Event{Kind: hub.RouteChanged, Key: r.Key})
}

func toldAll(t *testing.T, s FullStore) {
	ears := []ear{listen(t, s), listen(t, s), listen(t, s)}
	const n = 50
	for g := range n {
		ok(t, s.PutRoute(t.Context(), madeRoute(serverKey("alice", ""), hub.Generation(g+1))))
	}
	for i, h := range ears {
		for g := range n {
			if e := h.next(t); e.Route == nil || e.Route.Generation != hub.Generation(g+1) {
				t.Fatalf("subscriber %d heard %s, want generation %d", i, asJSON(t, e), g+1)
			}
		}
	}
}

func toldNothing(t *testing.T, s FullStore) {
	heard := listen(t, s)
	key := serverKey("alice", "")
	ok(t, s.DeleteRoute(t.Context(), key, 1))
	kind(t, s.DeleteToken(t.Context(), key.User, "none"), hub.NotFound)
	kind(t, s.DeleteServer(t.Context(), hub.Server{Key: key}), hub.Conflict)
	_, err := s.PutServer(t.Context(), hub.Server{Key: key, Revision: 9})
	kind(t, err, hub.Conflict)
	_, err = s.EndSessions(t.Context(), hub.SessionQuery{User: key.User})
	ok(t, err)
	ok(t, s.PutRoute(t.Context(), madeRoute(key, 2)))
	if e := heard.next(t); e.Kind != hub.RouteChanged || e.Route.Generation != 2 {
		t.Fatalf("heard %s", asJSON(t, e))
	}
	kind(t, s.PutRoute(t.Context(), madeRoute(key, 1)), hub.Conflict)
	ok(t, s.DeleteRoute(t.Context(), key, 1))
	ok(t, s.DeleteRoute(t.Context(), key, 2))
	same(t, unnamed(heard.next(t)), hub.Event{Kind: hub.RouteChanged, Key: key})
}

// toldSlowly: whoever reads routes at Reset and follows the events since knows the last one.
func toldSlowly(t *testing.T, s FullStore) {
	heard := listen(t, s) // holds one event, and waits for us to take it
	const n = 3000
	key := serverKey("alice", "")
	for g := range n {
		ok(t, s.PutRoute(t.Context(), madeRoute(key, hub.Generation(g+1))))
	}
	known, resets, events := hub.Generation(0), 0, 0
	for known < n {
		switch e := heard.next(t); e.Kind {
		case hub.Reset:
			resets++
			for _, r := range all(t, s.Routes(t.Context())) {
				known = r.Generation
			}
		case hub.RouteChanged:
			events++
			if e.Route.Generation > known+1 {
				t.Fatalf("an event is missing between %d and %d", known, e.Route.Generation)
			}
			known = max(known, e.Route.Generation)
		case hub.SessionsEnded, hub.TokenRevoked, hub.ServerChanged:
			t.Fatalf("heard %s", asJSON(t, e))
		}
	}
	t.Logf("%d events and %d resets for %d changes", events, resets, n)
}

func toldUntil(t *testing.T, s FullStore) {
	ctx, stop := context.WithCancel(t.Context())
	began := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range s.Subscribe(ctx) {
			close(began)
		}
	}()
	<-began
	stopped := time.Now()
	stop()
	<-done
	if d := time.Since(stopped); d > 5*time.Second {
		t.Errorf("a silent subscription took %v to end", d)
	}
	for e := range s.Subscribe(ctx) {
		t.Errorf("a context that is over heard %s", asJSON(t, e))
	}
}

func toldEnough(t *testing.T, s FullStore) {
	for range 3 {
		for e := range s.Subscribe(t.Context()) {
			if e.Kind != hub.Reset {
				t.Errorf("the first event is %s", asJSON(t, e))
			}
			break
		}
	}
	ok(t, s.PutRoute(t.Context(), madeRoute(serverKey("alice", ""), 1)))
	if list := all(t, s.Routes(t.Context())); len(list) != 1 {
		t.Error(fmt.Sprint(list))
	}
}
