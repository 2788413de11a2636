package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// counts is a server that counts what it is asked for, and answers with the count.
func counts(asked *atomic.Int64, size int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Etag", `"of this"`)
		w.Header().Add("Set-Cookie", "a=b")
		if strings.HasSuffix(r.URL.Path, "/api/terminals") {
			w.WriteHeader(http.StatusForbidden)
		}
		fmt.Fprintf(w, `{"answer": %d, "to": %q}`, asked.Add(1), r.URL.Path)
		io.WriteString(w, strings.Repeat(" ", size))
	})
}

func TestPollsOfAPausedServer(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge, admin: true})
	alice, root := w.person("alice"), w.personOn("root1", "alice")
	var asked atomic.Int64
	key := w.serve("alice", counts(&asked, 0))
	poll := func(p *person, page string, opts ...option) reply {
		return w.get(w.url("alice", page), append(opts, w.as(p))...)
	}
	pages := []string{"api/kernels", "api/sessions?1700000000000", "api/contents/a%20b?content=1&1700000000000", "api/me", "api/status"}
	want := map[string]string{}
	for _, page := range pages {
		want[page] = poll(alice, page).body
	}
	poll(alice, "api/terminals") // refused, and so not kept
	n := asked.Load()
	w.pause(key, time.Now())
	for _, page := range pages {
		got := poll(alice, strings.Replace(page, "17000", "18000", 1)) // at another time
		if got.status != 200 || got.body != want[page] || got.header.Get("Content-Type") != "application/json" || got.header.Get("Etag") == "" || got.header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %+v", page, got)
		}
	}
	if calls := edge.called(); calls != "" || asked.Load() != n {
		t.Errorf("the hub was asked %q, the server %d times", calls, asked.Load()-n)
	}
	for name, ask := range map[string]func() reply{
		"another person":          func() reply { return poll(root, "api/kernels") },
		"what was refused":        func() reply { return poll(alice, "api/terminals") },
		"another directory":       func() reply { return poll(alice, "api/contents/c?content=1&1700000000000") },
		"another question":        func() reply { return poll(alice, "api/contents/a%20b?content=0&1700000000000") },
		"another coding":          func() reply { return poll(alice, "api/kernels", header("Accept-Encoding", "gzip")) },
		"a part":                  func() reply { return poll(alice, "api/kernels", header("Range", "bytes=0-1")) },
		"one kernel":              func() reply { return poll(alice, "api/kernels/5") },
		"the look of a page":      func() reply { return poll(alice, "lab") },
		"a spelling of its own":   func() reply { return poll(alice, "api/ker%6Eels") },
		"a question of one's own": func() reply { return poll(alice, "api/kernels?x=1") },
	} {
		w.pause(key, time.Now())
		if ask(); edge.called() != "POST /wake/alice" {
			t.Errorf("%s did not wake the server", name)
		}
	}
	w.pause(key, time.Now())
	w.send("POST", w.url("alice", "api/sessions"), "", w.as(alice), ownOrigin(w, "alice"))
	edge.called()
	w.pause(key, time.Now())
	if poll(alice, "api/kernels"); edge.called() != "POST /wake/alice" {
		t.Error("what was kept counted after a change")
	}
}

// A layout that is written down already is not written again: nothing would change. Another one is.
func TestLayoutsOfAPausedServer(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge})
	alice := w.person("alice")
	got := make(chan string, 1)
	key := w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
		rw.WriteHeader(http.StatusNoContent)
	}))
	write := func(layout string) string {
		t.Helper()
		page := w.send("PUT", w.url("alice", "lab/api/workspaces/default"), layout, w.as(alice), ownOrigin(w, "alice"))
		if page.status != http.StatusNoContent || page.body != "" {
			t.Errorf("%+v", page)
		}
		select {
		case b := <-got:
			return b
		default:
			return "nothing"
		}
	}
	long := strings.Repeat("l", maxCopies+1)
	for _, step := range []struct {
		layout, reaches, calls string
		paused                 bool
	}{
		{"one", "one", "", false},
		{"one", "nothing", "", true},
		{"two", "two", "POST /wake/alice", true},
		{"one", "one", "POST /wake/alice", true}, // it was, and is not any more
		{"one", "nothing", "", true},
		{"one", "one", "", false},
		{long, long, "", false},
		{long, long, "POST /wake/alice", true},
	} {
		if step.paused {
			w.pause(key, time.Now())
		} else if w.proxy.routes.get(key).paused() {
			must(t, w.proxy.awake(t.Context(), w.proxy.routes.get(key)))
			edge.called()
		}
		if reached := write(step.layout); reached != step.reaches {
			t.Errorf("%.10s: the server got %.10q, want %.10q", step.layout, reached, step.reaches)
		}
		if calls := edge.called(); calls != step.calls {
			t.Errorf("%.10s: the hub was asked %q, want %q", step.layout, calls, step.calls)
		}
	}
}

// What was kept longer than a minute before the pause is not believed, and no more than 64 KiB is kept
// for each person.
func TestWhatIsKept(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge})
	alice := w.person("alice")
	var asked atomic.Int64
	key := w.serve("alice", counts(&asked, 20<<10))
	rest := w.proxy.routes.get(key).rest
	poll := func(page string) { w.get(w.url("alice", page), w.as(alice)) }
	for i := range 20 {
		poll(fmt.Sprintf("api/contents/dir%d", i))
		rest.copies.mu.Lock()
		for _, s := range rest.copies.of {
			size := 0
			for name, page := range s.pages {
				size += len(name) + len(page.body)
			}
			if size != s.size || size > maxCopies || len(s.pages) == 0 {
				t.Errorf("%d bytes in %d pages are kept, counted as %d", size, len(s.pages), s.size)
			}
		}
		rest.copies.mu.Unlock()
	}
	poll("api/kernels")
	w.pause(key, time.Now())
	if poll("api/kernels"); edge.called() != "" {
		t.Error("it was not kept")
	}
	rest.copies.since.Add(int64(2 * freshness)) // as if it were paused later
	if poll("api/kernels"); edge.called() != "POST /wake/alice" {
		t.Error("an old one was believed")
	}
	poll("api/kernels")
	w.proxy.routes.get(key).touch() // by a kernel's websocket
	w.pause(key, time.Now())
	if poll("api/kernels"); edge.called() != "POST /wake/alice" {
		t.Error("one from before the last use was believed")
	}
}
