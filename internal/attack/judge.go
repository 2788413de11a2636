package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// slower is how many times its quiet time the neighbour's kernel may take while attacks are made.
const slower = 2

// A part is how the neighbour's kernel answered for a time.
type part struct {
	Name    string  `json:"name,omitempty"` // of the test that ran meanwhile
	Answers int     `json:"answers"`
	Faults  int     `json:"faults"`
	P50     float64 `json:"p50_seconds"`
	P99     float64 `json:"p99_seconds"`
	Max     float64 `json:"max_seconds"`
}

func partOf(name string, samples []sample) part {
	p := part{Name: name, Answers: len(samples)}
	took := make([]float64, 0, len(samples))
	for _, s := range samples {
		took = append(took, s.Seconds)
		if s.Fault != "" {
			p.Faults++
		}
	}
	slices.Sort(took)
	if len(took) > 0 {
		p.P50, p.P99, p.Max = nth(took, 0.5), nth(took, 0.99), took[len(took)-1]
	}
	return p
}

// nth is the smallest of the sorted values that a share q of all does not exceed.
func nth(sorted []float64, q float64) float64 {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// beside is how the neighbour fared beside the attacks.
type beside struct {
	Quiet   part     `json:"quiet"`
	Attack  part     `json:"attacked"`
	ByTest  []part   `json:"by_test"` // the slowest first
	Faults  []string `json:"faults"`
	Samples []sample `json:"samples"`
}

// judge parts the samples at the first attack's begin.
func judge(samples []sample, begin time.Time) *beside {
	first := slices.IndexFunc(samples, func(s sample) bool { return s.At.After(begin) })
	if first < 0 {
		first = len(samples)
	}
	b := &beside{Quiet: partOf("", samples[:first]), Attack: partOf("", samples[first:]), Samples: samples}
	for _, s := range samples {
		if s.Fault != "" {
			b.Faults = append(b.Faults, s.At.Format(time.TimeOnly)+" "+s.Fault)
		}
	}
	return b
}

// blame tells how the neighbour fared during each test.
func (b *beside) blame(spans []span) {
	for _, s := range spans {
		var during []sample
		for _, x := range b.Samples {
			if x.At.Before(s.To) && x.At.Add(time.Duration(x.Seconds*float64(time.Second))).After(s.From) {
				during = append(during, x)
			}
		}
		if len(during) > 0 {
			b.ByTest = append(b.ByTest, partOf(s.Test, during))
		}
	}
	slices.SortStableFunc(b.ByTest, func(x, y part) int { return cmp.Compare(y.Max, x.Max) })
}

// holds tells whether the neighbour was within its bounds throughout.
func (b *beside) holds() bool {
	return b.Attack.Answers > 0 && b.Quiet.Faults == 0 && b.Attack.Faults == 0 && b.Attack.P50 <= slower*b.Quiet.P50 && b.Attack.P99 <= slower*b.Quiet.P99
}

// tell prints the last lines of the table.
func (b *beside) tell(out io.Writer) bool {
	ms := func(s float64) string { return fmt.Sprintf("%.1f ms", s*1000) }
	fmt.Fprintf(out, "\nthe neighbour's kernel          answers     p50         p99         longest\n")
	line := func(name string, p part) {
		fmt.Fprintf(out, "  %-30s%-12d%-12s%-12s%s\n", name, p.Answers, ms(p.P50), ms(p.P99), ms(p.Max))
	}
	line("quiet", b.Quiet)
	line("attacked", b.Attack)
	for _, p := range b.ByTest[:min(5, len(b.ByTest))] {
		fmt.Fprintf(out, "    during %-44s p50 %s, longest %s\n", p.Name, ms(p.P50), ms(p.Max))
	}
	for _, f := range b.Faults[:min(5, len(b.Faults))] {
		fmt.Fprintf(out, "    no answer at %s\n", f)
	}
	verdict := "within"
	if !b.holds() {
		verdict = "NOT within"
	}
	fmt.Fprintf(out, "%s %d times its quiet time: p50 %.2f times, p99 %.2f times, %d without an answer\n", verdict, slower, b.Attack.P50/b.Quiet.P50, b.Attack.P99/b.Quiet.P99, b.Attack.Faults)
	return b.holds()
}
