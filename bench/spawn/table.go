package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"carrel/internal/measured"
)

// A row is one line of the result: a side's waits in one shape, in seconds.
type row struct {
	Side   string  `json:"side"`
	Shape  string  `json:"shape"`
	N      int     `json:"n"`
	Median float64 `json:"median_seconds"`
	Min    float64 `json:"min_seconds"`
	Max    float64 `json:"max_seconds"`
	// Ratio is this side's median by JupyterHub's; zero where JupyterHub was not measured.
	Ratio float64 `json:"ratio_to_jupyterhub,omitempty"`
}

const peer = "jupyterhub"

// table sums the counted runs up; the warm-up is left out.
func table(runs []measurement) []row {
	waits := map[[2]string][]float64{}
	for _, m := range runs {
		if m.Round > 0 {
			k := [2]string{m.Shape, m.Side}
			waits[k] = append(waits[k], m.Seconds)
			if m.Cell > 0 {
				k[0] += ", first cell"
				waits[k] = append(waits[k], m.Cell)
			}
		}
	}
	var rows []row
	for k, w := range waits {
		r := row{Shape: k[0], Side: k[1], N: len(w), Median: measured.Median(w), Min: slices.Min(w), Max: slices.Max(w)}
		if theirs := waits[[2]string{k[0], peer}]; len(theirs) > 0 {
			r.Ratio = r.Median / measured.Median(theirs)
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(a.Shape, b.Shape), cmp.Compare(a.Side, b.Side)) })
	return rows
}

func printTable(w io.Writer, rows []row) {
	fmt.Fprintf(w, "\n%-16s %-14s %4s %9s %9s %9s %7s\n", "at once", "hub", "n", "median s", "min", "max", "ratio")
	for _, r := range rows {
		ratio := "-"
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(w, "%-16s %-14s %4d %9.2f %9.2f %9.2f %7s\n", r.Shape, r.Side, r.N, r.Median, r.Min, r.Max, ratio)
	}
}

// seconds describes a round in one line.
func seconds(w []float64) string {
	if len(w) == 1 {
		return fmt.Sprintf("%.2f s", w[0])
	}
	return fmt.Sprintf("%.2f s (%.2f to %.2f)", measured.Median(w), slices.Min(w), slices.Max(w))
}
