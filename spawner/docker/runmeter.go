package docker

import (
	"context"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

// cgroupRoot is where control groups are mounted, of either version.
const cgroupRoot = "/sys/fs/cgroup"

// runMeter tells what a run's container uses: by its control groups, where Docker is on this host, at once; else
// by Docker's own samples, each of which takes up to a second.
type runMeter struct {
	container string
	v2        bool
	cpu       string // directories; "" where the groups are not to be read here
	memory    string
}

// runUse is what a run's container has used.
type runUse struct {
	cpu     time.Duration
	peak    int64 // bytes; -1: not known
	starved bool  // something in it was killed for want of memory; false: not known
}

// meterOf finds the control groups of a container by its first process. They are the container's only if its id is
// in their names: another host's process of that number is something else here.
func (d *Driver) meterOf(ctx context.Context, id string) (runMeter, error) {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	c, err := d.api.on(ctx).ContainerInspect(ctx, id)
	if err != nil {
		return runMeter{}, fail("look at run", err)
	}
	m := runMeter{container: id}
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(c.State.Pid) + "/cgroup")
	if err != nil {
		return m, nil //nolint:nilerr // it is asked of Docker then
	}
	m.cpu, m.memory, m.v2 = groupsOf(string(raw), id)
	if _, err := m.read(); err != nil {
		m.cpu, m.memory = "", ""
	}
	return m, nil
}

// groupsOf reads /proc/<pid>/cgroup (cgroups(7)) for the groups of a container.
func groupsOf(text, id string) (cpu, memory string, v2 bool) {
	unified := ""
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || !strings.Contains(path.Base(parts[2]), id) {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			switch controller {
			case "":
				unified = path.Join(cgroupRoot, parts[2])
			case "cpuacct":
				cpu = path.Join(cgroupRoot, "cpuacct", parts[2])
			case "memory":
				memory = path.Join(cgroupRoot, "memory", parts[2])
			}
		}
	}
	if cpu != "" && memory != "" {
		return cpu, memory, false
	}
	return unified, unified, true
}

// read reads the groups.
func (m runMeter) read() (runUse, error) {
	u := runUse{peak: -1}
	usage, peak, events, unit := "cpuacct.usage", "memory.max_usage_in_bytes", "memory.oom_control", time.Nanosecond
	if m.v2 {
		usage, peak, events, unit = "cpu.stat", "memory.peak", "memory.events", time.Microsecond
	}
	n, err := m.number(path.Join(m.cpu, usage), "usage_usec")
	if err != nil {
		return u, err
	}
	u.cpu = time.Duration(min(n, math.MaxInt64/int64(unit))) * unit
	if n, err := m.number(path.Join(m.memory, peak), ""); err == nil { // older kernels have none in version 2
		u.peak = n
	}
	if n, err := m.number(path.Join(m.memory, events), "oom_kill"); err == nil {
		u.starved = n > 0
	}
	return u, nil
}

// number reads a file of one number, or the one behind a name.
func (m runMeter) number(file, name string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	words := strings.Fields(string(raw))
	for i, w := range words {
		if w == name && i+1 < len(words) {
			return strconv.ParseInt(words[i+1], 10, 64)
		}
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}

// use tells what the container of a meter has used.
func (d *Driver) use(ctx context.Context, m runMeter) (runUse, error) {
	if m.cpu != "" {
		return m.read()
	}
	s, err := d.stats(ctx, m.container)
	if err != nil {
		return runUse{}, err
	}
	u := runUse{cpu: time.Duration(min(s.CPUStats.CPUUsage.TotalUsage, math.MaxInt64)), peak: -1}
	if s.MemoryStats.MaxUsage > 0 { // not told with version 2 of control groups
		u.peak = int64(min(s.MemoryStats.MaxUsage, math.MaxInt64))
	}
	return u, nil
}
