//go:build integration

package chp

import (
	"errors"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"carrel/internal/redistest"

	"github.com/redis/go-redis/v9"
)

// realRedis is one on a socket, which can be stopped, started and emptied.
type realRedis struct {
	*redistest.Server
	db *redis.Client
}

func newRedis(t *testing.T) *realRedis {
	t.Helper()
	s := redistest.New(t)
	r := &realRedis{Server: s, db: redis.NewClient(&redis.Options{Network: "unix", Addr: s.Socket()})}
	t.Cleanup(func() { r.db.Close() })
	t.Setenv("CONFIGPROXY_REDIS_URL", s.URL())
	until(t, "Redis is up", func() bool { return r.db.Ping(t.Context()).Err() == nil })
	return r
}

func (r *realRedis) start(t *testing.T) {
	t.Helper()
	r.Start()
	until(t, "Redis is up", func() bool { return r.db.Ping(t.Context()).Err() == nil })
}

// shared starts one of several proxies.
func shared(t *testing.T, name string) *side {
	t.Helper()
	return launch(t, name, []string{carrel(t), "chp"}, "--storage-backend", "redis")
}

func (s *side) gets(t *testing.T, path string) int {
	t.Helper()
	return s.public.ask(t, request("GET", path, "")).status
}

func (s *side) calls(t *testing.T, method, path, body string) reply {
	t.Helper()
	return s.api.ask(t, apiRequest(method, "/api/routes"+path, body))
}

func (s *side) has(t *testing.T, path string) func() bool {
	return func() bool { return s.calls(t, "GET", path, "").status == http.StatusOK }
}

func to(url string) string { return `{"target": "` + url + `", "user": "x", "n": [1, null]}` }

// TestProxiesShareRoutesInRedis: what is changed at one counts at all, and outlives them.
func TestProxiesShareRoutesInRedis(t *testing.T) {
	r, back := newRedis(t), newBackend(t)
	a, b := shared(t, "a"), shared(t, "b")
	if got := a.calls(t, "POST", "/user/%40x/", to(back.url)); got.status != http.StatusCreated {
		t.Fatalf("%+v", got)
	}
	if got := a.gets(t, "/user/@x/y"); got != http.StatusOK {
		t.Errorf("where it was set: %d", got)
	}
	until(t, "the route at the other", func() bool { return b.gets(t, "/user/@x/y") == http.StatusOK })
	if one, other := see(a.calls(t, "GET", "", "")), see(b.calls(t, "GET", "", "")); one.Status != http.StatusOK || !equal(one.Body, other.Body) {
		t.Errorf("%v beside %v", one, other)
	}

	// Activity at one is seen at the other, and only grows.
	first := lastActivity(t, a.api, "/user/@x")
	until(t, "the next millisecond", func() bool { return time.Now().Add(-2 * time.Millisecond).After(first) })
	b.gets(t, "/user/@x/y")
	until(t, "the other's activity", func() bool { return lastActivity(t, a.api, "/user/@x").After(first) })
	later := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	if err := r.db.HSet(t.Context(), keyActivity, "/user/@x", later.UnixMilli()).Err(); err != nil {
		t.Fatal(err)
	}
	b.gets(t, "/user/@x/y")
	for _, p := range []*side{b, a} {
		if got := lastActivity(t, p.api, "/user/@x"); !got.Equal(later) {
			t.Errorf("%s: activity at %v, not %v", p.name, got, later)
		}
	}

	// Another target, and the end.
	b.calls(t, "POST", "/user/@x", to("http://127.0.0.1:1"))
	until(t, "the other target", func() bool { return a.gets(t, "/user/@x/y") == http.StatusServiceUnavailable })
	b.calls(t, "POST", "/user/stays", to(back.url))
	if got := a.calls(t, "DELETE", "/user/@x/", ""); got.status != http.StatusNoContent {
		t.Errorf("%+v", got)
	}
	until(t, "the end at the other", func() bool { return b.gets(t, "/user/@x/y") == http.StatusNotFound })
	if got := a.calls(t, "DELETE", "/user/@x", ""); got.status != http.StatusNotFound {
		t.Errorf("again: %+v", got)
	}

	// A proxy that starts again knows the routes, and when they were last used.
	set := lastActivity(t, b.api, "/user/stays")
	until(t, "activity", func() bool { b.gets(t, "/user/stays/y"); return lastActivity(t, b.api, "/user/stays").After(set) })
	before := lastActivity(t, b.api, "/user/stays")
	a.end()
	b.end()
	c := shared(t, "c")
	if got := c.gets(t, "/user/stays/y"); got != http.StatusOK {
		t.Errorf("after a restart: %d", got)
	}
	d := shared(t, "d")
	if got := lastActivity(t, d.api, "/user/stays"); got.Before(before) {
		t.Errorf("activity went back from %v to %v", before, got)
	}
}

