package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/pkg/stdcopy"

	"carrel/hub"
)

const (
	maxLogLine  = 400     // bytes
	maxLogBytes = 1 << 20 // read at most
)

// Logs implements [hub.Logs].
func (d *Driver) Logs(ctx context.Context, h hub.Handle, n int) ([]string, error) {
	name, err := d.open(h)
	if err != nil || n < 1 {
		return nil, err
	}
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	r, err := d.api.on(ctx).ContainerLogs(ctx, name, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(n)})
	if err != nil {
		return nil, fail("read logs", err)
	}
	defer r.Close() // read to its end or abandoned
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, io.LimitReader(r, maxLogBytes)); err != nil && out.Len() == 0 {
		return nil, fail("read logs", err)
	}
	text := strings.TrimRight(out.String(), "\n")
	if text == "" {
		return nil, nil
	}
	lines := strings.Split(text, "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return lines, nil
}

// printable cuts a guest's line and drops what a terminal or a page could take for more than text.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
	if len(s) > maxLogLine {
		s = strings.ToValidUTF8(s[:maxLogLine-len("…")], "") + "…"
	}
	return s
}

// Watch implements [hub.Watcher].
func (d *Driver) Watch(ctx context.Context) iter.Seq2[hub.Status, error] {
	return func(yield func(hub.Status, error) bool) {
		ctx, done := context.WithCancel(ctx)
		defer done()
		msgs, errs := d.api.on(ctx).Events(ctx, events.ListOptions{Filters: filters.NewArgs(
			filters.Arg("type", "container"), filters.Arg("event", "die"), filters.Arg("label", labelDeployment+"="+d.cfg.Deployment))})
		for {
			select {
			case <-ctx.Done():
				return
			case err := <-errs:
				if ctx.Err() == nil {
					yield(hub.Status{}, fail("watch Docker's events", err))
				}
				return
			case m := <-msgs:
				st, err := d.Inspect(ctx, d.handle(m.Actor.Attributes["name"]))
				if err != nil {
					yield(hub.Status{}, err)
					return
				}
				if st.Phase == hub.Failed && !yield(st, nil) {
					return
				}
			}
		}
	}
}

// Usage implements [hub.Meter], by one sample: Docker's own second sample would take a second.
func (d *Driver) Usage(ctx context.Context, h hub.Handle) (hub.Usage, error) {
	name, err := d.open(h)
	if err != nil {
		return hub.Usage{}, err
	}
	return d.sample(ctx, name)
}

// sample tells what a container uses.
func (d *Driver) sample(ctx context.Context, name string) (hub.Usage, error) {
	s, err := d.stats(ctx, name)
	if err != nil {
		return hub.Usage{}, err
	}
	used := s.MemoryStats.Usage
	for _, cache := range []string{"total_inactive_file", "inactive_file"} { // cgroup v1, v2
		if v, ok := s.MemoryStats.Stats[cache]; ok {
			used -= min(v, used)
			break
		}
	}
	return hub.Usage{
		CPUSeconds: float64(s.CPUStats.CPUUsage.TotalUsage) / 1e9, Memory: int64(used), // far below 2^63
		MemoryLimit: int64(s.MemoryStats.Limit), PIDs: int64(s.PidsStats.Current), At: time.Now(), // likewise
	}, nil
}

// stats are Docker's of a container, by one sample.
func (d *Driver) stats(ctx context.Context, name string) (container.StatsResponse, error) {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	r, err := d.api.on(ctx).ContainerStatsOneShot(ctx, name)
	if err != nil {
		return container.StatsResponse{}, fail("sample usage", err)
	}
	defer r.Body.Close() // read whole
	var s container.StatsResponse
	if err := json.NewDecoder(io.LimitReader(r.Body, maxLogBytes)).Decode(&s); err != nil {
		return container.StatsResponse{}, fail("sample usage", err)
	}
	return s, nil
}
