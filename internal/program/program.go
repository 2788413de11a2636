// Package program runs other programs for benchmarks and long tests: to their end, or beside them
// until they are told to stop.
//
// It owns how a program is launched, watched while it comes up, and ended. It refuses to know which
// program it is, and to be part of the binary.
package program

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Output runs a command and returns what it printed; its error says what it complained of.
func Output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, tail(stderr.String(), 20))
	}
	return strings.TrimSpace(string(b)), nil
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// A Process is a program that runs until it is stopped; its output is added to a file.
type Process struct {
	proc *os.Process
	log  string
	done chan struct{}
	err  error
}

// Launch starts a program.
func Launch(cmd *exec.Cmd, log string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{proc: cmd.Process, log: log, done: make(chan struct{})}
	go func() { // ended by Stop or Kill, which wait for it
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Adopt takes in a program that this one did not start, such as the successor of one that it did.
func Adopt(pid int, log string) (*Process, error) {
	if pid <= 1 {
		return nil, fmt.Errorf("process %d is nobody's to adopt", pid) // below 1 a signal goes to many
	}
	proc, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	p := &Process{proc: proc, log: log, done: make(chan struct{})}
	go func() { // as in Launch; only a parent can wait
		for proc.Signal(syscall.Signal(0)) == nil {
			time.Sleep(50 * time.Millisecond)
		}
		close(p.done)
	}()
	return p, nil
}

// PID is the program's process id.
func (p *Process) PID() int { return p.proc.Pid }

// Said is the end of the program's output, for an error.
func (p *Process) Said() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return tail(string(b), 30)
}

// Stop asks the program to end, and kills it after a minute. A program that never started, or has
// ended, is no error.
func (p *Process) Stop() error {
	if p == nil || p.proc.Signal(os.Interrupt) != nil {
		return nil
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(time.Minute):
		p.Kill()
		return errors.New("it did not end by itself, and was killed")
	}
}

// Ended tells whether the program has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Kill ends the program at once, as kill -9 does.
func (p *Process) Kill() {
	_ = p.proc.Kill() // it may have ended
	<-p.done
}

// Answers waits until ok, or an error when the program has ended or within has passed.
func (p *Process) Answers(ctx context.Context, within time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for !ok() {
		select {
		case <-p.done:
			return fmt.Errorf("it ended at once: %w\n%s", p.err, p.Said())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer within %v\n%s", within, p.Said())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// lastPort is the one that was given out last. It stays below those that the kernel gives to clients, of
// which one could come in between.
var lastPort atomic.Int64

// FreePort finds a port of loopback that nobody listens on, and gives it to this process once. It
// panics where a thousand in a row are taken.
func FreePort() int {
	lastPort.CompareAndSwap(0, 12_000+rand.Int64N(15_000))
	for range 1000 {
		port := int(lastPort.Add(1))
		if l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil { //nolint:noctx // it listens at once
			l.Close()
			return port
		}
	}
	panic("program: no port of loopback is free")
}

// Pause waits, or returns early with the reason when ctx ends.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
