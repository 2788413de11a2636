package hubtest

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// madeRun is a person's nth run, begun a second after the one before it.
func madeRun(owner string, n int) hub.Run {
	u := madeUser(owner)
	id, err := hub.ParseRunID(fmt.Sprintf("%.22s", strings.Repeat(owner, 22)) + fmt.Sprintf("%c%c%c%c", 'a'+n/26, 'a'+n%26, 'a', 'a'))
	if err != nil {
		panic(err) // made just above
	}
	return hub.Run{
		ID: id, Owner: u.Name, OwnerID: u.ID, Limits: hub.RunLimits{CPU: time.Second, Memory: 1 << 30}, Created: time.Date(2026, 5, 1, 12, 0, n, 0, time.UTC),
		Result: hub.RunResult{Status: hub.RunRunning, Stdout: []byte("a\x00\xff<b>"), CPU: -1},
	}
}

// RunRecords is the suite of [hub.RunStore].
func RunRecords(t *testing.T, open func(testing.TB) hub.RunStore) {
	t.Run("kept as written", func(t *testing.T) { runsKept(t, open(t)) })
	t.Run("deleted ones never come back", func(t *testing.T) { runsDeleted(t, open(t)) })
	t.Run("listed by owner, the newest first", func(t *testing.T) { runsListed(t, open(t)) })
	t.Run("forgotten after a while", func(t *testing.T) { runsForgotten(t, open(t)) })
}

func runsKept(t *testing.T, s hub.RunStore) {
	t.Helper()
	want := madeRun("alice", 0)
	if _, err := s.Run(t.Context(), want.ID); hub.KindOf(err) != hub.NotFound {
		t.Errorf("before: %v", err)
	}
	if err := s.CreateRun(t.Context(), want, time.Hour); err != nil {
		t.Fatal(err)
	}
	other := want
	other.Created = want.Created.Add(time.Second)
	if err := s.CreateRun(t.Context(), other, time.Hour); hub.KindOf(err) != hub.Conflict {
		t.Errorf("made twice: %v", err)
	}
	if have, err := s.Run(t.Context(), want.ID); err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("have %+v, want %+v (%v)", have, want, err)
	}
	want.Result.Status, want.Result.ExitCode, want.Ended = hub.RunFinished, 3, want.Created.Add(time.Second)
	if err := s.UpdateRun(t.Context(), want, time.Hour); err != nil {
		t.Fatal(err)
	}
	if have, err := s.Run(t.Context(), want.ID); err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("changed: have %+v, want %+v (%v)", have, want, err)
	}
	for op, err := range map[string]error{"create": s.CreateRun(t.Context(), madeRun("alice", 1), 0), "update": s.UpdateRun(t.Context(), want, -time.Second)} {
		if hub.KindOf(err) != hub.Invalid {
			t.Errorf("%s for no time: %v", op, err)
		}
	}
}

func runsDeleted(t *testing.T, s hub.RunStore) {
	t.Helper()
	r := madeRun("alice", 0)
	if err := s.DeleteRun(t.Context(), r.ID); hub.KindOf(err) != hub.NotFound {
		t.Errorf("deleted before it was there: %v", err)
	}
	if err := s.UpdateRun(t.Context(), r, time.Hour); hub.KindOf(err) != hub.NotFound {
		t.Errorf("changed before it was there: %v", err)
	}
	if err := s.CreateRun(t.Context(), r, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRun(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateRun(t.Context(), r, time.Hour); hub.KindOf(err) != hub.NotFound {
		t.Errorf("changed after it was deleted: %v", err)
	}
	if _, err := s.Run(t.Context(), r.ID); hub.KindOf(err) != hub.NotFound {
		t.Errorf("found after it was deleted: %v", err)
	}
	for _, owner := range []hub.UserName{r.Owner, {}} {
		if all, err := collect(s.Runs(t.Context(), owner)); err != nil || len(all) > 0 {
			t.Errorf("listed for %q after it was deleted: %+v, %v", owner, all, err)
		}
	}
}

func runsListed(t *testing.T, s hub.RunStore) {
	t.Helper()
	for _, r := range []hub.Run{madeRun("alice", 1), madeRun("bob", 2), madeRun("alice", 3), madeRun("alice", 0)} {
		if err := s.CreateRun(t.Context(), r, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for owner, want := range map[string]string{"alice": "3 1 0", "bob": "2", "carol": "", "": "3 2 1 0"} {
		var name hub.UserName
		if owner != "" {
			name = madeUser(owner).Name
		}
		all, err := collect(s.Runs(t.Context(), name))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range all {
			got = append(got, strconv.Itoa(r.Created.Second()))
			if len(r.Result.Stdout) > 0 || r.Result.Status != hub.RunRunning {
				t.Errorf("of %q: listed as %+v", owner, r)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("of %q: %v, want %s", owner, got, want)
		}
	}
}

func runsForgotten(t *testing.T, s hub.RunStore) {
	t.Helper()
	r := madeRun("alice", 0)
	if err := s.CreateRun(t.Context(), r, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateRun(t.Context(), r, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := s.Run(t.Context(), r.ID); hub.KindOf(err) == hub.NotFound {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it is never forgotten")
		}
	}
	if err := s.UpdateRun(t.Context(), r, time.Hour); hub.KindOf(err) != hub.NotFound {
		t.Errorf("changed after it was forgotten: %v", err)
	}
	if all, err := collect(s.Runs(t.Context(), r.Owner)); err != nil || len(all) > 0 {
		t.Errorf("listed after it was forgotten: %+v, %v", all, err)
	}
}
