// Package measured is what benchmarks and long tests do alike with what they measured.
//
// It owns the median and the form of the file that keeps every sample. It refuses to know what was
// measured, and to be part of the binary.
package measured

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
)

// Median is the middle of the values, or the mean of the middle two; it panics without any.
func Median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// Write writes a report as indented JSON, making its directory.
func Write(path string, report any) error {
	b, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}
