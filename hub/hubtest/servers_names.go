package hubtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"carrel/hub"
)

// NamedServerStore keeps servers and routes, and tells servers' names.
type NamedServerStore interface {
	hub.ServerStore
	hub.ServerNames
	hub.RouteStore
}

// ServerNames tests that a store keeps the contract of [hub.ServerNames].
func ServerNames(t *testing.T, open func(testing.TB) NamedServerStore) {
	runAll(t, open, []testCase[NamedServerStore]{
		{"a server has its name as long as its record", namedByRecord},
		{"a route that goes takes no name along", namedWithoutRoute},
		{"every server's name is listed", namesListed},
	})
}

// labels are what is listed, in order.
func labels(t *testing.T, s hub.ServerNames) []string {
	t.Helper()
	list := all(t, s.ServerLabels(t.Context()))
	slices.Sort(list)
	return list
}

func namedByRecord(t *testing.T, s NamedServerStore) {
	same(t, labels(t, s), []string(nil))
	long := serverKey(strings.Repeat("a.", 31)+"a", "gpu") // whose label tells nobody what it was made of
	keys := []hub.ServerKey{long, serverKey("alice", ""), serverKey("alice", "gpu"), serverKey("b-c@d.e", "x-y")}
	var want []string
	var held []hub.Server
	for _, key := range keys {
		want = append(want, key.Label())
		x, err := s.PutServer(t.Context(), madeServer(key))
		ok(t, err)
		held = append(held, x)
	}
	slices.Sort(want)
	same(t, labels(t, s), want)
	for i, x := range held {
		x.Phase, x.Intent, x.Endpoint = hub.Absent, hub.WantStopped, hub.Endpoint{}
		x, err := s.PutServer(t.Context(), x)
		ok(t, err)
		same(t, labels(t, s), want)
		kind(t, s.DeleteServer(t.Context(), held[i]), hub.Conflict) // of an earlier revision
		same(t, labels(t, s), want)
		held[i] = x
	}
	for len(held) > 0 {
		ok(t, s.DeleteServer(t.Context(), held[0]))
		want = slices.DeleteFunc(want, func(l string) bool { return l == held[0].Key.Label() })
		held = held[1:]
		if got := labels(t, s); !slices.Equal(got, want) {
			t.Errorf("listed %q, want %q", got, want)
		}
	}
}

func namedWithoutRoute(t *testing.T, s NamedServerStore) {
	x, err := s.PutServer(t.Context(), madeServer(serverKey("alice", "gpu")))
	ok(t, err)
	ok(t, s.PutRoute(t.Context(), madeRoute(x.Key, 1)))
	ok(t, s.DeleteRoute(t.Context(), x.Key, 1))
	same(t, labels(t, s), []string{x.Key.Label()})
}

func namesListed(t *testing.T, s NamedServerStore) {
	want := map[string]bool{}
	for i := range 450 {
		x, err := s.PutServer(t.Context(), madeServer(serverKey(fmt.Sprintf("user-%d", i/2), []string{"", "gpu"}[i%2])))
		ok(t, err)
		want[x.Key.Label()] = true
	}
	for _, l := range labels(t, s) {
		if !want[l] {
			t.Errorf("%q is listed, twice or of nobody", l)
		}
		delete(want, l)
	}
	if len(want) > 0 {
		t.Errorf("%d are not listed", len(want))
	}
	stopsEarly(t, s.ServerLabels(t.Context()))
}
