package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
	"carrel/internal/httpx"
)

// keys checks that an object has at least these fields, and none beyond these and more.
func keys(t *testing.T, what string, m map[string]any, want string) {
	t.Helper()
	for _, k := range strings.Fields(want) {
		if _, ok := m[strings.TrimSuffix(k, "?")]; !ok && !strings.HasSuffix(k, "?") {
			t.Errorf("%s lacks %s: %v", what, k, m)
		}
	}
	for k := range m {
		if !strings.Contains(" "+want+" ", " "+k+" ") && !strings.Contains(" "+want+" ", " "+k+"? ") {
			t.Errorf("%s has %s", what, k)
		}
	}
}

const (
	userFields   = "kind name admin groups server pending created last_activity servers"
	serverFields = "name ready stopped pending url full_url progress_url started last_activity user_options reason?"
)

func TestWithoutCredentials(t *testing.T) {
	s := newSite(t)
	for _, path := range []string{"", "/"} {
		r := s.do("GET", path+"", "")
		if path == "/" && (r.status != 200 || r.json["version"] != Version || r.header.Get("X-JupyterHub-Version") != Version) {
			t.Errorf("version: %d %s", r.status, r.body)
		}
	}
	if r := s.do("GET", "/health", ""); r.status != 200 || r.json["status"] != "ok" {
		t.Errorf("health: %d %s", r.status, r.body)
	}
	s.do("GET", "/nothing", "").problem(t, "no such call", 404, "")
	r := s.do("PATCH", "/users/alice/server", "")
	r.problem(t, "another method", 405, "")
	if r.header.Get("Allow") != "POST, DELETE" {
		t.Errorf("Allow: %q", r.header.Get("Allow"))
	}
}

func TestWhoAmI(t *testing.T) {
	s := newSite(t)
	r := s.do("GET", "/user", "", as(s.token("alice", "servers!user=alice", hub.ScopeReadUsers)))
	keys(t, "whoami", r.json, userFields+" scopes token_id session_id")
	if r.status != 200 || r.json["kind"] != "user" || r.json["name"] != "alice" || r.json["admin"] != false || fmt.Sprint(r.json["scopes"]) != "[read:users servers!user=alice]" || r.json["token_id"] == nil || r.json["session_id"] != nil {
		t.Errorf("by token: %d %s", r.status, r.body)
	}
	r = s.do("GET", "/user", "", cookie(s.session("ada", "")))
	if r.json["admin"] != true || !strings.Contains(fmt.Sprint(r.json["scopes"]), "admin:servers") || r.json["token_id"] != nil {
		t.Errorf("by session: %d %s", r.status, r.body)
	}
	r = s.do("GET", "/user", "", as(s.token("ada", "admin:servers!user=bob")))
	if fmt.Sprint(r.json["scopes"]) != "[admin:servers!user=bob servers!user=bob]" {
		t.Errorf("what an administrator's scope holds: %v", r.json["scopes"])
	}
}

