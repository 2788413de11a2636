package hubtest

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"carrel/hub"
)

// Store keeps every store contract of package hub in memory: what [hub.SessionStore] and the others
// promise, with nothing behind it. It can be told to fail. It starts no goroutine and reads time by
// time.Now alone, so that it lives in a synctest bubble.
type Store struct {
	mu       sync.Mutex
	before   func(op string) error
	after    func(op string) error
	away     bool
	boxes    map[*mailbox]struct{}
	revision uint64 // never given twice, even to a record that was deleted and made again
	holder   uint64 // of leases
	changes  uint64 // that were named

	data
}

// data is all that a wipe loses.
type data struct {
	sessions    map[hub.SecretHash]hub.Session
	tombs       map[tomb]time.Time
	tickets     map[hub.SecretHash]kept[hub.Ticket]
	once        map[string]time.Time
	users       map[hub.UserName]hub.User
	tokens      map[hub.SecretHash]hub.Token
	servers     map[hub.ServerKey]hub.Server
	generations map[hub.ServerKey]hub.Generation
	routes      map[hub.ServerKey]hub.Route
	activity    map[hub.ServerKey]time.Time
	leases      map[string]kept[uint64]
	change      string // the last one's name
	visits      map[hub.UserName]hub.Visit
	arrivals    map[string]kept[int]
	runs        map[hub.RunID]kept[hub.Run]
}

// kept is a value with an end.
type kept[T any] struct {
	value T
	until time.Time
}

func (k kept[T]) live() bool { return time.Now().Before(k.until) }

var (
	_ hub.SessionStore   = (*Store)(nil)
	_ hub.SessionUpdater = (*Store)(nil)
	_ hub.TicketStore    = (*Store)(nil)
	_ hub.UserStore      = (*Store)(nil)
	_ hub.TokenStore     = (*Store)(nil)
	_ hub.ServerStore    = (*Store)(nil)
	_ hub.ServerNames    = (*Store)(nil)
	_ hub.RouteStore     = (*Store)(nil)
	_ hub.Changes        = (*Store)(nil)
	_ hub.VisitStore     = (*Store)(nil)
	_ hub.RunStore       = (*Store)(nil)
	_ hub.Leases         = (*Store)(nil)
	_ hub.Events         = (*Store)(nil)
)

// NewStore makes an empty one.
func NewStore() *Store { return &Store{boxes: map[*mailbox]struct{}{}, data: empty()} }

func empty() data {
	return data{
		sessions: map[hub.SecretHash]hub.Session{}, tombs: map[tomb]time.Time{}, tickets: map[hub.SecretHash]kept[hub.Ticket]{},
		once: map[string]time.Time{}, users: map[hub.UserName]hub.User{}, tokens: map[hub.SecretHash]hub.Token{},
		servers: map[hub.ServerKey]hub.Server{}, generations: map[hub.ServerKey]hub.Generation{},
		routes: map[hub.ServerKey]hub.Route{}, activity: map[hub.ServerKey]time.Time{}, leases: map[string]kept[uint64]{},
		visits: map[hub.UserName]hub.Visit{}, arrivals: map[string]kept[int]{}, runs: map[hub.RunID]kept[hub.Run]{},
	}
}

// FailBefore has f asked before each operation, by the name of its method ("PutServer", "Extend"):
// an error is returned in place of the operation, which then has not happened. f may block, to hold
// an operation up; it is called without a lock. A nil f ends it.
func (s *Store) FailBefore(f func(op string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// FailAfter is FailBefore for errors after the operation happened: the answer was lost on its way.
func (s *Store) FailAfter(f func(op string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = f
}

// Away takes the store away, or brings it back with what it held. Meanwhile every operation is
// Unavailable; whoever is subscribed is told Reset when it is back.
func (s *Store) Away(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away && !away {
		s.tell(hub.Event{Kind: hub.Reset})
	}
	s.away = away
}

// Wipe loses everything, as a store that was started anew without its data.
func (s *Store) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = empty()
	s.tell(hub.Event{Kind: hub.Reset})
}

// do is one operation: change runs under the lock unless the operation is to fail first.
func (s *Store) do(ctx context.Context, op string, change func() error) error {
	if err := ctx.Err(); err != nil {
		return hub.Wrap(hub.Unavailable, op, err)
	}
	s.mu.Lock()
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(op); err != nil {
			return err
		}
	}
	if err := s.locked(op, change); err != nil {
		return err
	}
	if after != nil {
		return after(op)
	}
	return nil
}

func (s *Store) locked(op string, change func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return &hub.Error{Kind: hub.Unavailable, Op: op, Message: "the session store can't be reached", Remedy: "try again in a few seconds"}
	}
	return change()
}

// yieldAll lists what collect gives, outside the lock.
func yieldAll[T any](ctx context.Context, s *Store, op string, collect func() []T) func(func(T, error) bool) {
	return func(yield func(T, error) bool) {
		var all []T
		err := s.do(ctx, op, func() error {
			all = collect()
			return nil
		})
		if err != nil {
			var zero T
			yield(zero, err)
			return
		}
		for _, v := range all {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// copied is what a store over a wire gives: nothing of v itself.
func copied[T any](v T) T {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // the hub's own types
	}
	var c T
	if err := json.Unmarshal(b, &c); err != nil {
		panic(err) // made just above
	}
	return c
}

func notFound(op string) error {
	return &hub.Error{Kind: hub.NotFound, Op: op, Message: "there is no such thing"}
}

func conflict(op, message string) error {
	return &hub.Error{Kind: hub.Conflict, Op: op, Message: message, Remedy: "try again"}
}

// endless refuses what would be kept for ever.
func endless(op string, ttl time.Duration) error {
	if ttl > 0 {
		return nil
	}
	return hub.Errorf(hub.Invalid, op, "a life of %v is none", ttl)
}
