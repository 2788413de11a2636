package proxy

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"carrel/hub"
)

// caller is who makes a request, and how they showed it.
type caller struct {
	hub.Principal
	byToken bool
}

// permit is a live token with its owner as they stand now.
type permit struct {
	token hub.Token
	owner hub.User
}

var (
	errNobody = &hub.Error{Kind: hub.Unauthenticated, Op: "authenticate", Message: "nobody is signed in", Remedy: "sign in"}
	errOver   = &hub.Error{Kind: hub.NotFound, Op: "authenticate", Message: "the session is over"}
)

const (
	secretLength = 43 // of a cookie that we made
	maxCookies   = 4  // of one name that are tried
	touchEvery   = time.Minute
	seenAtOnce   = 16
)

// authenticate finds the caller by token or by cookie of the host that was asked. A token that is
// not live is an error, and so is a cookie that another host's session belongs to.
func (p *Proxy) authenticate(r *http.Request, host string) (caller, error) {
	if scheme, value, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && (strings.EqualFold(scheme, "token") || strings.EqualFold(scheme, "bearer")) {
		who, err := p.byToken(r.Context(), hub.NewSecret(strings.TrimSpace(value)).Hash())
		return who, nobodyIfUnknown(err)
	}
	if isUpgrade(r) && strings.Contains(r.URL.RawQuery, "token=") {
		if who, err := p.byQuery(r); err == nil || hub.KindOf(err) != hub.Unauthenticated {
			return who, err
		}
	}
	name := hub.CookieNotebook
	if p.cfg.Origins.Mode() == hub.OneOrigin {
		name, host = hub.CookieSession, ""
	}
	// Without HTTPS a neighbouring host or a longer path can put a cookie of the same name in front
	// of ours, so that each is tried.
	for i, c := range r.CookiesNamed(p.cfg.Origins.Cookie(name)) {
		if i == maxCookies {
			break
		}
		if len(c.Value) != secretLength {
			continue
		}
		s, err := p.bySession(r.Context(), hub.NewSecret(c.Value).Hash())
		switch {
		case err == nil && s.Host == host:
			p.use(s)
			return caller{Principal: s.Principal()}, nil
		case err != nil && hub.KindOf(err) != hub.NotFound:
			return caller{}, err
		}
	}
	return caller{}, errNobody
}

func nobodyIfUnknown(err error) error {
	if err != nil && hub.KindOf(err) == hub.NotFound {
		return errNobody
	}
	return err
}

// bySession finds a live session; NotFound.
func (p *Proxy) bySession(ctx context.Context, h hub.SecretHash) (hub.Session, error) {
	s, err := p.sessions.get(ctx, h)
	if err == nil && !s.Live(time.Now()) {
		return hub.Session{}, errOver
	}
	return s, err
}

// askSession is what the cache of sessions asks. Of each it keeps what a request needs: with a hundred
// thousand of them the rest would be megabytes that the garbage collector walks again and again.
func (p *Proxy) askSession(ctx context.Context, h hub.SecretHash) (hub.Session, error) {
	s, err := p.cfg.Sessions.Session(ctx, h)
	if err != nil {
		return hub.Session{}, err
	}
	return hub.Session{
		Hash: h, Parent: s.Parent, Host: s.Host, User: s.User, UserID: s.UserID, Admin: s.Admin, Groups: s.Groups,
		Created: s.Created, LastSeen: s.LastSeen, Expires: s.Expires, Idle: s.Idle,
	}, nil
}

// byToken finds a live token's owner; NotFound.
func (p *Proxy) byToken(ctx context.Context, h hub.SecretHash) (caller, error) {
	x, err := p.tokens.get(ctx, h)
	switch {
	case err != nil:
		return caller{}, err
	case !x.token.Live(time.Now()):
		return caller{}, errOver
	}
	return caller{x.token.Principal(x.owner), true}, nil
}

// askToken is what the cache of tokens asks: a token counts with the very person it was made for.
func (p *Proxy) askToken(ctx context.Context, h hub.SecretHash) (permit, error) {
	t, err := p.cfg.Tokens.Token(ctx, h)
	if err != nil {
		return permit{}, err
	}
	if t.User.IsVisitor() { // of whom there is no record
		return permit{t, hub.VisitorUser(t.User)}, nil
	}
	u, err := p.cfg.Users.User(ctx, t.User)
	if err == nil && u.ID != t.UserID {
		err = errOver
	}
	return permit{t, u}, err
}

// live tells whether who's session or token still counts; what can't be asked does.
func (p *Proxy) live(ctx context.Context, who credential) (bool, error) {
	var err error
	if who.byToken {
		_, err = p.byToken(ctx, who.hash)
	} else {
		_, err = p.bySession(ctx, who.hash)
	}
	if err != nil && hub.KindOf(err) == hub.NotFound {
		return false, nil
	}
	return true, err
}

// use notes, at most once a minute, that a session is in use, for the store to be told.
func (p *Proxy) use(s hub.Session) {
	now := time.Now()
	if now.Sub(s.LastSeen) < touchEvery {
		return
	}
	due := p.sessions.change(s.Hash, func(s *hub.Session) bool {
		due := now.Sub(s.LastSeen) >= touchEvery
		s.LastSeen = now
		return due
	})
	if !due {
		return
	}
	p.seenMu.Lock()
	defer p.seenMu.Unlock()
	p.seen[cmp.Or(s.Parent, s.Hash)] = now
}

// flushSeen tells the store which hub sessions are in use. What fails comes again a minute later.
func (p *Proxy) flushSeen(ctx context.Context) {
	p.seenMu.Lock()
	seen := p.seen
	p.seen = map[hub.SecretHash]time.Time{}
	p.seenMu.Unlock()
	ctx, done := context.WithTimeout(ctx, flushWithin)
	defer done()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(seenAtOnce)
	for h, at := range seen {
		group.Go(func() error {
			if err := p.cfg.Sessions.TouchSession(ctx, h, at); err != nil && hub.KindOf(err) != hub.NotFound {
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		p.cfg.Logger.WarnContext(ctx, "use of sessions not recorded", "error", err)
	}
}

func canonicalHost(host string) string { return strings.ToLower(host) }
