package proxy

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carrel/hub"
)

// sleeper is the hub's edge, and tells of servers that it wakes when and how it is told to.
type sleeper struct {
	mu    sync.Mutex
	calls []string
	wakes func() int // the status that it answers with
}

func (s *sleeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls = append(s.calls, r.Method+" "+r.URL.Path)
	wakes := s.wakes
	s.mu.Unlock()
	status := http.StatusNoContent
	if wakes != nil && strings.HasPrefix(r.URL.Path, "/wake/") {
		status = wakes()
	}
	w.WriteHeader(status)
}

func (s *sleeper) set(wakes func() int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakes = wakes
}

// called takes the calls so far.
func (s *sleeper) called() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.calls, ", ")
	s.calls = nil
	return all
}

// pause tells the proxy, as the hub does, of a server that it knows no use of since a time.
func (w *world) pause(key hub.ServerKey, used time.Time) {
	w.t.Helper()
	rt := w.proxy.routes.get(key)
	r := rt.Route
	r.Paused = used.UnixMilli()
	must(w.t, w.store.PutRoute(w.t.Context(), r))
	w.until("the proxy hears of the pause", func() bool { return rt.rest.mark.Load() == r.Paused })
}

func TestRequestsWaitForAPausedServer(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge})
	alice := w.person("alice")
	var frozen atomic.Bool
	key := w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if frozen.Load() {
			t.Error("the server got a request before it was woken")
		}
		b, _ := io.ReadAll(r.Body)
		io.WriteString(rw, r.Method+string(b))
	}))
	woken := make(chan struct{})
	wake := sync.OnceFunc(func() { close(woken) })
	t.Cleanup(wake)
	edge.set(func() int {
		<-woken
		frozen.Store(false)
		return http.StatusNoContent
	})
	frozen.Store(true)
	w.pause(key, time.Now())
	if got := w.get(w.url("alice", "carrel/notice"), w.as(alice)); got.status != http.StatusNoContent || !frozen.Load() {
		t.Errorf("the notice: %d", got.status)
	}
	if calls := edge.called(); calls != "GET /notice/alice" {
		t.Errorf("the hub was asked %q", calls)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got := w.get(w.url("alice", "lab"), w.as(alice)); got.status != 200 || got.body != "GET" {
				t.Errorf("%+v", got)
			}
		})
		wg.Go(func() {
			if got := w.send("POST", w.url("alice", "api/kernels"), "body", w.as(alice), ownOrigin(w, "alice")); got.status != 200 || got.body != "POSTbody" {
				t.Errorf("%+v", got)
			}
		})
	}
	w.until("all wait", func() bool { return w.proxy.routes.get(key).rest.holds.Load() == 20 })
	wake()
	wg.Wait()
	if calls := edge.called(); calls != "POST /wake/alice" {
		t.Errorf("the hub was asked %q", calls)
	}
	w.get(w.url("alice", "lab"), w.as(alice))
	if calls := edge.called(); calls != "" {
		t.Errorf("of a server that is awake the hub was asked %q", calls)
	}
}

func TestAServerThatDoesNotWake(t *testing.T) {
	edge := &sleeper{wakes: func() int { return http.StatusConflict }}
	w := newWorld(t, setup{edge: edge})
	alice := w.person("alice")
	got := &inbox{}
	key := w.serve("alice", echo(got))
	c := w.mustSocket(alice, "ws")
	roundTrip(t, c, []byte("x"))
	w.until("the hub knows", func() bool { return w.proxy.routes.get(key).rest.holds.Load() == 0 })
	w.pause(key, time.Now())
	heard := len(got.all())
	for name, opts := range map[string][]option{"page": {navigation}, "call": nil, "upgrade": {kinds["websocket"], ownOrigin(w, "alice")}} {
		got := w.get(w.url("alice", "lab"), append(opts, w.as(alice))...)
		if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || !strings.Contains(strings.ToLower(got.body), "paused") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	must(t, c.WriteMessage(1, []byte("hello")))
	wantClose(t, c, closeTryAgain)
	if len(got.all()) != heard {
		t.Error("the server got a request")
	}
}

// A hub that is just restarting is waited for.
func TestAHubThatIsAway(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge})
	alice := w.person("alice")
	key := w.serve("alice", echo(nil))
	left := 3
	edge.set(func() int {
		if left--; left > 0 {
			return http.StatusServiceUnavailable
		}
		return http.StatusNoContent
	})
	w.pause(key, time.Now())
	if got := w.get(w.url("alice", "lab"), w.as(alice)); got.status != 200 || left != 0 {
		t.Errorf("%d after %d calls", got.status, 3-left)
	}
}

// A tunnel outlives any number of pauses, and what comes by it wakes the server first.
func TestTunnelsOutliveAPause(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge})
	alice := w.person("alice")
	key := w.serve("alice", echo(nil))
	c := w.mustSocket(alice, "ws")
	for range 5 {
		w.pause(key, time.Now())
		if calls := edge.called(); calls != "" {
			t.Errorf("nobody uses it, and the hub was asked %q", calls)
		}
		roundTrip(t, c, []byte("hello"))
		if calls := edge.called(); calls != "POST /wake/alice" {
			t.Errorf("the hub was asked %q", calls)
		}
		if w.proxy.routes.get(key).paused() {
			t.Error("it is paused still")
		}
	}
}

// A server that is in use when its pause is told is woken at once.
func TestThePauseOfAServerInUse(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge})
	alice := w.person("alice")
	leave := make(chan struct{})
	end := sync.OnceFunc(func() { close(leave) })
	t.Cleanup(end)
	key := w.serve("alice", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/long") {
			<-leave
		}
	}))
	rt := w.proxy.routes.get(key)
	objected := func(what string) {
		t.Helper()
		w.until(what+" has it woken", func() bool { return edge.called() == "POST /wake/alice" })
		w.until("it is awake", func() bool { return !rt.paused() })
	}
	var wg sync.WaitGroup
	wg.Go(func() { w.get(w.url("alice", "long"), w.as(alice)) })
	w.until("it is at work", func() bool { return rt.rest.holds.Load() == 1 })
	w.pauseUnseen(key, time.Now())
	objected("a request at work")
	end()
	wg.Wait()

	before := time.Now().Add(-time.Second)
	w.send("POST", w.url("alice", "short"), "", w.as(alice), ownOrigin(w, "alice"))
	w.pauseUnseen(key, before)
	objected("a use that the hub does not know of")

	w.pause(key, time.Now()) // it knows
	w.get(w.url("alice", "carrel/notice"), w.as(alice))
	if calls := edge.called(); calls != "GET /notice/alice" {
		t.Errorf("the hub was asked %q", calls)
	}
}

// pauseUnseen is pause of a server that is woken before anyone could look.
func (w *world) pauseUnseen(key hub.ServerKey, used time.Time) {
	w.t.Helper()
	r := w.proxy.routes.get(key).Route
	r.Paused = used.UnixMilli()
	must(w.t, w.store.PutRoute(w.t.Context(), r))
}
