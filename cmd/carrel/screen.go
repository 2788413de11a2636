package main

import (
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/term"

	"carrel/hub"
	"carrel/internal/top"
)

const (
	ctrlC      = 0x03
	endOfInput = 0x04 // of Ctrl-D, too
)

// screen is a terminal that is drawn on: the other page of it, without a cursor, keys as they come.
type screen struct {
	out     *os.File
	tty     *os.File // a descriptor of our own, so that reading it can be ended
	before  *term.State
	keys    chan byte
	resized chan os.Signal
	done    chan struct{}
	reading sync.WaitGroup
}

// openScreen takes the terminal over; it is an error where out is none, or not the process's own.
func openScreen(out *os.File) (*screen, error) {
	if !term.IsTerminal(int(out.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil, hub.Errorf(hub.Invalid, "open screen", "it is no terminal")
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, hub.Wrap(hub.Unavailable, "open terminal", err)
	}
	s := &screen{out: out, tty: tty, keys: make(chan byte), resized: make(chan os.Signal, 1), done: make(chan struct{})}
	if s.before, err = term.MakeRaw(int(out.Fd())); err != nil {
		tty.Close()
		return nil, hub.Wrap(hub.Unavailable, "read keys", err)
	}
	signal.Notify(s.resized, syscall.SIGWINCH)
	_, _ = out.WriteString("\x1b[?1049h\x1b[?25l")
	s.reading.Go(s.read)
	return s, nil
}

// read gives keys on until the terminal is closed, or gone.
func (s *screen) read() {
	b := make([]byte, 1)
	for {
		if n, err := s.tty.Read(b); n == 0 || err != nil {
			b[0] = endOfInput
		}
		select {
		case s.keys <- b[0]:
		case <-s.done:
			return
		}
		if b[0] == endOfInput {
			return
		}
	}
}

// close gives the terminal back as it was.
func (s *screen) close() {
	close(s.done)
	signal.Stop(s.resized)
	s.tty.Close()
	s.reading.Wait()
	_, _ = s.out.WriteString("\x1b[?25h\x1b[?1049l")
	_ = term.Restore(int(s.out.Fd()), s.before) // a terminal that is gone needs nothing
}

// draw writes a report over what was there. Lines are safe to print: package top sees to it.
func (s *screen) draw(r top.Report, by top.Order, trouble string) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	width-- // what is in the last column may be erased with what is right of it
	lines := r.Lines(width, height, by)
	if trouble != "" && len(lines) > 1 {
		lines[1] = top.Cut(trouble, width)
	}
	// Home; each line with what was right of it erased; and all below.
	_, _ = s.out.WriteString("\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\x1b[J")
}
