package web

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
)

// stream is a response that can be read while it is written.
type stream struct {
	mu     sync.Mutex
	b      bytes.Buffer
	header http.Header
}

func (s *stream) Header() http.Header { return s.header }
func (s *stream) WriteHeader(int)     {}
func (s *stream) Flush()              {}

func (s *stream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

// take gives what was sent since it was last asked.
func (s *stream) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.b.String()
	s.b.Reset()
	return text
}

// events are what a browser makes of a stream.
func events(t *testing.T, text string) (list []event, ids []string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			ids = append(ids, strings.TrimSpace(id))
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var e event
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatalf("%v in %q", err, data)
			}
			list = append(list, e)
		}
	}
	return list, ids
}

// follow asks for a server's steps as its owner.
func (s *site) follow(ctx context.Context, key hub.ServerKey, query, last string) (*stream, <-chan error) {
	r := httptest.NewRequestWithContext(ctx, "GET", "/spawn-progress/x?"+query, nil)
	r.SetPathValue("user", key.User.String())
	r.SetPathValue("server", key.Server.String())
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	w, done := &stream{header: http.Header{}}, make(chan error, 1)
	go func() { done <- s.web.progress(w, r, visitor{Principal: hub.Principal{User: key.User}}) }()
	return w, done
}

func TestProgress(t *testing.T) {
	s := plainSite(t)
	synctest.Test(t, func(t *testing.T) {
		s.servers.changed = make(chan struct{}) // of this bubble
		key := mustKey(t, "alice")
		begun := time.Now()
		s.servers.put(hub.Server{Key: key, Phase: hub.Starting, Profile: "small"})
		s.servers.tell(key,
			hub.Progress{Step: "queue", Message: "Waiting for a turn: place 2 in line", Place: 2, At: begun},
			hub.Progress{Step: "image", Message: "evil\n\ndata: {\"ready\":true}\n\n\x1b[31m", Detail: "layer 1", Percent: 12, At: begun.Add(time.Second)})
		w, done := s.follow(t.Context(), key, "next=/user/alice/lab/tree/x", "")
		synctest.Wait()
		text := w.take()
		list, ids := events(t, text)
		if len(list) != 2 || list[0].Place != 2 || list[1].Progress != 12 || list[1].Ready || strings.Contains(list[1].Message, "\n") || len(ids) != 2 {
			t.Fatalf("events %+v of\n%s", list, text)
		}
		if !strings.HasPrefix(text, "retry: 2000\n\n") || w.header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%v\n%s", w.header, text)
		}
		time.Sleep(2*keepAlive + time.Second)
		synctest.Wait()
		if text := w.take(); text != ": still here\n\n: still here\n\n" {
			t.Errorf("while nothing happens the stream says %q", text)
		}
		// A browser that comes back is told what it has not seen.
		back, backDone := s.follow(t.Context(), key, "", ids[0])
		synctest.Wait()
		if list, _ := events(t, back.take()); len(list) != 1 || list[0].Step != "image" {
			t.Errorf("after coming back: %+v", list)
		}
		s.servers.tell(key, hub.Progress{Step: "kernel", Message: "Asking a kernel", Percent: 90, Open: true, At: time.Now()})
		synctest.Wait()
		if list, _ := events(t, w.take()); len(list) != 1 || list[0].Ready || list[0].URL != "" || list[0].Open != "http://alice.localhost:8000/user/alice/lab/tree/x" {
			t.Errorf("when it can be opened: %+v", list)
		}
		back.take()
		s.servers.tell(key, hub.Progress{Step: "ready", Message: "Your server is ready", Percent: 100, Done: true, At: time.Now()})
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := <-backDone; err != nil {
			t.Error(err)
		}
		if list, _ := events(t, w.take()); len(list) != 1 || !list[0].Ready || list[0].URL != "http://alice.localhost:8000/user/alice/lab/tree/x" {
			t.Errorf("the end: %+v", list)
		}
		if list, _ := events(t, back.take()); len(list) != 1 || list[0].URL != "http://alice.localhost:8000/user/alice/lab" {
			t.Errorf("the end without a next: %+v", list)
		}
	})
}

