package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestMilliseconds(t *testing.T) {
	var waits []time.Duration
	for i := range 1000 {
		waits = append(waits, time.Duration(1000-i)*time.Millisecond) // 1 ms to 1 s, the longest first
	}
	if got := milliseconds(waits, 0.5); got != 501 {
		t.Errorf("p50 %v", got)
	}
	if got := milliseconds(waits, 0.99); got != 991 {
		t.Errorf("p99 %v", got)
	}
	if got := milliseconds(waits[:1], 0.99); got != 1000 {
		t.Errorf("p99 of one %v", got)
	}
	if got := milliseconds(nil, 0.99); got != 0 {
		t.Errorf("p99 of none %v", got)
	}
}

// samplesOf makes samples of http-64 that cost so many CPU seconds per 100,000, the warm-up first.
func samplesOf(side string, cpu ...float64) []sample {
	var list []sample
	for round, v := range cpu {
		list = append(list, sample{Side: side, Measure: "http-64", Round: round, result: result{Done: 200_000, Seconds: 2, CPU: 2 * v}})
	}
	return list
}

// A ratio is that of the two sides in the same round, not of their medians: what the machine does
// in one round it does to both. The warm-up counts for nothing.
func TestTable(t *testing.T) {
	rows := table(append(samplesOf("carrel", 900, 2, 40, 6), samplesOf("nginx", 1, 1, 10, 4)...))
	find := func(side, figure string) row {
		for _, r := range rows {
			if r.Side == side && r.Figure == figure {
				return r
			}
		}
		t.Fatalf("no row %s %s in %+v", side, figure, rows)
		return row{}
	}
	if r := find("nginx", "cpu"); r.N != 3 || r.Median != 4 || r.Min != 1 || r.Max != 10 || r.Ratio != 2 || r.Difference != 2 {
		t.Errorf("%+v", r) // ratios 2, 4, 1.5; differences 1, 30, 2
	}
	if r := find("carrel", "cpu"); r.Median != 6 || r.Ratio != 0 {
		t.Errorf("%+v", r)
	}
	if r := find("nginx", "rate"); r.Median != 100_000 || r.Ratio != 1 {
		t.Errorf("%+v", r)
	}
	if len(rows) != 4 {
		t.Errorf("%d rows: what was not measured has none", len(rows))
	}
}

func TestTableOfOneSideHasNoRatio(t *testing.T) {
	for _, r := range table(samplesOf("nginx", 1, 1)) {
		if r.Ratio != 0 || math.IsNaN(r.Median) {
			t.Errorf("%+v", r)
		}
	}
}

func TestFigures(t *testing.T) {
	r := result{Done: 4 << 30, Seconds: 2, CPU: 2}
	if got := cpuPerGiB.of(r); got != 0.5 {
		t.Errorf("CPU per GiB %v", got)
	}
	r.Done = 50_000
	if got := cpuPer100k.of(r); got != 4 {
		t.Errorf("CPU per 100,000 %v", got)
	}
	if got := perSecond.of(r); got != 25_000 {
		t.Errorf("per second %v", got)
	}
}

func TestJudge(t *testing.T) {
	said := func(rows ...row) string {
		var b strings.Builder
		judge(&b, rows)
		return b.String()
	}
	for _, c := range []struct {
		name string
		row  row
		want string
	}{
		{"CPU within", row{Measure: "http-64", Figure: "cpu", Side: "nginx", Ratio: 2}, " met"},
		{"CPU beyond", row{Measure: "http-64", Figure: "cpu", Side: "nginx", Ratio: 2.01}, "MISSED"},
		{"a rate that is enough", row{Measure: "http-64", Figure: "rate", Side: "nginx", Ratio: 0.6}, " met"},
		{"a rate that is too low", row{Measure: "http-64", Figure: "rate", Side: "nginx", Ratio: 0.59}, "MISSED"},
		{"p99 within, by difference", row{Measure: "rate-1000", Figure: "p99", Side: "nginx", Ratio: 3, Difference: 0.5}, " met"},
		{"p99 beyond", row{Measure: "rate-1000", Figure: "p99", Side: "nginx", Ratio: 1.1, Difference: 0.6}, "MISSED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := said(c.row); !strings.Contains(got, c.want) {
				t.Errorf("%q", got)
			}
		})
	}
	if got := said(row{Measure: "http-64", Figure: "cpu", Side: "haproxy", Ratio: 9}); strings.TrimSpace(got) != "" {
		t.Errorf("a target that is none: %q", got)
	}
}

func TestWarn(t *testing.T) {
	said := func(shares ...float64) string {
		var b strings.Builder
		var samples []sample
		for round, share := range shares {
			samples = append(samples, sample{Round: round, Others: share})
		}
		warn(&b, samples)
		return b.String()
	}
	if got := said(1, 0.01, 0.4, 0.02); got != "" {
		t.Errorf("a quiet machine: %q", got)
	}
	if got := said(0, 0.3, 0.01, 0.2); !strings.Contains(got, "20 %") {
		t.Errorf("a busy machine: %q", got)
	}
}

// In each round every side has one turn, and over the rounds none is always first.
func TestOrder(t *testing.T) {
	for _, sides := range []int{1, 2, 4, 5} {
		first := map[int]bool{}
		for round := range 10 {
			seen := map[int]bool{}
			for turn := range sides {
				seen[order(sides, round, turn)] = true
			}
			if len(seen) != sides {
				t.Errorf("%d sides, round %d: %v", sides, round, seen)
			}
			first[order(sides, round, 0)] = true
		}
		if len(first) != sides {
			t.Errorf("of %d sides only %v begin a round", sides, first)
		}
	}
}
