package hub

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// visitEvery is how often visits are looked at.
	visitEvery = time.Second
	// strayEvery is how often servers are looked for whose visit nobody knows.
	strayEvery = 30 * time.Second
	// linePatience is how long a browser in line may be silent until its place is another's.
	linePatience = 45 * time.Second
	// startPatience is how long after its admission a visit's server may have no record.
	startPatience = 20 * time.Second
	// sessionBeyond is how much longer than the visit at its longest a visitor's session may last, most of
	// it for the line.
	sessionBeyond = 4 * time.Hour
	// visitLease is held while visits are counted and changed.
	visitLease = "visits"
)

// VisitServers is the part of [Manager] that visits use.
type VisitServers interface {
	Start(ctx context.Context, req StartRequest) (Server, error)
	Stop(ctx context.Context, key ServerKey, why string) (Server, error)
	Server(ctx context.Context, key ServerKey) (Server, error)
	Policy() Policy
}

// VisitorsConfig is what [Visitors] need; every field but Captcha and Observer is required.
type VisitorsConfig struct {
	Manager  VisitServers
	Visits   VisitStore
	Servers  ServerStore
	Sessions SessionStore
	Tokens   TokenStore
	Leases   Leases
	Keyring  *Keyring
	Captcha  Captcha       // nil: no service checks one
	Observer VisitObserver // may be nil
	Logger   *slog.Logger
}

// Visitors gives notebooks to people without an account, as many at once as the policy says, the rest in
// line, and removes everything of theirs when they leave. At all hubs one at a time decides.
type Visitors struct {
	cfg  VisitorsConfig
	wake chan struct{} // asks Run for a round now

	pace    pace
	looking chan struct{} // held by who uses seen
	seen    outlook
	stale   atomic.Bool // seen is no longer so, by what this process did

	mu      sync.Mutex
	purging map[UserName]bool // by this process
	wg      sync.WaitGroup
}

// NewVisitors checks the configuration; it starts nothing.
func NewVisitors(cfg VisitorsConfig) (*Visitors, error) {
	if cfg.Manager == nil || cfg.Visits == nil || cfg.Servers == nil || cfg.Sessions == nil || cfg.Tokens == nil || cfg.Leases == nil || cfg.Keyring == nil || cfg.Logger == nil {
		return nil, Errorf(Internal, "make visitors", "a part is missing")
	}
	if cfg.Observer == nil {
		cfg.Observer = unobserved{}
	}
	return &Visitors{cfg: cfg, wake: make(chan struct{}, 1), looking: make(chan struct{}, 1), purging: map[UserName]bool{}}, nil
}

// Policy is what the operator decided about visitors, as it stands.
func (v *Visitors) Policy() VisitPolicy { return v.cfg.Manager.Policy().Visits }

// Come takes a visitor in: with a notebook at once if there is room, else in line. The secret is the
// visitor's session, which nobody else ever has. Errors: NotFound where there are no visitors, Forbidden
// for a network that is shut out, TooMany beyond a limit, Unavailable when the line is full.
func (v *Visitors) Come(ctx context.Context, from netip.Addr, path, agent string) (Visit, Secret, error) {
	p := v.Policy()
	if err := v.welcome(ctx, p, from); err != nil {
		return Visit{}, Secret{}, err
	}
	now := time.Now()
	secret := RandomSecret()
	visit := Visit{Name: v.cfg.Keyring.Visitor(secret), Phase: VisitWaiting, Path: path, Arrived: now, Seen: now}
	shares := p.sharesOf(from)
	if len(shares) > 0 {
		visit.From = shares[0].network
	}
	session := Session{
		Hash: secret.Hash(), User: visit.Name, UserID: VisitorUser(visit.Name).ID, Created: now, LastSeen: now,
		Expires: now.Add(sessionBeyond + p.Age + time.Duration(p.Extensions)*p.Extend), Agent: agent,
	}
	err := v.exclusively(ctx, func(all []Visit) error {
		if err := v.room(p, all, shares); err != nil {
			return err
		}
		var err error
		if visit, err = v.cfg.Visits.PutVisit(ctx, visit); err != nil {
			return err
		}
		if err := v.cfg.Sessions.CreateSession(ctx, session); err != nil {
			return err // nobody has its name: the visit's place is soon another's
		}
		v.admit(ctx, p, append(all, visit))
		return nil
	})
	v.stale.Store(true)
	if err != nil {
		return Visit{}, Secret{}, err
	}
	visit, err = v.cfg.Visits.Visit(ctx, visit.Name)
	return visit, secret, err
}

