package main

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// loadRate sends requests at fixed times, whether those before were answered or not, and measures
// each from the time at which it was due: a proxy that stalls pays for all whom it kept waiting. One
// thread does the sending, so that no scheduler stands between a due time and its request.
func loadRate(ctx context.Context, j job) (result, error) {
	conns, err := j.connect(ctx, 4<<10)
	if err != nil {
		return result{}, err
	}
	if err := together(conns, func(_ int, c *conn) error { return c.fetch() }); err != nil {
		return result{}, err
	}
	total := int(j.For.Seconds() * float64(j.PerSec))
	r := &rated{free: make(chan *timed, len(conns)), waits: make([]time.Duration, 0, total)}
	for _, c := range conns {
		_ = c.SetDeadline(time.Now().Add(j.For + patience))
		r.free <- &timed{conn: c, due: make(chan time.Time, 1)}
	}
	w, err := begin(j.PID)
	if err != nil {
		return result{}, err
	}
	var readers sync.WaitGroup
	for range len(conns) {
		t := <-r.free
		readers.Go(func() { r.read(t) })
		r.free <- t
	}
	late := r.send(ctx, total, time.Second/time.Duration(j.PerSec))
	for range len(conns) { // each is back when its answer is
		close((<-r.free).due)
	}
	readers.Wait()
	if r.err != nil {
		return result{}, r.err
	}
	res, err := w.end(int64(len(r.waits)))
	res.P50, res.P99, res.Late = milliseconds(r.waits, 0.5), milliseconds(r.waits, 0.99), milliseconds(late, 0.99)
	return res, err
}

// rated is a load at a fixed rate.
type rated struct {
	free chan *timed

	mu    sync.Mutex
	waits []time.Duration
	err   error
}

// timed is a connection with when its request was due.
type timed struct {
	*conn
	due chan time.Time
}

// send sends total requests, one every step, and tells how late it was with each.
func (r *rated) send(ctx context.Context, total int, step time.Duration) []time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // later otherwise, no worse
	late := make([]time.Duration, 0, total)
	start := time.Now().Add(10 * time.Millisecond)
	for i := range total {
		due := start.Add(time.Duration(i) * step)
		for wait := time.Until(due); wait > 0; wait = time.Until(due) {
			ts := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&ts, nil) // woken early it sleeps again
		}
		if ctx.Err() != nil || r.failed() {
			return late
		}
		t := <-r.free
		late = append(late, time.Since(due))
		t.due <- due
		if _, err := t.Write(t.get); err != nil {
			r.fail(err)
		}
	}
	return late
}

// read takes one connection's answers.
func (r *rated) read(t *timed) {
	for due := range t.due {
		err := t.answer()
		wait := time.Since(due)
		r.mu.Lock()
		r.waits = append(r.waits, wait)
		r.mu.Unlock()
		if err != nil {
			r.fail(err)
		}
		r.free <- t
	}
}

func (r *rated) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

func (r *rated) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil
}

// milliseconds is the q-quantile of waits.
func milliseconds(waits []time.Duration, q float64) float64 {
	if len(waits) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(waits))
	return s[min(len(s)-1, int(q*float64(len(s))))].Seconds() * 1000
}
