package main

import (
	"strings"
	"testing"

	"carrel/internal/deployed"
)

func TestToldRight(t *testing.T) {
	for _, c := range []struct {
		name string
		told foretold
		had  float64
		fail string
		want bool
	}{
		{name: "within a share", told: foretold{Shown: "x", Seconds: 100}, had: 80, want: true},
		{name: "too long", told: foretold{Shown: "x", Seconds: 100}, had: 70},
		{name: "too short", told: foretold{Shown: "x", Seconds: 60}, had: 90},
		{name: "within the shortest step", told: foretold{Shown: "x", Seconds: 5}, had: 1, want: true},
		{name: "told later, of what was left then", told: foretold{Shown: "x", Seconds: 80, After: 20}, had: 100, want: true},
		{name: "told when most was over", told: foretold{Shown: "x", Seconds: 10, After: 90}, had: 100},
		{name: "told nothing", had: 6},
		{name: "nothing to tell", had: 4, want: true},
		{name: "an error", told: foretold{Shown: "x", Seconds: 100}, had: 100, fail: "no"},
	} {
		if got := (arrival{foretold: c.told, Waited: c.had, Error: c.fail}).right(); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for text, want := range map[string]float64{"about 5 seconds": 5, "about 1 minute": 60, "about 2 minutes 30 seconds": 150, "about 120 minutes": 7200, "": 0} {
		if got := toldSeconds(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestJudgement: each of the conditions fails the run by itself.
func TestJudgement(t *testing.T) {
	sound := func() *crowdReport {
		r := &crowdReport{Crowd: crowd{For: 300e9}, Before: deployed.Leftovers{Containers: 10, Files: 5}, After: deployed.Leftovers{Containers: 10, Files: 5}, Keys: map[string][2]int{"user": {1, 1}}}
		for n := range 20 {
			r.All = append(r.All, arrival{N: n, Name: strings.Repeat("x", n+1), Right: n > 1})
		}
		for at := 0.0; at < 300; at += 5 {
			r.Samples = append(r.Samples, deployed.Sample{At: at, Process: "hub", RSS: 40 << 10, FDs: 60})
		}
		return r
	}
	for name, change := range map[string]func(*crowdReport){
		"":                func(*crowdReport) {},
		"an error":        func(r *crowdReport) { r.All[3].Error = "no" },
		"one name twice":  func(r *crowdReport) { r.All[3].Name = r.All[4].Name },
		"somebody's mark": func(r *crowdReport) { r.All[3].double = true },
		"told wrong":      func(r *crowdReport) { r.All[5].Right = false },
		"memory": func(r *crowdReport) {
			for i := range r.Samples {
				r.Samples[i].RSS += i << 10
			}
		},
		"a container":       func(r *crowdReport) { r.After.Containers++ },
		"a slot is missing": func(r *crowdReport) { r.After.Containers-- },
		"a mount":           func(r *crowdReport) { r.After.Mounts++ },
		"a loop device":     func(r *crowdReport) { r.After.Loops++ },
		"a file":            func(r *crowdReport) { r.After.Files++ },
		"a key":             func(r *crowdReport) { r.Keys["visit"] = [2]int{0, 1} },
	} {
		r := sound()
		change(r)
		r.judge()
		if (len(r.Faults) == 0) != (name == "") {
			t.Errorf("%q: %v", name, r.Faults)
		}
	}
}
