package hub

import (
	"context"
	"maps"
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
	rated bool // cores comes of two samples
}

func newUsageBoard() *usageBoard { return &usageBoard{last: map[ServerKey]usageSample{}} }

func (b *usageBoard) get(key ServerKey) (Usage, float64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.last[key]
	return s.Usage, s.cores, ok
}

// recent gives the cores that a server kept busy lately; false when that was not measured.
func (b *usageBoard) recent(key ServerKey) (cores float64, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.last[key]
	return s.cores, ok && s.rated && time.Since(s.At) < 3*usageEvery
}

// keepOnly forgets the servers that are not among these.
func (b *usageBoard) keepOnly(keys map[ServerKey]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.last, func(key ServerKey, _ usageSample) bool { return !keys[key] })
}

func (b *usageBoard) put(key ServerKey, g Generation, u Usage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := usageSample{Usage: u, gen: g}
	if old, ok := b.last[key]; ok && old.gen == g {
		next.cores, next.rated = old.cores, old.rated
		if dt := u.At.Sub(old.At).Seconds(); dt > 0.5 {
			next.cores, next.rated = max(0, (u.CPUSeconds-old.CPUSeconds)/dt), true
		}
	}
	b.last[key] = next
}

func (b *usageBoard) forget(key ServerKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.last, key)
}

// usageLoop samples every running server, paused ones too: that does not wake them.
func (m *Manager) usageLoop(ctx context.Context) {
	if m.meter == nil {
		return
	}
	every(ctx, usageEvery, func() {
		var wg sync.WaitGroup
		defer wg.Wait()
		slots := make(chan struct{}, 4)
		running := map[ServerKey]bool{}
		for s, err := range m.cfg.Servers.Servers(ctx) {
			if err != nil {
				return
			}
			if s.Phase != Ready && s.Phase != Paused {
				continue
			}
			running[s.Key] = true
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
		m.usage.keepOnly(running)
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
