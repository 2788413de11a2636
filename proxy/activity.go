package proxy

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"

	"carrel/hub"
)

const (
	activityEvery = 5 * time.Second
	flushWithin   = 5 * time.Second
)

// activityLoop tells the store when servers and sessions were last used, and once more at the end.
func (p *Proxy) activityLoop(ctx context.Context) {
	tick := time.NewTicker(activityEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			ctx = context.WithoutCancel(ctx)
			p.flushActivity(ctx)
			p.flushSeen(ctx)
			return
		case now := <-tick.C:
			p.pools.sweep(now)
			p.tunnels.giveUp(now)
			if p.tunnels.settled() {
				giveBack()
			}
			p.flushActivity(ctx)
			p.flushSeen(ctx)
		}
	}
}

// giveBack hands what is free to the system. A stack shrinks by half at each collection.
func giveBack() {
	runtime.GC()
	runtime.GC()
	debug.FreeOSMemory()
}

func (p *Proxy) flushActivity(ctx context.Context) {
	var acts []hub.Activity
	told := map[*route]int64{}
	for key, r := range p.routes.all() {
		if used := r.stats.used.Load(); used > r.told {
			acts = append(acts, hub.Activity{Key: key, Last: time.Unix(0, used)})
			told[r] = used
		}
	}
	if len(acts) == 0 {
		return
	}
	ctx, done := context.WithTimeout(ctx, flushWithin)
	defer done()
	if err := p.cfg.Routes.RecordActivity(ctx, acts); err != nil {
		p.cfg.Logger.WarnContext(ctx, "activity not recorded; it will be with the next", "error", err)
		return
	}
	for r, used := range told {
		r.told = used
	}
}
