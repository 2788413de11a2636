package proxy

import (
	"hash/maphash"
	"iter"
	"maps"
	"sync/atomic"
)

// shardCount is how many parts a table has: of 100,000 entries each has some hundred, so that a
// change copies no more than those.
const shardCount = 1024

// shardSeed keeps strangers from choosing names that all fall into one part.
var shardSeed = maphash.MakeSeed()

// shards is a map in parts, each copy-on-write: who reads takes no lock and never waits, and who
// writes copies one part. Writers take turns by a lock of their own.
type shards[K comparable, V any] struct {
	parts [shardCount]atomic.Pointer[map[K]V]
}

func shardOf[K comparable](key K) int {
	return int(maphash.Comparable(shardSeed, key) % shardCount)
}

// get is the value of key, or none.
func (s *shards[K, V]) get(key K) (v V) {
	if m := s.parts[shardOf(key)].Load(); m != nil {
		v = (*m)[key]
	}
	return v
}

// change edits the part that key belongs to.
func (s *shards[K, V]) change(key K, edit func(map[K]V)) {
	at := &s.parts[shardOf(key)]
	var next map[K]V
	if m := at.Load(); m != nil {
		next = maps.Clone(*m)
	}
	if next == nil {
		next = map[K]V{}
	}
	edit(next)
	at.Store(&next)
}

// store makes the whole be all.
func (s *shards[K, V]) store(all map[K]V) {
	parts := make([]map[K]V, shardCount)
	for key, v := range all {
		i := shardOf(key)
		if parts[i] == nil {
			parts[i] = make(map[K]V, len(all)/shardCount+1)
		}
		parts[i][key] = v
	}
	for i := range parts {
		s.parts[i].Store(&parts[i])
	}
}

// all gives every entry, each part as it is when it is come to.
func (s *shards[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for i := range s.parts {
			m := s.parts[i].Load()
			if m == nil {
				continue
			}
			for key, v := range *m {
				if !yield(key, v) {
					return
				}
			}
		}
	}
}

// count is how many entries there are.
func (s *shards[K, V]) count() (n int) {
	for i := range s.parts {
		if m := s.parts[i].Load(); m != nil {
			n += len(*m)
		}
	}
	return n
}
