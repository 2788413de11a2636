package redisstore

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/alicebob/miniredis/v2"
)

// Forget takes what lies under the prefix, whatever characters it holds, and nothing of others.
func TestForget(t *testing.T) {
	for _, prefix := range []string{"carrel:a:", "a*[b]?", `back\slash:`} {
		r := miniredis.RunT(t)
		s, err := New(Config{URL: "redis://" + r.Addr(), Prefix: prefix, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		others := []string{"carrel:b:x", "carrel:", "aXbY", "back", "x" + prefix}
		for _, key := range append([]string{prefix + "schema", prefix + "session:1", prefix + "*"}, others...) {
			if err := r.Set(key, "1"); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		slices.Sort(others)
		if left := r.Keys(); !slices.Equal(left, others) {
			t.Errorf("under %q: left are %q, want %q", prefix, left, others)
		}
	}
}
