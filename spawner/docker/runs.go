package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"carrel/hub"
)

const (
	// runTick is how often a run is looked at from outside: its CPU time, and whether it is over.
	runTick = 250 * time.Millisecond
	// runSettle is how long Docker may take to tell how a program ended, once it did.
	runSettle = 5 * time.Second
	// runHangover is how long output may still come once the program has ended, from what it left running.
	runHangover = 100 * time.Millisecond
)

// The exit codes of a program that the kernel ended: 128, and SIGXCPU.
const cpuTimeCode = 152

func (d *Driver) runName(id hub.RunID) string { return d.namePrefix() + "run-" + string(id) }

// runLabels mark a run's container; no server's labels read so.
func (d *Driver) runLabels(id hub.RunID) map[string]string {
	return map[string]string{
		labelDeployment: d.cfg.Deployment, labelRun: string(id),
		labelMAC: d.cfg.Keyring.LabelMAC("run", d.runName(id)),
	}
}

// runOf reads a container's name and labels; false for what is no run of this deployment's.
func (d *Driver) runOf(name string, labels map[string]string) (hub.RunID, bool) {
	id, err := hub.ParseRunID(labels[labelRun])
	own := err == nil && strings.TrimPrefix(name, "/") == d.runName(id) && d.cfg.Keyring.CheckLabelMAC(labels[labelMAC], "run", d.runName(id))
	return id, own
}

// RunsLeft implements [hub.Runner].
func (d *Driver) RunsLeft(ctx context.Context) iter.Seq2[hub.RunID, error] {
	return func(yield func(hub.RunID, error) bool) {
		listCtx, done := context.WithTimeout(ctx, callTimeout)
		defer done()
		all, err := d.labelled(listCtx)
		if err != nil {
			yield("", err)
			return
		}
		for _, c := range all {
			if len(c.Names) != 1 {
				continue
			}
			if id, own := d.runOf(c.Names[0], c.Labels); own && !yield(id, nil) {
				return
			}
		}
	}
}

// RemoveRun implements [hub.Runner].
func (d *Driver) RemoveRun(ctx context.Context, id hub.RunID) error {
	ctx, done := context.WithTimeout(ctx, createTimeout)
	defer done()
	c, err := d.api.on(ctx).ContainerInspect(ctx, d.runName(id))
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fail("remove run", err)
	}
	if _, own := d.runOf(c.Name, c.Config.Labels); !own {
		return nil
	}
	return d.remove(ctx, c.ID, "")
}

