package hubtest

import (
	"context"
	"iter"
	"sync"
	"time"

	"carrel/hub"
)

type lease struct {
	s      *Store
	name   string
	holder uint64
}

// Acquire implements [hub.Leases].
func (s *Store) Acquire(ctx context.Context, name string, ttl time.Duration) (hub.Lease, error) {
	const op = "Acquire"
	l := &lease{s: s, name: name}
	err := s.do(ctx, op, func() error {
		if err := endless(op, ttl); err != nil {
			return err
		}
		if s.leases[name].live() {
			return conflict(op, "another process is at it")
		}
		s.holder++
		l.holder = s.holder
		s.leases[name] = kept[uint64]{l.holder, time.Now().Add(ttl)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// held tells whether the lease is still this holder's.
func (l *lease) held() bool {
	k := l.s.leases[l.name]
	return k.value == l.holder && k.live()
}

// Extend implements [hub.Lease].
func (l *lease) Extend(ctx context.Context, ttl time.Duration) error {
	const op = "Extend"
	return l.s.do(ctx, op, func() error {
		if err := endless(op, ttl); err != nil {
			return err
		}
		if !l.held() {
			return conflict(op, "the lease was lost")
		}
		l.s.leases[l.name] = kept[uint64]{l.holder, time.Now().Add(ttl)}
		return nil
	})
}

// Release implements [hub.Lease].
func (l *lease) Release(ctx context.Context) error {
	return l.s.do(ctx, "Release", func() error {
		if l.held() {
			delete(l.s.leases, l.name)
		}
		return nil
	})
}

// Subscribe implements [hub.Events].
func (s *Store) Subscribe(ctx context.Context) iter.Seq[hub.Event] {
	return func(yield func(hub.Event) bool) {
		box := &mailbox{ring: make(chan struct{}, 1)}
		s.mu.Lock()
		s.boxes[box] = struct{}{}
		if !s.away {
			box.put(hub.Event{Kind: hub.Reset})
		}
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			delete(s.boxes, box)
			s.mu.Unlock()
		}()
		for {
			e, ok := box.next(ctx)
			if !ok || !yield(e) {
				return
			}
		}
	}
}

// tell hands an event to every subscriber; the lock is held.
func (s *Store) tell(e hub.Event) {
	for box := range s.boxes {
		box.put(copied(e))
	}
}

// maxUnheard is how many events wait for a slow consumer.
const maxUnheard = 256

// mailbox holds what a consumer has not heard yet; when that is too much, Reset takes its place.
type mailbox struct {
	mu    sync.Mutex
	queue []hub.Event
	ring  chan struct{}
}

func (b *mailbox) put(e hub.Event) {
	b.mu.Lock()
	switch {
	case e.Kind == hub.Reset || len(b.queue) >= maxUnheard:
		b.queue = []hub.Event{{Kind: hub.Reset}}
	default:
		b.queue = append(b.queue, e)
	}
	b.mu.Unlock()
	select {
	case b.ring <- struct{}{}:
	default:
	}
}

// next waits for an event; ok is false when ctx ended.
func (b *mailbox) next(ctx context.Context) (e hub.Event, ok bool) {
	for ctx.Err() == nil {
		b.mu.Lock()
		if len(b.queue) > 0 {
			e, b.queue = b.queue[0], b.queue[1:]
			b.mu.Unlock()
			return e, true
		}
		b.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-b.ring:
		}
	}
	return hub.Event{}, false
}
