// Package siblings finds a deployment elsewhere that has room for a visitor when this one has none.
//
// It owns whom it asks and how often: each sibling's count of free notebooks, which anybody may read. It
// refuses to send anybody anywhere but to the addresses that the operator gave, and to believe more of an
// answer than one number.
package siblings

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"carrel/hub"
)

const (
	// fresh is how long an answer is believed; whom is sent there meanwhile is taken off.
	fresh = 2 * time.Second
	// resting is how long a sibling that did not answer is left alone.
	resting = 10 * time.Second
	// within is how long all have for their answers.
	within = time.Second
	// maxAnswer is more than an answer takes, in bytes.
	maxAnswer = 16 << 10
	// most is the largest number of free notebooks that is believed.
	most = 100_000
)

// Config is what [Siblings] need.
type Config struct {
	URLs      []string          // public addresses, each with a slash at the end
	Transport http.RoundTripper // nil: the default one
	Logger    *slog.Logger
}

// Siblings are deployments beside this one.
type Siblings struct {
	client http.Client
	logger *slog.Logger
	asking chan struct{} // held by who uses all
	all    []*sibling
}

type sibling struct {
	base  string
	asked time.Time // answered, or failed
	mute  bool
	free  int
}

// New checks the configuration; it asks nobody.
func New(cfg Config) (*Siblings, error) {
	if cfg.Logger == nil {
		return nil, hub.Errorf(hub.Internal, "make siblings", "a part is missing")
	}
	s := &Siblings{
		logger: cfg.Logger, asking: make(chan struct{}, 1),
		client: http.Client{Transport: cfg.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	for _, u := range cfg.URLs {
		s.all = append(s.all, &sibling{base: u})
	}
	return s, nil
}

// Room gives the address of the sibling that has most room; false where none has any, or none is known to.
// One place is taken off it for who takes it, and none for who only looks.
func (s *Siblings) Room(ctx context.Context, take bool) (base string, ok bool) {
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return "", false
	}
	s.ask(ctx)
	var best *sibling
	for _, b := range s.all {
		if best == nil || b.free > best.free {
			best = b
		}
	}
	if best == nil || best.free <= 0 {
		return "", false
	}
	if take {
		best.free--
	}
	return best.base, true
}

// ask asks those whose last answer is too old, all at once. Who began it may go: others wait for it too.
func (s *Siblings) ask(ctx context.Context) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer done()
	var answers sync.WaitGroup
	for _, b := range s.all {
		age := time.Since(b.asked)
		if age < fresh || b.mute && age < resting {
			continue
		}
		answers.Go(func() {
			free, err := s.free(ctx, b.base)
			if err != nil && !b.mute {
				s.logger.WarnContext(ctx, "sibling does not tell whether it has room", "sibling", b.base, "error", err)
			}
			b.free, b.mute, b.asked = free, err != nil, time.Now()
		})
	}
	answers.Wait()
}

// free is how many notebooks a sibling has for visitors who come now.
func (s *Siblings) free(ctx context.Context, base string) (int, error) {
	const op = "ask sibling"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"hub/api/tmp/stats", nil)
	if err != nil {
		return 0, hub.Wrap(hub.Invalid, op, err)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, hub.Wrap(hub.Unavailable, op, err)
	}
	defer res.Body.Close() // it was read only
	if res.StatusCode != http.StatusOK {
		return 0, hub.Errorf(hub.Unavailable, op, "status %d", res.StatusCode)
	}
	var told struct {
		Available int `json:"available"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&told); err != nil {
		return 0, hub.Wrap(hub.Unavailable, op, err)
	}
	return max(0, min(told.Available, most)), nil
}
