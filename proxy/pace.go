package proxy

import (
	"os"
	"runtime/debug"
)

const (
	crowdedFrom    = 20_000 // routes and sessions together
	calmPercent    = 100    // Go's own
	crowdedPercent = 400
)

// pace has the collector run a quarter as often while very many routes and sessions are known: it looks
// at all of them each time, which with 100,000 of both is a fifth of what the requests between two
// collections cost. It takes about three kilobytes of memory more for each person, where their server
// takes a hundred megabytes. An operator's GOGC stays.
func (p *Proxy) pace() {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent := calmPercent
	if p.routes.now.count()+p.sessions.count() >= crowdedFrom {
		percent = crowdedPercent
	}
	if percent != p.percent {
		debug.SetGCPercent(percent)
		p.percent = percent
	}
}

// unpace gives the collector its own pace back.
func (p *Proxy) unpace() {
	if p.percent == crowdedPercent {
		debug.SetGCPercent(calmPercent)
	}
}
