package hub

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// The line is fair: who has nothing at work passes who has, and everyone hears their place.
func TestStartQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newStartQueue(func() int { return 1 })
		alice, bob := mustUser(t, "alice"), mustUser(t, "bob")
		var mu sync.Mutex
		var order []string
		places := map[string][]int{}
		dones := map[string]func(){}
		enter := func(ctx context.Context, who string, u UserName) {
			go func() {
				done, err := q.wait(ctx, u, func(p int) {
					mu.Lock()
					defer mu.Unlock()
					places[who] = append(places[who], p)
				})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					order = append(order, who+" gave up")
					return
				}
				order = append(order, who)
				dones[who] = done
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		enter(t.Context(), "alice1", alice)
		enter(t.Context(), "alice2", alice)
		enter(ctx, "alice3", alice)
		enter(t.Context(), "bob1", bob)
		if !q.busy() {
			t.Error("three wait, and the queue says that nobody does")
		}
		cancel()
		synctest.Wait()
		for _, who := range []string{"alice1", "alice2", "bob1"} {
			done := dones[who]
			done()
			done() // giving a turn on twice gives it once
			synctest.Wait()
		}
		if want := []string{"alice1", "alice3 gave up", "alice2", "bob1"}; !slices.Equal(order, want) {
			t.Errorf("the order was %v, want %v", order, want)
		}
		if want := []int{3, 2, 1}; !slices.Equal(places["bob1"], want) {
			t.Errorf("bob heard the places %v, want %v", places["bob1"], want)
		}
		if q.busy() || q.total != 0 || len(q.working) != 0 {
			t.Errorf("the queue is not empty at the end: %+v", q)
		}
	})
}

// With two turns, a person's second server waits for another person's first.
func TestStartQueuePrefersTheIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newStartQueue(func() int { return 2 })
		alice, bob, carol := mustUser(t, "alice"), mustUser(t, "bob"), mustUser(t, "carol")
		var mu sync.Mutex
		var order []string
		enter := func(who string, u UserName) func() {
			var done func()
			go func() {
				mine, err := q.wait(t.Context(), u, func(int) {})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					done, order = mine, append(order, who)
				}
			}()
			synctest.Wait()
			return func() { done() }
		}
		a1 := enter("alice1", alice)
		b1 := enter("bob1", bob)
		a2 := enter("alice2", alice)
		c1 := enter("carol1", carol)
		b1()
		synctest.Wait()
		a1()
		synctest.Wait()
		a2()
		c1()
		if want := []string{"alice1", "bob1", "carol1", "alice2"}; !slices.Equal(order, want) {
			t.Errorf("the order was %v, want %v", order, want)
		}
	})
}

// A crowd of visitors is one in the line: a person who came after them goes first, and they go as they came.
func TestStartQueueOfVisitors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newStartQueue(func() int { return 2 })
		var order []string
		var dones []func()
		var mu sync.Mutex
		enter := func(who string, u UserName) {
			go func() {
				done, err := q.wait(t.Context(), u, func(int) {})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					order, dones = append(order, who), append(dones, done)
				}
			}()
			synctest.Wait()
		}
		for n := range 5 {
			enter(strconv.Itoa(n), mustUser(t, visitorPrefix+strings.Repeat("a", visitorDigits-1)+string(rune('a'+n))))
		}
		enter("alice", mustUser(t, "alice"))
		enter("bob", mustUser(t, "bob"))
		for n := range 7 {
			dones[n]()
			synctest.Wait()
		}
		if got := strings.Join(order, " "); got != "0 1 alice bob 2 3 4" {
			t.Errorf("the order was %s", got)
		}
		if q.total != 0 || len(q.working) != 0 {
			t.Errorf("the queue is not empty at the end: %+v", q)
		}
	})
}

// Where neither has any start at work, a person passes visitors.
func TestStartQueuePrefersAccounts(t *testing.T) {
	q := newStartQueue(nil)
	person, visitors := &waiter{user: mustUser(t, "alice")}, &waiter{}
	if !q.before(person, visitors) || q.before(visitors, person) || q.before(visitors, visitors) || q.before(person, person) {
		t.Error("a person does not pass visitors who came first, or somebody passes their like")
	}
}

// A step replaces the one before of its kind; a follower hears what is there and what comes.
func TestStepBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStepBoard(unobserved{})
		key := ServerKey{User: mustUser(t, "alice")}
		b.begin(key, 1)
		b.add(key, Progress{Step: "image", Percent: 1})
		b.add(key, Progress{Step: "image", Percent: 9})
		var heard []Progress
		go func() {
			b.follow(t.Context(), key, func(p Progress) bool {
				heard = append(heard, p)
				return true
			})
		}()
		synctest.Wait()
		b.add(key, Progress{Step: "wait"})
		synctest.Wait()
		b.add(key, Progress{Step: "ready", Done: true})
		synctest.Wait()
		var steps []string
		for _, p := range heard {
			steps = append(steps, p.Step)
		}
		if want := []string{"image", "wait", "ready"}; !slices.Equal(steps, want) || heard[0].Percent != 9 || heard[1].Percent != 9 {
			t.Errorf("heard %+v, want %v with the percent kept", heard, want)
		}
	})
}
