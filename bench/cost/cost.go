// Package cost reads what a program costs: processor time, memory and descriptors, with those of its
// workers, from /proc.
//
// It owns the reading, so that every program that is compared is measured alike. It refuses to own
// what the cost is for: that is each benchmark's.
package cost

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// userHz is the unit of /proc/<pid>/stat: on Linux hundredths of a second on every machine that Go
// runs on (proc(5)).
const userHz = 100

// stat is what is used of /proc/<pid>/stat.
type stat struct {
	pid, parent int
	cpu         time.Duration // the process's own, and that of its children that ended and were waited for
}

var errStat = errors.New("this is no /proc/<pid>/stat")

// parseStat reads the line. The name in parentheses may hold anything, blanks and parentheses too.
func parseStat(line []byte) (stat, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return stat{}, errStat
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(line[:open])))
	fields := strings.Fields(string(line[end+1:]))
	if err != nil || len(fields) < 15 {
		return stat{}, errStat
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return stat{}, errStat
	}
	s := stat{pid: pid, parent: parent}
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return stat{}, errStat
		}
		s.cpu += time.Duration(ticks) * time.Second / userHz
	}
	return s, nil
}

// tree lists a process and all that descend from it and live.
func tree(root int) ([]stat, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]stat{}
	var list []stat
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		s, err := parseStat(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if s.pid == root {
			list = append(list, s)
		}
		children[s.parent] = append(children[s.parent], s)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("process %d is gone", root)
	}
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i].pid]...)
	}
	return list, nil
}

// CPU is the processor time of a process, its workers, and those of them that ended, from the start.
func CPU(root int) (time.Duration, error) {
	list, err := tree(root)
	var sum time.Duration
	for _, s := range list {
		sum += s.cpu
	}
	return sum, err
}

// Usage is what a process and its children hold.
type Usage struct {
	Resident    int64 `json:"resident_bytes"` // what several share counts once for each
	Descriptors int   `json:"descriptors"`
	Processes   int   `json:"processes"`
}

// Hold tells what a process and its children hold now.
func Hold(root int) (Usage, error) {
	list, err := tree(root)
	u := Usage{Processes: len(list)}
	for _, s := range list {
		dir := "/proc/" + strconv.Itoa(s.pid)
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			return u, err
		}
		rss, err := parseResident(status)
		if err != nil {
			return u, err
		}
		u.Resident += rss
		open, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return u, err
		}
		u.Descriptors += len(open)
	}
	return u, err
}

// parseResident finds VmRSS in /proc/<pid>/status, in bytes; a process that is ending has none.
func parseResident(status []byte) (int64, error) {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, nil
}

// Stolen is the share of the machine's processor time between two readings that went to neither
// idleness nor the processes that a benchmark runs: with much of it, times of the clock say little.
func (m Machine) Stolen(before Machine, own time.Duration) float64 {
	all, idle := m.all-before.all, m.idle-before.idle
	if all <= 0 {
		return 0
	}
	return max(0, float64(all-idle-own)/float64(all))
}

// Machine is what all processors did since the machine's start.
type Machine struct{ all, idle time.Duration }

// ReadMachine reads /proc/stat.
func ReadMachine() (Machine, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}, err
	}
	return parseMachine(text)
}

// parseMachine reads the first line: user, nice, system, idle, iowait, irq, softirq, steal; what
// guests took is in the first two already (proc(5)).
func parseMachine(text []byte) (Machine, error) {
	first, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(first)
	if len(fields) < 9 || fields[0] != "cpu" {
		return Machine{}, errors.New("this is no /proc/stat")
	}
	var m Machine
	for i, f := range fields[1:9] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return Machine{}, fmt.Errorf("read /proc/stat: %w", err)
		}
		d := time.Duration(ticks) * time.Second / userHz
		m.all += d
		if i == 3 || i == 4 {
			m.idle += d
		}
	}
	return m, nil
}

// Child is the number of a process's child whose name (comm) is this.
func Child(root int, name string) (int, error) {
	list, err := tree(root)
	if err != nil {
		return 0, err
	}
	for _, s := range list {
		comm, err := os.ReadFile("/proc/" + strconv.Itoa(s.pid) + "/comm")
		if err == nil && strings.TrimSpace(string(comm)) == name {
			return s.pid, nil
		}
	}
	return 0, fmt.Errorf("process %d has no child %s", root, name)
}
