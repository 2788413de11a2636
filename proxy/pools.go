package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"carrel/hub"
	"carrel/internal/h1"
)

// pools keep the connections to each endpoint apart, so that one server's never crowd out another's.
type pools struct {
	mu  sync.Mutex
	all map[hub.Endpoint]*h1.Client
}

const (
	dialTimeout = 3 * time.Second
	maxPools    = 10_000
	maxIdle     = 64               // connections to one server
	idleBackend = 50 * time.Second // Jupyter closes idle ones after an hour; containers come and go

	maxServerHead = 256 << 10        // of an answer, whose sender may be hostile
	answerTime    = 30 * time.Minute // for its head: a person who waits gives up earlier
	continueTime  = time.Second
)

func (s *pools) get(e hub.Endpoint) *h1.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.all[e]; c != nil {
		return c
	}
	if s.all == nil || len(s.all) >= maxPools {
		for _, c := range s.all {
			c.Retire()
		}
		s.all = map[hub.Endpoint]*h1.Client{}
	}
	c := &h1.Client{
		Dial:    func(ctx context.Context) (net.Conn, error) { return dial(ctx, e) },
		MaxIdle: maxIdle, IdleTime: idleBackend, MaxHead: maxServerHead, AnswerTime: answerTime, ContinueTime: continueTime,
	}
	s.all[e] = c
	return c
}

// drop forgets an endpoint that no route leads to.
func (s *pools) drop(e hub.Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.all[e]; c != nil {
		c.Retire()
		delete(s.all, e)
	}
}

// sweep closes what was idle for too long; called every few seconds.
func (s *pools) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e, c := range s.all {
		if c.Sweep(now) {
			c.Retire()
			delete(s.all, e)
		}
	}
}

// close ends what is idle when the proxy ends.
func (s *pools) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		c.Retire()
	}
	s.all = nil
}

// dial reaches an endpoint; a unix socket whose backlog is full says EAGAIN, which passes.
func dial(ctx context.Context, e hub.Endpoint) (net.Conn, error) {
	ctx, done := context.WithTimeout(ctx, dialTimeout)
	defer done()
	d := net.Dialer{KeepAlive: 30 * time.Second}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		c, err := d.DialContext(ctx, e.Network(), e.Address())
		if err == nil || !errors.Is(err, syscall.EAGAIN) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}
