package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// A program posts code and gets its output; who does not wait is told where it will be.
func TestPostRun(t *testing.T) {
	s := newSite(t)
	alice := as(s.token("alice", hub.ScopeRuns))
	r := s.do("POST", "/runs", `{"code":"print(1)","argv":["a","b\nc"],"stdin":"aGk=","stdin_encoding":"base64","limits":{"memory":67108864}}`, alice)
	if r.status != 201 || r.json["status"] != "finished" || r.json["exit_code"] != 0.0 || r.json["signal"] != nil || r.json["stdout"] != "print(1)" || r.json["stdout_encoding"] != "utf-8" || r.json["user"] != "alice" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	at := r.header.Get("Location")
	if id, _ := r.json["id"].(string); at != "/carrel/hub/api/runs/"+id {
		t.Errorf("it is at %q", at)
	}
	jobs, _ := s.runner.Jobs()
	if j := jobs[0]; string(j.Stdin) != "hi" || len(j.Argv) != 2 || j.Argv[1] != "b\nc" || j.Limits.Memory != 64<<20 || j.Limits.Wall != 20*time.Second {
		t.Errorf("the driver was asked for %+v", j)
	}
	at = strings.TrimPrefix(at, "/carrel/hub/api")
	if r := s.do("GET", at, "", alice); r.status != 200 || r.json["stdout"] != "print(1)" {
		t.Errorf("later: %d %s", r.status, r.body)
	}

	s.runner.Does(func(ctx context.Context, _ hub.RunJob) (hub.RunResult, error) {
		<-ctx.Done()
		return hub.RunResult{}, ctx.Err()
	})
	r = s.do("POST", "/runs", `{"code":"x","wait_seconds":0}`, alice)
	if status := r.json["status"]; r.status != 202 || status != "queued" && status != "running" || r.json["exit_code"] != nil || r.json["stdout"] != nil {
		t.Errorf("%d %s", r.status, r.body)
	}
	at = strings.TrimPrefix(r.header.Get("Location"), "/carrel/hub/api")
	if r := s.do("DELETE", at, "", alice); r.status != 204 {
		t.Errorf("end it: %d %s", r.status, r.body)
	}
	s.do("GET", at, "", alice).problem(t, "one that was ended", 404, "")
}

