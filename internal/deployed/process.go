package deployed

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"carrel/internal/measured"
)

// Sample is what a process held at one time.
type Sample struct {
	At       float64 `json:"at"` // seconds from the begin
	Process  string  `json:"process"`
	PID      int     `json:"pid"`
	RSS      int     `json:"rss_kib"`
	FDs      int     `json:"fds"`
	Threads  int     `json:"threads"`
	Routines int     `json:"goroutines"`  // as its metrics tell; 0: they did not answer, or there are none
	CPU      float64 `json:"cpu_seconds"` // since its start
}

// Take measures a process by /proc; false for one that ended meanwhile.
func Take(name string, pid int) (Sample, bool) {
	s := Sample{Process: name, PID: pid}
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

// Comm is the name of a process; "" of one that ended.
func Comm(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// ProxyChild finds the process that carries the bytes, a child of the proxy's; 0 if there is none.
func ProxyChild(parent int) int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || Comm(pid) != "carrel-proxy" {
			continue
		}
		status, err := os.ReadFile("/proc/" + d.Name() + "/status")
		if err == nil && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", parent)) {
			return pid
		}
	}
	return 0
}

// In two halves of a time with the same load, the medians of a process that keeps nothing differ by the
// garbage collector's noise alone, which was 5 % at most; what leaks grows by far more than the limits.
const (
	growthRSS = 1.15
	growthFDs = 1.10    // and goroutines
	floorRSS  = 4 << 10 // KiB: the step in which Go takes memory from the system
)

// Flatness compares the two halves of a time, by medians.
type Flatness struct {
	Process   string  `json:"process"`
	RSSBefore float64 `json:"rss_kib_first_half"`
	RSSAfter  float64 `json:"rss_kib_second_half"`
	FDsBefore float64 `json:"fds_first_half"`
	FDsAfter  float64 `json:"fds_second_half"`
	GosBefore float64 `json:"goroutines_first_half"`
	GosAfter  float64 `json:"goroutines_second_half"`
	Max       Sample  `json:"largest"`
	Judged    bool    `json:"judged"`
	Flat      bool    `json:"flat"`
}

// Flat compares the halves of the time from begin to end, in seconds, of each process; fds is how many
// descriptors more, or half as many goroutines, are no growth.
func Flat(samples []Sample, begin, end, fds float64) []Flatness {
	by := map[string][]Sample{}
	for _, s := range samples {
		by[s.Process] = append(by[s.Process], s)
	}
	middle := (begin + end) / 2
	var out []Flatness
	for _, name := range slices.Sorted(maps.Keys(by)) {
		f := Flatness{Process: name}
		f.Max = slices.MaxFunc(by[name], func(a, b Sample) int { return cmp.Compare(a.RSS, b.RSS) })
		f.RSSBefore, f.FDsBefore, f.GosBefore = medians(by[name], begin, middle)
		f.RSSAfter, f.FDsAfter, f.GosAfter = medians(by[name], middle, end)
		f.Flat = f.RSSAfter <= f.RSSBefore*growthRSS+floorRSS && f.FDsAfter <= f.FDsBefore*growthFDs+fds && f.GosAfter <= f.GosBefore*growthFDs+2*fds
		out = append(out, f)
	}
	return out
}

func medians(samples []Sample, from, to float64) (rss, fds, routines float64) {
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