func TestAServersLife(t *testing.T) {
	s := newSite(t)
	token := as(s.token("alice"))
	s.spawner.On(hubtest.AtStart, hubtest.Slow(50*time.Millisecond))
	r := s.do("POST", "/users/alice/servers/gpu", `{"profile": "small"}`, token)
	if r.status != 202 || r.json["pending"] != "spawn" || r.json["ready"] != false || r.json["stopped"] != false {
		t.Fatalf("start: %d %s", r.status, r.body)
	}
	keys(t, "server", r.json, serverFields)
	s.become("alice", "gpu", hub.Ready)
	if r = s.do("POST", "/users/alice/servers/gpu", "", token); r.status != 201 || r.json["ready"] != true || r.json["pending"] != nil {
		t.Errorf("a second start: %d %s", r.status, r.body)
	}
	r = s.do("GET", "/users/alice/servers/gpu", "", token)
	if r.status != 200 || r.json["url"] != "/carrel/user/alice/gpu/" || r.json["full_url"] != "http://alice.localhost:8000/carrel/user/alice/gpu/" ||
		r.json["progress_url"] != "/carrel/hub/api/users/alice/servers/gpu/progress" || fmt.Sprint(r.json["user_options"]) != "map[profile:small]" || r.json["started"] == nil {
		t.Errorf("server: %d %s", r.status, r.body)
	}
	s.start("alice", "")
	r = s.do("GET", "/users/alice", "", token)
	keys(t, "user", r.json, userFields)
	servers, _ := r.json["servers"].(map[string]any)
	if r.json["server"] != "/carrel/user/alice/" || len(servers) != 2 || servers[""] == nil || servers["gpu"] == nil {
		t.Errorf("user: %s", r.body)
	}
	if r = s.do("DELETE", "/users/alice/servers/gpu", `{"remove": true}`, token); r.status != 202 && r.status != 204 {
		t.Errorf("stop: %d %s", r.status, r.body)
	} else if r.status == 202 && r.json["pending"] != "stop" {
		t.Errorf("stopping: %s", r.body)
	}
	s.become("alice", "gpu", hub.Absent)
	if r = s.do("DELETE", "/users/alice/servers/gpu", "", token); r.status != 204 || r.body != "" {
		t.Errorf("a second stop: %d %s", r.status, r.body)
	}
	if r = s.do("GET", "/users/alice", "", token); strings.Contains(r.body, `"gpu"`) {
		t.Errorf("the stopped one is listed: %s", r.body)
	}
	if r = s.do("GET", "/users/alice?include_stopped_servers=1", "", token); !strings.Contains(r.body, `"gpu"`) {
		t.Errorf("the stopped one is not listed when asked for: %s", r.body)
	}
	if r = s.do("GET", "/users/alice/servers/gpu", "", token); r.status != 200 || r.json["stopped"] != true {
		t.Errorf("stopped: %d %s", r.status, r.body)
	}
}

func TestPauseAndWake(t *testing.T) {
	s := newSite(t)
	token := as(s.token("alice"))
	if r := s.do("POST", "/users/alice/servers/gpu/pause", "", token); r.status != 404 {
		t.Errorf("a server that never was: %d %s", r.status, r.body)
	}
	s.start("alice", "gpu")
	s.start("alice", "")
	for _, path := range []string{"/users/alice/server", "/users/alice/servers/gpu"} {
		r := s.do("POST", path+"/pause", "", token)
		if r.status != 200 || r.json["paused"] != true || r.json["ready"] != true {
			t.Errorf("pause: %d %s", r.status, r.body)
		}
		if r = s.do("POST", path, "", token); r.status != 201 || r.json["paused"] != true {
			t.Errorf("start while paused: %d %s", r.status, r.body)
		}
		if r = s.do("POST", path+"/wake", "", as(s.token("bob"))); r.status != 403 && r.status != 404 {
			t.Errorf("by another: %d %s", r.status, r.body)
		}
		if r = s.do("POST", path+"/wake", "", token); r.status != 200 || r.json["paused"] != nil || r.json["ready"] != true {
			t.Errorf("wake: %d %s", r.status, r.body)
		}
		s.do("DELETE", path, "", token)
	}
	s.become("alice", "", hub.Absent)
	for _, call := range []string{"pause", "wake"} {
		if r := s.do("POST", "/users/alice/server/"+call, "", token); r.status != 409 {
			t.Errorf("%s of a stopped one: %d %s", call, r.status, r.body)
		}
	}
}

