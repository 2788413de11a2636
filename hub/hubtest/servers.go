package hubtest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carrel/hub"
)

// madeServer is a record with everything filled in, and with texts that look like its own fields.
func madeServer(key hub.ServerKey) hub.Server {
	now := time.Now().Round(0)
	return hub.Server{
		Key: key, UserID: "u", Generation: 3, Phase: hub.Ready, Intent: hub.WantRunning, Profile: "small", SafeStart: true,
		Handle:   hub.Handle{Driver: "docker", Version: 2, Data: json.RawMessage(`{"revision":99,"id":"x"}`)},
		Endpoint: endpoint("unix:///run/carrel/x.sock"), Reason: `"revision":99`, LogTail: []string{"one", `{"revision":99}`},
		Since: now, Started: now, CullAt: now.Add(time.Hour), CullWhy: "idle", KeepUntil: now.Add(time.Minute),
	}
}

// Servers tests that a store keeps the contract of [hub.ServerStore].
func Servers(t *testing.T, open func(testing.TB) hub.ServerStore) {
	runAll(t, open, []testCase[hub.ServerStore]{
		{"a record is found as it was written", serverFound},
		{"values are copies", serverCopies},
		{"a write needs the stored revision", serverRevision},
		{"of writers at once one is through", serverRace},
		{"no update is lost", serverCount},
		{"a removal needs the stored revision", serverDeleted},
		{"a revision is not given again after a removal", serverReborn},
		{"every record is listed", serversListed},
		{"generations count from least", generationsCount},
		{"no generation is given twice", generationsRace},
	})
}

func serverFound(t *testing.T, s hub.ServerStore) {
	for _, key := range []hub.ServerKey{serverKey("alice", ""), serverKey("alice", "gpu"), serverKey("a.b@c", "gpu"), serverKey(strings.Repeat("a.", 31)+"a", strings.Repeat("s", 30))} {
		_, err := s.Server(t.Context(), key)
		kind(t, err, hub.NotFound)
		x := madeServer(key)
		written, err := s.PutServer(t.Context(), x)
		ok(t, err)
		if written.Revision == 0 {
			t.Error("the revision is 0 still")
		}
		x.Revision = written.Revision
		same(t, written, x)
		got, err := s.Server(t.Context(), key)
		ok(t, err)
		same(t, got, x)
	}
}

func serverCopies(t *testing.T, s hub.ServerStore) {
	x := madeServer(serverKey("alice", ""))
	written, err := s.PutServer(t.Context(), x)
	ok(t, err)
	want := asJSON(t, written)
	x.LogTail[0], x.Handle.Data[2] = "changed", 'X'
	if asJSON(t, written) != want {
		t.Error("what is returned shares with what was given")
	}
	written.LogTail[0], written.Handle.Data[2] = "changed", 'X'
	for range 2 {
		got, err := s.Server(t.Context(), x.Key)
		ok(t, err)
		if g := asJSON(t, got); g != want {
			t.Fatalf("got  %s\nwant %s", g, want)
		}
		got.LogTail[0], got.Handle.Data[2] = "changed", 'X'
	}
}

func serverRevision(t *testing.T, s hub.ServerStore) {
	x := madeServer(serverKey("alice", ""))
	x.Revision = 7
	_, err := s.PutServer(t.Context(), x) // there is none of this revision
	kind(t, err, hub.Conflict)
	_, err = s.Server(t.Context(), x.Key)
	kind(t, err, hub.NotFound)

	x.Revision = 0
	first, err := s.PutServer(t.Context(), x)
	ok(t, err)
	_, err = s.PutServer(t.Context(), x) // there is one by now
	kind(t, err, hub.Conflict)
	second := first
	second.Phase = hub.Stopping
	second, err = s.PutServer(t.Context(), second)
	ok(t, err)
	for _, revision := range []uint64{first.Revision, 0, second.Revision + 1, 99} {
		stale := first
		stale.Revision = revision
		_, err = s.PutServer(t.Context(), stale)
		kind(t, err, hub.Conflict)
	}
	got, err := s.Server(t.Context(), x.Key)
	ok(t, err)
	same(t, got, second)
}

func serverRace(t *testing.T, s hub.ServerStore) {
	key := serverKey("alice", "")
	x := madeServer(key)
	for round := range 20 {
		var won atomic.Int32
		race(8, func(n int) {
			mine := x
			mine.Reason = strconv.Itoa(n % 2) // two of them write the very same
			_, err := s.PutServer(t.Context(), mine)
			switch {
			case err == nil:
				won.Add(1)
			case hub.KindOf(err) != hub.Conflict:
				t.Error(err)
			}
		})
		if n := won.Load(); n != 1 {
			t.Fatalf("round %d: %d were through", round, n)
		}
		var err error
		x, err = s.Server(t.Context(), key)
		ok(t, err)
	}
}

