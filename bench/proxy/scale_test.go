package main

import (
	"strings"
	"testing"
)

// The sum compares the two deployments round by round, without the warm-up, and takes what was stored
// from the bursts in which nobody else asked, what was served from the others.
func TestScaleSum(t *testing.T) {
	r := scaleReport{Small: 100, Large: 5000, Idle: map[string]float64{"carrel-100": 40, "carrel-5000": 41}}
	for round, cpu := range [][2]float64{{1, 99}, {10, 11}, {10, 30}, {20, 25}} {
		for i, side := range []string{"carrel-100", "carrel-5000"} {
			few := sample{Side: side, Measure: "same", Round: round, result: result{Done: 100_000, Seconds: 1, CPU: cpu[i]}}
			many := few
			many.Measure, many.CPU = "crowd", cpu[i]*float64(1+2*i)
			r.Samples = append(r.Samples, few, many)
		}
	}
	for i := range 100 {
		r.Added = append(r.Added, adding{Stored: float64(i), Watched: false}, adding{Stored: 1000, Served: float64(2 * i), Watched: true})
	}
	var out strings.Builder
	r.sum(&out)
	if r.Ratio != 1.25 || r.Crowd != 3.75 || r.Stored != 99 || r.Served != 198 {
		t.Errorf("%v, %v, %v, %v", r.Ratio, r.Crowd, r.Stored, r.Served)
	}
	if strings.Count(out.String(), "MISSED") != 2 || !strings.Contains(out.String(), "5000 people:  41 ms") {
		t.Errorf("%s", out.String())
	}
}
