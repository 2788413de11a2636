package config

import (
	"runtime"
	"time"

	"carrel/hub"
)

// Runs is about running code for programs.
type Runs struct {
	Enabled    bool      `yaml:"enabled" reload:"live" doc:"Whether POST <public_url>hub/api/runs and carrel run run Python code of whoever is signed in or has a token with the scope runs, each program in a container of its own without a network."`
	Image      string    `yaml:"image" reload:"live" doc:"Image that programs run in, with python3, sleep and dd; empty: Carrel's kernel image."`
	CPU        float64   `yaml:"cpu" reload:"live" doc:"Cores that one run may use at once."`
	Concurrent int       `yaml:"concurrent" reload:"live" doc:"Runs at once, at each hub; 0: as many as there are CPUs."`
	Line       int       `yaml:"line" reload:"live" doc:"Runs in line at each hub, fairly by person; beyond it callers are told to come later (429)."`
	PerPerson  int       `yaml:"per_person" reload:"live" doc:"Runs of one person at once at each hub, those in line included."`
	Kept       int       `yaml:"results_per_person" reload:"live" doc:"Results kept of one person; older ones are forgotten."`
	Keep       Duration  `yaml:"keep" reload:"live" doc:"How long a result is kept."`
	Default    RunLimits `yaml:"default" reload:"live" doc:"Limits of a run that names none."`
	Max        RunLimits `yaml:"max" reload:"live" doc:"The most that a run can name."`
}

// RunLimits are a run's hard caps.
type RunLimits struct {
	CPUTime   Duration `yaml:"cpu_time" doc:"CPU time of all its processes together."`
	Time      Duration `yaml:"time" doc:"Time from its start."`
	Memory    Size     `yaml:"memory" doc:"Memory, with what is in its files; swap is off."`
	Processes int      `yaml:"processes" doc:"Processes and threads."`
	FileSize  Size     `yaml:"file_size" doc:"Size of one file."`
	Disk      Size     `yaml:"disk" doc:"Size of all files, which are in memory."`
	Output    Size     `yaml:"output" doc:"What it prints, on standard output and standard error together."`
	OpenFiles int      `yaml:"open_files" doc:"Open files a process."`
	Stack     Size     `yaml:"stack" doc:"Stack of a process."`
}

func defaultRuns() Runs {
	return Runs{
		CPU: 1, Line: 100, PerPerson: 8, Kept: 20, Keep: Duration(15 * time.Minute),
		Default: RunLimits{
			CPUTime: Duration(10 * time.Second), Time: Duration(20 * time.Second), Memory: 256 << 20, Processes: 32, FileSize: 16 << 20, Disk: 32 << 20, Output: 256 << 10, OpenFiles: 256, Stack: 8 << 20,
		},
		Max: RunLimits{
			CPUTime: Duration(time.Minute), Time: Duration(2 * time.Minute), Memory: 1 << 30, Processes: 256, FileSize: 256 << 20, Disk: 256 << 20, Output: 1 << 20, OpenFiles: 4096, Stack: 64 << 20,
		},
	}
}

func (l RunLimits) resolve() hub.RunLimits {
	return hub.RunLimits{
		CPU: time.Duration(l.CPUTime), Wall: time.Duration(l.Time), Memory: int64(l.Memory), Processes: int64(l.Processes), FileSize: int64(l.FileSize),
		Disk: int64(l.Disk), Output: int64(l.Output), OpenFiles: int64(l.OpenFiles), Stack: int64(l.Stack),
	}
}

// resolveRuns adds what is decided about runs to the policy.
func (c *Config) resolveRuns(p *hub.Policy, kernelImage string) {
	r := c.Runs
	p.Runs = hub.RunPolicy{
		Enabled: r.Enabled, Image: r.Image, CPUs: r.CPU, Default: r.Default.resolve(), Most: r.Max.resolve(),
		Concurrent: r.Concurrent, PerPerson: r.PerPerson, Line: r.Line, Kept: r.Kept, Keep: time.Duration(r.Keep),
	}
	if p.Runs.Image == "" {
		p.Runs.Image = kernelImage
	}
	if p.Runs.Concurrent <= 0 {
		p.Runs.Concurrent = runtime.NumCPU()
	}
}

// runFields are the fields of limits by the names that the hub has for them.
var runFields = map[string]string{"cpu_seconds": "cpu_time", "wall_seconds": "time"}

func runField(name string) string {
	if field, ok := runFields[name]; ok {
		return field
	}
	return name
}

func (c *Config) validateRuns(k *checks, m Machine) {
	r := c.Runs
	image(k, "runs.image", r.Image)
	k.that(r.CPU >= 0.01, "runs.cpu", "a program needs some", "give something like 1 or 0.5")
	k.that(m.CPUs == 0 || !r.Enabled || r.CPU <= float64(m.CPUs), "runs.cpu", "this machine has less", "give less")
	for field, n := range map[string]int{"concurrent": r.Concurrent, "line": r.Line} {
		k.that(n >= 0 && n <= 10000, "runs."+field, "out of range", "give 0 to 10000")
	}
	k.that(r.PerPerson >= 1 && r.PerPerson <= 1000, "runs.per_person", "out of range", "give 1 to 1000")
	k.that(r.Kept >= 1 && r.Kept <= 1000, "runs.results_per_person", "out of range", "give 1 to 1000")
	k.that(r.Keep >= Duration(time.Minute) && r.Keep <= Duration(24*time.Hour), "runs.keep", "out of range", "give 1m to 24h")
	most := r.Max.resolve()
	for _, x := range []struct{ at, small, above string }{
		{"runs.max.", most.TooSmall(), ""}, {"runs.default.", r.Default.resolve().TooSmall(), r.Default.resolve().Above(most)},
	} {
		k.that(x.small == "", x.at+runField(x.small), "with so little no program runs", "give more")
		k.that(x.above == "", x.at+runField(x.above), "this is above runs.max", "give less, or raise that")
	}
	k.that(r.Max.Time <= Duration(time.Hour), "runs.max.time", "a run takes an hour at most", "give less")
	k.that(r.Max.Output <= 16<<20, "runs.max.output", "what is printed is kept in Redis", "give 16MiB at most")
	k.that(r.Max.OpenFiles <= 20000, "runs.max.open_files", "out of range", "give 20000 at most")
	k.that(r.Max.Processes <= maxPIDs/2, "runs.max.processes", "the kernel knows fewer", "give something like 256")
	k.that(m.Memory == 0 || !r.Enabled || int64(r.Max.Memory) <= m.Memory, "runs.max.memory", "this machine has less", "give less")
}
