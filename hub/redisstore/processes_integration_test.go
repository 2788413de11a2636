//go:build integration

package redisstore

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

const (
	processes = 4
	rounds    = 150
	asWorker  = "CARREL_TEST_REDIS_WORKER" // in a worker's environment: Redis's address
)

// TestProcessesRace has several processes, not just goroutines, at the same keys, as hubs are.
func TestProcessesRace(t *testing.T) {
	if address := os.Getenv(asWorker); address != "" {
		worker(t, address)
		return
	}
	r := startServer(t)
	s := openStore(t, Config{URL: r.url()})
	var workers []*exec.Cmd
	var outputs []*bufio.Scanner
	for range processes {
		cmd := exec.Command(os.Args[0], "-test.run=^TestProcessesRace$", "-test.v")
		cmd.Env = append(os.Environ(), asWorker+"="+r.url())
		out, err := cmd.StdoutPipe()
		must(t, err)
		cmd.Stderr = cmd.Stdout
		must(t, cmd.Start())
		workers, outputs = append(workers, cmd), append(outputs, bufio.NewScanner(out))
	}
	given := map[string]int{}
	for i, out := range outputs {
		var said []string
		for out.Scan() {
			said = append(said, out.Text())
			if fact, ok := strings.CutPrefix(out.Text(), "GOT "); ok {
				given[fact]++
			}
		}
		if err := workers[i].Wait(); err != nil {
			t.Errorf("worker %d: %v\n%s", i, err, strings.Join(said, "\n"))
		}
	}
	counts := map[string]int{}
	for fact, n := range given {
		if n != 1 {
			t.Errorf("%s: %d times", fact, n)
		}
		kind, _, _ := strings.Cut(fact, " ")
		counts[kind]++
	}
	for kind, want := range map[string]int{"generation": processes * rounds, "once": rounds, "ticket": rounds, "revision": processes * rounds, "turn": processes * rounds} {
		if counts[kind] != want {
			t.Errorf("%d of kind %s, want %d", counts[kind], kind, want)
		}
	}
	x, err := s.Server(t.Context(), workerKey())
	must(t, err)
	if x.Generation != processes*rounds {
		t.Errorf("counted to %d, want %d", x.Generation, processes*rounds)
	}
}

func workerKey() hub.ServerKey { return hub.ServerKey{User: session("alice").User} }

// worker does what must happen once or in turns, and says each time that it happened to it.
func worker(t *testing.T, address string) {
	s, err := New(Config{URL: address, Prefix: "carrel:test:", Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	defer s.Close()
	ctx := t.Context()
	x := session("alice")
	x.Hash = "the parent of all tickets"
	must(t, s.CreateSession(ctx, x))
	for i := range rounds {
		g, err := s.NextGeneration(ctx, workerKey(), 0)
		must(t, err)
		fmt.Println("GOT generation", g)
		first, err := s.Once(ctx, strconv.Itoa(i), time.Hour)
		must(t, err)
		if first {
			fmt.Println("GOT once", i)
			must(t, s.PutTicket(ctx, hub.SecretHash(strconv.Itoa(i)), hub.Ticket{Parent: x.Hash}, time.Hour))
			fmt.Println("put", i)
		}
		if _, err := s.TakeTicket(ctx, hub.SecretHash(strconv.Itoa(i))); err == nil {
			fmt.Println("GOT ticket", i)
		} else if hub.KindOf(err) != hub.NotFound {
			t.Error(err)
		}
		count(ctx, t, s)
		turn(ctx, t, s)
	}
}

// count adds one to the record, by compare and swap.
func count(ctx context.Context, t *testing.T, s *Store) {
	for {
		x, err := s.Server(ctx, workerKey())
		if err != nil && hub.KindOf(err) != hub.NotFound {
			t.Fatal(err)
		}
		x.Key = workerKey()
		x.Generation++
		x, err = s.PutServer(ctx, x)
		if err == nil {
			fmt.Println("GOT revision", x.Revision)
			return
		}
		if hub.KindOf(err) != hub.Conflict {
			t.Fatal(err)
		}
	}
}

// turn reads a number, and writes the next, under a lease alone: two at once would read the same.
func turn(ctx context.Context, t *testing.T, s *Store) {
	for {
		l, err := s.Acquire(ctx, "turn", time.Minute)
		if hub.KindOf(err) == hub.Conflict && err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		must(t, err)
		u, err := s.User(ctx, session("counter").User)
		if err != nil && hub.KindOf(err) != hub.NotFound {
			t.Fatal(err)
		}
		u.Name, u.DisplayName = session("counter").User, u.DisplayName+"."
		must(t, s.Rebind(ctx, u))
		fmt.Println("GOT turn", len(u.DisplayName))
		must(t, l.Release(ctx))
		return
	}
}
