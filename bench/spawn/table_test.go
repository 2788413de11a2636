package main

import (
	"testing"
)

func TestTable(t *testing.T) {
	runs := []measurement{
		{Side: peer, Shape: "one", Round: 0, Seconds: 90}, // warm-up
		{Side: "carrel", Shape: "one", Round: 0, Seconds: 80},
		{Side: peer, Shape: "one", Round: 1, Seconds: 4, Cell: 5},
		{Side: peer, Shape: "one", Round: 2, Seconds: 2},
		{Side: "carrel", Shape: "one", Round: 1, Seconds: 1, Cell: 2},
		{Side: "carrel", Shape: "one", Round: 2, Seconds: 3},
		{Side: "carrel", Shape: "one", Round: 3, Seconds: 1.5},
		{Side: "carrel", Shape: "ten", Round: 1, Seconds: 7},
	}
	want := []row{
		{Side: "carrel", Shape: "one", N: 3, Median: 1.5, Min: 1, Max: 3, Ratio: 0.5},
		{Side: peer, Shape: "one", N: 2, Median: 3, Min: 2, Max: 4, Ratio: 1},
		{Side: "carrel", Shape: "one, first cell", N: 1, Median: 2, Min: 2, Max: 2, Ratio: 0.4},
		{Side: peer, Shape: "one, first cell", N: 1, Median: 5, Min: 5, Max: 5, Ratio: 1},
		{Side: "carrel", Shape: "ten", N: 1, Median: 7, Min: 7, Max: 7},
	}
	got := table(runs)
	if len(got) != len(want) {
		t.Fatalf("%d rows: %+v", len(got), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("row %d: %+v, want %+v", i, got[i], want[i])
		}
	}
}
