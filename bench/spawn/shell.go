package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// output runs a command and returns what it printed; its error says what it complained of.
func output(ctx context.Context, name string, args ...string) (string, error) {
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

// A process is a hub that runs until it is stopped; its output is kept in a file.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

func launch(cmd *exec.Cmd, log string) (*process, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() { // ended by stop, which waits for it
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// said is the end of the process's output, for an error.
func (p *process) said() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return tail(string(b), 30)
}

// stop asks the process to end, and kills it after a while.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		return nil // it has ended by itself
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(time.Minute):
		return p.cmd.Process.Kill()
	}
}

// answers waits until ok, or the process has ended.
func (p *process) answers(ctx context.Context, within time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for !ok() {
		select {
		case <-p.done:
			return fmt.Errorf("it ended at once: %w\n%s", p.err, p.said())
		default:
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("it does not answer within %v\n%s", within, p.said())
		}
	}
	return nil
}

// freePorts finds n ports of loopback that nobody listens on.
func freePorts(ctx context.Context, n int) ([]string, error) {
	ports := make([]string, n)
	for i := range ports {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:revive // all are held until all are found
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports[i] = port
	}
	return ports, nil
}
