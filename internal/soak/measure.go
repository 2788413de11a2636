package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrel/internal/measured"
	"carrel/internal/program"
)

// A sample is what a process held at one time.
type sample struct {
	At       float64 `json:"at"` // seconds from the begin
	Process  string  `json:"process"`
	PID      int     `json:"pid"`
	RSS      int     `json:"rss_kib"`
	FDs      int     `json:"fds"`
	Threads  int     `json:"threads"`
	Routines int     `json:"goroutines"`  // as its metrics tell; 0: they did not answer, or there are none
	CPU      float64 `json:"cpu_seconds"` // since its start
}

// take measures a process by /proc; false for one that ended meanwhile.
func take(name string, pid int) (sample, bool) {
	s := sample{Process: name, PID: pid}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return s, false
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB")) // others are not numbers
		switch key {
		case "VmRSS":
			s.RSS = n
		case "Threads":
			s.Threads = n
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return s, false
	}
	s.FDs = len(fds)
	s.CPU = cpuOf(pid)
	return s, true
}

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

// cpuOf is user and system time, in seconds (proc(5), stat, fields 14 and 15, in hundredths).
func cpuOf(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64) // zero for what is no number
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// measureEvery gives a half of what is compared in five minutes eighteen samples, and more to longer runs.
const measureEvery = 5 * time.Second

// measure samples every process until ctx ends.
func (r *run) measure(ctx context.Context, begun time.Time) {
	for program.Pause(ctx, measureEvery) == nil {
		for name, pid := range r.processes() {
			if s, ok := take(name, pid); ok {
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
// restarted once, caches fill and browsers find their way back. In both halves the load is the same,
// so that the medians of a process that keeps nothing differ by the garbage collector's noise alone,
// which was 5 % at most; what leaks a descriptor or some KiB with each of 150 actions a second grows
// by far more than the limits.
const (
	warmUp    = 0.4 // of the run
	growthRSS = 1.15
	growthFDs = 1.10    // and goroutines
	floorRSS  = 4 << 10 // KiB: the step in which Go takes memory from the system
	floorFDs  = 8       // one for so many clients: those of a proxy that restarts come over for a while
)

// judgedFrom is the length of a run from which on its halves are long enough to be compared: in a
// shorter one a single restart fills most of either.
const judgedFrom = 5 * time.Minute

// steady are the processes that live through both of the halves that are compared.
var steady = []string{"hub", "proxy 1", "redis"}

// A flatness compares the two halves of the run after the warm-up, by medians.
type flatness struct {
	Process   string  `json:"process"`
	RSSBefore float64 `json:"rss_kib_first_half"`
	RSSAfter  float64 `json:"rss_kib_second_half"`
	FDsBefore float64 `json:"fds_first_half"`
	FDsAfter  float64 `json:"fds_second_half"`
	GosBefore float64 `json:"goroutines_first_half"`
	GosAfter  float64 `json:"goroutines_second_half"`
	Max       sample  `json:"largest"`
	Judged    bool    `json:"judged"`
	Flat      bool    `json:"flat"`
}

func flat(samples []sample, length time.Duration, clients int) []flatness {
	by := map[string][]sample{}
	for _, s := range samples {
		by[s.Process] = append(by[s.Process], s)
	}
	begin, end := warmUp*length.Seconds(), length.Seconds()
	middle := (begin + end) / 2
	floor := float64(clients) / floorFDs
	var out []flatness
	for _, name := range slices.Sorted(maps.Keys(by)) {
		f := flatness{Process: name, Judged: slices.Contains(steady, name) && length >= judgedFrom}
		f.Max = slices.MaxFunc(by[name], func(a, b sample) int { return cmp.Compare(a.RSS, b.RSS) })
		f.RSSBefore, f.FDsBefore, f.GosBefore = medians(by[name], begin, middle)
		f.RSSAfter, f.FDsAfter, f.GosAfter = medians(by[name], middle, end)
		f.Flat = f.RSSAfter <= f.RSSBefore*growthRSS+floorRSS && f.FDsAfter <= f.FDsBefore*growthFDs+floor && f.GosAfter <= f.GosBefore*growthFDs+2*floor
		out = append(out, f)
	}
	return out
}

func medians(samples []sample, from, to float64) (rss, fds, routines float64) {
	var a, b, c []float64
	for _, s := range samples {
		if s.At >= from && s.At < to {
			a, b = append(a, float64(s.RSS)), append(b, float64(s.FDs))
			if s.Routines > 0 {
				c = append(c, float64(s.Routines))
			}
		}
	}
	return median(a), median(b), median(c)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	return measured.Median(v)
}
