package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"carrel/hub"
	"carrel/internal/config"
	"carrel/internal/top"
)

const (
	runWait   = 50 * time.Second // for a result, in one call
	runEvery  = time.Second      // between calls then
	runWithin = 70 * time.Second // for the answer to a call
	runMost   = 64 << 20         // bytes of one answer

	// The exit codes where the program has none: timeout(1)'s where a limit ended it, docker run's where it
	// was not run.
	limitCode  = 124
	notRunCode = 125
	// interruptedCode is a shell's after Ctrl-C.
	interruptedCode = 130
)

// runFlags are those of carrel run.
type runFlags struct {
	url, tokenFile            string
	memory, wallTime, cpuTime string
	limits                    []string
	stdin                     bool
}

func runCommand(f *flags) *cobra.Command {
	var o runFlags
	cmd := &cobra.Command{
		Use: "run script.py [argument...]", Short: "Run a Python program in a container of its own, and print what it prints", Args: cobra.MinimumNArgs(1),
		Long: "Sends a Python program to the hub, which runs it in walls of its own: without a network, a home or a secret.\n" +
			"A script named - is read from standard input. What it prints is printed, and its exit code is this command's;\n" +
			"124: a limit ended it, 125: it could not be run.\n\n" +
			"It takes a token with the scope runs (or self), from a file or from CARREL_TOKEN, and a deployment with\n" +
			"runs.enabled.",
		Example: "  carrel run --url https://hub.example.org/ --token-file ~/.carrel-token script.py\n" +
			"  echo 'print(6*7)' | carrel run -\n  carrel run --memory 256MiB --time 30s --limit processes=8 script.py --verbose",
		RunE: func(cmd *cobra.Command, args []string) error {
			code, err := runScript(cmd.Context(), f, o, args, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
			switch {
			case cmd.Context().Err() != nil:
				code = interruptedCode
			case err != nil:
				explain(err)
				code = notRunCode
			}
			if code == 0 {
				return nil
			}
			return exitStatus(code)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what comes after the script is its own
	flags.StringVar(&o.url, "url", "", "the deployment's public address; without it, that of the configuration")
	flags.StringVar(&o.tokenFile, "token-file", "", "file with the token; otherwise CARREL_TOKEN is it")
	flags.StringVar(&o.memory, "memory", "", "most memory, such as 256MiB")
	flags.StringVar(&o.wallTime, "time", "", "longest time, such as 30s")
	flags.StringVar(&o.cpuTime, "cpu-time", "", "most CPU time, such as 10s")
	flags.StringArrayVar(&o.limits, "limit", nil, "any limit as name=value, such as processes=8")
	flags.BoolVarP(&o.stdin, "stdin", "i", false, "send standard input along")
	return cmd
}

// runAnswer is the part of the API's answer that is used.
type runAnswer struct {
	ID             string        `json:"id"`
	Status         hub.RunStatus `json:"status"`
	ExitCode       *int          `json:"exit_code"`
	Stdout         string        `json:"stdout"`
	StdoutEncoding string        `json:"stdout_encoding"`
	Stderr         string        `json:"stderr"`
	StderrEncoding string        `json:"stderr_encoding"`
	Message        string        `json:"message"`
}

// runScript gives the exit code that the program had, or that tells of its end.
func runScript(ctx context.Context, f *flags, o runFlags, args []string, in io.Reader, out, errOut io.Writer) (int, error) {
	request, err := o.request(args, in)
	if err != nil {
		return 0, err
	}
	if o.url == "" {
		cfg, err := f.load()
		if err != nil {
			return 0, err
		}
		o.url = cfg.PublicURL
	}
	at, err := openRemote("run code", o.url, o.tokenFile, "make one with the scope runs, and give its file or CARREL_TOKEN")
	if err != nil {
		return 0, err
	}
	defer at.client.CloseIdleConnections()
	r, err := at.run(ctx, request)
	if err != nil {
		return 0, err
	}
	return r.show(out, errOut)
}

// request is the body of the call.
func (o runFlags) request(args []string, in io.Reader) ([]byte, error) {
	limits, err := o.asked()
	if err != nil {
		return nil, err
	}
	invalid := func(field, message, remedy string, err error) ([]byte, error) {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "run code", Field: field, Message: message, Remedy: remedy, Err: err}
	}
	script := in
	if args[0] != "-" {
		file, err := os.Open(args[0])
		if err != nil {
			return invalid("script", "the file can't be read", "check the path", err)
		}
		defer file.Close()
		script = file
	} else if o.stdin {
		return invalid("--stdin", "standard input is the script already", "name a file, or leave --stdin out", nil)
	}
	code, err := io.ReadAll(io.LimitReader(script, hub.MaxRunCode+1))
	if err != nil || len(code) > hub.MaxRunCode {
		return invalid("script", "it can't be read, or is too long", fmt.Sprintf("give %d KiB at most", hub.MaxRunCode>>10), err)
	}
	if !utf8.Valid(code) { // JSON would carry something else
		return invalid("script", "it is no UTF-8", "write it in UTF-8", nil)
	}
	body := map[string]any{"code": string(code), "argv": args[1:], "limits": limits, "wait_seconds": runWait.Seconds()}
	if o.stdin {
		input, err := io.ReadAll(io.LimitReader(in, hub.MaxRunStdin+1))
		if err != nil || len(input) > hub.MaxRunStdin {
			return invalid("--stdin", "it can't be read, or is too long", fmt.Sprintf("give %d KiB at most", hub.MaxRunStdin>>10), err)
		}
		body["stdin"], body["stdin_encoding"] = base64.StdEncoding.EncodeToString(input), "base64"
	}
	return json.Marshal(body)
}

// asked are the limits that the flags name.
func (o runFlags) asked() (map[string]float64, error) {
	limits := map[string]float64{}
	invalid := func(flag string, err error) error {
		return &hub.Error{Kind: hub.Invalid, Op: "run code", Field: flag, Message: "this is no limit", Remedy: "see carrel run --help", Err: err}
	}
	for _, l := range o.limits {
		name, value, _ := strings.Cut(l, "=")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || n != n || n > 1e18 || n < 0 { // JSON knows no infinity
			return nil, invalid("--limit", err)
		}
		limits[name] = n
	}
	if o.memory != "" {
		n, err := config.ParseSize(o.memory)
		if err != nil {
			return nil, invalid("--memory", err)
		}
		limits["memory"] = float64(n)
	}
	for _, t := range []struct{ flag, value, name string }{{"--time", o.wallTime, "wall_seconds"}, {"--cpu-time", o.cpuTime, "cpu_seconds"}} {
		if t.value == "" {
			continue
		}
		d, err := config.ParseDuration(t.value)
		if err != nil {
			return nil, invalid(t.flag, err)
		}
		limits[t.name] = time.Duration(d).Seconds()
	}
	return limits, nil
}

// run asks for a run and waits for its result; when ctx ends, the run ends too.
func (r remote) run(ctx context.Context, request []byte) (runAnswer, error) {
	a, err := r.call(ctx, http.MethodPost, r.at("runs"), request)
	for ; err == nil && !a.Status.Over(); a, err = r.call(ctx, http.MethodGet, r.at("runs", a.ID), nil) {
		id, err := hub.ParseRunID(a.ID)
		if err != nil {
			return a, errNotHub
		}
		select {
		case <-time.After(runEvery):
		case <-ctx.Done():
			return a, r.end(ctx, id)
		}
	}
	return a, err
}

// end ends a run, and gives why.
func (r remote) end(ctx context.Context, id hub.RunID) error {
	clean, done := context.WithTimeout(context.WithoutCancel(ctx), dialWithin)
	defer done()
	_, err := r.call(clean, http.MethodDelete, r.at("runs", string(id)), nil)
	return cmp.Or(err, ctx.Err())
}

var errNotHub = &hub.Error{Kind: hub.Unavailable, Op: "run code", Message: "the answer is not what a hub says", Remedy: "check the address, and that the hub is of this version"}

// call makes one call.
func (r remote) call(ctx context.Context, method, at string, body []byte) (runAnswer, error) {
	ctx, done := context.WithTimeout(ctx, runWithin)
	defer done()
	req, err := http.NewRequestWithContext(ctx, method, at, bytes.NewReader(body))
	if err != nil {
		return runAnswer{}, err
	}
	req.Header.Set("Authorization", "token "+r.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := r.client.Do(req)
	if err != nil {
		return runAnswer{}, &hub.Error{Kind: hub.Unavailable, Op: "run code", Message: "the hub does not answer", Remedy: "check that it runs, and the address", Err: err}
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted:
	case http.StatusNoContent:
		return runAnswer{Status: hub.RunCanceled}, nil
	default:
		return runAnswer{}, refused("run code", res)
	}
	var a runAnswer
	if err := json.NewDecoder(io.LimitReader(res.Body, runMost)).Decode(&a); err != nil {
		return a, errNotHub
	}
	return a, nil
}

// show prints what the program printed, and says in words what ended it where that was not itself.
func (a runAnswer) show(out, errOut io.Writer) (int, error) {
	for _, s := range []struct {
		to             io.Writer
		text, encoding string
	}{{out, a.Stdout, a.StdoutEncoding}, {errOut, a.Stderr, a.StderrEncoding}} {
		b := []byte(s.text)
		if s.encoding == "base64" {
			var err error
			if b, err = base64.StdEncoding.DecodeString(s.text); err != nil {
				return 0, errNotHub
			}
		}
		if _, err := s.to.Write(b); err != nil {
			return 0, hub.Wrap(hub.Canceled, "print output", err)
		}
	}
	switch a.Status {
	case hub.RunFinished:
		if a.ExitCode == nil || *a.ExitCode < 0 || *a.ExitCode > 255 {
			return 0, errNotHub
		}
		return *a.ExitCode, nil
	case hub.RunCPUTime, hub.RunWallTime, hub.RunMemory, hub.RunOutput:
		_, err := fmt.Fprintf(errOut, "carrel: a limit ended the program: %s\n", a.Status)
		return limitCode, err
	case hub.RunQueued, hub.RunRunning, hub.RunCanceled, hub.RunFailed:
	}
	return 0, &hub.Error{Kind: hub.Unavailable, Op: "run code", Message: "the program was not run to its end: " + top.Plain(cmp.Or(a.Message, string(a.Status))), Remedy: "run it again"}
}
