package proxy

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"carrel/hub"
)

const (
	recheckEvery = 30 * time.Second
	recheckRetry = time.Second // with the store away

	recheckAtOnce = 16 // sessions that the store is asked about
)

// followEvents keeps routes, sessions and tokens true. Nothing in it waits for the store or for a
// client, so that a sign-out is never behind something slow.
func (p *Proxy) followEvents(ctx context.Context) {
	for e := range p.cfg.Events.Subscribe(ctx) {
		if (e.Kind == hub.RouteChanged || e.Kind == hub.ServerChanged) && !p.chain.hear(e) {
			ask(p.reload)
		}
		switch e.Kind {
		case hub.Reset:
			p.sessions.expire()
			p.tokens.expire()
			p.chain.begin()
			ask(p.reload)
			ask(p.recheck)
		case hub.SessionsEnded, hub.TokenRevoked:
			p.metrics.revoked.Add(float64(len(e.Sessions)))
			p.sessions.end(e.Sessions)
			p.tokens.end(e.Sessions)
			p.tunnels.cutSessions(e.Sessions, closePolicy, "you were signed out")
		case hub.RouteChanged:
			if old := p.routes.apply(e.Key, e.Route); old != nil {
				p.leave(old)
			}
			p.hearPause(e.Key)
		case hub.ServerChanged:
			p.names.apply(e.Key, e.Server != nil)
		}
	}
}

// ask wakes a loop; one that is asked already needs no second time.
func ask(loop chan struct{}) {
	select {
	case loop <- struct{}{}:
	default:
	}
}

// leave ends what still goes by a route that is no more.
func (p *Proxy) leave(old *route) {
	reason := "the server was stopped"
	now := p.routes.get(old.Key)
	if now != nil {
		reason = "the server was started anew"
	}
	if now == nil || now.Endpoint != old.Endpoint {
		p.pools.drop(old.Endpoint)
	}
	p.tunnels.cutRoute(old.Key, now, reason)
}

// recheckLoop looks again at the sessions of open tunnels, whose life may be over, and tidies up. What
// the store did not answer is asked again soon.
func (p *Proxy) recheckLoop(ctx context.Context) {
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	again := time.NewTimer(recheckRetry)
	defer again.Stop()
	again.Stop() // nothing was asked yet
	defer p.unpace()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.recheck:
		case <-again.C:
		case now := <-tick.C:
			p.sessions.sweep(now)
			p.tokens.sweep(now)
			p.pace()
		}
		if !p.recheckTunnels(ctx) {
			again.Reset(recheckRetry)
		}
	}
}

// recheckTunnels cuts the tunnels whose session or token is over, and tells whether the store has
// answered for all of them. With the store away those go on that are honoured still (see
// [Config.RedisGrace]), and no others.
func (p *Proxy) recheckTunnels(ctx context.Context) bool {
	var unsure atomic.Bool
	var group errgroup.Group
	group.SetLimit(recheckAtOnce)
	for _, who := range p.tunnels.credentials() {
		group.Go(func() error {
			if !p.recheckOne(ctx, who) {
				unsure.Store(true)
			}
			return nil
		})
	}
	_ = group.Wait() // none fails
	return !unsure.Load()
}

func (p *Proxy) recheckOne(ctx context.Context, who credential) (sure bool) {
	live, err := p.live(ctx, who)
	switch {
	case ctx.Err() != nil:
		return true // we go away
	case err != nil:
		p.tunnels.cutSessions([]hub.SecretHash{who.hash}, closeTryAgain, "who is signed in can't be checked")
		return false
	case !live:
		p.tunnels.cutSessions([]hub.SecretHash{who.hash}, closePolicy, "your session is over")
		return true
	case who.byToken:
		return p.tokens.sure(who.hash)
	}
	return p.sessions.sure(who.hash)
}
