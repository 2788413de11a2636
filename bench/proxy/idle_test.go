package main

import (
	"testing"

	"carrel/bench/cost"
)

// A summary takes the last reading of each stage, of one proxy, and counts what the websockets added.
func TestSummary(t *testing.T) {
	at := func(side, stage string, mib int64, descriptors int) holding {
		return holding{Side: side, Stage: stage, Seconds: 30, CPU: 0.5, Usage: cost.Usage{Resident: mib << 20, Descriptors: descriptors}}
	}
	got := summary("carrel", 1024, []holding{
		at("carrel", "fresh", 90, 90), at("carrel", "fresh", 20, 10),
		at("carrel", "open", 99, 99), at("carrel", "open", 60, 10+2048),
		at("nginx", "open", 500, 500),
		at("carrel", "closed", 59, 10), at("carrel", "closed", 30, 10),
	})
	want := idleRow{Side: "carrel", Websockets: 1024, KiBEach: 40, Descriptors: 2, Returned: 0.75, CPUPerMin: 1}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestSummaryOfNothingTaken(t *testing.T) {
	if got := summary("carrel", 10, nil); got.Returned != 0 || got.KiBEach != 0 {
		t.Errorf("%+v", got)
	}
}