func TestProgressOfAFailure(t *testing.T) {
	s := plainSite(t)
	synctest.Test(t, func(t *testing.T) {
		s.servers.changed = make(chan struct{})
		key := mustKey(t, "alice/gpu")
		s.servers.tell(key, hub.Progress{Step: "failed", Message: "the server ended by itself: exit code 3", Remedy: "use safe start", Log: []string{"\x1b[1mTraceback", "  boom\x00"}, Done: true, Failed: true, At: time.Now()})
		// It is told even to who has seen all before.
		w, done := s.follow(t.Context(), key, "", "99999999999999999999")
		if err := <-done; err != nil {
			t.Error(err)
		}
		list, _ := events(t, w.take())
		if len(list) != 1 || !list[0].Failed || list[0].URL != "" || list[0].Remedy != "use safe start" || strings.Join(list[0].Log, "|") != "Traceback|  boom" {
			t.Errorf("%+v", list)
		}
	})
}

// TestProgressEndsWithItsReader: nothing is left behind when the tab is closed (synctest would tell).
func TestProgressEndsWithItsReader(t *testing.T) {
	s := plainSite(t)
	synctest.Test(t, func(t *testing.T) {
		s.servers.changed = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		_, done := s.follow(ctx, mustKey(t, "alice"), "", "")
		synctest.Wait()
		cancel()
		<-done
	})
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "",
		"\x1b[1;31mred\x1b[0m":                "red",
		"\x1b]0;title\x07x":                   "0;title" + "x",
		"a\x00b\rc\nd":                        "abcd",
		"\ta":                                 "a",
		"a\u202eb\u200bc":                     "abc",
		"\xff\xfeok":                          "ok",
		strings.Repeat("é", 300):              strings.Repeat("é", 201) + "…",
		"日本語 ünïcode":                         "日本語 ünïcode",
		"\x1b[":                               "",
		strings.Repeat("\x1b[0m", 1000) + "x": "x",
	} {
		if got := plain(in); got != want {
			t.Errorf("plain(%.40q) = %.60q, want %.60q", in, got, want)
		}
	}
	if got := logTail(make([]string, 500)); len(got) != maxLines {
		t.Errorf("%d lines of log", len(got))
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 10 << 20: "10 MiB", 1<<30 - 1: "1 GiB", 3 << 29: "1.5 GiB", 5 << 40: "5 TiB", -1: "0 B"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "under 1 min", 59 * time.Second: "under 1 min", 90 * time.Second: "1 min", time.Hour: "1 h", 61 * time.Minute: "1 h 1 min", 30 * time.Hour: "30 h", 50 * time.Hour: "2 days",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

// TestAVisitorIsLedOnAtOnce: as soon as the notebook answers. Nobody who came by a click waits until a kernel
// was tried as well.
func TestAVisitorIsLedOnAtOnce(t *testing.T) {
	s := plainSite(t)
	s.letVisitorsIn(nil)
	x := s.guest("one", "192.0.2.1")
	s.servers.put(hub.Server{Key: x.Key(), Phase: hub.Ready, Profile: "visitor", Generation: 1, Revision: 2})
	alice := mustKey(t, "alice")
	for _, c := range []struct {
		key  hub.ServerKey
		open bool
		want bool
	}{{x.Key(), true, true}, {x.Key(), false, false}, {alice, true, false}} {
		v := visitor{Principal: hub.Principal{User: c.key.User}}
		e := s.web.event(t.Context(), v, c.key, hub.Progress{Step: "kernel", Message: "Asking a kernel", Open: c.open}, "")
		if e.Ready != c.want || (e.URL != "") != c.want {
			t.Errorf("%s, open %v: %+v", c.key, c.open, e)
		}
	}
}
