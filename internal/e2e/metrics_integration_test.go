//go:build integration

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"carrel/internal/program"
)

// series are what a page of metrics says.
func series(t *testing.T, address string) map[string]string {
	t.Helper()
	res, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%d %v", res.StatusCode, err)
	}
	return parseSeries(string(b))
}

func parseSeries(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			all[line[:i]] = strings.TrimSpace(line[i+1:])
		}
	}
	return all
}

// shownIn tells whether there is a series of this name.
func shownIn(all map[string]string, name string) bool {
	for series := range all {
		if series == name || strings.HasPrefix(series, name+"{") {
			return true
		}
	}
	return false
}

// metricsByToken: a program with the scope, of an administrator's, may read; with another it may not.
func metricsByToken(t *testing.T, d *deployment, admin *person) {
	t.Helper()
	for _, c := range []struct {
		scope string
		want  int
	}{{"read:metrics", http.StatusOK}, {"read:users", http.StatusForbidden}} {
		status, made := admin.api("POST", "/users/admin/tokens", fmt.Sprintf(`{"note":"prometheus","scopes":[%q]}`, c.scope))
		if status != http.StatusCreated {
			t.Fatalf("%d %v", status, made)
		}
		req, err := http.NewRequest("GET", d.url+"/hub/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", fmt.Sprint("Bearer ", made["token"]))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("a token with %s gets %d, want %d", c.scope, res.StatusCode, c.want)
		}
	}
}

// TestMetrics scrapes both processes after people did things.
func TestMetrics(t *testing.T) {
	t.Parallel()
	hubPort, proxyPort := program.FreePort(), program.FreePort()
	d := deploy(t, options{extra: fmt.Sprintf("metrics: {listen: \"127.0.0.1:%d\", proxy_listen: \"127.0.0.1:%d\"}\nlog: {access: all, access_format: combined}", hubPort, proxyPort)})
	hubAt, proxyAt := fmt.Sprintf("http://127.0.0.1:%d/metrics", hubPort), fmt.Sprintf("http://127.0.0.1:%d/metrics", proxyPort)
	alice, admin := d.person("alice").in(t), d.person("admin").in(t)
	alice.signIn()
	admin.signIn()
	alice.start("small")
	k := alice.newKernel()
	if got := k.run("print(6*7)"); !strings.Contains(got, "42") {
		t.Fatalf("%q", got)
	}
	proxy := series(t, proxyAt)
	for name, want := range map[string]string{
		"carrel_proxy_ready": "1", "carrel_proxy_routes": "1", "carrel_proxy_tunnels_open": "1", "carrel_proxy_tunnels_opened_total": "1",
		`carrel_proxy_requests_total{class="hub",code="200"}`: "some", `carrel_proxy_tunnel_bytes_total{direction="sent"}`: "some",
		`carrel_proxy_cache_lookups_total{cache="session",result="hit"}`: "some", `carrel_proxy_request_duration_seconds_count{class="hub"}`: "some",
	} {
		if got := proxy[name]; got != want && (want != "some" || got == "" || got == "0") {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	eventually(t, time.Minute, "the start is over, its kernel tried", func() bool { return series(t, hubAt)[`carrel_hub_starts_total{outcome="ready"}`] == "1" })
	hub := series(t, hubAt)
	for name, want := range map[string]string{
		`carrel_hub_servers{phase="ready"}`: "1", `carrel_hub_starts_total{outcome="ready"}`: "1", `carrel_hub_start_duration_seconds_count`: "1",
		`carrel_hub_start_step_duration_seconds_count{step="wait"}`: "1", `carrel_hub_part_up{part="docker"}`: "1", `carrel_hub_part_up{part="redis"}`: "1",
		`carrel_hub_sign_ins_total{outcome="ok",provider="demo"}`: "2", `carrel_hub_starts_waiting`: "0",
	} {
		if hub[name] != want {
			t.Errorf("%s is %q, want %s", name, hub[name], want)
		}
	}
	// By the public address it is for administrators alone; and there is no proxy's at all.
	for name, c := range map[string]struct {
		who  *person
		want int
	}{"alice": {alice, http.StatusForbidden}, "an administrator": {admin, http.StatusOK}, "a stranger": {d.person("bob"), http.StatusForbidden}} {
		if pg := c.who.visit(d.url + "/hub/metrics"); pg.status != c.want || (pg.status == http.StatusOK) != strings.Contains(pg.body, "carrel_hub_servers{") {
			t.Errorf("%s gets %d, want %d", name, pg.status, c.want)
		}
	}
	if pg := admin.visit(d.url + "/metrics"); pg.status != http.StatusNotFound {
		t.Errorf("the proxy's metrics at the public address: %d", pg.status)
	}
	// Signed out, alice's websocket ends, and that took no second.
	alice.post(d.url+"/hub/logout", nil)
	eventually(t, 30*time.Second, "the cut is counted", func() bool {
		now := series(t, proxyAt)
		return now["carrel_proxy_tunnels_open"] == "0" && now[`carrel_proxy_tunnels_cut_total{reason="revoked"}`] == "1" &&
			now[`carrel_proxy_revocation_lag_seconds_count`] == "1"
	})
	metricsByToken(t, d, admin)
	// The rules and the dashboard speak of series that there are.
	for _, file := range []string{"carrel.rules.yaml", "grafana-dashboard.json"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "prometheus", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`carrel_(hub|proxy)_\w+`).FindAllString(string(b), -1) {
			if !shownIn(hub, name) && !shownIn(proxy, name) {
				t.Errorf("%s: there is no %s", file, name)
			}
		}
	}
	for _, page := range []map[string]string{series(t, hubAt), series(t, proxyAt)} {
		for name := range page {
			if strings.Contains(name, "alice") {
				t.Errorf("%s names a person", name)
			}
		}
	}
	// The log has the last request too, after a clean stop, and no poll.
	admin.visit(d.url + "/hub/last-request?ticket=hidden")
	d.signal(syscall.SIGTERM)
	d.wait(time.Minute)
	if out := d.output(); !strings.Contains(out, `"GET /hub/last-request HTTP/1.1" 404 `) || strings.Contains(out, "hidden") {
		t.Error("the access log lacks the last request, or tells its query")
	}
}
