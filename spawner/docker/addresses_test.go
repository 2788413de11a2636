package docker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
)

var testNet = netip.MustParsePrefix("10.9.8.0/29") // 5 servers: .2 to .6

// book is an address book whose containers are what the test says.
func book(t *testing.T, dir string, used ...string) *addressBook {
	t.Helper()
	return &addressBook{
		path: filepath.Join(dir, "addresses.json"), quiet: 10 * time.Minute, logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		used: func(context.Context) ([]netip.Addr, error) {
			var list []netip.Addr
			for _, u := range used {
				list = append(list, netip.MustParseAddr(u))
			}
			return list, nil
		},
	}
}

func take(t *testing.T, b *addressBook) string {
	t.Helper()
	a, err := b.take(t.Context(), testNet)
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

func TestAddressesGoRound(t *testing.T) {
	dir := t.TempDir()
	b := book(t, dir)
	if a := take(t, b); a != "10.9.8.2" {
		t.Errorf("the first is %s: the network's own and the gateway's are not given out", a)
	}
	b.giveBack(t.Context(), netip.MustParseAddr("10.9.8.2"))
	for _, want := range []string{"10.9.8.3", "10.9.8.4", "10.9.8.5", "10.9.8.6", "10.9.8.2"} {
		if a := take(t, b); a != want {
			t.Errorf("got %s, want %s", a, want)
		}
	}
	_, err := b.take(t.Context(), testNet)
	if hub.KindOf(err) != hub.Unavailable {
		t.Errorf("with none left: %v", err)
	}
	if a, err := b.take(t.Context(), netip.MustParsePrefix("10.9.9.0/29")); err != nil || a.String() != "10.9.9.2" {
		t.Errorf("another network's: %v, %v", a, err)
	}
	b.giveBack(t.Context(), netip.MustParseAddr("10.9.8.4"))
	if a := take(t, b); a != "10.9.8.4" {
		t.Errorf("the one that was given back is free, and %s came", a)
	}
}

// TestQuarantine: an address rests, whichever process or run of it asks.
func TestQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := book(t, dir)
		for range 5 {
			take(t, b)
		}
		b.quarantine(t.Context(), netip.MustParseAddr("10.9.8.3"))
		time.Sleep(9 * time.Minute)
		again := book(t, dir, "10.9.8.2", "10.9.8.4", "10.9.8.5", "10.9.8.6")
		if a, err := again.take(t.Context(), testNet); err == nil {
			t.Errorf("%s came after nine minutes", a)
		}
		time.Sleep(time.Minute)
		if a := take(t, again); a != "10.9.8.3" {
			t.Errorf("after ten minutes %s came", a)
		}
	})
}

// TestUnnoticedEnd: a container that somebody else removed, or a process that died between taking an
// address and using it, frees the address after a rest like any other.
func TestUnnoticedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		one := netip.MustParsePrefix("10.9.8.0/30") // one server
		if _, err := book(t, dir).take(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		refused := func(when string, used ...string) {
			t.Helper()
			if a, err := book(t, dir, used...).take(t.Context(), one); err == nil {
				t.Fatalf("%s came %s", a, when)
			}
		}
		refused("while it may be on its way to a container")
		time.Sleep(time.Hour)
		refused("while a container has it", "10.9.8.2")
		refused("when it is seen to be gone")
		time.Sleep(9 * time.Minute)
		refused("during its rest")
		time.Sleep(2 * time.Minute)
		if _, err := book(t, dir).take(t.Context(), one); err != nil {
			t.Error(err)
		}
	})
}

func TestAddressOfAContainerIsNeverGivenOut(t *testing.T) {
	b := book(t, t.TempDir(), "10.9.8.2", "10.9.8.3", "10.9.8.5", "10.9.8.6") // the file is lost
	if a := take(t, b); a != "10.9.8.4" {
		t.Errorf("%s came", a)
	}
	b.used = func(context.Context) ([]netip.Addr, error) { return nil, errors.New("Docker is away") }
	if _, err := b.take(t.Context(), testNet); err == nil {
		t.Error("an address came, and nobody knows whose it is")
	}
}

// TestClock: a clock that was wrong for a while makes no address rest for years.
func TestClock(t *testing.T) {
	now := time.Now()
	a := netip.MustParseAddr("10.9.8.2")
	p := &pages{Held: map[netip.Addr]time.Time{}, Rest: map[netip.Addr]time.Time{a: now.Add(1e5 * time.Hour)}}
	p.turn(nil, now, time.Minute)
	if got := p.Rest[a]; !got.Equal(now.Add(time.Minute)) {
		t.Errorf("it rests until %v, now is %v", got, now)
	}
	p = &pages{Held: map[netip.Addr]time.Time{a: now.Add(1e5 * time.Hour)}, Rest: map[netip.Addr]time.Time{}}
	p.turn(nil, now, time.Minute)
	if _, held := p.Held[a]; held {
		t.Error("it is held by nobody until the clock comes round")
	}
}

func TestDamagedBook(t *testing.T) {
	for _, text := range []string{"", "{", "null", `{"rest":{"x":1}}`, `{"held":null,"last":{"10.9.8.0/29":"::1"}}`, `{"last":{"10.9.8.0/29":"255.255.255.255"}}`, `{"last":{"10.9.8.0/29":""}}`, "\x00\x00\x00"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "addresses.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b := book(t, dir, "10.9.8.2")
		if a := take(t, b); a != "10.9.8.3" {
			t.Errorf("with %q in the file, %s came", text, a)
		}
		var p pages
		raw, err := os.ReadFile(b.path)
		if err != nil || json.Unmarshal(raw, &p) != nil || len(p.Held) != 2 {
			t.Errorf("with %q in the file, it then held %s, %v", text, raw, err)
		}
	}
}

// TestTwoHubsTakeAtOnce: two processes that share the book never give out one address twice.
func TestTwoHubsTakeAtOnce(t *testing.T) {
	dir := t.TempDir()
	network := netip.MustParsePrefix("10.9.0.0/24")
	var mu sync.Mutex
	got := map[netip.Addr]int{}
	var wg sync.WaitGroup
	for range 2 {
		b := book(t, dir)
		for range 4 {
			wg.Go(func() {
				for range 10 {
					a, err := b.take(t.Context(), network)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					got[a]++
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if len(got) != 80 {
		t.Errorf("80 were taken, of which %d are different", len(got))
	}
}

// TestLockEnds: who waits for a lock gives up when asked to, and a lock's end lets the next in.
func TestLockEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := lockFile(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	unlock, err = lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