// removeRuns removes those of every hub.
func (d *Driver) removeRuns(ctx context.Context) error {
	var errs []error
	for id, err := range d.RunsLeft(ctx) {
		if err == nil {
			err = d.RemoveRun(ctx, id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// RunCode implements [hub.Runner].
func (d *Driver) RunCode(ctx context.Context, job hub.RunJob) (result hub.RunResult, err error) {
	img, err := d.ensureImage(ctx, job.Image, func(hub.Progress) {})
	if err != nil {
		return hub.RunResult{}, err
	}
	profile, err := seccompProfile()
	if err != nil {
		return hub.RunResult{}, err
	}
	defer func() {
		// What is not removed now is swept later; the result is good.
		if rerr := d.RemoveRun(context.WithoutCancel(ctx), job.ID); rerr != nil {
			d.cfg.Logger.WarnContext(ctx, "run not removed; tried again later", "run", string(job.ID), "error", rerr)
		}
	}()
	cfg, host := runWalls(job, img, d.runLabels(job.ID), profile)
	makeCtx, done := outlast(ctx)
	defer done()
	made, err := d.api.on(makeCtx).ContainerCreate(makeCtx, cfg, host, nil, nil, d.runName(job.ID))
	if err != nil {
		return hub.RunResult{}, fail("create run", err)
	}
	if err := d.api.on(makeCtx).ContainerStart(makeCtx, made.ID, container.StartOptions{}); err != nil {
		return hub.RunResult{}, fail("start run", err)
	}
	if err := d.bring(makeCtx, made.ID, job); err != nil {
		return hub.RunResult{}, err
	}
	return d.follow(ctx, made.ID, job)
}

// bring writes the code into the container's memory, before anything of it runs.
func (d *Driver) bring(ctx context.Context, id string, job hub.RunJob) error {
	const op = "bring code"
	talk, execID, err := d.begin(ctx, id, runExec(job, "dd", "of="+runProgram, "bs=64k", "status=none"))
	if err != nil {
		return err
	}
	defer talk.Close()
	broken := context.AfterFunc(ctx, talk.Close)
	defer broken()
	_, err = talk.Conn.Write(job.Code)
	if err == nil {
		err = talk.CloseWrite()
	}
	complaint := &head{most: maxComplaint}
	if err == nil {
		_, err = stdcopy.StdCopy(io.Discard, complaint, talk.Reader)
	}
	if err != nil {
		return fail(op, errors.Join(ctx.Err(), err))
	}
	code, err := d.exitCode(ctx, execID)
	if err != nil {
		return err
	}
	if code != 0 {
		return &hub.Error{
			Kind: hub.Invalid, Op: "docker: " + op, Field: "limits.disk", Message: "the code could not be written in the run's container",
			Remedy: "give more disk or file_size; an administrator finds the reason in the hub's log", Err: errors.New(printable(complaint.String())),
		}
	}
	return nil
}

// begin starts a command in a run's container, and gives its streams.
func (d *Driver) begin(ctx context.Context, id string, opts container.ExecOptions) (types.HijackedResponse, string, error) {
	made, err := d.api.on(ctx).ContainerExecCreate(ctx, id, opts)
	if err != nil {
		return types.HijackedResponse{}, "", fail("begin run", err)
	}
	talk, err := d.api.on(ctx).ContainerExecAttach(ctx, made.ID, container.ExecAttachOptions{})
	return talk, made.ID, fail("begin run", err)
}

// exitCode waits until a command that ended is known to have.
func (d *Driver) exitCode(ctx context.Context, execID string) (int, error) {
	ctx, done := context.WithTimeout(ctx, runSettle)
	defer done()
	for {
		e, err := d.api.on(ctx).ContainerExecInspect(ctx, execID)
		if err != nil {
			return 0, fail("look at run", err)
		}
		if !e.Running {
			return e.ExitCode, nil
		}
		select {
		case <-ctx.Done():
			return 0, fail("look at run", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// attended is a program that runs.
type attended struct {
	container, exec string
	meter           runMeter
	job             hub.RunJob
	out             *output
	heard           chan error // once: the end of its output
	before          runUse     // what the container had used before it
	last            runUse
}

// follow starts the program, and sees to it until it is over or a limit is passed.
func (d *Driver) follow(ctx context.Context, id string, job hub.RunJob) (hub.RunResult, error) {
	meter, err := d.meterOf(ctx, id)
	if err != nil {
		return hub.RunResult{}, err
	}
	before, err := d.use(ctx, meter)
	if err != nil {
		return hub.RunResult{}, err
	}
	talk, execID, err := d.begin(ctx, id, runExec(job, append([]string{"python3", runProgram}, job.Argv...)...))
	if err != nil {
		return hub.RunResult{}, err
	}
	a := &attended{container: id, exec: execID, meter: meter, job: job, out: &output{room: job.Limits.Output}, heard: make(chan error, 1), before: before, last: before}
	var talking sync.WaitGroup
	defer talking.Wait()
	defer talk.Close()
	began := time.Now()
	job.Began()
	talking.Go(func() { // ends with the program, or the connection
		if _, err := io.Copy(struct{ io.Writer }{talk.Conn}, bytes.NewReader(job.Stdin)); err == nil {
			_ = talk.CloseWrite() // a program that has ended reads no end
		}
	})
	talking.Go(func() {
		_, err := stdcopy.StdCopy(&stream{a.out, &a.out.stdout, &a.out.stdoutCut}, &stream{a.out, &a.out.stderr, &a.out.stderrCut}, talk.Reader)
		a.heard <- err
	})
	status, err := d.watchRun(ctx, a, began)
	r := hub.RunResult{Status: status, Wall: time.Since(began), CPU: -1, PeakMemory: -1}
	if status == hub.RunOutput {
		talk.Close() // Docker waits to be rid of what nobody reads
	}
	if err == nil {
		err = d.conclude(ctx, a, &r)
	}
	talk.Close()
	talking.Wait()
	if err != nil {
		return hub.RunResult{}, err
	}
	r.Stdout, r.Stderr, r.StdoutCut, r.StderrCut = a.out.stdout.Bytes(), a.out.stderr.Bytes(), a.out.stdoutCut, a.out.stderrCut
	return r, nil
}

// watchRun waits until the program has ended, or passes a limit that is kept from outside, and tells which.
func (d *Driver) watchRun(ctx context.Context, a *attended, began time.Time) (hub.RunStatus, error) {
	wall := time.NewTimer(time.Until(began.Add(a.job.Limits.Wall)))
	defer wall.Stop()
	tick := time.NewTicker(runTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return "", fail("run code", ctx.Err())
		case err := <-a.heard:
			if errors.Is(err, errOutputFull) {
				return hub.RunOutput, nil
			}
			return hub.RunFinished, nil // a program may close its output and go on: see conclude
		case <-wall.C:
			return hub.RunWallTime, nil
		case <-tick.C:
		}
		use, err := d.use(ctx, a.meter)
		if err == nil {
			a.last = use
			if use.cpu-a.before.cpu >= a.job.Limits.CPU {
				return hub.RunCPUTime, nil
			}
		}
		if e, err := d.api.on(ctx).ContainerExecInspect(ctx, a.exec); err == nil && !e.Running || isNotFound(err) {
			select { // something that it left holds its output open
			case err := <-a.heard:
				if errors.Is(err, errOutputFull) {
					return hub.RunOutput, nil
				}
			case <-time.After(runHangover):
			case <-ctx.Done():
			}
			return hub.RunFinished, nil
		}
	}
}

// notBegun is the error of a program that Docker could not begin: what it said stands where output would. nil for
// any other; no program can pose as one, as it has a process by then.
func (d *Driver) notBegun(ctx context.Context, a *attended) error {
	e, err := d.api.on(ctx).ContainerExecInspect(ctx, a.exec)
	if err != nil || e.Running || e.Pid != 0 {
		return nil //nolint:nilerr // what can't be told is told by what comes next
	}
	return &hub.Error{
		Kind: hub.Unavailable, Op: "docker: begin run", Message: "the program could not be begun", Remedy: "try again; an administrator finds the reason in the hub's log",
		Err: fmt.Errorf("exit code %d", e.ExitCode),
	}
}

// conclude finds out how the program ended and what it used, and ends all that is left of it.
func (d *Driver) conclude(ctx context.Context, a *attended, r *hub.RunResult) error {
	if err := d.notBegun(ctx, a); err != nil {
		return err
	}
	code := killedCode
	if r.Status == hub.RunFinished {
		ended, status, err := d.awaitProgram(ctx, a, r)
		if err != nil {
			return err
		}
		code, r.Status = ended, status
	}
	if use, err := d.use(ctx, a.meter); err == nil && use.cpu > 0 { // all zero where the container is gone
		a.last = use
	}
	r.CPU, r.PeakMemory = a.last.cpu-a.before.cpu, a.last.peak
	starved, err := d.killRun(ctx, a.container)
	if err != nil {
		return err
	}
	starved = starved || a.last.starved
	if r.Status != hub.RunFinished {
		return nil
	}
	r.ExitCode = code
	switch {
	case code == killedCode && starved:
		r.Status = hub.RunMemory
	case code == cpuTimeCode && r.CPU >= a.job.Limits.CPU:
		r.Status = hub.RunCPUTime
	}
	if r.Status != hub.RunFinished {
		r.ExitCode = 0
	}
	return nil
}

// awaitProgram gives the exit code of a program whose output has ended. One that closed its output has what is left
// of its wall and CPU time.
func (d *Driver) awaitProgram(ctx context.Context, a *attended, r *hub.RunResult) (int, hub.RunStatus, error) {
	began := time.Now().Add(-r.Wall)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, runTick) {
		e, err := d.api.on(ctx).ContainerExecInspect(ctx, a.exec)
		switch {
		case isNotFound(err):
			return killedCode, hub.RunFinished, nil // with its container
		case err != nil:
			return 0, "", fail("look at run", err)
		case !e.Running:
			return e.ExitCode, hub.RunFinished, nil
		}
		if r.Wall = time.Since(began); r.Wall >= a.job.Limits.Wall {
			return 0, hub.RunWallTime, nil
		}
		if use, err := d.use(ctx, a.meter); err == nil && use.cpu-a.before.cpu >= a.job.Limits.CPU {
			a.last = use
			return 0, hub.RunCPUTime, nil
		}
		select {
		case <-ctx.Done():
			return 0, "", fail("look at run", ctx.Err())
		case <-time.After(pause):
		}
	}
}

// killRun kills everything in a run's container, and tells whether anything there was killed for want of memory.
func (d *Driver) killRun(ctx context.Context, id string) (starved bool, err error) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer done()
	ended, errs := d.api.on(ctx).ContainerWait(ctx, id, container.WaitConditionNotRunning)
	if err := d.api.on(ctx).ContainerKill(ctx, id, "KILL"); err != nil && !isNotFound(err) && !isConflict(err) {
		return false, fail("end run", err)
	}
	select {
	case <-ended:
	case err := <-errs:
		return false, fail("end run", err)
	}
	c, err := d.api.on(ctx).ContainerInspect(ctx, id)
	if err != nil {
		return false, fail("end run", err)
	}
	return c.State.OOMKilled, nil
}

// output is what a program prints, up to a cap on both streams together. One goroutine writes it.
type output struct {
	room                 int64
	stdout, stderr       bytes.Buffer
	stdoutCut, stderrCut bool
}

var errOutputFull = errors.New("the program printed too much")

// stream is one of the two.
type stream struct {
	out *output
	to  *bytes.Buffer
	cut *bool
}

func (s *stream) Write(p []byte) (int, error) {
	fits := int(min(int64(len(p)), s.out.room))
	s.to.Write(p[:fits])
	s.out.room -= int64(fits)
	if fits < len(p) {
		*s.cut = true
		return fits, errOutputFull
	}
	return len(p), nil
}
