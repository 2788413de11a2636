package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An upgrade in place: on SIGUSR2 the process starts the binary that is at its own path by now, with
// all listening sockets, and goes on serving. Once the new process serves too, this one accepts
// nothing more and drains; a new process that fails changes nothing.

const (
	upgradeWithin = 15 * time.Minute // a new release may build its kernel image first
	giveUpWithin  = 5 * time.Second
)

// program is the path to this program as it was started: through a link, whatever that leads to by
// the time of an upgrade. It is looked up at the start, as the working directory may change.
func program() string {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path, _ = os.Executable() // empty: the upgrade fails, and says so
	}
	return path
}

// upgrades is how this process is asked for a successor. It is made at the start: a signal that comes
// before this process serves waits until it does.
type upgrades struct {
	program string
	asked   chan os.Signal
}

func newUpgrades() upgrades {
	u := upgrades{program(), make(chan os.Signal, 1)}
	signal.Notify(u.asked, syscall.SIGUSR2)
	return u
}

// await waits for SIGUSR2, again after each upgrade that fails, until a successor serves.
func (u upgrades) await(ctx context.Context, logger *slog.Logger, sockets []socket) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-u.asked:
		}
		notifyReloading()
		logger.InfoContext(ctx, "upgrade: starting the new process", "program", u.program)
		pid, err := succeedBy(ctx, u.program, sockets)
		if err == nil {
			logger.InfoContext(ctx, "upgrade: the new process serves; this one finishes what it has", "pid", pid)
			notifySucceeded(pid)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		logger.ErrorContext(ctx, "upgrade failed: this process goes on", "error", err)
		notifyReady()
		select {
		case <-u.asked: // while that was tried
		default:
		}
	}
}

// succeedBy starts a successor and waits until it serves; one that does not is ended.
func succeedBy(ctx context.Context, path string, sockets []socket) (pid int, err error) {
	if os.Getpid() == 1 {
		return 0, errors.New("a container ends with its first process: start a new container instead")
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return 0, err
	}
	defer ours.Close()
	cmd := exec.Command(path, os.Args[1:]...) //nolint:noctx,gosec // it outlives this process; the path is our own
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), successorEnv+"=1")
	cmd.ExtraFiles = []*os.File{theirs}
	var t testament
	for _, s := range sockets {
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.file)
		t.Sockets = append(t.Sockets, s.name)
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", path, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = ours.SetDeadline(time.Now()) })
	defer stop()
	_ = ours.SetDeadline(time.Now().Add(upgradeWithin))
	var v verdict
	if err = json.NewEncoder(ours).Encode(t); err == nil {
		err = json.NewDecoder(ours).Decode(&v)
	}
	if err == nil && v.Ready {
		pid = cmd.Process.Pid // which Release forgets
		return pid, cmd.Process.Release()
	}
	late := errors.Is(err, os.ErrDeadlineExceeded)
	state := giveUp(cmd, late)
	switch {
	case late:
		return 0, fmt.Errorf("the new process was not ready within %v", upgradeWithin)
	case v.Error != "":
		return 0, fmt.Errorf("the new process can't serve: %s", v.Error)
	}
	return 0, fmt.Errorf("the new process ended before it served (%v); what it said is in the log", state)
}

// giveUp ends a successor that is of no use, be it that it is about to end by itself, and tells how
// it did.
func giveUp(cmd *exec.Cmd, late bool) *os.ProcessState {
	if late {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
	}
	kill := time.AfterFunc(giveUpWithin, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_ = cmd.Wait() // the state tells
	return cmd.ProcessState
}

// socketPair is a connection between this process and one that it starts.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	_ = unix.SetNonblock(fds[0], true) // so that it has deadlines
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs"), nil
}
