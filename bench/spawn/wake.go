package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"carrel/internal/measured"
	"carrel/internal/program"
	"carrel/internal/visitor"
)

// A wakeReport is the file that `spawn wake` writes. Seconds are from a cell's being sent by an open
// websocket to its output's being there.
type wakeReport struct {
	Started time.Time `json:"started"`
	Version string    `json:"version"`
	Awake   []float64 `json:"awake_seconds"`
	Paused  []float64 `json:"paused_seconds"`
}

// awakeCells are run first, of a server that is awake: what a cell takes by itself.
const awakeCells = 50

// runWake measures how long a cell waits for a paused server. The server is paused again and again; each
// time the kernel counts one further and says where it is, by a websocket that is open all the time.
func runWake(ctx context.Context, args []string, out io.Writer) (err error) {
	var o options
	flags := flag.NewFlagSet("spawn wake", flag.ContinueOnError)
	flags.SetOutput(out)
	pauses := flags.Int("pauses", 200, "how often the server is paused")
	within := flags.Duration("within", 100*time.Millisecond, "what 95 of 100 may take")
	flags.StringVar(&o.image, "image", "", "kernel image; empty: the one that carrel builds")
	flags.StringVar(&o.binary, "carrel", filepath.Join("bin", "carrel"), "the carrel to measure")
	flags.StringVar(&o.out, "o", filepath.Join("bin", "bench", "wake.json"), "file for every single pause")
	o.limits = limits{CPUs: 2, Memory: 1 << 30}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *pauses < 20 {
		return errors.New("-pauses: give at least 20")
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
	c := newCarrel(o, 0, filepath.Join(work, "carrel"))
	defer func() {
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
		defer cancel()
		err = errors.Join(err, c.down(down))
	}()
	const person = "person01"
	if err := c.up(ctx, []string{person}); err != nil {
		return err
	}
	r := &wakeReport{Started: time.Now(), Version: c.version(ctx)}
	if _, err := c.c.start(ctx, person); err != nil {
		return err
	}
	if err := r.measure(ctx, c.c, person, *pauses); err != nil {
		return err
	}
	if err := measured.Write(o.out, r); err != nil {
		return err
	}
	p95 := quantile(r.Paused, 0.95)
	fmt.Fprintf(out, "%s\na cell, awake:  median %.1f ms, p95 %.1f ms, worst %.1f ms of %d\n", r.Version, 1e3*measured.Median(r.Awake), 1e3*quantile(r.Awake, 0.95), 1e3*slices.Max(r.Awake), len(r.Awake))
	fmt.Fprintf(out, "a cell, paused: median %.1f ms, p95 %.1f ms, worst %.1f ms of %d\nevery one is in %s\n", 1e3*measured.Median(r.Paused), 1e3*p95, 1e3*slices.Max(r.Paused), len(r.Paused), o.out)
	if p95 > within.Seconds() {
		return fmt.Errorf("95 of 100 wakes took up to %.1f ms, over %v", 1e3*p95, *within)
	}
	return nil
}

// quantile is the least of the values that a share of all do not exceed.
func quantile(values []float64, share float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[min(int(share*float64(len(s))), len(s)-1)]
}

func (r *wakeReport) measure(ctx context.Context, c *client, person string, pauses int) error {
	conn, err := c.kernel(ctx, person)
	if err != nil {
		return err
	}
	defer conn.Close()
	for n := 1; n <= awakeCells+pauses; n++ {
		into := &r.Awake
		if n > awakeCells {
			into = &r.Paused
			if err := c.pause(ctx, person); err != nil {
				return err
			}
		}
		begin := time.Now()
		said, err := visitor.Execute(conn, "n = globals().get('n', 0) + 1; print(n)", 15*time.Second)
		took := time.Since(begin)
		if err != nil || said != strconv.Itoa(n) {
			return fmt.Errorf("cell %d said %q: %w", n, said, err)
		}
		*into = append(*into, took.Seconds())
	}
	return nil
}

// kernel starts a kernel in a person's server and opens its websocket.
func (c *client) kernel(ctx context.Context, person string) (*websocket.Conn, error) {
	status, body, err := c.do(ctx, http.MethodPost, "user/"+person+"/api/kernels", person)
	if err != nil {
		return nil, err
	}
	var k struct{ ID string }
	if err := json.Unmarshal(body, &k); err != nil || k.ID == "" {
		return nil, fmt.Errorf("start a kernel: status %d: %.300s", status, body)
	}
	conn, res, err := websocket.DefaultDialer.DialContext(ctx, "ws"+strings.TrimPrefix(c.base, "http")+"user/"+person+"/api/kernels/"+k.ID+"/channels", http.Header{"Authorization": {"token " + c.token(person)}})
	if res != nil {
		res.Body.Close() // of a refusal it is read
	}
	return conn, err
}

// pause has a person's server paused. One that just was in use may go on, and is asked again.
func (c *client) pause(ctx context.Context, person string) error {
	for {
		status, body, err := c.do(ctx, http.MethodPost, "hub/api/users/"+person+"/server/pause", person)
		if err != nil {
			return err
		}
		var server struct{ Paused bool }
		if err := json.Unmarshal(body, &server); err != nil || status != http.StatusOK {
			return fmt.Errorf("pause: status %d: %.300s", status, body)
		}
		if server.Paused {
			return nil
		}
		if err := program.Pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
