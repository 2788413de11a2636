package main

import (
	"fmt"
	"io"
	"slices"

	"carrel/internal/measured"
)

// A figure is a number that a result gives.
type figure struct {
	name, unit string
	digits     int
	of         func(result) float64
}

var (
	perSecond  = figure{"rate", "per second", 0, func(r result) float64 { return float64(r.Done) / r.Seconds }}
	cpuPer100k = figure{"cpu", "CPU s/100k", 2, func(r result) float64 { return r.CPU / float64(r.Done) * 1e5 }}
	cpuPerGiB  = figure{"cpu", "CPU s/GiB", 2, func(r result) float64 { return r.CPU / float64(r.Done) * (1 << 30) }}
	p50        = figure{"p50", "p50 ms", 3, func(r result) float64 { return r.P50 }}
	p99        = figure{"p99", "p99 ms", 3, func(r result) float64 { return r.P99 }}
)

// A row is one line of the result: a side's median over the counted rounds, and Carrel beside it.
type row struct {
	Measure string  `json:"measure"`
	Figure  string  `json:"figure"`
	Unit    string  `json:"unit"`
	Side    string  `json:"side"`
	N       int     `json:"n"`
	Median  float64 `json:"median"`
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
	// Ratio is the median over the rounds of Carrel's figure by this side's in the same round, and
	// Difference that of Carrel's less this side's; both are absent without the two.
	Ratio      float64 `json:"carrel_by_this,omitempty"`
	Difference float64 `json:"carrel_less_this,omitempty"`
	digits     int
}

const self = "carrel"

// table sums the counted samples up; the warm-up is left out.
func table(samples []sample) []row {
	var rows []row
	for _, m := range measures {
		for _, f := range m.figures {
			values := map[string]map[int]float64{} // by side and round
			var sides []string
			for _, s := range samples {
				if s.Measure != m.name || s.Round == 0 {
					continue
				}
				if values[s.Side] == nil {
					values[s.Side] = map[int]float64{}
					sides = append(sides, s.Side)
				}
				values[s.Side][s.Round] = f.of(s.result)
			}
			slices.Sort(sides)
			for _, side := range sides {
				rows = append(rows, newRow(m, f, side, values[side], values[self]))
			}
		}
	}
	return rows
}

// newRow compares a side's values with Carrel's, round by round.
func newRow(m measure, f figure, side string, theirs, ours map[int]float64) row {
	var all, ratios, differences []float64
	for round, v := range theirs {
		all = append(all, v)
		if our, ok := ours[round]; ok && v > 0 {
			ratios, differences = append(ratios, our/v), append(differences, our-v)
		}
	}
	r := row{
		Measure: m.name, Figure: f.name, Unit: f.unit, Side: side, N: len(all),
		Median: measured.Median(all), Min: slices.Min(all), Max: slices.Max(all), digits: f.digits,
	}
	if len(ratios) > 0 && side != self {
		r.Ratio, r.Difference = measured.Median(ratios), measured.Median(differences)
	}
	return r
}

func printTable(w io.Writer, rows []row) {
	fmt.Fprintf(w, "\n%-10s %-11s %-13s %3s %11s %11s %11s %14s\n", "what", "unit", "proxy", "n", "median", "min", "max", "carrel by this")
	for _, r := range rows {
		ratio := "-"
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(w, "%-10s %-11s %-13s %3d %11.*f %11.*f %11.*f %14s\n",
			r.Measure, r.Unit, r.Side, r.N, r.digits, r.Median, r.digits, r.Min, r.digits, r.Max, ratio)
	}
}

// A target is what Carrel is to reach beside a peer.
type target struct {
	measure, figure, peer string
	by                    func(r row) float64
	limit                 float64
	least                 bool // the limit is the least that is enough, not the most
	says                  string
}

func ratio(r row) float64      { return r.Ratio }
func difference(r row) float64 { return r.Difference }

var targets = []target{
	{"http-64", "cpu", "nginx", ratio, 2.0, false, "CPU per request by nginx's"},
	{"http-64", "cpu", "chp", ratio, 0.25, false, "CPU per request by CHP's"},
	{"http-64", "rate", "nginx", ratio, 0.6, true, "requests per second by nginx's"},
	{"ws-200", "cpu", "nginx", ratio, 1.2, false, "CPU per round trip by nginx's"},
	{"ws-200", "cpu", "chp", ratio, 0.65, false, "CPU per round trip by CHP's"},
	{"download", "cpu", "haproxy", ratio, 0.8, false, "CPU per GiB down by haproxy's"},
	{"upload", "cpu", "haproxy", ratio, 0.8, false, "CPU per GiB up by haproxy's"},
	{"rate-1000", "p99", "nginx", difference, 0.5, false, "p99 less nginx's, ms"},
}

// judge says which targets are met, of those that were measured.
func judge(w io.Writer, rows []row) {
	fmt.Fprintln(w)
	for _, t := range targets {
		i := slices.IndexFunc(rows, func(r row) bool { return r.Measure == t.measure && r.Figure == t.figure && r.Side == t.peer })
		if i < 0 || rows[i].Ratio == 0 {
			continue
		}
		got, bound := t.by(rows[i]), "at most"
		if t.least {
			bound = "at least"
		}
		met := t.least && got >= t.limit || !t.least && got <= t.limit
		fmt.Fprintf(w, "%-32s %6.2f  %s %.2f  %s\n", t.says, got, bound, t.limit, verdict(met))
	}
}

// warn tells where others had so much of the machine that times of the clock, and what hangs on them,
// say little; processor time is hurt less.
func warn(w io.Writer, samples []sample) {
	var shares []float64
	for _, s := range samples {
		if s.Round > 0 {
			shares = append(shares, s.Others)
		}
	}
	if len(shares) > 0 && measured.Median(shares) > 0.05 {
		fmt.Fprintf(w, "\nother programs had %.0f %% of the processors (median): rates and waits are not to be relied on\n", 100*measured.Median(shares))
	}
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}
