package hub

import (
	"context"
	"sync"
	"time"
)

const usageEvery = 10 * time.Second

// usageBoard keeps the last sample of each server.
type usageBoard struct {
	mu   sync.Mutex
	last map[ServerKey]usageSample
}

type usageSample struct {
	Usage
	cores float64
	gen   Generation
}

func newUsageBoard() *usageBoard { return &usageBoard{last: map[ServerKey]usageSample{}} }

func (b *usageBoard) get(key ServerKey) (Usage, float64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.last[key]
	return s.Usage, s.cores, ok
}

func (b *usageBoard) put(key ServerKey, g Generation, u Usage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := usageSample{Usage: u, gen: g}
	if old, ok := b.last[key]; ok && old.gen == g {
		next.cores = old.cores
		if dt := u.At.Sub(old.At).Seconds(); dt > 0.5 {
			next.cores = max(0, (u.CPUSeconds-old.CPUSeconds)/dt)
		}
	}
	b.last[key] = next
}

func (b *usageBoard) forget(key ServerKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.last, key)
}

// usageLoop samples every ready server.
func (m *Manager) usageLoop(ctx context.Context) {
	if m.meter == nil {
		return
	}
	every(ctx, usageEvery, func() {
		var wg sync.WaitGroup
		slots := make(chan struct{}, 4)
		for s, err := range m.cfg.Servers.Servers(ctx) {
			if err != nil || s.Phase != Ready {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				ctx, done := context.WithTimeout(ctx, 5*time.Second)
				defer done()
				if u, err := m.meter.Usage(ctx, s.Handle); err == nil {
					m.usage.put(s.Key, s.Generation, u)
				}
			})
		}
		wg.Wait()
	})
}

// every calls do now and then at each interval until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
