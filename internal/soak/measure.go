package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrel/internal/deployed"
	"carrel/internal/program"
)

// goroutines asks a process's metrics; 0 for one that has none, or does not answer now.
func (s *site) goroutines(ctx context.Context, name string) int {
	ctx, done := context.WithTimeout(ctx, 2*time.Second)
	defer done()
	port, has := s.metrics[name]
	if !has {
		return 0
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/metrics", nil)
	if err != nil {
		return 0
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(b), "\ngo_goroutines ")
	line, _, _ := strings.Cut(after, "\n")
	n, _ := strconv.Atoi(line) // none is 0
	return n
}

// measureEvery gives a half of what is compared in five minutes eighteen samples, and more to longer runs.
const measureEvery = 5 * time.Second

// measure samples every process until ctx ends.
func (r *run) measure(ctx context.Context, begun time.Time) {
	for program.Pause(ctx, measureEvery) == nil {
		for name, pid := range r.processes() {
			if s, ok := deployed.Take(name, pid); ok {
				s.At = time.Since(begun).Seconds()
				s.Routines = r.site.goroutines(ctx, name)
				r.samples = append(r.samples, s)
			}
		}
	}
}

// processes are the deployment's, and the load's own for comparison.
func (r *run) processes() map[string]int {
	pids := r.site.pids()
	pids["load"] = os.Getpid()
	return pids
}

// Growth is judged over the two halves of what comes after the warm-up, in which every process is
// restarted once, caches fill and browsers find their way back. In both halves the load is the same:
// 150 actions a second, each of which would leak a descriptor or some KiB.
const (
	warmUp   = 0.4 // of the run
	floorFDs = 8   // one for so many clients: those of a proxy that restarts come over for a while
)

// judgedFrom is the length of a run from which on its halves are long enough to be compared: in a
// shorter one a single restart fills most of either.
const judgedFrom = 5 * time.Minute

// steady are the processes that live through both of the halves that are compared.
var steady = []string{"hub", "proxy 1", "redis"}

func flat(samples []deployed.Sample, length time.Duration, clients int) []deployed.Flatness {
	all := deployed.Flat(samples, warmUp*length.Seconds(), length.Seconds(), float64(clients)/floorFDs)
	for i, f := range all {
		all[i].Judged = slices.Contains(steady, f.Process) && length >= judgedFrom
	}
	return all
}
