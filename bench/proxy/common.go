package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrel/internal/measured"
	"carrel/internal/program"
)

// common is what all the benchmarks here are told.
type common struct {
	only, binary, out string

	self  string // this program
	dir   string // of this run
	cache string // what is installed, kept for the next
}

func (c *common) flags(flags *flag.FlagSet, only, out string) {
	flags.StringVar(&c.only, "only", only, "proxies to measure, with commas between: carrel,nginx,haproxy,chp,reverseproxy; empty: all")
	flags.StringVar(&c.binary, "carrel", filepath.Join("bin", "carrel"), "the carrel to measure")
	flags.StringVar(&c.out, "o", filepath.Join("bin", "bench", out), "file for every sample")
}

// check completes what was told.
func (c *common) check(flags *flag.FlagSet) error {
	if flags.NArg() > 0 {
		return fmt.Errorf("%q: there are flags only; -help lists them", flags.Arg(0))
	}
	var err error
	if c.self, err = os.Executable(); err != nil {
		return err
	}
	if c.binary, err = filepath.Abs(c.binary); err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	c.cache = filepath.Join(cache, "carrel-bench-proxy")
	return err
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

func machine() string {
	return fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}

// chosen are the sides that this run compares; none of them is up.
func (c *common) chosen() ([]side, error) {
	all := append([]side{&carrel{binary: c.binary, dir: filepath.Join(c.dir, "carrel"), title: self, size: crowdSize}}, peers(c.dir, c.cache, c.self)...)
	if c.only == "" {
		return all, nil
	}
	var some []side
	for _, name := range list(c.only) {
		i := slices.IndexFunc(all, func(s side) bool { return s.name() == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %s: there is no such proxy", name)
		}
		some = append(some, all[i])
	}
	return some, nil
}

// with runs do with a directory for the run and a backend, whose port it is given.
func (c *common) with(ctx context.Context, do func(sides []side, backend string) error) (err error) {
	if c.dir, err = os.MkdirTemp("/tmp", "crl-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	if err := os.Chmod(c.dir, 0o711); err != nil { //nolint:gosec // proxies' workers are other users, who only pass through
		return err
	}
	sides, err := c.chosen()
	if err != nil {
		return err
	}
	port := strconv.Itoa(program.FreePort())
	backend, err := program.Launch(exec.Command(c.self, "backend", port), filepath.Join(c.dir, "backend.log")) //nolint:noctx // ended by Stop
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Stop()) }()
	if err := backend.Answers(ctx, time.Minute, func() bool { return listens(ctx, "127.0.0.1:"+port) }); err != nil {
		return fmt.Errorf("backend: %w", err)
	}
	if err := do(sides, port); err != nil {
		return fmt.Errorf("%w\nthe backend said: %s", err, backend.Said())
	}
	return nil
}

// write writes a report, and says where.
func write(path string, report any, out io.Writer) error {
	if err := measured.Write(path, report); err != nil {
		return err
	}
	fmt.Fprintf(out, "every sample is in %s\n", path)
	return nil
}
