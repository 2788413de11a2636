package hub

import (
	"context"
	"slices"
	"sync"
)

// startQueue lets a limited number of starts work at once and keeps the rest in a fair line: who
// has fewest starts at work goes first, then who has an account, then who came first. Visitors count as
// one, however many there are, as each of them has a name that is new.
type startQueue struct {
	most  func() int // how many work at once, as the policy stands
	turns bool       // of those who have equally many at work, who had a turn longest ago goes first

	mu      sync.Mutex
	working map[UserName]int
	total   int
	line    []*waiter
	turn    uint64              // the last one's number
	last    map[UserName]uint64 // the number of their last turn, of those who are here
}

type waiter struct {
	user  UserName // the zero one for every visitor
	turn  chan struct{}
	place chan int // capacity 1; the newest place
}

func newStartQueue(most func() int) *startQueue {
	return &startQueue{most: most, working: map[UserName]int{}, last: map[UserName]uint64{}}
}

// wait blocks until it is the caller's turn, telling its place (from 1) whenever that changes, and
// returns the function that gives the turn on. The error is ctx's.
func (q *startQueue) wait(ctx context.Context, user UserName, tell func(place int)) (done func(), err error) {
	if user.IsVisitor() {
		user = UserName{}
	}
	q.mu.Lock()
	w := &waiter{user: user, turn: make(chan struct{}), place: make(chan int, 1)}
	q.line = append(q.line, w)
	q.admit()
	q.mu.Unlock()
	for {
		select {
		case <-w.turn:
			return sync.OnceFunc(func() { q.leave(user) }), nil
		default:
		}
		select {
		case <-w.turn:
		case p := <-w.place:
			tell(p)
		case <-ctx.Done():
			q.giveUp(w)
			return nil, ctx.Err()
		}
	}
}

// admit hands out free turns and tells the others where they stand; q.mu is held.
func (q *startQueue) admit() {
	for most := q.most(); q.total < most && len(q.line) > 0; {
		best := 0
		for i, w := range q.line {
			if q.before(w, q.line[best]) {
				best = i
			}
		}
		w := q.line[best]
		q.line = append(q.line[:best], q.line[best+1:]...)
		q.working[w.user]++
		q.total++
		q.turn++
		q.last[w.user] = q.turn
		close(w.turn)
	}
	for i, w := range q.line {
		select {
		case <-w.place:
		default:
		}
		w.place <- i + 1
	}
}

// before tells whether a waiter passes one that came earlier; q.mu is held.
func (q *startQueue) before(w, earlier *waiter) bool {
	mine, theirs := q.working[w.user], q.working[earlier.user]
	if mine != theirs {
		return mine < theirs
	}
	return earlier.user == UserName{} && w.user != UserName{} || q.turns && q.last[w.user] < q.last[earlier.user]
}

func (q *startQueue) leave(user UserName) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total--
	if q.working[user]--; q.working[user] <= 0 {
		delete(q.working, user)
	}
	q.forget(user)
	q.admit()
}

// forget forgets the last turn of who is not here any more; q.mu is held.
func (q *startQueue) forget(user UserName) {
	if q.working[user] == 0 && !slices.ContainsFunc(q.line, func(w *waiter) bool { return w.user == user }) {
		delete(q.last, user)
	}
}

// giveUp takes a waiter out of the line, or gives its turn on when that has come meanwhile.
func (q *startQueue) giveUp(w *waiter) {
	q.mu.Lock()
	i := slices.Index(q.line, w)
	if i >= 0 {
		q.line = slices.Delete(q.line, i, i+1)
		q.forget(w.user)
		q.admit()
	}
	q.mu.Unlock()
	if i < 0 {
		q.leave(w.user)
	}
}

// busy tells whether anyone waits.
func (q *startQueue) busy() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.line) > 0
}
