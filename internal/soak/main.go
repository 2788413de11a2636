// Command soak lives a day in an hour: it starts a hub with its Redis, two proxies, real servers in
// containers and many small backends, has thousands of clients use them at once, and meanwhile kills
// and restarts one part after another.
//
// It owns the load, the disturbances and the judgement: every payload says whose it is and is checked
// to the last byte, and every answer is the right one or an honest failure while what it needs is
// disturbed; memory and descriptors must stay flat, and nothing may be left behind. It refuses to
// measure speed, which is bench's, and to look into any process: it uses what people use, but for
// made-up people, whom it signs in through Redis.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options say how much of everything.
type options struct {
	binary  string
	out     string
	length  time.Duration
	clients int
	people  int // with a real server each
	tabs    int // clients of each of those
	madeUp  int // people, among whom the other clients are spread
	think   time.Duration
	seed    uint64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "backends" {
		return backends(ctx, args[1:], out)
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	return soak(ctx, o, out)
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.StringVar(&o.binary, "carrel", "bin/carrel", "the carrel to try")
	flags.StringVar(&o.out, "o", "bin/soak.json", "file for everything measured")
	flags.DurationVar(&o.length, "for", 5*time.Minute, "how long the clients are at it")
	flags.IntVar(&o.clients, "clients", 2000, "browsers in all")
	flags.IntVar(&o.people, "people", 20, "people with a real server")
	flags.IntVar(&o.tabs, "tabs", 3, "browsers of each of those")
	flags.IntVar(&o.madeUp, "made-up", 400, "people with a small backend, among whom the other browsers are spread")
	flags.DurationVar(&o.think, "think", 12*time.Second, "how long a browser waits between two actions, on average")
	flags.Uint64Var(&o.seed, "seed", 0, "what all chance comes from; 0: a new one, which is printed")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return o, err
	}
	if o.clients <= o.people*o.tabs || o.madeUp < 2 || o.length < 30*time.Second {
		return o, errors.New("there must be more clients than people have tabs, two made-up people or more, and half a minute or more")
	}
	if o.seed == 0 {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		o.seed = binary.LittleEndian.Uint64(b[:])
	}
	return o, nil
}
