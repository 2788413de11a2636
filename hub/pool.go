package hub

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// poolEvery is how often the slots that wait are looked at; a claim has them looked at soon.
	poolEvery = 15 * time.Second
	// Slots are made behind everybody's back, but not their containers: Docker makes those at its own weight, and
	// a browser of the same machine loads a page anew when a network interface comes. So whoever just claimed
	// one, and loads its page, comes first: slots are made when no start was under way for calmFor, or after
	// calmWithin at the latest.
	calmFor    = 4 * time.Second
	calmWithin = 12 * time.Second
)

// poolLoop has as many slots wait as the profiles ask for.
func (m *Manager) poolLoop(ctx context.Context) {
	if m.slots == nil {
		return
	}
	tick := time.NewTicker(poolEvery)
	defer tick.Stop()
	said := ""
	for ctx.Err() == nil {
		text := ""
		wants, err := m.slotWants(ctx)
		if err == nil {
			err = m.slots.KeepSlots(ctx, wants)
		}
		if err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		m.takeStock(ctx)
		if text != said {
			if said = text; text != "" {
				m.cfg.Logger.WarnContext(ctx, "slots can't be kept ready; servers start cold", "error", text)
			}
		}
		select {
		case <-ctx.Done():
		case <-m.spent:
			m.awaitCalm(ctx)
		case <-tick.C:
		}
	}
}

// takeStock notes what waits, for whoever watches.
func (m *Manager) takeStock(ctx context.Context) {
	stock, err := m.slots.SlotStock(ctx)
	if err != nil {
		if ctx.Err() == nil {
			m.cfg.Logger.DebugContext(ctx, "slots not counted", "error", err)
		}
		return
	}
	m.stock.Store(&stock)
}

// SlotStock tells what was ready a few seconds ago for whoever comes next, and false where no profile
// keeps anything ready.
func (m *Manager) SlotStock() (SlotStock, bool) {
	stock := m.stock.Load()
	if stock == nil || !slices.ContainsFunc(m.cfg.Policy().Profiles, func(p Profile) bool { return p.Spare.Any() }) {
		return SlotStock{}, false
	}
	return *stock, true
}

// awaitCalm waits until no start is under way in this process, for a while.
func (m *Manager) awaitCalm(ctx context.Context) {
	ctx, done := context.WithTimeout(ctx, calmWithin)
	defer done()
	tick := time.NewTicker(calmFor / 5)
	defer tick.Stop()
	for calm := 0; calm < 5; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			calm++
			if m.starting() {
				calm = 0
			}
		}
	}
}

// starting tells whether this process flies a start that is not over.
func (m *Manager) starting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.flights {
		if f.starting && !f.ending {
			return true
		}
	}
	return false
}

// slotWants is what the policy asks for at this time. Of a profile with a limit no more wait than may run
// beside those that run; the error is the store's, which tells how many those are.
func (m *Manager) slotWants(ctx context.Context) (wants []SlotWant, err error) {
	now := time.Now()
	running := sync.OnceValues(func() (map[string]int, error) { return m.running(ctx) })
	for _, p := range m.cfg.Policy().Profiles {
		n := p.Spare.Wanted(now, m.arrived.count(p.Name, now))
		if n > 0 && p.Max > 0 {
			of, err := running()
			if err != nil {
				return nil, err
			}
			n = min(n, p.Max-of[p.Name])
		}
		if n > 0 {
			wants = append(wants, SlotWant{Shape: m.shape(p), Spare: n})
		}
	}
	return wants, nil
}

// running counts the servers of each profile.
func (m *Manager) running(ctx context.Context) (map[string]int, error) {
	n := map[string]int{}
	for s, err := range m.cfg.Servers.Servers(ctx) {
		if err != nil {
			return nil, Wrap(Internal, "count servers", err)
		}
		if s.Phase.Active() {
			n[s.Profile]++
		}
	}
	return n, nil
}

// obtain has the driver make the server: of a slot that waits, or cold. warm tells which.
func (m *Manager) obtain(ctx context.Context, spec Spec, warm bool) (h Handle, wasSlot bool, err error) {
	if m.slots != nil && warm {
		now := time.Now()
		m.arrived.add(spec.Profile, now)
		if !m.claims.allow(spec.UserID, now) {
			return m.obtain(ctx, spec, false)
		}
		h, err = m.slots.ClaimSlot(ctx, spec)
		if err == nil {
			select {
			case m.spent <- struct{}{}:
			default:
			}
			m.cfg.Logger.InfoContext(ctx, "slot claimed", "server", spec.Key.String(), "generation", spec.Generation)
			spec.Progress(Progress{Step: "create", Message: "A server that was kept ready is yours", Percent: 60})
			return h, true, nil
		}
		if KindOf(err) != NotFound && ctx.Err() == nil {
			m.cfg.Logger.WarnContext(ctx, "slot not claimed; started cold", "server", spec.Key.String(), "error", err)
		}
	}
	h, err = m.cfg.Spawner.Start(ctx, spec)
	return h, false, err
}

// warmWithin is how long a server that was a slot may take to answer; then one is started cold in its
// place.
const warmWithin = 10 * time.Second

// startCold ends a server that was a slot and did not come to answer, and starts one cold in its place,
// under the same generation.
func (m *Manager) startCold(ctx context.Context, f *flight, rec Server, spec Spec, why error) (Server, error) {
	m.cfg.Logger.WarnContext(ctx, "a server of a slot did not answer; started cold", "server", rec.Key.String(), "generation", rec.Generation, "error", why)
	if err := m.cfg.Spawner.Stop(ctx, rec.Handle, 0); err != nil {
		return rec, errors.Join(why, err)
	}
	handle, _, err := m.create(ctx, f, spec, false)
	if err != nil {
		return rec, err
	}
	return m.record(ctx, rec, handle)
}
