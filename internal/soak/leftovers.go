package main

import (
	"context"
	"strings"
)

// keys counts Redis's keys that name a made-up person, or hold such a session.
func (s *site) keys(ctx context.Context) (int, error) {
	out, err := s.Redis(ctx, "--scan", "--pattern", "*made*")
	if err != nil {
		return 0, err
	}
	return len(strings.Fields(out)), nil
}
