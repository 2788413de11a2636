package proxy

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"carrel/hub"
)

// record writes down that there is a server, which does not run.
func (w *world) record(key hub.ServerKey) hub.Server {
	w.t.Helper()
	s, err := w.store.PutServer(w.t.Context(), hub.Server{Key: key, Phase: hub.Absent})
	must(w.t, err)
	w.until("the proxy knows the name", func() bool { return w.proxy.known(key) })
	return s
}

// TestAStoppedNamedServer is itself, and no page of the default one, whether that runs or not.
func TestAStoppedNamedServer(t *testing.T) {
	for _, s := range []setup{
		{mode: hub.Subdomains}, {mode: hub.Paths, public: "https://hub.test/carrel/"}, {mode: hub.OneOrigin},
	} {
		for _, running := range []bool{true, false} {
			t.Run(string(s.mode)+", the default one running: "+strconv.FormatBool(running), func(t *testing.T) {
				w := newWorld(t, s)
				alice, bob := w.person("alice"), w.personOn("bob", "alice")
				gpu := serverKey(t, "alice", "gpu")
				got := &inbox{}
				if running {
					w.serve("alice", echo(got))
				}
				stopped := w.record(gpu)
				stoppedOverHTTP(t, w, alice, bob)
				stoppedOverWebsocket(t, w, alice)
				if reached := got.all(); len(reached) > 0 {
					t.Errorf("the default server was asked for %s", reached[0].RequestURI)
				}
				must(t, w.store.DeleteServer(t.Context(), stopped))
				w.until("the name is forgotten", func() bool { return !w.proxy.known(gpu) })
				if status := w.get(w.url("alice", "gpu/lab"), w.as(alice)).status; running != (status == 200) || !running && status != 424 {
					t.Errorf("a directory of that name: %d", status)
				}
			})
		}
	}
}

func stoppedOverHTTP(t *testing.T, w *world, alice, bob *person) {
	t.Helper()
	spawn := func(page string) string {
		u, err := url.Parse(w.url("alice", page))
		must(t, err)
		return w.origins.HubURL("spawn/alice/gpu?next=" + url.QueryEscape(u.RequestURI()))
	}
	for name, c := range map[string]struct {
		page   string
		how    []option
		status int
		to     string
	}{
		"a bookmark":             {"gpu/lab/tree/x.ipynb?reset", []option{w.as(alice), navigation}, 302, spawn("gpu/lab/tree/x.ipynb?reset")},
		"its root":               {"gpu/", []option{w.as(alice), navigation}, 302, spawn("gpu/")},
		"its root, unfinished":   {"gpu", []option{w.as(alice), navigation}, 302, strings.TrimPrefix(w.origins.ServerPath(serverKey(t, "alice", "gpu")), w.origins.ServerOrigin(alice.user.Name))},
		"a call":                 {"gpu/api/kernels", []option{w.as(alice)}, 424, ""},
		"a program's call":       {"gpu/api/kernels", []option{byToken(alice)}, 424, ""},
		"the name, encoded":      {"%67pu/api", []option{w.as(alice)}, 424, ""},
		"an encoded slash":       {"gpu%2Fapi", []option{w.as(alice)}, 400, ""},
		"another person's":       {"gpu/lab", []option{w.as(bob), navigation}, 403, ""},
		"the extension's notice": {"gpu/carrel/notice", []option{w.as(alice)}, 200, ""},
	} {
		got := w.get(w.url("alice", c.page), c.how...)
		if got.status != c.status || got.header.Get("Location") != c.to {
			t.Errorf("%s: %d to %q, want %d to %q", name, got.status, got.header.Get("Location"), c.status, c.to)
		}
		if c.status == 424 && got.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", name)
		}
	}
	if at := w.edgeGot.last(t).URL.Path; at != "/notice/alice--gpu" {
		t.Errorf("the notice is of %s", at)
	}
	if got := w.send("POST", w.url("alice", "gpu/api/kernels"), "{}", w.as(alice), ownOrigin(w, "alice")); got.status != 424 {
		t.Errorf("an unsafe call: %d", got.status)
	}
}

func stoppedOverWebsocket(t *testing.T, w *world, alice *person) {
	t.Helper()
	c, res, err := w.socket("alice", "gpu/api/kernels/x/channels", w.as(alice), ownOrigin(w, "alice"))
	if err == nil {
		c.Close()
		t.Error("a websocket was let in")
	} else if res == nil || res.StatusCode != http.StatusFailedDependency {
		t.Errorf("a websocket: %v", err)
	}
}

// TestANameWithoutARoute costs nothing to find: neither a storm of tabs nor a Redis that is away changes that.
func TestANameWithoutARoute(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	got := &inbox{}
	w.serve("alice", echo(got))
	w.record(serverKey(t, "alice", "gpu"))
	ask424 := func() {
		t.Helper()
		if got := w.get(w.url("alice", "gpu/api/kernels"), w.as(alice)); got.status != 424 {
			t.Fatalf("%d", got.status)
		}
	}
	ask424() // the session is known from here on
	const tabs = 300
	before := w.redis.CommandCount()
	for range tabs {
		ask424()
	}
	if n := w.redis.CommandCount() - before; n > tabs/10 {
		t.Errorf("%d requests cost %d commands", tabs, n)
	}
	w.redis.SetError("LOADING Redis is loading the dataset in memory")
	ask424()
	if len(got.all()) > 0 {
		t.Error("the default server was asked")
	}
}