func serverCount(t *testing.T, s hub.ServerStore) {
	key := serverKey("alice", "")
	const writers, each = 6, 15
	var mu sync.Mutex
	revisions := map[uint64]bool{}
	race(writers, func(int) {
		for done := 0; done < each; {
			x, err := s.Server(t.Context(), key)
			if err != nil && hub.KindOf(err) != hub.NotFound {
				t.Error(err)
				return
			}
			x.Key = key
			x.Generation++
			x, err = s.PutServer(t.Context(), x)
			if err == nil {
				done++
				mu.Lock()
				revisions[x.Revision] = true
				mu.Unlock()
			} else if hub.KindOf(err) != hub.Conflict {
				t.Error(err)
				return
			}
		}
	})
	x, err := s.Server(t.Context(), key)
	ok(t, err)
	if x.Generation != writers*each || len(revisions) != writers*each {
		t.Errorf("counted to %d with %d revisions, want %d", x.Generation, len(revisions), writers*each)
	}
}

func serverDeleted(t *testing.T, s hub.ServerStore) {
	x := madeServer(serverKey("alice", ""))
	kind(t, s.DeleteServer(t.Context(), x), hub.Conflict)
	first, err := s.PutServer(t.Context(), x)
	ok(t, err)
	second, err := s.PutServer(t.Context(), first)
	ok(t, err)
	for _, revision := range []uint64{first.Revision, 0, 99} {
		stale := first
		stale.Revision = revision
		kind(t, s.DeleteServer(t.Context(), stale), hub.Conflict)
	}
	_, err = s.Server(t.Context(), x.Key)
	ok(t, err)
	ok(t, s.DeleteServer(t.Context(), second))
	_, err = s.Server(t.Context(), x.Key)
	kind(t, err, hub.NotFound)
	kind(t, s.DeleteServer(t.Context(), second), hub.Conflict)
	same(t, all(t, s.Servers(t.Context())), []hub.Server(nil))
}

// serverReborn: whoever holds the record of before must not overwrite the one of after.
func serverReborn(t *testing.T, s hub.ServerStore) {
	var held []hub.Server
	for range 5 {
		x, err := s.PutServer(t.Context(), madeServer(serverKey("alice", "")))
		ok(t, err)
		held = append(held, x)
		x, err = s.PutServer(t.Context(), x)
		ok(t, err)
		held = append(held, x)
		ok(t, s.DeleteServer(t.Context(), x))
	}
	_, err := s.PutServer(t.Context(), madeServer(serverKey("alice", "")))
	ok(t, err)
	for _, x := range held {
		_, err := s.PutServer(t.Context(), x)
		kind(t, err, hub.Conflict)
		kind(t, s.DeleteServer(t.Context(), x), hub.Conflict)
	}
}

func serversListed(t *testing.T, s hub.ServerStore) {
	same(t, all(t, s.Servers(t.Context())), []hub.Server(nil))
	want := map[hub.ServerKey]string{}
	for i := range 450 {
		x, err := s.PutServer(t.Context(), madeServer(serverKey(fmt.Sprintf("user-%d", i/2), []string{"", "gpu"}[i%2])))
		ok(t, err)
		want[x.Key] = asJSON(t, x)
	}
	for _, x := range all(t, s.Servers(t.Context())) {
		if want[x.Key] != asJSON(t, x) {
			t.Errorf("listed %s, want %s", asJSON(t, x), want[x.Key])
		}
		delete(want, x.Key)
	}
	if len(want) > 0 {
		t.Errorf("%d are not listed", len(want))
	}
	stopsEarly(t, s.Servers(t.Context()))
}

func generationsCount(t *testing.T, s hub.ServerStore) {
	key := serverKey("alice", "")
	for _, c := range []struct{ least, want hub.Generation }{
		{0, 1}, {0, 2}, {2, 3}, {1, 4}, {9, 10}, {3, 11}, {1 << 50, 1<<50 + 1}, {0, 1<<50 + 2}, {1<<50 + 2, 1<<50 + 3},
	} {
		got, err := s.NextGeneration(t.Context(), key, c.least)
		ok(t, err)
		if got != c.want {
			t.Errorf("least %d: got %d, want %d", c.least, got, c.want)
		}
	}
	got, err := s.NextGeneration(t.Context(), serverKey("alice", "gpu"), 0)
	ok(t, err)
	if got != 1 {
		t.Errorf("another server begins at %d", got)
	}
	other := serverKey("bob", "")
	x, err := s.PutServer(t.Context(), madeServer(other))
	ok(t, err)
	_, err = s.NextGeneration(t.Context(), other, 4)
	ok(t, err)
	ok(t, s.DeleteServer(t.Context(), x))
	if got, err = s.NextGeneration(t.Context(), other, 0); err != nil || got != 6 {
		t.Errorf("after its record was removed a server begins at %d, %v", got, err)
	}
}

func generationsRace(t *testing.T, s hub.ServerStore) {
	key := serverKey("alice", "")
	var mu sync.Mutex
	given := map[hub.Generation]bool{}
	race(8, func(n int) {
		for i := range 20 {
			least := hub.Generation(i * (n % 3))
			g, err := s.NextGeneration(t.Context(), key, least)
			if err != nil || g <= least {
				t.Errorf("got %d, %v, at least %d", g, err, least)
				return
			}
			mu.Lock()
			if given[g] {
				t.Errorf("%d was given twice", g)
			}
			given[g] = true
			mu.Unlock()
		}
	})
}
