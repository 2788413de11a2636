package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"carrel/hub"
)

// addressBook gives out the addresses of a network in turn, and keeps each unused for a while after
// its container: a proxy that still has the old route must never reach a new person's server. Docker
// itself would give a dead container's address to the very next one.
//
// It is a file that all hubs of this machine share, read and written under a lock.
type addressBook struct {
	path   string
	quiet  time.Duration
	used   func(ctx context.Context) ([]netip.Addr, error) // those of containers
	logger *slog.Logger
}

// pages are the book's content.
type pages struct {
	Held map[netip.Addr]time.Time `json:"held"` // since when each is given out
	Rest map[netip.Addr]time.Time `json:"rest"` // until when each is left alone
	Last map[string]netip.Addr    `json:"last"` // by network
}

// heldFor is how long an address may be given out before a container has it.
const heldFor = 2 * createTimeout

// take gives the next free address of a network.
func (b *addressBook) take(ctx context.Context, network netip.Prefix) (netip.Addr, error) {
	var got netip.Addr
	err := b.change(ctx, func(p *pages) error {
		addrs, err := b.used(ctx)
		if err != nil {
			return err
		}
		p.turn(addrs, time.Now(), b.quiet)
		got, err = p.next(network)
		return err
	})
	return got, err
}

// turn brings the pages up to date: an address whose container went unnoticed begins to rest, and
// one that rested long enough is free. A rest is never longer than quiet, whatever the clock did.
func (p *pages) turn(used []netip.Addr, now time.Time, quiet time.Duration) {
	in := map[netip.Addr]bool{}
	for _, a := range used {
		in[a] = true
		if _, known := p.Held[a]; !known {
			p.Held[a] = now
		}
	}
	for a, since := range p.Held {
		if age := now.Sub(since); !in[a] && (age > heldFor || age < -heldFor) {
			delete(p.Held, a)
			p.Rest[a] = now.Add(quiet)
		}
	}
	for a, until := range p.Rest {
		if !now.Before(until) {
			delete(p.Rest, a)
		} else if latest := now.Add(quiet); until.After(latest) {
			p.Rest[a] = latest
		}
	}
}

// next holds the first free address after the one that was given out last.
func (p *pages) next(network netip.Prefix) (netip.Addr, error) {
	first := network.Masked().Addr().Next().Next() // after the network's own, and the gateway's
	at := p.Last[network.String()]
	for range 1 << (32 - network.Bits()) {
		if at = at.Next(); !network.Contains(at) || !network.Contains(at.Next()) || at.Less(first) {
			at = first
		}
		_, held := p.Held[at]
		if _, rests := p.Rest[at]; held || rests {
			continue
		}
		p.Held[at] = time.Now()
		p.Last[network.String()] = at
		return at, nil
	}
	return netip.Addr{}, &hub.Error{Kind: hub.Unavailable, Op: "docker: choose address", Message: "every address of the notebooks' network is in use", Remedy: "an administrator can widen spawner.docker.subnets"}
}

// quarantine lets an address rest. When the book can't be written, the address stays held, and rests
// when that is noticed.
func (b *addressBook) quarantine(ctx context.Context, a netip.Addr) {
	b.note(ctx, func(p *pages) { delete(p.Held, a); p.Rest[a] = time.Now().Add(b.quiet) })
}

// giveBack frees an address that no container ever had.
func (b *addressBook) giveBack(ctx context.Context, a netip.Addr) {
	b.note(ctx, func(p *pages) { delete(p.Held, a) })
}

func (b *addressBook) note(ctx context.Context, do func(*pages)) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer done()
	if err := b.change(ctx, func(p *pages) error { do(p); return nil }); err != nil {
		b.logger.WarnContext(ctx, "address not noted", "error", err)
	}
}

// change reads, changes and writes the book; what was noticed is kept when the rest failed.
func (b *addressBook) change(ctx context.Context, do func(*pages) error) error {
	unlock, err := lockFile(ctx, b.path+".lock")
	if err != nil {
		return hub.Wrap(hub.Unavailable, "docker: open address book", err)
	}
	defer unlock()
	p, err := b.read()
	if err != nil {
		return err
	}
	failure := do(p)
	raw, err := json.Marshal(p)
	if err == nil {
		err = writeFile(b.path, raw)
	}
	if failure != nil {
		return failure
	}
	return hub.Wrap(hub.Unavailable, "docker: write address book", err)
}

// read gives the pages; damaged ones are empty, which the log says: nothing rests then.
func (b *addressBook) read() (*pages, error) {
	p := &pages{}
	raw, err := os.ReadFile(b.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, hub.Wrap(hub.Unavailable, "docker: read address book", err)
	default:
		if err := json.Unmarshal(raw, p); err != nil {
			b.logger.Warn("address book damaged; begun anew", "file", b.path, "error", err)
			p = &pages{}
		}
	}
	if p.Held == nil {
		p.Held = map[netip.Addr]time.Time{}
	}
	if p.Rest == nil {
		p.Rest = map[netip.Addr]time.Time{}
	}
	if p.Last == nil {
		p.Last = map[string]netip.Addr{}
	}
	return p, nil
}