func TestStartsThatAreRefused(t *testing.T) {
	s := newSite(t)
	token := as(s.token("alice"))
	for _, c := range []struct {
		name, body string
		status     int
		field      string
	}{
		{"no such profile", `{"profile": "x"}`, 422, "profile"},
		{"a profile for others", `{"profile": "staff"}`, 403, "profile"},
		{"more memory than the machine", `{"profile": "huge"}`, 422, "profile"},
		{"wrong type", `{"profile": 5}`, 422, "profile"},
		{"unknown field", `{"image": "evil"}`, 422, "body"},
		{"a list", `[]`, 422, "body"},
		{"a text", `"small"`, 422, "body"},
		{"no JSON", `profile=small`, 400, "body"},
		{"half of it", `{"profile": "sma`, 400, "body"},
		{"more than one value", `{} {}`, 400, "body"},
		{"garbage behind", `{}x`, 400, "body"},
		{"NUL", "\x00", 400, "body"},
		{"too large", `{"profile": "` + strings.Repeat("a", maxBody) + `"}`, 413, "body"},
		{"too large behind", `{}` + strings.Repeat(" ", maxBody), 413, "body"},
		{"nested deeply", strings.Repeat(`{"profile":`, 5000), 400, "body"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.do("POST", "/users/alice/server", c.body, token).problem(t, c.name, c.status, c.field)
		})
	}
	if n := len(s.spawner.Containers()); n != 0 {
		t.Errorf("%d containers", n)
	}
	s.start("alice", "a")
	s.start("alice", "b")
	r := s.do("POST", "/users/alice/servers/c", "", token)
	r.problem(t, "more than a person's share", 429, "")
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	for kind, status := range map[hub.Kind]int{hub.Unavailable: 503, hub.Conflict: 409, hub.NotFound: 404, hub.TooMany: 429, hub.Internal: 500} {
		s.store.FailBefore(func(op string) error {
			if op == "PutServer" {
				return hub.Errorf(kind, "redis", "as told")
			}
			return nil
		})
		s.do("POST", "/users/bob/servers/"+fmt.Sprint("s", status), "", as(s.token("bob"))).problem(t, kind.String(), status, "")
	}
	s.store.FailBefore(func(string) error { return hub.Errorf(hub.Unavailable, "redis", "away") })
	s.do("POST", "/users/alice/servers/c", "", token).problem(t, "without a store", 503, "")
	s.store.FailBefore(func(op string) error {
		if op == "Users" || op == "User" {
			return hub.Wrap(hub.Internal, "redis", fmt.Errorf("dial 10.0.0.7: hunter2"))
		}
		return nil
	})
	if r = s.do("GET", "/users/alice", "", as(s.token("ada", hub.ScopeAdminUsers))); strings.Contains(r.body, "hunter2") {
		t.Errorf("the inside is told of: %s", r.body)
	}
	s.store.FailBefore(nil)
}

