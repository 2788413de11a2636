package proxy

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"carrel/hub"
)

const (
	sessionFresh = 30 * time.Second // how long a session is known without asking
	unknownFresh = 2 * time.Second  // likewise, that there is none
	touchEvery   = time.Minute
	maxCached    = 200_000
)

// sessionCache keeps sessions near: a known one costs no round trip, an ended one is dropped by
// event, and with the store away a known one is honoured for the grace and no longer.
type sessionCache struct {
	store  hub.SessionStore
	grace  time.Duration
	flight singleflight.Group

	mu      sync.Mutex
	entries map[hub.SecretHash]cached
}

type cached struct {
	session hub.Session
	err     error     // NotFound, or nil
	checked time.Time // when the store said so
	stale   bool      // ask again before believing, if the store answers
	touched time.Time
}

func newSessionCache(store hub.SessionStore, grace time.Duration) *sessionCache {
	return &sessionCache{store: store, grace: grace, entries: map[hub.SecretHash]cached{}}
}

// get finds a live session.
func (c *sessionCache) get(ctx context.Context, h hub.SecretHash) (hub.Session, error) {
	now := time.Now()
	c.mu.Lock()
	e, known := c.entries[h]
	c.mu.Unlock()
	fresh := sessionFresh
	if e.err != nil {
		fresh = unknownFresh
	}
	if !known || e.stale || now.Sub(e.checked) > fresh {
		v, err, _ := c.flight.Do(string(h), func() (any, error) {
			ctx, done := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			defer done()
			return c.fetch(ctx, h)
		})
		switch {
		case err == nil || hub.KindOf(err) == hub.NotFound:
			e, _ = v.(cached)
		case known && e.err == nil && now.Sub(e.checked) <= c.grace:
		default:
			return hub.Session{}, err
		}
	}
	if e.err != nil {
		return hub.Session{}, e.err
	}
	if !e.session.Live(now) {
		return hub.Session{}, hub.Errorf(hub.NotFound, "find session", "the session is over")
	}
	return e.session, nil
}

func (c *sessionCache) fetch(ctx context.Context, h hub.SecretHash) (cached, error) {
	s, err := c.store.Session(ctx, h)
	if err != nil && hub.KindOf(err) != hub.NotFound {
		return cached{}, err
	}
	e := cached{session: s, err: err, checked: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxCached {
		clear(c.entries) // a flood of made-up cookies; the true ones come back at their next request
	}
	e.touched = c.entries[h].touched
	c.entries[h] = e
	return e, err
}

// expire makes every entry be checked anew before it is believed.
func (c *sessionCache) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h, e := range c.entries {
		e.stale = true
		c.entries[h] = e
	}
}

// end remembers that sessions are over.
func (c *sessionCache) end(hashes []hub.SecretHash) {
	over := cached{err: hub.Errorf(hub.NotFound, "find session", "the session is over"), checked: time.Now().Add(sessionFresh)}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range hashes {
		c.entries[h] = over
	}
}

// touch records, at most once a minute, that a session is in use, and its parent with it.
func (c *sessionCache) touch(s hub.Session) {
	now := time.Now()
	c.mu.Lock()
	e := c.entries[s.Hash]
	due := e.err == nil && now.Sub(e.touched) >= touchEvery && now.Sub(s.LastSeen) >= touchEvery
	if due {
		e.touched = now
		e.session.LastSeen = now
		c.entries[s.Hash] = e
	}
	c.mu.Unlock()
	if !due {
		return
	}
	go func() { // ends with its deadline
		ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		s.LastSeen = now
		_ = c.store.UpdateSession(ctx, s) // the next minute's comes again
		if s.Parent != "" {
			if parent, err := c.store.Session(ctx, s.Parent); err == nil {
				parent.LastSeen = now
				_ = c.store.UpdateSession(ctx, parent)
			}
		}
	}()
}

// caller is who makes a request, and how they showed it.
type caller struct {
	hub.Principal
	byToken bool
}

var errNobody = &hub.Error{Kind: hub.Unauthenticated, Op: "authenticate", Message: "nobody is signed in", Remedy: "sign in"}

// authenticate finds the caller by token or by cookie. A token that is not live is an error, and so
// is a cookie that another host's session belongs to.
func (p *Proxy) authenticate(r *http.Request) (caller, error) {
	if scheme, value, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && (strings.EqualFold(scheme, "token") || strings.EqualFold(scheme, "bearer")) {
		return p.byToken(r.Context(), hub.NewSecret(strings.TrimSpace(value)).Hash())
	}
	name, host := hub.CookieNotebook, canonicalHost(r.Host)
	if p.cfg.Origins.Mode() == hub.OneOrigin {
		name, host = hub.CookieSession, ""
	}
	c, err := r.Cookie(p.cfg.Origins.Cookie(name))
	if err != nil || len(c.Value) != 43 {
		return caller{}, errNobody
	}
	s, err := p.sessions.get(r.Context(), hub.NewSecret(c.Value).Hash())
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		return caller{}, err
	case err != nil || s.Host != host:
		return caller{}, errNobody
	}
	p.sessions.touch(s)
	return caller{Principal: s.Principal()}, nil
}

func (p *Proxy) byToken(ctx context.Context, h hub.SecretHash) (caller, error) {
	t, err := p.cfg.Tokens.Token(ctx, h)
	if err != nil {
		if hub.KindOf(err) == hub.NotFound {
			return caller{}, errNobody
		}
		return caller{}, err
	}
	u, err := p.cfg.Users.User(ctx, t.User)
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		return caller{}, err
	case err != nil || u.ID != t.UserID || !t.Live(time.Now()):
		return caller{}, errNobody
	}
	return caller{t.Principal(u), true}, nil
}

func canonicalHost(host string) string { return strings.ToLower(host) }
