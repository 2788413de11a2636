package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"carrel/internal/deployed"
	"carrel/internal/measured"
	"carrel/internal/program"
)

func machine() string {
	return fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}

// workDir makes a directory that the hubs' children, which run as users of their own, can pass through.
func workDir() (string, error) {
	work, err := os.MkdirTemp("/tmp", "crl-bench-")
	if err != nil {
		return "", err
	}
	return work, os.Chmod(work, 0o711) //nolint:gosec // other users only pass through
}

// watch samples the deployment's processes until ctx ends.
func (c *carrel) watch(ctx context.Context, begun time.Time) (samples []deployed.Sample) {
	for program.Pause(ctx, 5*time.Second) == nil {
		for name, pid := range map[string]int{"hub": c.p.PID(), "proxy": deployed.ProxyChild(c.p.PID()), "redis": c.RedisPID()} {
			if s, ok := deployed.Take(name, pid); ok && pid != 0 {
				s.At = time.Since(begun).Seconds()
				samples = append(samples, s)
			}
		}
	}
	return samples
}

// count counts Redis's keys by kind.
func (c *carrel) count(ctx context.Context) (map[string]int, error) {
	out, err := c.Redis(ctx, "--scan")
	kinds := map[string]int{}
	for key := range strings.FieldsSeq(out) {
		kind, _, _ := strings.Cut(strings.TrimPrefix(key, "carrel:"+c.Name+":"), ":")
		kinds[kind]++
	}
	return kinds, err
}

// keepLog copies the deployment's log beside the report.
func (c *carrel) keepLog(dir string) error {
	b, err := os.ReadFile(c.log())
	return errors.Join(err, os.WriteFile(filepath.Join(dir, "arrivals.log"), b, 0o600))
}

const (
	rightShare = 0.9
	// warmUp is how long the pool lasts and buffers grow, as a share of the time in which visitors come.
	warmUp = 0.4
	// openEach is how many descriptors of a process one who waits may take.
	openEach = 4
)

// judge writes down what is wrong.
func (r *crowdReport) judge() {
	right, names := 0, map[string]bool{}
	for _, a := range r.All {
		switch {
		case a.Error != "":
			r.faultf("arrival %d: %.300s", a.N, a.Error)
		case names[a.Name] || a.double:
			r.faultf("arrival %d: double: %s", a.N, a.Name)
		}
		names[a.Name] = true
		if a.Right {
			right++
		}
	}
	if share := float64(right) / float64(len(r.All)); share < rightShare {
		r.faultf("%.0f %% of arrivals were told the wait that they had, and not %.0f %%", 100*share, 100*rightShare)
	}
	length := r.Crowd.For.Seconds()
	r.Memory = deployed.Flat(r.Samples, warmUp*length, length, openEach*float64(len(r.All)))
	for i, f := range r.Memory {
		r.Memory[i].Judged = true
		if !f.Flat {
			r.faultf("%s is not flat: %.0f to %.0f KiB, %.0f to %.0f descriptors", f.Process, f.RSSBefore, f.RSSAfter, f.FDsBefore, f.FDsAfter)
		}
	}
	before, after := map[string]int{}, map[string]int{}
	for kind, n := range r.Keys {
		before[kind], after[kind] = n[0], n[1]
	}
	if !r.clean(before, after) {
		r.faultf("more is left than there was: %v, in place of %v; keys %v", r.After, r.Before, r.Keys)
	}
}

func (r *crowdReport) faultf(format string, args ...any) {
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

// print shows a line for each half minute of arrivals, and what is wrong.
func (r *crowdReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\ncame, s\tn\twaited, median s\tlongest\ttold, median s\ttold nothing\ttold right\tcell, median s\t\n")
	for from := 0.0; from < r.Crowd.For.Seconds(); from += 30 {
		part := slices.DeleteFunc(slices.Clone(r.All), func(a arrival) bool { return a.At < from || a.At >= from+30 })
		if len(part) > 0 {
			printPart(w, fmt.Sprintf("%.0f", from), part)
		}
	}
	printPart(w, "all", r.All)
	fmt.Fprintf(w, "\nprocess\tMiB, 1st half\t2nd half\tmost MiB\tfds, 1st half\t2nd half\t\n")
	for _, f := range r.Memory {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.0f\t%.0f\t\n", f.Process, f.RSSBefore/1024, f.RSSAfter/1024, float64(f.Max.RSS)/1024, f.FDsBefore, f.FDsAfter)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	strict := slices.DeleteFunc(slices.Clone(r.All), func(a arrival) bool { return !a.within(0) })
	fmt.Fprintf(out, "\ntold right with no regard to the shortest step: %.0f %%\nbefore: %v\nafter:  %v\n", 100*float64(len(strict))/float64(len(r.All)), r.Before, r.After)
	for _, f := range r.Faults {
		fmt.Fprintln(out, "WRONG", f)
	}
	if len(r.Faults) > 0 {
		return fmt.Errorf("%d faults", len(r.Faults))
	}
	fmt.Fprintln(out, "nobody met an error or somebody else, and nothing is left")
	return nil
}

func printPart(w io.Writer, name string, part []arrival) {
	var waited, told, cells []float64
	right := 0
	for _, a := range part {
		waited, cells = append(waited, a.Waited), append(cells, a.Cell)
		if a.Shown != "" {
			told = append(told, a.Seconds)
		}
		if a.Right {
			right++
		}
	}
	said := "-"
	if len(told) > 0 {
		said = fmt.Sprintf("%.0f", measured.Median(told))
	}
	fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%s\t%d\t%.0f %%\t%.1f\t\n", name, len(part), measured.Median(waited), slices.Max(waited), said, len(part)-len(told), 100*float64(right)/float64(len(part)), measured.Median(cells))
}
