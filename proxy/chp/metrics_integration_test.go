//go:build integration

package chp

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

// TestMetricsBesideTheOriginal: after the same requests the same names have the same types and counts.
func TestMetricsBesideTheOriginal(t *testing.T) {
	script, ours := realCHP(t), carrel(t)
	dir, err := os.MkdirTemp("/tmp", "chp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	back := newBackend(t)
	words := strings.NewReplacer("{BACKEND}", back.url, "{SOCKET}", newSocketBackend(t, dir))
	var both [2]map[string]string
	for i, command := range [][]string{{"node", script}, {ours, "chp"}} {
		at := endpoint{"tcp", "127.0.0.1:" + freePort()}
		_, port, _ := strings.Cut(at.address, ":")
		p := launch(t, command[0], command, "--metrics-ip", "127.0.0.1", "--metrics-port", port, "--default-target", back.url)
		until(t, "the line of the metrics", func() bool { return strings.Contains(p.out.String(), "Serve metrics at http://") })
		for _, s := range slices.Concat(rest, proxying, failing) {
			if !slices.Contains(s.loose, "Status") { // refused before it is counted
				s.to(p).ask(t, s.raw(words))
			}
		}
		if got := p.api.ask(t, apiRequest("POST", "/api/routes/user/a", `{"target": "`+back.url+`"}`)); got.status != http.StatusCreated {
			t.Fatalf("%+v", got)
		}
		c, _ := p.public.webSocket(t, "/user/a/ws")
		for range 3 { // one at a time, so that each is one piece
			c.SetReadDeadline(time.Now().Add(patient))
			c.WriteMessage(websocket.TextMessage, []byte("hello"))
			if _, _, err := c.ReadMessage(); err != nil {
				t.Fatal(err)
			}
		}
		// What is counted after the answer may take a moment.
		both[i] = settled(t, at)
		if got := at.ask(t, request("GET", "/", "")); got.status != http.StatusNotFound {
			t.Errorf("%s: elsewhere: %+v", command[0], got)
		}
		p.end()
	}
	if diff := cmp.Diff(both[0], both[1]); diff != "" {
		t.Errorf("(-the original +carrel chp)\n%s", diff)
	}
	for name, value := range map[string]string{"requests_ws": "7", "api_route_delete": "7"} {
		if both[1][name] != value {
			t.Errorf("%s is %s, not %s", name, both[1][name], value)
		}
	}
}

// settled are the metrics once they don't change any more.
func settled(t *testing.T, at endpoint) (now map[string]string) {
	t.Helper()
	var last string
	until(t, "metrics that stay", func() bool {
		now = metricsOf(t, at)
		before := last
		last = fmt.Sprint(now)
		time.Sleep(50 * time.Millisecond)
		return last == before
	})
	return now
}

// metricsOf reads those that the original names itself; of what was timed, how often.
func metricsOf(t *testing.T, at endpoint) map[string]string {
	t.Helper()
	got := at.ask(t, request("GET", "/metrics", ""))
	if got.status != http.StatusOK || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("%+v", got)
	}
	all := map[string]string{}
	for line := range strings.Lines(got.body) {
		words := strings.Fields(line)
		own := func(name string) bool {
			for _, prefix := range []string{"api_route_", "find_target_", "last_activity_", "requests_"} {
				if strings.HasPrefix(name, prefix) {
					return true
				}
			}
			return false
		}
		switch {
		case len(words) == 4 && words[1] == "TYPE" && own(words[2]):
			all["type of "+words[2]] = words[3]
		case len(words) != 2 || !own(words[0]):
		case strings.Contains(words[0], "quantile=") || strings.HasSuffix(words[0], "_sum"):
			all[words[0]] = "some seconds"
		default:
			all[words[0]] = words[1]
		}
	}
	return all
}
