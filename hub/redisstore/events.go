package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

const (
	reconnectFirst = 50 * time.Millisecond
	reconnectMost  = 2 * time.Second
	maxUnheard     = 1000 // events that wait for a slow consumer
)

func (s *Store) channel() string { return s.key("events") }

// Subscribe implements [hub.Events]. The connection is read whether or not the consumer keeps up,
// so that a slow one costs this process a bounded queue and Redis nothing.
func (s *Store) Subscribe(ctx context.Context) iter.Seq[hub.Event] {
	return func(yield func(hub.Event) bool) {
		ctx, stop := context.WithCancel(ctx)
		box := &mailbox{ring: make(chan struct{}, 1)}
		var reader sync.WaitGroup
		reader.Go(func() { s.follow(ctx, box) })
		defer reader.Wait()
		defer stop()
		for {
			e, ok := box.next(ctx)
			if !ok || !yield(e) {
				return
			}
		}
	}
}

// follow listens until ctx ends, on one connection after another.
func (s *Store) follow(ctx context.Context, box *mailbox) {
	wait := reconnectFirst
	told := false
	for ctx.Err() == nil {
		heard, err := s.listen(ctx, box)
		if heard {
			wait, told = reconnectFirst, false
		}
		if !told && ctx.Err() == nil {
			s.logger.WarnContext(ctx, "events can't be heard; connecting again", "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, reconnectMost)
	}
}

// listen hears one connection to its end. It begins with Reset, as nothing tells what was missed.
func (s *Store) listen(ctx context.Context, box *mailbox) (heard bool, err error) {
	sub := s.rdb.Subscribe(ctx, s.channel())
	defer sub.Close() //nolint:errcheck // its end is wanted
	// go-redis does not look at ctx while it reads.
	release := context.AfterFunc(ctx, func() { sub.Close() }) //nolint:errcheck // likewise
	defer release()
	if _, err := sub.ReceiveTimeout(ctx, 2*opWithin); err != nil {
		return false, err
	}
	box.put(hub.Event{Kind: hub.Reset})
	for asked, patience := false, s.silence; ; {
		msg, err := sub.ReceiveTimeout(ctx, patience)
		switch {
		case err == nil:
			asked, patience = false, s.silence
		case !asked && isTimeout(err) && sub.Ping(ctx) == nil:
			asked, patience = true, opWithin
			continue
		default:
			return true, err
		}
		if m, ok := msg.(*redis.Message); ok {
			box.put(s.event(ctx, m.Payload))
		}
	}
}

func (s *Store) event(ctx context.Context, payload string) hub.Event {
	var e hub.Event
	if err := json.Unmarshal([]byte(payload), &e); err != nil {
		s.logger.ErrorContext(ctx, "event not understood", "error", err)
		return hub.Event{Kind: hub.Reset}
	}
	return e
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// mailbox holds what a consumer has not heard yet; when that is too much, Reset takes its place.
type mailbox struct {
	mu    sync.Mutex
	queue []hub.Event
	ring  chan struct{}
}

func (b *mailbox) put(e hub.Event) {
	b.mu.Lock()
	if e.Kind == hub.Reset || len(b.queue) >= maxUnheard {
		b.queue = []hub.Event{{Kind: hub.Reset}}
	} else {
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
