package api

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/hub"
	"carrel/internal/top"
)

// meters are the manager's with what proxies are said to count.
type meters struct {
	*hub.Manager
	*proxies
}

type proxies struct {
	mu  sync.Mutex
	all map[hub.ServerKey]hub.Traffic
}

func (p *proxies) Traffic(context.Context) (map[hub.ServerKey]hub.Traffic, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all, 1
}

func (p *proxies) set(list ...hub.Traffic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = map[hub.ServerKey]hub.Traffic{}
	for _, t := range list {
		p.all[t.Key] = t
	}
}

func TestTopIsForAdministrators(t *testing.T) {
	s := newSite(t)
	for name, c := range map[string]struct {
		token string
		want  int
	}{
		"alice":               {s.token("alice"), 403},
		"alice, in her words": {s.token("alice", hub.ScopeReadUsers, hub.ScopeAdminServers), 403},
		"ada, for herself":    {s.token("ada"), 403},
		"ada's servers":       {s.token("ada", hub.ScopeServers), 403},
		"ada's metrics":       {s.token("ada", hub.ScopeReadMetrics), 403}, // which name nobody
		"ada for bob":         {s.token("ada", "read:users!user=bob"), 403},
		"ada's list":          {s.token("ada", hub.ScopeReadUsers), 200},
		"ada's people":        {s.token("ada", hub.ScopeAdminUsers), 200},
	} {
		if r := s.do("GET", "/top", "", as(c.token)); r.status != c.want {
			t.Errorf("%s: %d %s, want %d", name, r.status, r.body, c.want)
		} else if c.want == 403 {
			r.problem(t, name, 403, "")
		}
	}
	if r := s.do("GET", "/top", ""); r.status != 403 {
		t.Errorf("nobody: %d", r.status)
	}
	if r := s.do("GET", "/top", "", cookie(s.session("ada", ""))); r.status != 200 {
		t.Errorf("ada's browser: %d %s", r.status, r.body)
	}
	if r := s.do("GET", "/top", "", cookie(s.session("alice", ""))); r.status != 403 {
		t.Errorf("alice's browser: %d %s", r.status, r.body)
	}
	if r := s.do("POST", "/top", "", as(s.token("ada", hub.ScopeReadUsers))); r.status != 405 {
		t.Errorf("POST: %d", r.status)
	}
}

// TestTopTellsWhatServersDo: what the proxies count is told of servers that there are, and of no other.
func TestTopTellsWhatServersDo(t *testing.T) {
	s := newSite(t)
	s.start("alice", "")
	s.start("bob", "gpu")
	s.start("bob", "over")
	if r := s.do("DELETE", "/users/bob/servers/over", "", as(s.token("bob"))); r.status >= 300 {
		t.Fatal(r.body)
	}
	s.become("bob", "over", hub.Absent)
	used := time.Now().Add(time.Minute).UTC().Truncate(time.Millisecond)
	s.traffic.set(
		hub.Traffic{Key: serverKey(t, "alice", ""), Requests: 7, Received: 100, Sent: 2000, Websockets: 2, Last: used},
		hub.Traffic{Key: serverKey(t, "bob", "over"), Requests: 1}, hub.Traffic{Key: serverKey(t, "made-up", ""), Requests: 1},
	)
	rec := httptest.NewRecorder()
	s.api.Top().ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	var got top.Sample
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || rec.Code != 200 {
		t.Fatalf("%d %s %v", rec.Code, rec.Body, err)
	}
	servers := map[string]top.Server{}
	for _, one := range got.Servers {
		servers[one.User+"/"+one.Server] = one
	}
	if len(servers) != 2 || got.Proxies != 1 || time.Since(got.Time) > time.Minute {
		t.Fatalf("%s", rec.Body)
	}
	a, b := servers["alice/"], servers["bob/gpu"]
	if a.State != "ready" || a.Profile != "small" || a.Requests != 7 || a.Received != 100 || a.Sent != 2000 || a.Websockets != 2 || a.LastActivity == nil || !a.LastActivity.Equal(used) || a.Started == nil {
		t.Errorf("alice's: %+v", a)
	}
	if b.State != "ready" || b.Requests != 0 || b.Websockets != 0 {
		t.Errorf("bob's: %+v", b)
	}
	if strings.Contains(rec.Body.String(), "made-up") {
		t.Error("a proxy made a server up")
	}
}
