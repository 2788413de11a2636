package hub

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// overSeen is an observer that remembers.
type overSeen struct {
	last  string
	took  time.Duration
	steps []StepTime
	n     int
}

func (o *overSeen) StartOver(last string, took time.Duration, steps []StepTime) {
	o.last, o.took, o.steps = last, took, steps
	o.n++
}

func (o *overSeen) Culled(string)                 {}
func (o *overSeen) PauseOver(string)              {}
func (o *overSeen) WakeOver(time.Duration, error) {}

// A step lasts from its first word to the next one's, however often it is told of.
func TestStepsAreTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen overSeen
		b := newStepBoard(&seen)
		key := ServerKey{User: mustUser(t, "alice")}
		b.begin(key, 1)
		time.Sleep(time.Second)
		for _, s := range []struct {
			step string
			last time.Duration
		}{{"queue", 2 * time.Second}, {"image", 3 * time.Second}, {"image", 4 * time.Second}, {"wait", 5 * time.Second}} {
			b.add(key, Progress{Step: s.step})
			time.Sleep(s.last)
		}
		if seen.n != 0 {
			t.Error("a start that goes on is over")
		}
		b.add(key, Progress{Step: "ready", Done: true})
		want := []StepTime{{"queue", 2 * time.Second}, {"image", 7 * time.Second}, {"wait", 5 * time.Second}}
		if seen.n != 1 || seen.last != "ready" || seen.took != 15*time.Second || !slices.Equal(seen.steps, want) {
			t.Errorf("%+v, want %v", seen, want)
		}
	})
}
