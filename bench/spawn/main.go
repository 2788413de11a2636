// Command spawn measures a start in Carrel, cold and from a server that was kept ready, beside JupyterHub
// with DockerSpawner: from the start request to JupyterLab's page answering 200 through the proxy, for one person and for ten at
// once, and for one to the first cell's output. `spawn arrivals` has visitors come faster than they can be served. `spawn wake` measures how long a paused server takes to answer.
//
// It owns both deployments for as long as it runs: it installs JupyterHub and its proxy from their
// registries into a cache directory, puts the single-user server on top of the same kernel image,
// gives both the same limits and a kept home, and runs them alternately on the same machine, the
// order changing with every round. It refuses to own any figure: what it prints was measured in
// the run that prints it, and every single run is in the JSON that it writes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"carrel/internal/measured"
	"carrel/internal/program"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	part, args := run, os.Args[1:]
	if len(args) > 0 {
		switch args[0] {
		case "wake":
			part, args = runWake, args[1:]
		case "arrivals":
			part, args = runArrivals, args[1:]
		}
	}
	err := part(ctx, args, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A side is one of the two that are compared.
type side interface {
	name() string
	// version is what was measured, for the record; it is asked once the side is up.
	version(ctx context.Context) string
	// up starts the hub and returns when it answers; people are those who will start servers.
	up(ctx context.Context, people []string) error
	// start has a server started for a person, and tells how long it took until its page answered.
	start(ctx context.Context, person string) (time.Duration, error)
	// cell runs a first cell in the server, and returns when its output is there.
	cell(ctx context.Context, person string) error
	// stop ends it, and returns when nothing of it is left.
	stop(ctx context.Context, person string) error
	// settle waits until what is made ahead of a start is there.
	settle(ctx context.Context) error
	// down ends the hub and removes everything that it made.
	down(ctx context.Context) error
}

// limits are the same for every server on both sides.
type limits struct {
	CPUs   float64 `json:"cpus"`
	Memory int64   `json:"memory_bytes"`
}

// A measurement is one person's wait.
type measurement struct {
	Side    string    `json:"side"`
	Shape   string    `json:"shape"` // "one" or "ten"
	Round   int       `json:"round"` // 0 is the warm-up, which no figure uses
	Person  string    `json:"person"`
	Seconds float64   `json:"seconds"`
	Cell    float64   `json:"first_cell_seconds,omitempty"` // from the same click to the first cell's output, where one starts
	At      time.Time `json:"at"`
}

// A report is the file that is written.
type report struct {
	Started  time.Time         `json:"started"`
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Image    string            `json:"image"`
	Limits   limits            `json:"limits"`
	Rounds   int               `json:"rounds"`
	Together int               `json:"together"`
	Runs     []measurement     `json:"runs"`
	Table    []row             `json:"table"`
}

type options struct {
	rounds, together int
	image            string
	binary           string
	out              string
	only             string
	limits           limits
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	work, err := workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if o.image == "" {
		if o.image, err = ownImage(ctx, o.binary, out); err != nil {
			return err
		}
	}
	var sides []side
	if o.only != "jupyterhub" {
		ready := max(1, o.together)
		visitors := newCarrel(o, ready, filepath.Join(work, "visitor"))
		visitors.max = 2 * ready // some may be on their way out
		sides = append(sides, newCarrel(o, 0, filepath.Join(work, "carrel")), newCarrel(o, ready, filepath.Join(work, "ready")), visitors)
	}
	if o.only != "carrel" {
		sides = append(sides, newJupyterHub(o, filepath.Join(work, "jupyterhub"), filepath.Join(cache, "carrel-bench"), out))
	}
	r := &report{
		Started: time.Now(), Machine: machine(),
		Versions: map[string]string{}, Image: o.image, Limits: o.limits, Rounds: o.rounds, Together: o.together,
	}
	err = measure(ctx, o, sides, r, out)
	r.Table = table(r.Runs)
	printTable(out, r.Table)
	if len(r.Runs) > 0 {
		if werr := measured.Write(o.out, r); werr != nil {
			return werr
		}
		fmt.Fprintf(out, "every run is in %s\n", o.out)
	}
	return err
}

// ownImage has carrel build its image where it is missing, and gives its name.
func ownImage(ctx context.Context, binary string, out io.Writer) (string, error) {
	fmt.Fprintln(out, "carrel: its image")
	said, err := exec.CommandContext(ctx, binary, "image", "build").Output()
	words := strings.Fields(string(said))
	if err != nil || len(words) == 0 {
		return "", fmt.Errorf("carrel image build: %w", err)
	}
	return words[len(words)-1], nil
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("spawn", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&o.rounds, "rounds", 10, "counted rounds; a warm-up comes before them")
	flags.IntVar(&o.together, "together", 10, "how many start at once; 0 leaves that shape out")
	flags.StringVar(&o.image, "image", "", "kernel image, of which both sides' servers are made; empty: the one that carrel builds")
	flags.StringVar(&o.binary, "carrel", filepath.Join("bin", "carrel"), "the carrel to measure")
	flags.StringVar(&o.out, "o", filepath.Join("bin", "bench", "spawn.json"), "file for every single run")
	flags.StringVar(&o.only, "only", "", "measure only carrel or jupyterhub")
	flags.Float64Var(&o.limits.CPUs, "cpus", 2, "cores a server may use")
	flags.Int64Var(&o.limits.Memory, "memory", 1<<30, "bytes of memory a server may use")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.rounds < 1 || o.together < 0 || o.together > 50 || !slices.Contains([]string{"", "carrel", "jupyterhub"}, o.only) {
		return o, fmt.Errorf("%s: give at least one round, at most 50 together, and -only carrel or jupyterhub", strings.Join(args, " "))
	}
	return o, nil
}

// measure brings both sides up, lets them take turns, and takes both down whatever happens.
func measure(ctx context.Context, o options, sides []side, r *report, out io.Writer) (err error) {
	people := make([]string, max(1, o.together))
	for i := range people {
		people[i] = fmt.Sprintf("person%02d", i+1)
	}
	defer func() {
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
		defer cancel()
		for _, s := range sides {
			err = errors.Join(err, s.down(down))
		}
	}()
	for _, s := range sides {
		fmt.Fprintf(out, "%s: starting\n", s.name())
		if err := s.up(ctx, people); err != nil {
			return fmt.Errorf("%s: %w", s.name(), err)
		}
		r.Versions[s.name()] = s.version(ctx)
		fmt.Fprintf(out, "%s: up, %s\n", s.name(), r.Versions[s.name()])
	}
	for round := range o.rounds + 1 {
		if round > 0 {
			slices.Reverse(sides) // neither is always first
		}
		for _, s := range sides {
			if err := turn(ctx, s, r, "one", round, people[:1], out); err != nil {
				return err
			}
		}
		for _, s := range sides {
			if o.together == 0 {
				break
			}
			if err := turn(ctx, s, r, "ten", round, people[:o.together], out); err != nil {
				return err
			}
		}
	}
	return nil
}

// turn lets these people start at once on one side, and stops their servers again.
func turn(ctx context.Context, s side, r *report, shape string, round int, people []string, out io.Writer) error {
	type answer struct {
		m   measurement
		err error
	}
	answers := make(chan answer)
	if err := s.settle(ctx); err != nil {
		return fmt.Errorf("%s: %w", s.name(), err)
	}
	begin := time.Now()
	for _, p := range people {
		go func() {
			took, err := s.start(ctx, p)
			m := measurement{s.name(), shape, round, p, took.Seconds(), 0, begin}
			if err == nil && len(people) == 1 { // of several it would hold the others' start up
				err = s.cell(ctx, p)
				m.Cell = time.Since(begin).Seconds()
			}
			answers <- answer{m, err}
		}()
	}
	var waits []float64
	var failed error
	for range people {
		if a := <-answers; a.err != nil {
			failed = fmt.Errorf("%s: %s: %w", s.name(), a.m.Person, a.err)
		} else {
			r.Runs, waits = append(r.Runs, a.m), append(waits, a.m.Seconds)
		}
	}
	if failed != nil {
		return failed
	}
	fmt.Fprintf(out, "round %2d  %-14s  %-3s  %s\n", round, s.name(), shape, seconds(waits))
	if cell := r.Runs[len(r.Runs)-1].Cell; cell > 0 {
		fmt.Fprintf(out, "round %2d  %-14s  %-3s  %.2f s to the first cell's output\n", round, s.name(), shape, cell)
	}
	for _, p := range people {
		if err := s.stop(ctx, p); err != nil {
			return fmt.Errorf("%s: stop %s: %w", s.name(), p, err)
		}
	}
	return program.Pause(ctx, time.Second) // what the stop leaves behind is nobody's start
}
