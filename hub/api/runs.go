package api

import (
	"context"
	"encoding/base64"
	"errors"
	"iter"
	"net/http"
	"time"
	"unicode/utf8"

	"carrel/hub"
)

// Runs is the part of hub.Runs that the API uses.
type Runs interface {
	Policy() hub.RunPolicy
	Submit(ctx context.Context, by hub.Principal, spec hub.RunSpec) (hub.Run, error)
	Await(ctx context.Context, id hub.RunID) (hub.Run, error)
	Result(ctx context.Context, by hub.Principal, id hub.RunID) (hub.Run, error)
	Listed(ctx context.Context, owner hub.UserName) iter.Seq2[hub.Run, error]
	End(ctx context.Context, by hub.Principal, all bool, id hub.RunID) error
}

const (
	// maxRunBody caps the body that asks for a run: code and input, as JSON may spell them.
	maxRunBody = 4 << 20
	// defaultRunWait and maxRunWait are how long a caller waits for a result.
	defaultRunWait = 30 * time.Second
	maxRunWait     = 60 * time.Second
)

// base64Encoding says that a text is one, in base64 (RFC 4648, section 4), as it is no UTF-8.
const base64Encoding = "base64"

// runRequest asks for a run.
type runRequest struct {
	Code          string             `json:"code"`
	Argv          []string           `json:"argv"`
	Stdin         string             `json:"stdin"`
	StdinEncoding string             `json:"stdin_encoding"`
	Limits        map[string]float64 `json:"limits"`
	WaitSeconds   *float64           `json:"wait_seconds"`
}

// runModel is a run as callers see it.
type runModel struct {
	ID             string             `json:"id"`
	User           string             `json:"user"`
	Status         hub.RunStatus      `json:"status"`
	ExitCode       *int               `json:"exit_code"` // null unless it finished
	Signal         *int               `json:"signal"`    // what an exit code above 128 stands for in a shell
	Stdout         *string            `json:"stdout,omitempty"`
	StdoutEncoding string             `json:"stdout_encoding,omitempty"`
	StdoutCut      bool               `json:"stdout_truncated"`
	Stderr         *string            `json:"stderr,omitempty"`
	StderrEncoding string             `json:"stderr_encoding,omitempty"`
	StderrCut      bool               `json:"stderr_truncated"`
	CPU            *float64           `json:"cpu_seconds"`
	Wall           *float64           `json:"wall_seconds"`
	PeakMemory     *int64             `json:"peak_memory"`
	Limits         map[string]float64 `json:"limits"`
	Message        string             `json:"message,omitempty"` // why it failed
	Created        time.Time          `json:"created"`
	Started        *time.Time         `json:"started"`
	Ended          *time.Time         `json:"ended"`
}

func modelOfRun(r hub.Run, output bool) runModel {
	x := r.Result
	m := runModel{
		ID: string(r.ID), User: r.Owner.String(), Status: x.Status, StdoutCut: x.StdoutCut, StderrCut: x.StderrCut, Limits: r.Limits.Named(),
		Message: r.Why, Created: r.Created, Started: orNull(r.Started), Ended: orNull(r.Ended),
	}
	if x.Status == hub.RunFinished {
		m.ExitCode = &x.ExitCode
		if signal := x.ExitCode - 128; signal > 0 && signal <= 64 {
			m.Signal = &signal
		}
	}
	if x.Status.Over() {
		wall := x.Wall.Seconds()
		m.Wall = &wall
	}
	if x.CPU >= 0 {
		cpu := x.CPU.Seconds()
		m.CPU = &cpu
	}
	if x.PeakMemory >= 0 {
		m.PeakMemory = &x.PeakMemory
	}
	if output {
		m.Stdout, m.StdoutEncoding = text(x.Stdout)
		m.Stderr, m.StderrEncoding = text(x.Stderr)
	}
	return m
}

// text is what a program printed, as JSON can say it.
func text(b []byte) (value *string, encoding string) {
	s := string(b)
	if utf8.Valid(b) {
		return &s, "utf-8"
	}
	s = base64.StdEncoding.EncodeToString(b)
	return &s, base64Encoding
}

func (a *API) mountRuns() {
	if a.cfg.Runs == nil {
		return
	}
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request, caller) error{
		"POST /runs":        a.postRun,
		"GET /runs":         a.listRuns,
		"GET /runs/{id}":    a.getRun,
		"DELETE /runs/{id}": a.deleteRun,
	} {
		a.mux.Handle(pattern, a.cfg.Wrap(a.authed(h)))
	}
}

