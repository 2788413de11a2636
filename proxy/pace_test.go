package proxy

import (
	"runtime/debug"
	"testing"
)

// percentNow is the collector's pace.
func percentNow() int {
	now := debug.SetGCPercent(calmPercent)
	debug.SetGCPercent(now)
	return now
}

// The collector's pace follows how much is known, and an operator's word stands above it.
func TestPace(t *testing.T) {
	t.Setenv("GOGC", "") // as if it were not set
	before := percentNow()
	defer debug.SetGCPercent(before)
	few, many := manyPeople(t, 100), manyPeople(t, crowdedFrom/2)
	few.pace()
	if got := percentNow(); got != calmPercent {
		t.Errorf("with few people: %d", got)
	}
	many.pace()
	if got := percentNow(); got != crowdedPercent {
		t.Errorf("with many: %d", got)
	}
	many.unpace()
	if got := percentNow(); got != calmPercent {
		t.Errorf("at the end: %d", got)
	}
	t.Setenv("GOGC", "50")
	debug.SetGCPercent(50)
	many.pace()
	if got := percentNow(); got != 50 {
		t.Errorf("against the operator's word: %d", got)
	}
}
