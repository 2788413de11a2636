package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"carrel/bench/cost"
	"carrel/internal/program"
)

// loadIdle opens websockets and lets them lie. It obeys what it reads: "echo" sends a message on
// each, "close" ends them all; each is answered by a line when it is done, and so is the opening.
func loadIdle(ctx context.Context, j job, orders *json.Decoder, out io.Writer) error {
	conns := make([]*conn, j.Conns)
	for i := range conns {
		c, err := dial(ctx, j.At, j.People[i%len(j.People)], 512)
		if err != nil {
			return fmt.Errorf("websocket %d: %w", i, err)
		}
		if err := c.open(); err != nil {
			return fmt.Errorf("websocket %d: %w", i, err)
		}
		conns[i] = c
	}
	for n := uint64(0); ; n++ {
		data := make([]byte, payload)
		for i, c := range conns {
			_ = c.SetDeadline(time.Now().Add(patience))
			if err := c.echo(data, uint64(i)<<32|n); err != nil {
				return fmt.Errorf("websocket %d: %w", i, err)
			}
		}
		if _, err := fmt.Fprintln(out, `"done"`); err != nil {
			return err
		}
		var order string
		if err := orders.Decode(&order); err != nil {
			return fmt.Errorf("read order: %w", err)
		}
		if order == "close" {
			for _, c := range conns {
				if err := c.Close(); err != nil {
					return err
				}
			}
			_, err := fmt.Fprintln(out, `"done"`)
			return err
		}
	}
}

// A holding is what a proxy's processes hold at one time.
type holding struct {
	Side    string  `json:"side"`
	Stage   string  `json:"stage"` // fresh, open or closed
	Seconds float64 `json:"seconds_in_stage"`
	CPU     float64 `json:"cpu_seconds"` // since the stage began
	cost.Usage
}

// An idleRow is one proxy's result.
type idleRow struct {
	Side        string  `json:"side"`
	Websockets  int     `json:"websockets"`
	KiBEach     float64 `json:"kib_each"`                  // resident, beyond the fresh process's
	Descriptors float64 `json:"descriptors_each"`          // likewise
	Goroutines  float64 `json:"goroutines_each,omitempty"` // Carrel's alone
	Returned    float64 `json:"memory_returned"`           // of what they took, how much had gone back at the end
	CPUPerMin   float64 `json:"cpu_seconds_per_minute"`    // while they lay
}

type idleReport struct {
	Started  time.Time         `json:"started"`
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Holdings []holding         `json:"holdings"`
	Table    []idleRow         `json:"table"`
}

type idleOptions struct {
	common
	websockets  int
	open, after time.Duration
}

// runIdle measures what open websockets cost that carry nothing.
func runIdle(ctx context.Context, args []string, out io.Writer) error {
	var o idleOptions
	flags := flag.NewFlagSet("proxy idle", flag.ContinueOnError)
	flags.SetOutput(out)
	o.common.flags(flags, "carrel", "idle.json")
	flags.IntVar(&o.websockets, "n", 9000, "websockets; each takes two descriptors of the proxy")
	flags.DurationVar(&o.open, "open", 30*time.Second, "how long they lie before memory is read")
	flags.DurationVar(&o.after, "after", 3*time.Minute, "how long memory is watched after they close")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := o.common.check(flags); err != nil {
		return err
	}
	if most := crowdSize * 300; o.websockets < 1 || o.websockets > most {
		return fmt.Errorf("-n %d: from 1 to %d", o.websockets, most)
	}
	r := &idleReport{Started: time.Now(), Machine: machine(), Versions: map[string]string{}}
	err := o.with(ctx, func(sides []side, backend string) error {
		for _, s := range sides {
			if err := o.one(ctx, s, backend, r, out); err != nil {
				return fmt.Errorf("%s: %w", s.name(), err)
			}
		}
		return nil
	})
	printIdle(out, r.Table)
	if len(r.Holdings) > 0 {
		err = errors.Join(err, write(o.out, r, out))
	}
	return err
}

// one measures one proxy, alone on the machine.
func (o idleOptions) one(ctx context.Context, s side, backend string, r *idleReport, out io.Writer) (err error) {
	defer func() { err = errors.Join(err, s.down()) }()
	if err := s.up(ctx, backend); err != nil {
		return err
	}
	r.Versions[s.name()] = s.version(ctx)
	w := &watch{side: s, r: r, out: out}
	if err := w.stage(ctx, "fresh", 2*time.Second); err != nil {
		return err
	}
	l, err := o.lie(ctx, s)
	if err != nil {
		return err
	}
	defer l.end() //nolint:errcheck // what counts was told by then
	if err := w.stage(ctx, "open", o.open); err != nil {
		return err
	}
	if err := l.order("echo"); err != nil { // all of them are alive
		return err
	}
	if err := errors.Join(l.order("close"), l.end()); err != nil {
		return err
	}
	if err := w.stage(ctx, "closed", o.after); err != nil {
		return err
	}
	row := summary(s.name(), o.websockets, r.Holdings)
	if c, ok := s.(*carrel); ok {
		again, err := o.lie(ctx, s)
		if err != nil {
			return err
		}
		defer again.end() //nolint:errcheck // the proxy is made to end under it
		n, err := c.goroutines(ctx)
		if err != nil {
			return err
		}
		row.Goroutines = float64(n) / float64(o.websockets)
	}
	r.Table = append(r.Table, row)
	return nil
}

