package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"carrel/proxy"
)

const (
	logBuffer = 64 << 10 // bytes
	logFlush  = time.Second
)

// lineBuffer gathers lines, so that a busy proxy makes one system call for hundreds of them. Each line
// comes in one Write, and none is torn.
type lineBuffer struct {
	to io.Writer

	mu sync.Mutex
	w  *bufio.Writer
}

func newLineBuffer(to io.Writer) *lineBuffer {
	return &lineBuffer{to: to, w: bufio.NewWriterSize(to, logBuffer)}
}

// Write implements [io.Writer].
func (b *lineBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w.Available() < len(line) {
		if err := b.w.Flush(); err != nil {
			b.w.Reset(b.to) // a full disk may have room again
		}
	}
	return b.w.Write(line)
}

func (b *lineBuffer) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w.Flush() != nil {
		b.w.Reset(b.to) // likewise
	}
}

// Run writes what has been gathered every second, and all of it at the end.
func (b *lineBuffer) Run(ctx context.Context) {
	defer b.flush()
	tick := time.NewTicker(logFlush)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.flush()
		}
	}
}

// accessLog is how a proxy tells of requests: failures at once, all of them through a buffer. Lines in
// the combined format go to standard output, beside nothing else of a proxy's; events to standard error.
func accessLog(h handover) (proxy.AccessLog, *lineBuffer) {
	a := proxy.AccessLog{Requests: h.Access}
	switch {
	case h.Access == "off":
		return a, nil
	case h.AccessFormat == "combined":
		b := newLineBuffer(os.Stdout)
		a.Combined = b
		return a, b
	case h.Access == "all":
		b := newLineBuffer(os.Stderr)
		a.Logger = loggerTo(b, h.LogLevel, h.LogFormat).With("process", "proxy")
		return a, b
	}
	return a, nil
}

// loggerTo makes a logger of the configured level and format.
func loggerTo(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // checked by config
	opts := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
