package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowDisk takes writes, or does not.
type slowDisk struct {
	mu    sync.Mutex
	text  bytes.Buffer
	calls int
	full  bool
}

func (d *slowDisk) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	if d.full {
		return 0, errors.New("no room")
	}
	return d.text.Write(b)
}

func (d *slowDisk) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}

func TestLinesAreGatheredAndNoneIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var disk slowDisk
		b := newLineBuffer(&disk)
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { b.Run(ctx) })
		fmt.Fprintln(b, "first")
		synctest.Wait()
		if disk.String() != "" {
			t.Error("a line was written at once")
		}
		time.Sleep(logFlush + time.Millisecond)
		synctest.Wait()
		if disk.String() != "first\n" {
			t.Errorf("after a second: %q", disk.String())
		}
		line := strings.Repeat("x", 200)
		for range 10_000 {
			fmt.Fprintln(b, line)
		}
		fmt.Fprintln(b, "last")
		cancel()
		run.Wait()
		all := disk.String()
		if strings.Count(all, line+"\n") != 10_000 || !strings.HasSuffix(all, "\nlast\n") || disk.calls > 50 {
			t.Errorf("%d bytes in %d writes", len(all), disk.calls)
		}
	})
}

func TestAFullDiskStopsNothing(t *testing.T) {
	disk := slowDisk{full: true}
	b := newLineBuffer(&disk)
	for range 1000 {
		fmt.Fprintln(b, strings.Repeat("x", 1000))
	}
	b.flush()
	disk.full = false
	fmt.Fprintln(b, "there is room again")
	b.flush()
	if got := disk.String(); !strings.HasSuffix(got, "there is room again\n") {
		t.Errorf("%q", got)
	}
}
