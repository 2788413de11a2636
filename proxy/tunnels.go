package proxy

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"carrel/hub"
)

// maxTunnels is how many websockets one session or token may have open; a browser opens 255 at most.
const maxTunnels = 300

// credential is what a tunnel was opened with.
type credential struct {
	hash    hub.SecretHash
	byToken bool
}

// tunnels are the open ones, by session or token and by server.
type tunnels struct {
	mu       sync.Mutex
	byWho    map[credential]map[*live]bool
	byServer map[hub.ServerKey]map[*live]bool
	gone     sync.Cond
	n        int
	over     bool // we go away

	changes, seen, given int // comings and goings: in all, at the last look, when memory was given back
}

// full tells whether a session has as many as it may.
func (s *tunnels) full(h hub.SecretHash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byWho[credential{h, false}])+len(s.byWho[credential{h, true}]) >= maxTunnels
}

// add takes a tunnel in; one that comes when all have been told that we go away is told at once.
func (s *tunnels) add(t *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byWho == nil {
		s.byWho, s.byServer = map[credential]map[*live]bool{}, map[hub.ServerKey]map[*live]bool{}
		s.gone.L = &s.mu
	}
	put(s.byWho, t.who, t)
	put(s.byServer, t.route.Key, t)
	s.n++
	s.changes++
	if s.over {
		t.cut(closeGoingAway, goingAway)
	}
}

func put[K comparable](index map[K]map[*live]bool, key K, t *live) {
	if index[key] == nil {
		index[key] = map[*live]bool{}
	}
	index[key][t] = true
}

func (s *tunnels) remove(t *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	drop(s.byWho, t.who, t)
	drop(s.byServer, t.route.Key, t)
	s.n--
	s.changes++
	s.gone.Broadcast()
}

// giveUp ends the writes that have not gone on for too long.
func (s *tunnels) giveUp(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.byServer {
		for t := range list {
			t.giveUp(now)
		}
	}
}

const (
	manyChanges = 200
	fewChanges  = 20
)

// settled is asked every few seconds, and tells whether many tunnels came or went and that is over. Most
// of what they took meanwhile is garbage then, which nothing would collect while all are idle.
func (s *tunnels) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	quiet := s.changes-s.seen <= fewChanges
	s.seen = s.changes
	if !quiet || s.changes-s.given < manyChanges {
		return false
	}
	s.given = s.changes
	return true
}

func drop[K comparable](index map[K]map[*live]bool, key K, t *live) {
	if delete(index[key], t); len(index[key]) == 0 {
		delete(index, key)
	}
}

// credentials are those that tunnels are open with.
func (s *tunnels) credentials() []credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]credential, 0, len(s.byWho))
	for c := range s.byWho {
		list = append(list, c)
	}
	return list
}

func (s *tunnels) cutSessions(hashes []hub.SecretHash, code uint16, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range hashes {
		for _, byToken := range []bool{false, true} {
			for t := range s.byWho[credential{h, byToken}] {
				t.cut(code, reason)
			}
		}
	}
}

// cutRoute ends the tunnels to a server that do not lead where its route now does; nil for nowhere.
func (s *tunnels) cutRoute(key hub.ServerKey, now *route, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.byServer[key] {
		if !t.follows(now) {
			t.cut(closeGoingAway, reason)
		}
	}
}

// leave tells every tunnel that we go away, evenly spread over a time.
func (s *tunnels) leave(ctx context.Context, over time.Duration) {
	s.mu.Lock()
	s.over = true
	list := make([]*live, 0, s.n)
	for _, m := range s.byServer {
		list = slices.AppendSeq(list, maps.Keys(m))
	}
	s.mu.Unlock()
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	began := time.Now()
	for i, t := range list {
		pause(ctx, time.Until(began.Add(over*time.Duration(i)/time.Duration(len(list)))))
		t.cut(closeGoingAway, goingAway)
	}
}

// open tells how many there are.
func (s *tunnels) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *tunnels) none() bool { return s.open() == 0 }

// wait waits until no tunnel is open, or ctx ends; then those left are cut off.
func (s *tunnels) wait(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, m := range s.byServer {
			for t := range m {
				t.close()
			}
		}
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.n > 0 {
		s.gone.Wait()
	}
}
