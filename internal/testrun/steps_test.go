package main

import "testing"

func TestOnlyDeadline(t *testing.T) {
	const progress = "fuzz: elapsed: 3s, execs: 110885 (0/sec), new interesting: 5 (total: 104)\n"
	for name, c := range map[string]struct {
		said string
		want bool
	}{
		"its own deadline":    {progress + "--- FAIL: FuzzLabels (3.10s)\n    context deadline exceeded\nFAIL\n", true},
		"an input that fails": {progress + "--- FAIL: FuzzLabels (0.10s)\n    --- FAIL: FuzzLabels (0.00s)\n        labels_test.go:9: context deadline exceeded\n    \n    Failing input written to testdata/fuzz/FuzzLabels/1\nFAIL\n", false},
		"a deadline and more": {"--- FAIL: FuzzLabels (3.10s)\n    context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzLabels/1\nFAIL\n", false},
		"a seed that fails":   {"--- FAIL: FuzzLabels (0.00s)\n    --- FAIL: FuzzLabels/seed#0 (0.00s)\n        labels_test.go:9: wrong\nFAIL\n", false},
		"a success":           {progress + "PASS\n", false},
		"nothing":             {"", false},
	} {
		if got := onlyDeadline(c.said); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
