package docker

import (
	"encoding/json"
	"net/netip"
	"os"
	"sync"
	"time"

	"carrel/hub"
)

// addressBook gives out the addresses of a network in turn, and keeps each unused for a while after
// its container: a proxy that still has the old route must never reach a new person's server. Docker
// itself would give a dead container's address to the very next one.
type addressBook struct {
	path  string
	quiet time.Duration

	mu     sync.Mutex
	loaded bool
	taken  map[netip.Addr]bool
	Rest   map[netip.Addr]time.Time `json:"rest"` // until when each is left alone
	Last   map[string]netip.Addr    `json:"last"` // by network
}

func newAddressBook(path string, quiet time.Duration) *addressBook {
	return &addressBook{path: path, quiet: quiet, taken: map[netip.Addr]bool{}, Rest: map[netip.Addr]time.Time{}, Last: map[string]netip.Addr{}}
}

// take gives the next free address of a network; used tells those of running containers, and is
// asked once.
func (b *addressBook) take(network netip.Prefix, used func() ([]netip.Addr, error)) (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.loaded {
		if raw, err := os.ReadFile(b.path); err == nil {
			_ = json.Unmarshal(raw, b) // a torn file means that nothing rests
		}
		addrs, err := used()
		if err != nil {
			return netip.Addr{}, err
		}
		for _, a := range addrs {
			b.taken[a] = true
		}
		b.loaded = true
	}
	now := time.Now()
	first := network.Addr().Next().Next() // the network's own, and the gateway's
	at := b.Last[network.String()]
	for range 1 << (32 - network.Bits()) {
		if at = at.Next(); !at.IsValid() || !network.Contains(at) || !network.Contains(at.Next()) || at.Less(first) {
			at = first
		}
		if until := b.Rest[at]; b.taken[at] || now.Before(until) {
			continue
		}
		delete(b.Rest, at)
		b.taken[at] = true
		b.Last[network.String()] = at
		return at, b.save()
	}
	return netip.Addr{}, &hub.Error{Kind: hub.Unavailable, Op: "docker: choose address", Message: "every address of the notebooks' network is in use", Remedy: "an administrator can widen spawner.docker.subnets"}
}

// quarantine lets an address rest.
func (b *addressBook) quarantine(a netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.taken, a)
	b.Rest[a] = time.Now().Add(b.quiet)
	for old, until := range b.Rest {
		if time.Now().After(until) {
			delete(b.Rest, old)
		}
	}
	_ = b.save() // lost with a crash of the host only, and every container with it
}

// giveBack frees an address that no container ever had.
func (b *addressBook) giveBack(a netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.taken, a)
}

func (b *addressBook) save() error {
	raw, err := json.Marshal(b)
	if err == nil {
		err = writeFile(b.path, raw)
	}
	return hub.Wrap(hub.Internal, "docker: keep addresses", err)
}
