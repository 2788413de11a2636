package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"carrel/bench/cost"
)

// person is someone whose server is asked for something.
type person struct {
	Host   string `json:"host"`
	Path   string `json:"path"` // of their server
	Cookie string `json:"cookie"`
}

// job is what a load process does: it reads it from its standard input.
type job struct {
	Shape  string        `json:"shape"`
	At     string        `json:"at"`  // the proxy's address
	PID    int           `json:"pid"` // the proxy's process, whose cost counts
	People []person      `json:"people"`
	Conns  int           `json:"conns"`
	For    time.Duration `json:"for"`
	Bodies int           `json:"bodies,omitempty"` // how many large ones each way
	PerSec int           `json:"per_second,omitempty"`

	// Of loadCrowd. Active is how many people ask in the window; 0: all. Settle is how long a proxy is left alone before the window, to tell its store who was
	// there, which it does once a minute for each and every five seconds, for five at most: a cost per
	// person, however much they ask for.
	Active   int           `json:"active,omitempty"`
	Everyone bool          `json:"everyone,omitempty"`
	Settle   time.Duration `json:"settle,omitempty"`
}

// result is what it found out.
type result struct {
	Done    int64   `json:"done"`    // requests, round trips or bytes
	Seconds float64 `json:"seconds"` // of the wall
	CPU     float64 `json:"cpu_seconds"`
	P50     float64 `json:"p50_ms,omitempty"`
	P99     float64 `json:"p99_ms,omitempty"`
	Late    float64 `json:"late_p99_ms,omitempty"` // how late the load itself sent
}

// shapes are what a load can be.
var shapes = map[string]func(context.Context, job) (result, error){
	"http": loadHTTP, "echo": loadEcho, "download": loadBodies, "upload": loadBodies, "rate": loadRate, "crowd": loadCrowd,
}

// load does one job and writes its result.
func load(ctx context.Context, in io.Reader, out io.Writer) error {
	var j job
	orders := json.NewDecoder(in)
	if err := orders.Decode(&j); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	do := shapes[j.Shape]
	if j.Shape == "idle" {
		return loadIdle(ctx, j, orders, out)
	}
	if do == nil || len(j.People) == 0 || j.Conns < 1 {
		return fmt.Errorf("%q is no job", j.Shape)
	}
	r, err := do(ctx, j)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// connect opens the job's connections, to its people in turn.
func (j job) connect(ctx context.Context, size int) ([]*conn, error) {
	list := make([]*conn, j.Conns)
	for i := range list {
		c, err := dial(ctx, j.At, j.People[i%len(j.People)], size)
		if err != nil {
			return nil, err
		}
		list[i] = c
	}
	return list, nil
}

// together runs do for every connection at once and waits for all; the first error ends it.
func together(conns []*conn, do func(i int, c *conn) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(conns))
	for i, c := range conns {
		wg.Go(func() {
			if errs[i] = do(i, c); errs[i] != nil {
				for _, other := range conns {
					other.Close()
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs { // those that others' errors made come behind
		if err != nil && !gone(err) {
			return err
		}
	}
	return errors.Join(errs...)
}

// window measures what happens between its beginning and its end.
type window struct {
	pid   int
	began time.Time
	cpu   time.Duration
}

func begin(pid int) (window, error) {
	cpu, err := cost.CPU(pid)
	return window{pid, time.Now(), cpu}, err
}

func (w window) end(done int64) (result, error) {
	took := time.Since(w.began)
	cpu, err := cost.CPU(w.pid)
	return result{Done: done, Seconds: took.Seconds(), CPU: (cpu - w.cpu).Seconds()}, err
}

// forAWhile has every connection do something again and again, after a few times that do not count.
func (j job) forAWhile(ctx context.Context, conns []*conn, once func(i int, c *conn, n uint64) error) (result, error) {
	const warmUp = 20
	if err := together(conns, func(i int, c *conn) error {
		_ = c.SetDeadline(time.Now().Add(patience))
		for n := range uint64(warmUp) {
			if err := once(i, c, n); err != nil {
				return err
			}
		}
		return c.SetDeadline(time.Now().Add(j.For + patience))
	}); err != nil {
		return result{}, err
	}
	w, err := begin(j.PID)
	if err != nil {
		return result{}, err
	}
	var over atomic.Bool
	timer := time.AfterFunc(j.For, func() { over.Store(true) })
	defer timer.Stop()
	var done atomic.Int64
	err = together(conns, func(i int, c *conn) error {
		n := uint64(warmUp)
		for ; !over.Load() && ctx.Err() == nil; n++ {
			if err := once(i, c, n); err != nil {
				return err
			}
		}
		done.Add(int64(n - warmUp))
		return nil
	})
	if err != nil {
		return result{}, err
	}
	return w.end(done.Load())
}

// loadHTTP asks for a page on every connection, one request after another.
func loadHTTP(ctx context.Context, j job) (result, error) {
	conns, err := j.connect(ctx, 4<<10)
	if err != nil {
		return result{}, err
	}
	return j.forAWhile(ctx, conns, func(_ int, c *conn, _ uint64) error { return c.fetch() })
}

// loadEcho sends a message on every websocket, and the next when it has come back.
func loadEcho(ctx context.Context, j job) (result, error) {
	conns, err := j.connect(ctx, 1<<10)
	if err != nil {
		return result{}, err
	}
	if err := together(conns, func(_ int, c *conn) error { return c.open() }); err != nil {
		return result{}, err
	}
	messages := make([][payload]byte, len(conns))
	return j.forAWhile(ctx, conns, func(i int, c *conn, n uint64) error {
		return c.echo(messages[i][:], uint64(i)<<32|n)
	})
}

// loadBodies moves large bodies, one after another; what is counted are bytes.
func loadBodies(ctx context.Context, j job) (result, error) {
	conns, err := j.connect(ctx, chunkSize)
	if err != nil {
		return result{}, err
	}
	for _, c := range conns { // a kept connection to the backend is there already
		if err := c.fetch(); err != nil {
			return result{}, err
		}
	}
	w, err := begin(j.PID)
	if err != nil {
		return result{}, err
	}
	err = together(conns, func(_ int, c *conn) error {
		for range j.Bodies {
			_ = c.SetDeadline(time.Now().Add(patience))
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := c.move(j.Shape == "upload"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return result{}, err
	}
	return w.end(int64(j.Bodies) * int64(j.Conns) * largeBody)
}

// move sends or fetches a large body.
func (c *conn) move(up bool) error {
	if up {
		path := c.who.Path + "api/contents/sink"
		c.want = page(path)
		if _, err := c.Write(request(c.who, "POST", path, fmt.Sprintf("Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", int64(largeBody)))); err != nil {
			return err
		}
		if err := sendBody(c, largeBody); err != nil {
			return err
		}
		return c.answer()
	}
	if _, err := c.Write(request(c.who, "GET", c.who.Path+"files/large", "")); err != nil {
		return err
	}
	if err := c.status(" 200 "); err != nil {
		return err
	}
	if c.head.length != largeBody {
		return fmt.Errorf("a large body of %d bytes", c.head.length)
	}
	return drainBody(c.r, largeBody)
}