func equal(a, b any) bool { x, _ := encode(a); y, _ := encode(b); return string(x) == string(y) }

// TestRedisAway: known routes go on, none can be changed, and afterwards all is as before.
func TestRedisAway(t *testing.T) {
	r, back := newRedis(t), newBackend(t)
	a, b := shared(t, "a"), shared(t, "b")
	a.calls(t, "POST", "/user/x", to(back.url))
	until(t, "the route at both", b.has(t, "/user/x"))
	r.End(syscall.SIGTERM)
	for _, p := range []*side{a, b} {
		if got := p.gets(t, "/user/x/y"); got != http.StatusOK {
			t.Errorf("%s: a known route gives %d", p.name, got)
		}
		for _, got := range []reply{p.calls(t, "POST", "/user/new", to(back.url)), p.calls(t, "POST", "/user/x", to("http://127.0.0.1:1")), p.calls(t, "DELETE", "/user/x", "")} {
			if got.status != http.StatusServiceUnavailable {
				t.Errorf("%s: a change gives %+v", p.name, got)
			}
		}
		if !p.has(t, "/user/x")() || p.has(t, "/user/new")() {
			t.Errorf("%s: it has %+v", p.name, p.calls(t, "GET", "", ""))
		}
	}
	r.start(t)
	until(t, "changes again", func() bool { return a.calls(t, "POST", "/user/new", to(back.url)).status == http.StatusCreated })
	until(t, "the new route at the other", b.has(t, "/user/new"))

	// What they were not told of they find when they are connected anew.
	for path, value := range map[string]string{"/user/silent": to(back.url), "/user/odd": "no JSON"} {
		if err := r.db.HSet(t.Context(), keyRoutes, path, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r.db.HDel(t.Context(), keyRoutes, "/user/new")
	if err := r.db.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*side{a, b} {
		until(t, p.name+" reads everything", func() bool { return p.has(t, "/user/silent")() && !p.has(t, "/user/new")() })
	}
	r.db.HDel(t.Context(), keyRoutes, "/user/odd")

	// A Redis that has lost everything gets it back.
	r.End(syscall.SIGTERM)
	r.Wipe()
	r.start(t)
	until(t, "the routes in Redis", func() bool { return r.db.HLen(t.Context(), keyRoutes).Val() == 2 })
	for _, p := range []*side{a, b} {
		if got := p.gets(t, "/user/x/y"); got != http.StatusOK {
			t.Errorf("%s: afterwards %d", p.name, got)
		}
	}
	if r.db.FlushAll(t.Context()).Err() != nil {
		t.Fatal("not emptied")
	}
	until(t, "the routes in Redis again", func() bool { return r.db.HLen(t.Context(), keyRoutes).Val() == 2 })
	if got := shared(t, "c").gets(t, "/user/silent/y"); got != http.StatusOK {
		t.Errorf("a fresh proxy: %d", got)
	}
}

// TestDefaultTargetBesideRedis: it is a route as others, and takes nobody's place.
func TestDefaultTargetBesideRedis(t *testing.T) {
	r, back := newRedis(t), newBackend(t)
	options := []string{"--storage-backend", "redis", "--default-target", "http://127.0.0.1:1"}
	a := launch(t, "a", []string{carrel(t), "chp"}, options...)
	if got := a.gets(t, "/"); got != http.StatusServiceUnavailable {
		t.Errorf("by default: %d", got)
	}
	a.calls(t, "POST", "/", to(back.url))
	a.end()
	b := launch(t, "b", []string{carrel(t), "chp"}, options...)
	if got := b.gets(t, "/"); got != http.StatusOK {
		t.Errorf("over the restart: %d", got)
	}

	// Without Redis none starts, and says so.
	r.End(syscall.SIGTERM)
	c := exec.Command(carrel(t), "chp", "--ip", "127.0.0.1", "--port", freePort(), "--api-port", freePort(), "--storage-backend", "redis")
	out, err := c.CombinedOutput()
	if status, ok := errors.AsType[*exec.ExitError](err); !ok || status.ExitCode() != 1 || !strings.Contains(string(out), "Redis does not answer") {
		t.Errorf("%v %s", err, out)
	}
}

// TestManyRoutesInRedis: activity is told in pieces.
func TestManyRoutesInRedis(t *testing.T) {
	r, back := newRedis(t), newBackend(t)
	pipe := r.db.Pipeline()
	for i := range 2500 {
		pipe.HSet(t.Context(), keyRoutes, "/user/u"+strconv.Itoa(i), to(back.url))
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := shared(t, "a")
	for _, i := range []int{0, 1200, 2499} {
		path := "/user/u" + strconv.Itoa(i)
		if got := a.gets(t, path+"/x"); got != http.StatusOK {
			t.Errorf("%s: %d", path, got)
		}
		until(t, "its activity in Redis", func() bool { return r.db.HGet(t.Context(), keyActivity, path).Err() == nil })
	}
}