// welcome refuses whom no line is for. It costs a count for each network, and nothing for who is banned.
func (v *Visitors) welcome(ctx context.Context, p VisitPolicy, from netip.Addr) error {
	if !p.Enabled {
		return &Error{Kind: NotFound, Op: "take visitor in", Message: "there are no notebooks for visitors here", Remedy: "sign in"}
	}
	if p.Banned(from, time.Now()) {
		return v.refuseBanned()
	}
	if p.Arrivals <= 0 {
		return nil
	}
	for _, s := range p.sharesOf(from) {
		n, err := v.cfg.Visits.CountArrival(ctx, s.network, p.ArrivalsIn)
		if err != nil {
			return err
		}
		if n > s.times*p.Arrivals {
			return v.refuse(RefusedArrivals, TooMany, "too many notebooks were opened from your network lately", "try again later, or sign in")
		}
	}
	return nil
}

// room refuses a visit beyond the limits of its networks or of the line.
func (v *Visitors) room(p VisitPolicy, all []Visit, shares []share) error {
	waiting := 0
	for _, o := range all {
		if o.Phase == VisitWaiting {
			waiting++
		}
	}
	if waiting >= p.Line && len(all) >= p.Max {
		return v.refuse(RefusedFull, Unavailable, "all notebooks are taken, and the line is full", "try again in a few minutes")
	}
	if p.AtOnce <= 0 {
		return nil
	}
	for _, s := range shares {
		here := 0
		for _, o := range all {
			if within(s.network, o.From) {
				here++
			}
		}
		if here >= s.times*p.AtOnce {
			return v.refuse(RefusedAtOnce, TooMany, "as many notebooks as may be are open from your network", "close one of them, or try again later")
		}
	}
	return nil
}

// refuse notes that somebody is not taken in, and tells them why.
func (v *Visitors) refuse(why VisitRefusal, kind Kind, message, remedy string) error {
	v.cfg.Observer.VisitRefused(why)
	return &Error{Kind: kind, Op: "take visitor in", Message: message, Remedy: remedy}
}

func (v *Visitors) refuseBanned() error {
	return v.refuse(RefusedBan, Forbidden, "visitors from your network are not let in", "sign in, or ask an administrator")
}

// within tells whether a network is another, or a part of it.
func within(network, inner string) bool {
	if network == inner {
		return true
	}
	n, err := netip.ParsePrefix(network)
	i, ierr := netip.ParsePrefix(inner)
	return err == nil && ierr == nil && n.Bits() <= i.Bits() && n.Contains(i.Addr())
}

// Visit finds a visit, and what it can be told while it waits. Who asks while in line keeps the place.
func (v *Visitors) Visit(ctx context.Context, name UserName) (visit Visit, place LinePlace, err error) {
	visit, err = v.cfg.Visits.Visit(ctx, name)
	if err != nil || visit.Phase == VisitEnding {
		return visit, LinePlace{}, err
	}
	if visit.Phase == VisitWaiting && time.Since(visit.Seen) > linePatience/4 {
		visit.Seen = time.Now()
		if visit, err = v.cfg.Visits.PutVisit(ctx, visit); err != nil && KindOf(err) != Conflict {
			return Visit{}, LinePlace{}, err
		} else if err != nil {
			return v.Visit(ctx, name) // it was let in just now, or heard of in another tab
		}
	}
	place, err = v.place(ctx, name)
	if visit.Phase == VisitWaiting {
		place.N = max(1, place.N) // also where it was let in between the two looks
	} else {
		place.N = 0
	}
	return visit, place, err
}

// Leave ends a visit. It is no error if it is over.
func (v *Visitors) Leave(ctx context.Context, name UserName, why string) error {
	return v.leave(ctx, name, EndDone, why)
}

// Expel ends a visit as an administrator says. It is no error if it is over.
func (v *Visitors) Expel(ctx context.Context, name UserName) error {
	return v.leave(ctx, name, EndAdmin, "an administrator ended it")
}

func (v *Visitors) leave(ctx context.Context, name UserName, end VisitEnd, why string) error {
	_, err := v.change(ctx, name, func(x *Visit) { x.Phase, x.Why, x.End = VisitEnding, why, end })
	if err != nil && KindOf(err) != NotFound {
		return err
	}
	v.stale.Store(true)
	select {
	case v.wake <- struct{}{}:
	default:
	}
	return nil
}

// Away notes that the last page of a visit said goodbye: it ends unless one is there again within the
// policy's grace. Back takes it back.
func (v *Visitors) Away(ctx context.Context, name UserName) error {
	_, err := v.change(ctx, name, func(x *Visit) { x.Left = time.Now() })
	return err
}

// Back notes that a page of a visit is there.
func (v *Visitors) Back(ctx context.Context, name UserName) (Visit, error) {
	visit, err := v.cfg.Visits.Visit(ctx, name)
	if err != nil || visit.Left.IsZero() {
		return visit, err
	}
	return v.change(ctx, name, func(x *Visit) { x.Left = time.Time{} })
}