func TestListing(t *testing.T) {
	s := newSite(t)
	for i := range 60 {
		s.person(fmt.Sprintf("u%02d", i), false)
	}
	s.start("u07", "")
	s.spawner.On(hubtest.AtStart, hubtest.Hang)
	s.do("POST", "/users/u08/server", "", as(s.token("u08")))
	admin := as(s.token("ada", hub.ScopeReadUsers))
	names := func(r answer, list []any) (names []string) {
		for _, x := range list {
			m, _ := x.(map[string]any)
			name, _ := m["name"].(string)
			names = append(names, name)
		}
		if r.status != 200 {
			t.Errorf("%d %s", r.status, r.body)
		}
		return names
	}
	r := s.do("GET", "/users", "", admin)
	if got := names(r, r.list); len(got) != 63 || got[0] != "ada" || got[62] != "u59" {
		t.Errorf("all: %d, %v", len(got), got)
	}
	for query, want := range map[string]string{
		"limit=2": "ada alice", "limit=2&offset=2": "bob u00", "offset=62": "u59", "offset=63": "", "offset=2147483648": "", "name_filter=li": "alice", "name_filter=zzz": "",
		"state=ready": "u07", "state=active": "u07 u08", "state=ready&offset=1": "", "name_filter=u0&state=inactive&limit=3": "u00 u01 u02",
	} {
		r := s.do("GET", "/users?"+query, "", admin)
		if got := strings.Join(names(r, r.list), " "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	for query, field := range map[string]string{"limit=0": "limit", "limit=-1": "limit", "limit=NaN": "limit", "limit=1e309": "limit", "limit=99999999999999999999": "limit", "offset=-1": "offset", "offset=1.5": "offset", "limit=%00": "limit", "state=x": "state"} {
		s.do("GET", "/users?"+query, "", admin).problem(t, query, 422, field)
	}
	// By JupyterHub's pagination a client walks through everyone, fifty at a time.
	seen := 0
	path := "/users?state=inactive"
	for pages := 0; path != ""; pages++ {
		r := s.do("GET", path, "", admin, with("Accept", "application/jupyterhub-pagination+json, application/json;q=0.9"))
		items, _ := r.json["items"].([]any)
		page, _ := r.json["_pagination"].(map[string]any)
		keys(t, "page", page, "offset limit total next")
		if page["total"] != 61.0 || page["limit"] != 50.0 || page["offset"] != float64(50*pages) {
			t.Fatalf("page %v", page)
		}
		seen += len(items)
		path = ""
		if next, ok := page["next"].(map[string]any); ok {
			keys(t, "next", next, "offset limit url")
			u, err := url.Parse(fmt.Sprint(next["url"]))
			if err != nil || u.Host != "hub.localhost:8000" || u.Path != "/carrel/hub/api/users" || u.Query().Get("state") != "inactive" {
				t.Fatalf("next %v", next)
			}
			path = "/users?" + u.RawQuery
		}
	}
	if seen != 61 {
		t.Errorf("%d were seen", seen)
	}
}

func TestActivity(t *testing.T) {
	s := newSite(t)
	s.start("alice", "")
	token := as(s.token("alice", "users:activity"))
	key := serverKey(t, "alice", "")
	last := func() (at time.Time) {
		for a, err := range s.store.Activities(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if a.Key == key {
				at = a.Last
			}
		}
		return at
	}
	report := func(at time.Time) string {
		stamp := at.Format(time.RFC3339Nano)
		return fmt.Sprintf(`{"last_activity": %q, "servers": {"": {"last_activity": %q}}}`, stamp, stamp)
	}
	began := last()
	if r := s.do("POST", "/users/alice/activity", report(time.Now().Add(30*time.Minute)), token); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if got := last(); !got.After(began) || got.After(time.Now()) {
		t.Errorf("a fast clock makes %v of %v", got, began)
	}
	at := last()
	if r := s.do("POST", "/users/alice/activity", report(at.Add(-time.Hour)), token); r.status != 200 || !last().Equal(at) {
		t.Errorf("it went back: %d %v, was %v", r.status, last(), at)
	}
	for name, body := range map[string]string{
		"far in the future": report(time.Now().Add(time.Hour)), "unknown server": `{"servers": {"gpu": {"last_activity": "2026-01-01T00:00:00Z"}}}`, "no name of a server": `{"servers": {"../x": {"last_activity": "2026-01-01T00:00:00Z"}}}`,
		"the person's in the future": `{"last_activity": "2999-01-01T00:00:00Z"}`,
	} {
		if r := s.do("POST", "/users/alice/activity", body, token); r.status != 400 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if r := s.do("POST", "/users/alice/activity", `{"servers": {"": {"last_activity": "yesterday"}}}`, token); r.status != 422 {
		t.Errorf("no time: %d %s", r.status, r.body)
	}
}

// events reads a stream until it ends.
func events(t *testing.T, r io.Reader) (list []map[string]any) {
	t.Helper()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var e map[string]any
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatalf("%v in %q", err, data)
			}
			list = append(list, e)
		}
	}
	return list
}

func TestProgress(t *testing.T) {
	s := newSite(t)
	token := as(s.token("alice"))
	s.start("alice", "")
	r := s.do("GET", "/users/alice/server/progress", "", token)
	if r.status != 200 || r.header.Get("Content-Type") != "text/event-stream" || r.header.Get("X-Accel-Buffering") != "no" {
		t.Errorf("%d %v", r.status, r.header)
	}
	list := events(t, strings.NewReader(r.body))
	for _, e := range list {
		keys(t, "event", e, "progress message html_message ready? failed? url? step? place? remedy? log?")
	}
	last := list[len(list)-1]
	if last["ready"] != true || last["progress"] != 100.0 || last["url"] != "/carrel/user/alice/" || last["html_message"] != `Server ready at <a href="/carrel/user/alice/">/carrel/user/alice/</a>` {
		t.Errorf("the last: %v", last)
	}
	s.spawner.Plan(func(hub.Spec) hubtest.Plan {
		return hubtest.Plan{Dies: true, Reason: "<b>boom</b>", Log: []string{"<script>"}}
	})
	if r := s.do("POST", "/users/alice/servers/bad", "", token); r.status != 202 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	list = events(t, strings.NewReader(s.do("GET", "/users/alice/servers/bad/progress", "", token).body))
	last = list[len(list)-1]
	if last["failed"] != true || last["ready"] != nil || last["progress"] != 100.0 || strings.Contains(fmt.Sprint(last["html_message"]), "<b>") || fmt.Sprint(last["log"]) != "[<script>]" {
		t.Errorf("the failure: %v", last)
	}
	list = events(t, strings.NewReader(s.do("GET", "/users/bob/server/progress", "", as(s.token("bob"))).body))
	if len(list) != 1 || list[0]["failed"] != true {
		t.Errorf("a server that nobody started: %v", list)
	}
}

