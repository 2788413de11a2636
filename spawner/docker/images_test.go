package docker

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"carrel/hub"
)

func layer(status string, current, total int64) event {
	e := event{Status: status}
	e.Progress.Current, e.Progress.Total = current, total
	return e
}

func TestPullPercent(t *testing.T) {
	for _, c := range []struct {
		name     string
		layers   map[string]event
		finished []string
		want     int
	}{
		{"nothing is known", nil, nil, 0},
		{"not begun", map[string]event{"a": layer("Pulling fs layer", 0, 0), "b": layer("Pulling fs layer", 0, 0)}, nil, 0},
		{"half of one", map[string]event{"a": layer("Downloading", 50, 100)}, nil, 35},
		{"fetched, being unpacked", map[string]event{"a": layer("Extracting", 0, 100)}, nil, 70},
		{"one of two", map[string]event{"a": layer("Pull complete", 0, 0), "b": layer("Downloading", 0, 100)}, []string{"a"}, 50},
		{"all", map[string]event{"a": layer("Pull complete", 0, 0), "b": layer("Already exists", 0, 0)}, []string{"a", "b"}, 100},
		{"a size that is not known", map[string]event{"a": layer("Downloading", 50, -1)}, nil, 0},
	} {
		done := map[string]bool{}
		for _, id := range c.finished {
			done[id] = true
		}
		if got := pullPercent(c.layers, done); got != c.want {
			t.Errorf("%s: %d %%, want %d", c.name, got, c.want)
		}
	}
}

func TestEachEvent(t *testing.T) {
	n := 0
	if err := eachEvent(strings.NewReader(`{"status":"a"}`+"\r\n"+`{"status":"b"} {}`), func(event) { n++ }); err != nil || n != 3 {
		t.Errorf("%d events, %v", n, err)
	}
	if err := eachEvent(strings.NewReader(`{"status":"a"}{"error":"no \u001b[31msuch"}{"status":"b"}`), func(event) {}); err == nil || err.Error() != "no [31msuch" {
		t.Errorf("an error within: %v", err)
	}
	for _, torn := range []string{`{"status":`, "<html>", `{"status":"a"}]`} {
		if eachEvent(strings.NewReader(torn), func(event) {}) == nil {
			t.Errorf("%q was read", torn)
		}
	}
}

func TestFail(t *testing.T) {
	for _, c := range []struct {
		err  error
		want hub.Kind
	}{
		{context.Canceled, hub.Canceled}, {context.DeadlineExceeded, hub.Unavailable}, {errors.New("connection refused"), hub.Unavailable},
		{errdefs.ErrNotFound, hub.NotFound}, {errdefs.ErrConflict, hub.Conflict}, {errdefs.ErrInvalidArgument, hub.Invalid}, {errdefs.ErrPermissionDenied, hub.Unavailable},
		{errdefs.ErrInternal, hub.Unavailable},
	} {
		err := fail("do it", c.err)
		if hub.KindOf(err) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%v becomes %v of kind %v, want %v", c.err, err, hub.KindOf(err), c.want)
		}
		if m, _ := hub.Public(err); strings.Contains(m, c.err.Error()) {
			t.Errorf("people are shown %q", m)
		}
	}
	if fail("do it", nil) != nil {
		t.Error("success is a failure")
	}
}
