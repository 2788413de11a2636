package hub_test

import (
	"slices"
	"strings"
	"sync"
	"time"

	"carrel/hub"
)

// seen is an observer that remembers, a word for each event.
type seen struct {
	mu    sync.Mutex
	words []string
}

func (s *seen) add(words ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.words = append(s.words, strings.Join(words, " "))
}

// of are the events of a kind, in order.
func (s *seen) of(kind string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.DeleteFunc(slices.Clone(s.words), func(w string) bool { return !strings.HasPrefix(w, kind+" ") }), ", ")
}

func (s *seen) StartOver(last string, _ time.Duration, _ []hub.StepTime) { s.add("start", last) }
func (s *seen) Culled(rule string)                                       { s.add("cull", rule) }
func (s *seen) PauseOver(outcome string)                                 { s.add("pause", outcome) }
func (s *seen) VisitBegan(waited time.Duration)                          { s.add("began", waited.Round(time.Second).String()) }
func (s *seen) VisitOver(end hub.VisitEnd)                               { s.add("over", string(end)) }
func (s *seen) VisitRefused(why hub.VisitRefusal)                        { s.add("refused", string(why)) }
func (s *seen) WakeOver(_ time.Duration, err error) {
	if err != nil {
		s.add("wake", "failed")
		return
	}
	s.add("wake", "ok")
}
