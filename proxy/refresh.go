package proxy

import (
	"context"
	"time"

	"carrel/hub"
)

const (
	routesEvery  = 30 * time.Second
	routesWhole  = 10 * time.Minute // whatever is said of changes
	routesWithin = 10 * time.Second
	routesRetry  = 500 * time.Millisecond
)

// routesLoop reads the routes and the servers' names after each reconnection, until that succeeds, and
// where an event got lost, which the names of changes tell.
func (p *Proxy) routesLoop(ctx context.Context, ready func()) {
	again := time.NewTimer(routesEvery)
	defer again.Stop()
	again.Stop() // before the first reconnection an event could be missed
	var r refresher
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.reload:
			r.due = true
		case <-again.C:
		}
		wait, err := p.refresh(ctx, &r)
		if err != nil {
			p.cfg.Logger.WarnContext(ctx, "routes not read; those known stay", "error", err)
		} else {
			ready()
		}
		again.Reset(wait)
	}
}

// refresher is the state of the routes' loop.
type refresher struct {
	due   bool      // everything is to be read
	read  time.Time // when it last was
	owed  string    // the last change when everything was read, until it is heard of
	doubt bool      // a moment ago, a change had not been heard of
}

// refresh reads everything where that is due, asks whether anything was missed where not, and tells
// when to call it again. A change is told as soon as it is made: one that is not heard of within a
// moment was missed. Where changes have no names everything is read each time.
func (p *Proxy) refresh(ctx context.Context, r *refresher) (wait time.Duration, err error) {
	if !r.due && !p.routes.lacking() && time.Since(r.read) < routesWhole {
		sure := p.unchanged(ctx, r.owed)
		switch {
		case sure:
			r.doubt, r.owed = false, ""
			return routesEvery, nil
		case !r.doubt:
			r.doubt = true
			return routesRetry, nil
		}
	}
	r.due = true
	if r.owed, err = p.readRoutes(ctx); err != nil {
		return routesRetry, err
	}
	r.due, r.doubt, r.read = false, false, time.Now()
	if r.owed == "" || p.chain.mixed() || p.chain.reached(r.owed) {
		r.owed = ""
		return routesEvery, nil
	}
	r.doubt = true
	return routesRetry, nil
}

// unchanged asks whether anything changed that was not heard of.
func (p *Proxy) unchanged(ctx context.Context, owed string) bool {
	if p.chain.mixed() || owed != "" && !p.chain.reached(owed) {
		return false
	}
	ctx, done := context.WithTimeout(ctx, askWithin)
	defer done()
	last, err := p.cfg.Changes.LastChange(ctx)
	return err == nil && p.chain.reached(last)
}

// readRoutes reads everything, and gives the name of the last change before that, where it has one.
func (p *Proxy) readRoutes(ctx context.Context) (last string, err error) {
	ctx, done := context.WithTimeout(ctx, routesWithin)
	defer done()
	p.chain.begin()
	p.routes.reading()
	p.names.reading()
	last, _ = p.cfg.Changes.LastChange(ctx) // a Redis whose rights are of an earlier release does not say
	read := map[hub.ServerKey]hub.Route{}
	for r, err := range p.cfg.Routes.Routes(ctx) {
		if err != nil {
			return "", err
		}
		read[r.Key] = r
	}
	var names []string
	for label, err := range p.cfg.Names.ServerLabels(ctx) {
		if err != nil {
			return "", err
		}
		names = append(names, label)
	}
	p.names.replace(names)
	for _, old := range p.routes.replace(read, time.Now()) {
		p.leave(old)
	}
	for key := range read {
		p.hearPause(key)
	}
	return last, nil
}
