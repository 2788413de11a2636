package hub

import (
	"context"
	"time"
)

// Run looks after visits until ctx ends, and joins what it launched: it lets in who is next, ends what is
// over, and removes everything of those who left.
func (v *Visitors) Run(ctx context.Context) error {
	defer v.wg.Wait()
	tick := time.NewTicker(visitEvery)
	defer tick.Stop()
	var swept time.Time
	for ctx.Err() == nil {
		strays := time.Since(swept) > strayEvery
		if strays {
			swept = time.Now()
		}
		if err := v.round(ctx, strays); err != nil && ctx.Err() == nil {
			v.cfg.Logger.WarnContext(ctx, "visits not looked at; the next round tries again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-v.wake:
		case <-tick.C:
		}
	}
	return ctx.Err()
}

// round looks at each visit once; lost ones are looked for where it says so.
func (v *Visitors) round(ctx context.Context, strays bool) error {
	all, err := v.all(ctx)
	if err != nil {
		return err
	}
	servers, err := v.servers(ctx, all)
	if err != nil {
		return err
	}
	v.pace.see(time.Now(), all, servers)
	p := v.Policy()
	waiting := false
	for _, x := range all {
		end, why := over(p, x, servers[x.Name])
		switch {
		case x.Phase == VisitEnding:
			v.purgeAside(ctx, x)
		case end != "":
			v.end(ctx, x, end, why)
			select {
			case v.wake <- struct{}{}: // its purge is the next round's
			default:
			}
		case x.Phase == VisitWaiting:
			waiting = true
		}
	}
	if waiting {
		if err := v.exclusively(ctx, func(all []Visit) error { v.admit(ctx, p, all); return nil }); err != nil {
			return err
		}
	}
	if strays {
		return v.sweep(ctx, p, all)
	}
	return nil
}

// servers finds the servers of the visits that are open.
func (v *Visitors) servers(ctx context.Context, all []Visit) (map[UserName]Server, error) {
	servers := map[UserName]Server{}
	for _, x := range all {
		if x.Phase != VisitOpen {
			continue
		}
		s, err := v.cfg.Manager.Server(ctx, x.Key())
		if err != nil {
			return nil, err
		}
		servers[x.Name] = s
	}
	return servers, nil
}

// over tells how a visit ends, and why; "" for one that goes on.
func over(p VisitPolicy, x Visit, s Server) (end VisitEnd, why string) {
	now := time.Now()
	switch {
	case x.Phase == VisitEnding:
		return "", ""
	case !p.Enabled:
		return EndOff, "there are no notebooks for visitors any more"
	case x.Phase == VisitWaiting && now.Sub(x.Seen) > linePatience:
		return EndLine, "you left the line"
	case x.Phase == VisitWaiting:
		return "", ""
	case !now.Before(x.Expires):
		return EndAge, "its time is over"
	case !x.Left.IsZero() && now.Sub(x.Left) >= p.Grace:
		return EndClosed, "you closed it"
	case s.Phase == Failed, s.Phase == Absent && (s.Revision != 0 || now.Sub(x.Admitted) > startPatience):
		if s.Reason == "" {
			return EndServer, "it is not there any more"
		}
		return EndServer, s.Reason
	}
	return "", ""
}

// purgeAside removes everything of a visit, in a goroutine that Run joins; at most one of each visit.
func (v *Visitors) purgeAside(ctx context.Context, x Visit) {
	v.mu.Lock()
	busy := v.purging[x.Name]
	v.purging[x.Name] = true
	v.mu.Unlock()
	if busy {
		return
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), cleanupWithin)
	v.wg.Go(func() {
		defer done()
		err := v.purge(ctx, x)
		v.mu.Lock()
		delete(v.purging, x.Name)
		v.mu.Unlock()
		if err != nil {
			v.cfg.Logger.WarnContext(ctx, "visit not purged yet; the next round tries again", "visitor", x.Name.String(), "error", err)
		}
	})
}

// purge removes everything of a visit: first what lets anybody in, then the server with its files, at last
// the record, so that a crash leaves something for the next round.
func (v *Visitors) purge(ctx context.Context, x Visit) error {
	if err := v.shutOut(ctx, x.Name); err != nil {
		return err
	}
	if err := v.remove(ctx, x.Key(), x.Why); err != nil {
		return err
	}
	now, err := v.cfg.Visits.Visit(ctx, x.Name)
	lost := x.End == EndLost && KindOf(err) == NotFound // of such a visit there is no record to delete
	if err == nil {
		err = v.cfg.Visits.DeleteVisit(ctx, now)
	}
	if err == nil || lost {
		v.cfg.Observer.VisitOver(x.End)
	}
	if err != nil && KindOf(err) != NotFound {
		return err
	}
	v.stale.Store(true)
	v.cfg.Logger.InfoContext(ctx, "visit", "visitor", x.Name.String(), "phase", "gone", "why", x.Why)
	return nil
}

// shutOut ends a visitor's sessions and tokens, and with them every websocket.
func (v *Visitors) shutOut(ctx context.Context, name UserName) error {
	if _, err := v.cfg.Sessions.EndSessions(ctx, SessionQuery{User: name}); err != nil {
		return err
	}
	for t, err := range v.cfg.Tokens.Tokens(ctx, name) {
		if err == nil {
			err = v.cfg.Tokens.DeleteToken(ctx, name, t.ID)
		}
		if err != nil && KindOf(err) != NotFound {
			return err
		}
	}
	return nil
}

// remove stops a visitor's server and forgets that there was one.
func (v *Visitors) remove(ctx context.Context, key ServerKey, why string) error {
	for {
		s, err := v.cfg.Manager.Stop(ctx, key, why)
		switch {
		case err != nil:
			return err
		case s.Phase == Absent && s.Revision == 0:
			return nil
		case s.Phase == Absent:
			if err := v.cfg.Servers.DeleteServer(ctx, s); err == nil || KindOf(err) != Conflict {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return Wrap(Unavailable, "remove visitor's server", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// sweep removes servers of visitors of whose visit nothing is known, as after a wipe of the store: nobody
// can come to them. They are let run for as long as the visit might have lasted, in case this is the
// wrong store.
func (v *Visitors) sweep(ctx context.Context, p VisitPolicy, visits []Visit) error {
	known := map[UserName]bool{}
	for _, x := range visits {
		known[x.Name] = true
	}
	longest := p.Age + time.Duration(p.Extensions)*p.Extend
	for s, err := range v.cfg.Servers.Servers(ctx) {
		switch {
		case err != nil:
			return err
		case !s.Key.User.IsVisitor() || known[s.Key.User] || time.Since(s.Since) < longest:
			continue
		}
		if _, err := v.cfg.Visits.Visit(ctx, s.Key.User); err == nil || KindOf(err) != NotFound {
			continue
		}
		v.cfg.Logger.InfoContext(ctx, "server of a visit that nobody knows", "server", s.Key.String())
		v.purgeAside(ctx, Visit{Name: s.Key.User, Why: "nobody knows this visit", End: EndLost})
	}
	return nil
}