// TestProgressEndsWhenItCanBeOpened: a program waits for no kernel.
func TestProgressEndsWhenItCanBeOpened(t *testing.T) {
	s := newSite(t)
	token := as(s.token("alice"))
	s.start("alice", "")
	list := events(t, strings.NewReader(s.do("GET", "/users/alice/server/progress", "", token).body))
	for i, e := range list {
		if (e["ready"] == true) != (i == len(list)-1) {
			t.Errorf("event %d of %d: %v", i+1, len(list), e)
		}
	}
	a := &API{cfg: Config{Origins: s.origins}}
	if e := a.event(hub.ServerKey{}, hub.Progress{Step: "kernel", Open: true}); !e.Ready || e.Failed || e.Progress != 100 {
		t.Errorf("a server that can be opened is told as %+v", e)
	}
}

// TestProgressEndsWithItsReader: whoever goes away holds nothing up; the harness' server would wait.
func TestProgressEndsWithItsReader(t *testing.T) {
	s := newSite(t)
	s.spawner.On(hubtest.AtStart, hubtest.Hang)
	token := s.token("alice")
	s.do("POST", "/users/alice/server", "", as(token))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", s.url+"/users/alice/server/progress", nil)
	if err != nil {
		t.Fatal(err)
	}
	as(token)(req)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || !strings.HasPrefix(line, ":") {
		t.Errorf("the stream does not begin at once: %q, %v", line, err)
	}
	cancel()
}

// silent is a Manager whose starts never tell anything.
type silent struct{ manager }

type manager = Servers

func (silent) Server(_ context.Context, key hub.ServerKey) (hub.Server, error) {
	return hub.Server{Key: key, Generation: 1, Phase: hub.Starting}, nil
}

func (silent) Progress(ctx context.Context, _ hub.ServerKey) iter.Seq[hub.Progress] {
	return func(func(hub.Progress) bool) { <-ctx.Done() }
}

// TestSilentStreamsAreKeptAlive: every eight seconds, as JupyterHub's.
func TestSilentStreamsAreKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, secret := hubtest.NewStore(), hub.RandomSecret()
		u := hub.User{ID: "ida", Name: parse(t, "a"), Identity: hub.Identity{Issuer: "i", Subject: "a"}}
		if _, err := store.BindUser(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		if err := store.CreateToken(t.Context(), hub.Token{ID: "x", Hash: secret.Hash(), User: u.Name, UserID: u.ID, Scopes: []hub.Scope{"self"}, Expires: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		kit := httpx.Kit{Logger: slog.New(slog.DiscardHandler)}
		a, err := New(Config{Servers: silent{}, Sessions: store, Tokens: store, Users: store, Routes: store, Meters: meters{}, Logger: kit.Logger, Wrap: func(h func(http.ResponseWriter, *http.Request) error) http.Handler { return kit.Handle(h) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := httptest.NewRequest("GET", "/users/a/server/progress", nil).WithContext(ctx)
		as(secret.Reveal())(r)
		w := httptest.NewRecorder()
		var wg sync.WaitGroup
		wg.Go(func() { a.ServeHTTP(w, r) })
		wg.Wait()
		if n := strings.Count(w.Body.String(), ": still here\n\n"); n != 7 || !w.Flushed {
			t.Errorf("%d signs of life in a minute: %q", n, w.Body)
		}
	})
}

func TestPartsAreRequired(t *testing.T) {
	if _, err := New(Config{}); hub.KindOf(err) != hub.Internal {
		t.Errorf("%v", err)
	}
}