// TestNamesAreRead at start, and again after a connection was lost or an event was.
func TestNamesAreRead(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	gpu, cpu := serverKey(t, "alice", "gpu"), serverKey(t, "alice", "cpu")
	w.record(gpu)
	_ = w.stop()
	f := &flakyNames{ServerNames: w.store}
	f.fails.Store(2)
	cfg := w.proxy.cfg
	cfg.Names = f
	var err error
	w.proxy, err = New(cfg)
	must(t, err)
	w.start(false)
	if f.fails.Load() >= 0 {
		t.Error("it accepts without having read the names")
	}
	if got := w.get(w.url("alice", "gpu/api"), w.as(alice)); got.status != 424 {
		t.Errorf("after a restart: %d, want 424", got.status)
	}
	f.untold.Store(&[]string{cpu.Label(), "alice", "bob"})
	ask(w.proxy.reload)
	w.until("what no event told is noticed", func() bool { return w.proxy.known(cpu) && !w.proxy.known(gpu) })
	if n := len(maps.Collect(w.proxy.names.now.all())); n != 1 {
		t.Errorf("%d names are kept, want the named server's alone", n)
	}
	// What begins to be while the names are read is not among them.
	meanwhile, marker := serverKey(t, "alice", "meanwhile"), serverKey(t, "alice", "marker")
	during := func() { w.record(meanwhile) }
	f.during.Store(&during)
	f.untold.Store(&[]string{cpu.Label(), marker.Label()})
	ask(w.proxy.reload)
	w.until("they are read", func() bool { return w.proxy.known(marker) })
	if !w.proxy.known(meanwhile) {
		t.Error("a reading took away the name that an event told meanwhile")
	}
	f.fails.Store(1 << 30)
	ask(w.proxy.reload)
	w.until("it was tried", func() bool { return f.fails.Load() < 1<<30 })
	if !w.proxy.known(cpu) {
		t.Error("a reading that failed took a name away")
	}
}

// flakyNames fails a few times.
type flakyNames struct {
	hub.ServerNames
	fails  atomic.Int64
	untold atomic.Pointer[[]string] // instead of what is there
	during atomic.Pointer[func()]   // happens once, while it is read
}

func (f *flakyNames) ServerLabels(ctx context.Context) iter.Seq2[string, error] {
	fail, untold := f.fails.Add(-1) >= 0, f.untold.Load()
	if during := f.during.Swap(nil); during != nil {
		(*during)()
	}
	switch {
	case fail:
		return func(yield func(string, error) bool) { yield("", errors.New("not now")) }
	case untold != nil:
		return func(yield func(string, error) bool) {
			for _, l := range *untold {
				if !yield(l, nil) {
					return
				}
			}
		}
	}
	return f.ServerNames.ServerLabels(ctx)
}

// TestAWipeForgetsNoRunningServer: its route stays until the hub has recorded it anew.
func TestAWipeForgetsNoRunningServer(t *testing.T) {
	w := newWorld(t, setup{})
	w.person("alice")
	gpu, cpu := serverKey(t, "alice", "gpu"), serverKey(t, "alice", "cpu")
	w.record(gpu)
	w.record(cpu)
	w.route(gpu, 1, endpoint(t, "http://127.0.0.1:9"))
	w.redis.FlushAll()
	ask(w.proxy.reload)
	w.until("the stopped one is forgotten", func() bool { return !w.proxy.known(cpu) })
	if !w.proxy.known(gpu) {
		t.Error("the running one is forgotten")
	}
}

// TestNamesWhileTheyAreRead: what an event says meanwhile is newer than what is read.
func TestNamesWhileTheyAreRead(t *testing.T) {
	var n nameTable
	added, removed, kept, both := serverKey(t, "alice", "added"), serverKey(t, "alice", "removed"), serverKey(t, "alice", "kept"), serverKey(t, "alice", "both")
	n.apply(removed, true)
	n.apply(kept, true)
	n.reading()
	n.apply(added, true)
	n.apply(removed, false)
	n.apply(both, true)
	n.apply(both, false)
	n.apply(serverKey(t, "alice", ""), true)
	n.replace([]string{removed.Label(), kept.Label(), both.Label(), "alice"})
	for key, want := range map[hub.ServerKey]bool{added: true, removed: false, kept: true, both: false, serverKey(t, "alice", ""): false} {
		if n.known(key) != want {
			t.Errorf("%s is known: %v, want %v", key, !want, want)
		}
	}
	n.reading()
	n.replace(nil)
	if still := maps.Collect(n.now.all()); len(still) > 0 {
		t.Errorf("%v are known still", still)
	}
}