// watch reads what a proxy holds, now and then.
type watch struct {
	side side
	r    *idleReport
	out  io.Writer
}

const readings = 6 // a stage

func (w *watch) stage(ctx context.Context, name string, d time.Duration) error {
	began := time.Now()
	before, err := cost.CPU(w.side.pid())
	if err != nil {
		return err
	}
	for range readings {
		if err := program.Pause(ctx, d/readings); err != nil {
			return err
		}
		u, err := cost.Hold(w.side.pid())
		if err != nil {
			return err
		}
		cpu, err := cost.CPU(w.side.pid())
		if err != nil {
			return err
		}
		h := holding{w.side.name(), name, time.Since(began).Seconds(), (cpu - before).Seconds(), u}
		w.r.Holdings = append(w.r.Holdings, h)
		fmt.Fprintf(w.out, "%-13s %-6s %4.0f s  %7.1f MiB  %6d descriptors  %6.2f CPU s\n", h.Side, h.Stage, h.Seconds, float64(h.Resident)/(1<<20), h.Descriptors, h.CPU)
	}
	return nil
}

// summary is made of the last reading of each stage.
func summary(side string, websockets int, all []holding) idleRow {
	last := map[string]holding{}
	for _, h := range all {
		if h.Side == side {
			last[h.Stage] = h
		}
	}
	fresh, open, closed := last["fresh"], last["open"], last["closed"]
	took := float64(open.Resident - fresh.Resident)
	row := idleRow{
		Side: side, Websockets: websockets, KiBEach: took / 1024 / float64(websockets),
		Descriptors: float64(open.Descriptors-fresh.Descriptors) / float64(websockets), CPUPerMin: open.CPU / open.Seconds * 60,
	}
	if took > 0 {
		row.Returned = float64(open.Resident-closed.Resident) / took
	}
	return row
}

func printIdle(w io.Writer, rows []idleRow) {
	fmt.Fprintf(w, "\n%-13s %10s %10s %13s %12s %16s %15s\n", "proxy", "websockets", "KiB each", "descriptors", "goroutines", "memory returned", "CPU s a minute")
	for _, r := range rows {
		goroutines := "-"
		if r.Goroutines > 0 {
			goroutines = fmt.Sprintf("%.2f each", r.Goroutines)
		}
		fmt.Fprintf(w, "%-13s %10d %10.1f %8.2f each %12s %14.0f %% %15.2f\n", r.Side, r.Websockets, r.KiBEach, r.Descriptors, goroutines, 100*r.Returned, r.CPUPerMin)
	}
	for _, r := range rows {
		if r.Side == self {
			fmt.Fprintf(w, "\nKiB per idle websocket %.1f, at most 10: %s\n", r.KiBEach, verdict(r.KiBEach <= 10))
		}
	}
}

// idler is a load process that holds websockets open.
type idler struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	said   *bytes.Buffer
	cancel context.CancelFunc
}

// lie starts a load process and returns when all its websockets are open and have echoed.
func (o idleOptions) lie(ctx context.Context, s side) (*idler, error) {
	ctx, cancel := context.WithTimeout(ctx, o.open+10*time.Minute)
	l := &idler{cmd: exec.CommandContext(ctx, o.self, "load"), said: &bytes.Buffer{}, cancel: cancel}
	l.cmd.Stderr = l.said
	var err error
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		return nil, errors.Join(err, l.end())
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, l.end())
	}
	l.out = bufio.NewReader(out)
	if err := l.cmd.Start(); err != nil {
		return nil, errors.Join(err, l.end())
	}
	if err := json.NewEncoder(l.in).Encode(job{Shape: "idle", At: s.at(), PID: s.pid(), People: s.people(), Conns: o.websockets}); err != nil {
		return nil, errors.Join(err, l.end())
	}
	if err := l.done(); err != nil {
		return nil, errors.Join(err, l.end())
	}
	return l, nil
}

func (l *idler) done() error {
	if line, err := l.out.ReadString('\n'); err != nil {
		return fmt.Errorf("%w (%s%s)", err, line, l.said)
	}
	return nil
}

func (l *idler) order(what string) error {
	if err := json.NewEncoder(l.in).Encode(what); err != nil {
		return err
	}
	return l.done()
}

// end ends the process, if it has not ended by itself.
func (l *idler) end() error {
	defer l.cancel()
	if l.in != nil {
		_ = l.in.Close() // a process without orders ends
	}
	if l.cmd.Process == nil || l.cmd.ProcessState != nil {
		return nil
	}
	return l.cmd.Wait()
}

var goroutineLine = regexp.MustCompile(`(?m)^goroutine \d+ `)

// goroutines counts those of the proxy process, which ends by being asked: Go prints them all on
// SIGQUIT, and a proxy has no other place to ask.
func (c *carrel) goroutines(ctx context.Context) (int, error) {
	child, err := cost.Child(c.proc.PID(), "carrel-proxy")
	if err != nil {
		return 0, err
	}
	if err := syscall.Kill(child, syscall.SIGQUIT); err != nil {
		return 0, err
	}
	for range 100 { // until it has ended, or ten seconds
		if err := program.Pause(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
		if syscall.Kill(child, 0) != nil {
			break
		}
	}
	text, err := os.ReadFile(filepath.Join(c.dir, "log"))
	if err != nil {
		return 0, err
	}
	count := len(goroutineLine.FindAll(text, -1))
	if count == 0 {
		return 0, errors.New("the proxy told of no goroutines")
	}
	return count, nil
}