// mayRun checks that the caller may have code run.
func (c caller) mayRun() error {
	if !c.Can(hub.ScopeRuns, c.User) {
		return &hub.Error{Kind: hub.Forbidden, Op: "authorise call", Message: "your credentials do not allow this", Remedy: "use a token with the scope " + string(hub.ScopeRuns)}
	}
	return nil
}

// everybodys tells whether the caller may see whose runs there are, and end them.
func (c caller) everybodys() bool { return c.Can(hub.ScopeAdminServers, hub.UserName{}) }

// postRun takes a run in, and answers with its result where that comes soon enough. A caller who goes away
// before that has it ended: nobody else knows of it.
func (a *API) postRun(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := c.mayRun(); err != nil {
		return err
	}
	var req runRequest
	if err := decodeUpTo(w, r, maxRunBody, &req); err != nil {
		return err
	}
	spec, wait, err := req.read(a.cfg.Runs.Policy())
	if err != nil {
		return err
	}
	run, err := a.cfg.Runs.Submit(r.Context(), c.Principal, spec)
	if err != nil {
		return err
	}
	ctx, done := context.WithTimeout(r.Context(), wait)
	defer done()
	if wait > 0 {
		if run, err = a.cfg.Runs.Await(ctx, run.ID); err != nil {
			return err
		}
	}
	if r.Context().Err() != nil {
		clean, done := context.WithTimeout(context.WithoutCancel(r.Context()), defaultRunWait)
		defer done()
		return errors.Join(hub.Wrap(hub.Canceled, "wait for run", r.Context().Err()), a.cfg.Runs.End(clean, c.Principal, false, run.ID))
	}
	w.Header().Set("Location", a.cfg.Origins.HubPath("api/runs/"+string(run.ID)))
	if !run.Result.Status.Over() {
		return reply(w, http.StatusAccepted, modelOfRun(run, false))
	}
	return reply(w, http.StatusCreated, modelOfRun(run, true))
}

// read checks what is asked for.
func (req runRequest) read(p hub.RunPolicy) (hub.RunSpec, time.Duration, error) {
	bad := func(field, message, remedy string) (hub.RunSpec, time.Duration, error) {
		return hub.RunSpec{}, 0, &hub.Error{Kind: hub.Invalid, Op: "read run", Field: field, Message: message, Remedy: remedy}
	}
	wait := defaultRunWait
	if s := req.WaitSeconds; s != nil {
		if !(*s >= 0 && *s <= maxRunWait.Seconds()) {
			return bad("wait_seconds", "this is no time to wait", "give 0 to 60, or leave it out")
		}
		wait = time.Duration(*s * float64(time.Second))
	}
	limits, err := p.Limits(req.Limits)
	if err != nil {
		return hub.RunSpec{}, 0, err
	}
	stdin := []byte(req.Stdin)
	switch req.StdinEncoding {
	case "", "utf-8":
	case base64Encoding:
		if stdin, err = base64.StdEncoding.DecodeString(req.Stdin); err != nil {
			return bad("stdin", "this is no base64", "encode it as RFC 4648, section 4 says, or leave stdin_encoding out")
		}
	default:
		return bad("stdin_encoding", "there is no such encoding", "use utf-8 or base64")
	}
	return hub.RunSpec{Code: []byte(req.Code), Argv: req.Argv, Stdin: stdin, Limits: limits}, wait, nil
}

func (a *API) listRuns(w http.ResponseWriter, r *http.Request, c caller) error {
	owner := c.User
	if c.everybodys() {
		owner = hub.UserName{}
	} else if err := c.mayRun(); err != nil {
		return err
	}
	models := []runModel{}
	for run, err := range a.cfg.Runs.Listed(r.Context(), owner) {
		if err != nil {
			return err
		}
		if owner.IsZero() || run.OwnerID == c.UserID {
			models = append(models, modelOfRun(run, false))
		}
	}
	return reply(w, http.StatusOK, models)
}

func (a *API) getRun(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := c.mayRun(); err != nil {
		return err
	}
	id, err := hub.ParseRunID(r.PathValue("id"))
	if err != nil {
		return err
	}
	run, err := a.cfg.Runs.Result(r.Context(), c.Principal, id)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, modelOfRun(run, true))
}

func (a *API) deleteRun(w http.ResponseWriter, r *http.Request, c caller) error {
	all := c.everybodys()
	if err := c.mayRun(); err != nil && !all {
		return err
	}
	id, err := hub.ParseRunID(r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := a.cfg.Runs.End(r.Context(), c.Principal, all, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
