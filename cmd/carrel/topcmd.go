package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"carrel/hub"
	"carrel/internal/top"
)

const (
	topEvery  = time.Second
	topWithin = 10 * time.Second
	topMost   = 64 << 20 // bytes of one answer
)

// topFlags are those of carrel top.
type topFlags struct {
	url, tokenFile, sort string
	once, json           bool
}

func topCommand(f *flags) *cobra.Command {
	var o topFlags
	cmd := &cobra.Command{
		Use: "top", Short: "Watch what servers do at the moment: requests, websockets, bytes, CPU, memory", Args: cobra.NoArgs,
		Long: "Shows every server that is not stopped, each second. On the host of the deployment, as the user who runs it,\n" +
			"it needs nothing but the configuration. From elsewhere it asks the REST API with an administrator's token\n" +
			"(scope read:users), from a file or from CARREL_TOKEN.\n\n" +
			"Keys: c, m, r and i sort by CPU, memory, requests and idle time; q leaves. Where standard output is no\n" +
			"terminal, it prints text.",
		Example: "  carrel top --config /etc/carrel/carrel.yaml\n  carrel top --once --json\n" +
			"  carrel top --url https://hub.example.org/ --token-file ~/.carrel-token",
		RunE: func(cmd *cobra.Command, _ []string) error { return runTop(cmd.Context(), f, o, cmd.OutOrStdout()) },
	}
	cmd.Flags().StringVar(&o.url, "url", "", "the deployment's public address; without it, the one on this host is watched")
	cmd.Flags().StringVar(&o.tokenFile, "token-file", "", "file with the token for --url; otherwise CARREL_TOKEN is it")
	cmd.Flags().StringVar(&o.sort, "sort", "cpu", "cpu, memory, requests or idle")
	cmd.Flags().BoolVar(&o.once, "once", false, "print the rates of one second, and end")
	cmd.Flags().BoolVar(&o.json, "json", false, "print a JSON object for each second")
	return cmd
}

func runTop(ctx context.Context, f *flags, o topFlags, out io.Writer) error {
	by, ok := top.Orders[o.sort]
	if !ok {
		return &hub.Error{Kind: hub.Invalid, Op: "watch servers", Field: "--sort", Message: "there is no such order", Remedy: "use cpu, memory, requests or idle"}
	}
	from, err := openTop(f, o)
	if err != nil {
		return err
	}
	defer from.client.CloseIdleConnections()
	before, err := from.sample(ctx)
	if err != nil {
		return err
	}
	file, ok := out.(*os.File)
	if ok && !o.once && !o.json {
		if screen, err := openScreen(file); err == nil {
			defer screen.close()
			return watchTop(ctx, from, screen, before, by)
		}
	}
	return printTop(ctx, from, o, out, before, by)
}

// printTop writes text or JSON, each second or once.
func printTop(ctx context.Context, from topSource, o topFlags, out io.Writer, before top.Sample, by top.Order) error {
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(topEvery):
		}
		now, err := from.sample(ctx)
		if err != nil {
			return err
		}
		report := top.Compare(before, now)
		report.Sort(by)
		before = now
		text := strings.Join(report.Lines(0, 0, by), "\n") + "\n"
		if !first {
			text = "\n" + text
		}
		if o.json {
			raw, err := json.Marshal(report)
			if err != nil {
				return hub.Wrap(hub.Internal, "write report", err)
			}
			text = string(raw) + "\n"
		}
		if _, err := io.WriteString(out, text); err != nil {
			return hub.Wrap(hub.Canceled, "write report", err)
		}
		if o.once {
			return nil
		}
	}
}

// watchTop shows a screen that follows keys and the terminal's size, until q or ctx ends it.
func watchTop(ctx context.Context, from topSource, s *screen, before top.Sample, by top.Order) error {
	ctx, stop := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer stop()
	answers := make(chan topAnswer)
	asking.Go(func() { from.follow(ctx, answers) })
	report, trouble := top.Compare(top.Sample{}, before), ""
	for {
		report.Sort(by)
		s.draw(report, by, trouble)
		select {
		case <-ctx.Done():
			return nil
		case key := <-s.keys:
			switch order := top.Order(key); order {
			case 'q', 'Q', ctrlC, endOfInput:
				return nil
			case top.ByCPU, top.ByMemory, top.ByRequests, top.ByIdle:
				by = order
			}
		case <-s.resized:
		case a := <-answers:
			if a.err != nil {
				trouble = "no answer: " + publicText(a.err)
				continue
			}
			report, before, trouble = top.Compare(before, a.sample), a.sample, ""
		}
	}
}

// topAnswer is a sample, or why there is none.
type topAnswer struct {
	sample top.Sample
	err    error
}

// follow asks each second until ctx ends: who waits for an answer goes on taking keys.
func (s topSource) follow(ctx context.Context, answers chan<- topAnswer) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(topEvery):
		}
		now, err := s.sample(ctx)
		select {
		case <-ctx.Done():
			return
		case answers <- topAnswer{now, err}:
		}
	}
}

// publicText is an error in one line.
func publicText(err error) string {
	if message, _ := hub.Public(err); message != "" {
		return message
	}
	return err.Error()
}

// topSource is where samples come from.
type topSource struct {
	client *http.Client
	url    string
	token  string
}

// openTop finds the deployment: on this host by its configuration, elsewhere by its address.
func openTop(f *flags, o topFlags) (topSource, error) {
	if o.url != "" {
		return openRemoteTop(o)
	}
	cfg, err := f.load()
	if err != nil {
		return topSource{}, err
	}
	path := state{run: cfg.RunDir()}.topSocket()
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrPermission):
		return topSource{}, errNotOwner
	case err != nil:
		return topSource{}, &hub.Error{Kind: hub.Unavailable, Op: "watch servers", Message: "no carrel runs here with this configuration", Remedy: "start it, name its configuration with --config, or use --url"}
	}
	return topSource{client: overSocket(path), url: "http://hub/"}, nil
}

var errNotOwner = &hub.Error{Kind: hub.Forbidden, Op: "watch servers", Message: "this deployment is another user's", Remedy: "run as the user who runs carrel, or use --url with a token"}

// openRemoteTop asks the REST API.
func openRemoteTop(o topFlags) (topSource, error) {
	r, err := openRemote("watch servers", o.url, o.tokenFile, "make one of an administrator's with the scope read:users, and give its file or CARREL_TOKEN")
	if err != nil {
		return topSource{}, err
	}
	return topSource{r.client, r.at("top"), r.token}, nil
}

// sample asks once.
func (s topSource) sample(ctx context.Context) (top.Sample, error) {
	ctx, done := context.WithTimeout(ctx, topWithin)
	defer done()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return top.Sample{}, err
	}
	if s.token != "" {
		req.Header.Set("Authorization", "token "+s.token)
	}
	res, err := s.client.Do(req)
	if errors.Is(err, syscall.EACCES) {
		return top.Sample{}, errNotOwner
	}
	if err != nil {
		return top.Sample{}, &hub.Error{Kind: hub.Unavailable, Op: "watch servers", Message: "the hub does not answer", Remedy: "check that it runs, and the address", Err: err}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return top.Sample{}, refused("watch servers", res)
	}
	var told top.Sample
	if err := json.NewDecoder(io.LimitReader(res.Body, topMost)).Decode(&told); err != nil {
		return top.Sample{}, &hub.Error{Kind: hub.Unavailable, Op: "watch servers", Message: "the answer is not what a hub says", Remedy: "check the address, and that the hub is of this version", Err: err}
	}
	return told, nil
}