// Output that is no UTF-8 comes as base64, and HTML as JSON that no browser takes for a page.
func TestRunOutput(t *testing.T) {
	s := newSite(t)
	s.runner.Does(func(context.Context, hub.RunJob) (hub.RunResult, error) {
		return hub.RunResult{Status: hub.RunFinished, ExitCode: 137, Stdout: []byte("\xff\x00"), Stderr: []byte("<script>\x1b[2J\x00"), StdoutCut: true, CPU: -1, PeakMemory: -1, Wall: time.Second}, nil
	})
	r := s.do("POST", "/runs", `{"code":"x"}`, as(s.token("alice")))
	want := base64.StdEncoding.EncodeToString([]byte("\xff\x00"))
	if r.status != 201 || r.json["stdout"] != want || r.json["stdout_encoding"] != "base64" || r.json["stderr"] != "<script>\x1b[2J\x00" || r.json["stdout_truncated"] != true || r.json["stderr_truncated"] != false {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r.json["signal"] != 9.0 || r.json["cpu_seconds"] != nil || r.json["peak_memory"] != nil || r.json["wall_seconds"] != 1.0 {
		t.Errorf("%s", r.body)
	}
	if r.header.Get("Content-Type") != "application/json" || r.header.Get("X-Content-Type-Options") != "nosniff" || strings.Contains(r.body, "<script>") {
		t.Errorf("%v %s", r.header, r.body)
	}
}

func TestRunFaults(t *testing.T) {
	s := newSite(t)
	alice := as(s.token("alice"))
	for body, want := range map[string]struct {
		status int
		field  string
	}{
		`{}`:                             {422, "code"},
		`{"code":""}`:                    {422, "code"},
		`{"code":1}`:                     {422, "code"},
		`{"code":"x","argv":["\u0000"]}`: {422, "argv"},
		`{"code":"x","stdin":"#","stdin_encoding":"base64"}`: {422, "stdin"},
		`{"code":"x","stdin_encoding":"rot13"}`:              {422, "stdin_encoding"},
		`{"code":"x","limits":{"memory":0}}`:                 {422, "limits.memory"},
		`{"code":"x","limits":{"cpu_seconds":-1}}`:           {422, "limits.cpu_seconds"},
		`{"code":"x","limits":{"wall_seconds":99999}}`:       {422, "limits.wall_seconds"},
		`{"code":"x","limits":{"ram":1}}`:                    {422, "limits"},
		`{"code":"x","limits":{"memory":1e309}}`:             {422, "limits"},
		`{"code":"x","limits":{"memory":NaN}}`:               {400, "body"},
		`{"code":"x","wait_seconds":-1}`:                     {422, "wait_seconds"},
		`{"code":"x","wait_seconds":61}`:                     {422, "wait_seconds"},
		`{"code":"x","network":"open"}`:                      {422, "body"},
		`{"code":"x"}{}`:                                     {400, "body"},
		`nonsense`:                                           {400, "body"},
		`{"code":"` + strings.Repeat("x", 5<<20) + `"}`:      {413, "body"},
		`{"code":"` + strings.Repeat("x", 600<<10) + `"}`:    {422, "code"},
	} {
		s.do("POST", "/runs", body, alice).problem(t, fmt.Sprintf("%.60s", body), want.status, want.field)
	}
	if jobs, _ := s.runner.Jobs(); len(jobs) > 0 {
		t.Errorf("%d ran", len(jobs))
	}
	s.change(func(p *hub.Policy) { p.Runs.Enabled = false })
	s.do("POST", "/runs", `{"code":"x"}`, alice).problem(t, "where runs are off", 404, "")
}

// A full line is told with when to come back.
func TestRunLineIsFull(t *testing.T) {
	s := newSite(t)
	s.runner.Does(func(ctx context.Context, _ hub.RunJob) (hub.RunResult, error) {
		<-ctx.Done()
		return hub.RunResult{}, ctx.Err()
	})
	alice := as(s.token("alice"))
	for range 2 {
		if r := s.do("POST", "/runs", `{"code":"x","wait_seconds":0}`, alice); r.status != 202 {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
	r := s.do("POST", "/runs", `{"code":"x"}`, alice)
	r.problem(t, "one too many", 429, "")
	if r.header.Get("Retry-After") == "" {
		t.Error("nobody says when to come back")
	}
}

// Runs are their owner's: another is told what is told of one that there is not. Administrators see whose there
// are, not what they printed, and end them.
func TestRunsAreApart(t *testing.T) {
	s := newSite(t)
	alice, bob, ada := as(s.token("alice")), as(s.token("bob")), as(s.token("ada", hub.ScopeAdminServers))
	r := s.do("POST", "/runs", `{"code":"secret"}`, alice)
	at := "/runs/" + fmt.Sprint(r.json["id"])
	for _, who := range []struct {
		name string
		as   answer
	}{{"bob", s.do("GET", at, "", bob)}, {"bob's end", s.do("DELETE", at, "", bob)}, {"no id", s.do("GET", "/runs/x", "", alice)}, {"none", s.do("GET", "/runs/"+strings.Repeat("a", 26), "", alice)}} {
		who.as.problem(t, who.name, 404, "")
	}
	for name, a := range map[string]answer{
		"nobody": s.do("GET", at, ""), "another scope": s.do("POST", "/runs", `{"code":"x"}`, as(s.token("alice", hub.ScopeServers))),
		"an administrator's token without the scope": s.do("GET", at, "", ada), "a foreign page": s.do("POST", "/runs", `{"code":"x"}`, cookie(s.session("alice", "")), with("Origin", "https://evil.example")),
	} {
		a.problem(t, name, 403, "")
	}
	for name, c := range map[string]struct {
		as   answer
		want int
	}{"alice": {s.do("GET", "/runs", "", alice), 1}, "bob": {s.do("GET", "/runs", "", bob), 0}, "ada": {s.do("GET", "/runs", "", ada), 1}} {
		if c.as.status != 200 || len(c.as.list) != c.want || strings.Contains(c.as.body, "secret") {
			t.Errorf("%s lists %d %s", name, c.as.status, c.as.body)
		}
	}
	if r := s.do("DELETE", at, "", ada); r.status != 204 {
		t.Errorf("an administrator: %d %s", r.status, r.body)
	}
	s.do("GET", at, "", alice).problem(t, "afterwards", 404, "")
}

// testRuns lets two run at once, and nobody wait.
func testRuns() hub.RunPolicy {
	limits := hub.RunLimits{CPU: 10 * time.Second, Wall: 20 * time.Second, Memory: 256 << 20, Processes: 32, FileSize: 1 << 20, Disk: 1 << 20, Output: 1 << 10, OpenFiles: 64, Stack: 8 << 20}
	return hub.RunPolicy{Enabled: true, Image: "image", CPUs: 1, Default: limits, Most: limits, Concurrent: 2, PerPerson: 8, Kept: 5, Keep: time.Hour}
}

func (s *site) change(policy func(*hub.Policy)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	policy(s.policy)
}
