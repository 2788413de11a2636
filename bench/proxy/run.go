package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"carrel/bench/cost"
	"carrel/internal/program"
)

type options struct {
	common
	rounds int
	shapes []string
	scale  float64
}

// A measure is one of the things that are measured, and what is had of it.
type measure struct {
	name string
	job  job
	// figures are what is compared.
	figures []figure
}

// measures are all that there are; their jobs' times are for a counted round.
var measures = []measure{
	{"http-64", job{Shape: "http", Conns: 64, For: 3 * time.Second}, []figure{perSecond, cpuPer100k}},
	{"ws-200", job{Shape: "echo", Conns: 200, For: 3 * time.Second}, []figure{perSecond, cpuPer100k}},
	{"ws-1", job{Shape: "echo", Conns: 1, For: 2 * time.Second}, []figure{perSecond, cpuPer100k}},
	{"download", job{Shape: "download", Conns: 2, Bodies: 8}, []figure{cpuPerGiB}},
	{"upload", job{Shape: "upload", Conns: 2, Bodies: 8}, []figure{cpuPerGiB}},
	{"rate-1000", job{Shape: "rate", Conns: 64, PerSec: 1000, For: 5 * time.Second}, []figure{p50, p99, cpuPer100k}},
}

// A sample is one side's result in one round.
type sample struct {
	Side    string    `json:"side"`
	Measure string    `json:"measure"`
	Round   int       `json:"round"` // 0 is the warm-up, which no figure uses
	Turn    int       `json:"turn"`  // place in the round's order
	At      time.Time `json:"at"`
	Others  float64   `json:"others_share"` // of the machine's processors, taken by what is not of the benchmark
	result
}

// A report is the file that is written.
type report struct {
	Started  time.Time         `json:"started"`
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Rounds   int               `json:"rounds"`
	Samples  []sample          `json:"samples"`
	Table    []row             `json:"table"`
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	r := &report{Started: time.Now(), Machine: machine(), Versions: map[string]string{}, Rounds: o.rounds}
	err = o.with(ctx, func(sides []side, backend string) error { return o.alternate(ctx, sides, backend, r, out) })
	r.Table = table(r.Samples)
	printTable(out, r.Table)
	if len(r.Samples) > 0 {
		err = errors.Join(err, write(o.out, r, out))
	}
	if err == nil {
		judge(out, r.Table)
		warn(out, r.Samples)
	}
	return err
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	var shapes string
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	flags.SetOutput(out)
	o.common.flags(flags, "", "proxy.json")
	flags.IntVar(&o.rounds, "rounds", 5, "counted rounds; a warm-up comes before them")
	flags.StringVar(&shapes, "measure", "", "what to measure, with commas between: http-64,ws-200,ws-1,download,upload,rate-1000; empty: all")
	flags.Float64Var(&o.scale, "scale", 1, "times a measurement's usual length")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if err := o.common.check(flags); err != nil {
		return o, err
	}
	o.shapes = list(shapes)
	if o.rounds < 1 || o.scale <= 0 {
		return o, fmt.Errorf("%s: give at least one round and a scale above 0", strings.Join(args, " "))
	}
	for _, name := range o.shapes {
		if !slices.ContainsFunc(measures, func(m measure) bool { return m.name == name }) {
			return o, fmt.Errorf("-measure %s: there is no such thing", name)
		}
	}
	return o, nil
}

// alternate brings every side up, lets them take turns, and takes all down whatever happens.
func (o options) alternate(ctx context.Context, sides []side, backend string, r *report, out io.Writer) (err error) {
	for _, s := range sides {
		defer func() { err = errors.Join(err, s.down()) }() //nolint:revive // all run until the end
		if err := s.up(ctx, backend); err != nil {
			return fmt.Errorf("%s: %w", s.name(), err)
		}
		r.Versions[s.name()] = s.version(ctx)
		fmt.Fprintf(out, "%-13s %s\n", s.name(), r.Versions[s.name()])
	}
	for round := range o.rounds + 1 {
		for _, m := range measures {
			if len(o.shapes) > 0 && !slices.Contains(o.shapes, m.name) {
				continue
			}
			for turn := range sides {
				if err := o.turn(ctx, sides[order(len(sides), round, turn)], m, round, turn, r, out); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// order tells whose turn it is: each round begins with another side, and goes the other way.
func order(sides, round, turn int) int {
	if round%2 == 1 {
		turn = sides - 1 - turn
	}
	return (turn + round/2) % sides
}

// turn takes one measurement of one side.
func (o options) turn(ctx context.Context, s side, m measure, round, turn int, r *report, out io.Writer) error {
	j := m.job
	j.At, j.PID, j.People = s.at(), s.pid(), s.people()
	j.For = time.Duration(float64(j.For) * o.scale)
	j.Bodies = int(float64(j.Bodies) * o.scale)
	if j.Shape == "download" || j.Shape == "upload" {
		j.Bodies = max(1, j.Bodies)
	}
	if round == 0 {
		j.For, j.Bodies, j.Everyone = j.For/3, (j.Bodies+2)/3, true
	}
	x := sample{Side: s.name(), Measure: m.name, Round: round, Turn: turn, At: time.Now()}
	w, err := watchMachine()
	if err != nil {
		return err
	}
	if x.result, err = o.load(ctx, j); err != nil {
		return fmt.Errorf("round %d, %s, %s: %w", round, m.name, s.name(), err)
	}
	if x.Others, err = w.others(); err != nil {
		return err
	}
	r.Samples = append(r.Samples, x)
	fmt.Fprintf(out, "round %d  %-9s  %-13s", round, m.name, x.Side)
	for _, f := range m.figures {
		fmt.Fprintf(out, "  %s %.*f", f.unit, f.digits, f.of(x.result))
	}
	fmt.Fprintln(out)
	return program.Pause(ctx, 200*time.Millisecond) // what it leaves behind is nobody else's
}

// machineWatch is what machine and benchmark had used at one time.
type machineWatch struct {
	all cost.Machine
	own time.Duration
}

func watchMachine() (w machineWatch, err error) {
	if w.all, err = cost.ReadMachine(); err != nil {
		return w, err
	}
	w.own, err = cost.CPU(os.Getpid()) // everything that is measured descends from here
	return w, err
}

// others is the share of the processors that others had since.
func (w machineWatch) others() (float64, error) {
	now, err := watchMachine()
	return now.all.Stolen(w.all, now.own-w.own), err
}

// load has a load process do a job.
func (o options) load(ctx context.Context, j job) (result, error) {
	asked, err := json.Marshal(j)
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, j.For+2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.self, "load")
	var said bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(asked), &said
	answer, err := cmd.Output()
	if err != nil {
		return result{}, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	var res result
	return res, json.Unmarshal(answer, &res)
}