// Extend gives a visit more time, where the policy allows it; Forbidden otherwise.
func (v *Visitors) Extend(ctx context.Context, name UserName) (Visit, error) {
	p := v.Policy()
	refused := false
	visit, err := v.change(ctx, name, func(x *Visit) {
		if refused = !x.Extensible(p); !refused {
			x.Expires, x.Extended = x.Expires.Add(p.Extend), x.Extended+1
		}
	})
	if err == nil && refused {
		err = &Error{Kind: Forbidden, Op: "extend visit", Message: "this notebook can't be kept longer", Remedy: "download your work; you can come again"}
	}
	return visit, err
}

// Extensible tells whether a visit may have more time.
func (v Visit) Extensible(p VisitPolicy) bool {
	return v.Phase == VisitOpen && p.Extend > 0 && v.Extended < p.Extensions
}

// change edits a visit that is not ending, by compare and swap.
func (v *Visitors) change(ctx context.Context, name UserName, edit func(*Visit)) (Visit, error) {
	for {
		visit, err := v.cfg.Visits.Visit(ctx, name)
		if err != nil || visit.Phase == VisitEnding {
			return visit, err
		}
		edit(&visit)
		visit, err = v.cfg.Visits.PutVisit(ctx, visit)
		if err == nil || KindOf(err) != Conflict {
			return visit, err
		}
	}
}

// All are the visits that there are, whatever their phase.
func (v *Visitors) All(ctx context.Context) ([]Visit, error) { return v.all(ctx) }

func (v *Visitors) all(ctx context.Context) ([]Visit, error) {
	var all []Visit
	for x, err := range v.cfg.Visits.Visits(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, nil
}

// line is who waits, the first first.
func line(all []Visit) []Visit {
	var w []Visit
	for _, x := range all {
		if x.Phase == VisitWaiting {
			w = append(w, x)
		}
	}
	slices.SortFunc(w, func(a, b Visit) int { return a.Arrived.Compare(b.Arrived) })
	return w
}

// exclusively runs do with all visits, while no other process changes their number.
func (v *Visitors) exclusively(ctx context.Context, do func(all []Visit) error) error {
	lease, err := acquire(ctx, v.cfg.Leases, visitLease, 10*time.Second)
	if err != nil {
		return err
	}
	defer giveBack(ctx, lease)
	all, err := v.all(ctx)
	if err != nil {
		return err
	}
	return do(all)
}

// admit gives notebooks to the first in line while there is room; the lease is held.
func (v *Visitors) admit(ctx context.Context, p VisitPolicy, all []Visit) {
	waiting := line(all)
	free := p.Max - (len(all) - len(waiting))
	for _, x := range waiting[:max(0, min(free, len(waiting)))] {
		now := time.Now()
		x.Phase, x.Admitted, x.Expires = VisitOpen, now, now.Add(p.Age)
		x, err := v.cfg.Visits.PutVisit(ctx, x)
		if err != nil {
			continue // seen at this very moment: the next round's
		}
		owner := VisitorUser(x.Name)
		_, err = v.cfg.Manager.Start(ctx, StartRequest{Key: x.Key(), By: Principal{User: x.Name, UserID: owner.ID}, Profile: p.Profile})
		if err != nil && (KindOf(err) == TooMany || KindOf(err) == Unavailable) {
			v.backInLine(ctx, x, err)
			return // the next in line would fare no better
		}
		if err != nil {
			message, _ := Public(err)
			v.cfg.Logger.WarnContext(ctx, "visit not opened", "visitor", x.Name.String(), "error", err)
			v.end(ctx, x, EndServer, message)
			continue
		}
		v.cfg.Observer.VisitBegan(now.Sub(x.Arrived))
		v.cfg.Logger.InfoContext(ctx, "visit", "visitor", x.Name.String(), "phase", VisitOpen, "waited", now.Sub(x.Arrived).Round(time.Millisecond).String())
	}
}

// backInLine takes an admission back, as there is no server just now; the visit keeps its place.
func (v *Visitors) backInLine(ctx context.Context, x Visit, why error) {
	v.cfg.Logger.WarnContext(ctx, "visit not opened yet; it waits in line", "visitor", x.Name.String(), "error", why)
	_, err := v.change(ctx, x.Name, func(x *Visit) { x.Phase, x.Admitted, x.Expires = VisitWaiting, time.Time{}, time.Time{} })
	if err != nil && KindOf(err) != NotFound {
		v.cfg.Logger.WarnContext(ctx, "visit not put back in line", "visitor", x.Name.String(), "error", err)
	}
}

// end records that a visit is over; its purge is the next round's.
func (v *Visitors) end(ctx context.Context, x Visit, end VisitEnd, why string) {
	if _, err := v.change(ctx, x.Name, func(x *Visit) { x.Phase, x.Why, x.End = VisitEnding, why, end }); err != nil && KindOf(err) != NotFound {
		v.cfg.Logger.WarnContext(ctx, "end of visit not recorded; the next round tries again", "visitor", x.Name.String(), "error", err)
	}
}
