package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"carrel/hub"
)

// scrape gives what Prometheus would collect, by series.
func (w *world) scrape() map[string]string {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.proxy.Metrics().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if rec.Code != http.StatusOK {
		w.t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	series := map[string]string{}
	for line := range strings.Lines(rec.Body.String()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			series[name] = value
		}
	}
	return series
}

// shows waits for series to have values.
func (w *world) shows(want map[string]string) {
	w.t.Helper()
	for name, value := range want {
		var got string
		w.until(name+" "+value+" (other values are no sign of progress)", func() bool { got = w.scrape()[name]; return got == value })
	}
}

func TestMetricsTellWhatWasDone(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/odd"):
			rw.WriteHeader(599)
		case strings.HasSuffix(r.URL.Path, "/socket"):
			echo(nil).ServeHTTP(rw, r)
		default:
			io.Copy(io.Discard, r.Body)
			io.WriteString(rw, "0123456789")
		}
	}))
	for range 3 {
		w.get(w.url("alice", "api/kernels"), w.as(alice))
	}
	w.get(w.url("alice", "static/lab/main.js"), w.as(alice))
	w.get(w.url("alice", "odd"), w.as(alice))
	w.send("PUT", w.url("alice", "api/contents/x"), "12345", w.as(alice), ownOrigin(w, "alice"))
	w.get(w.url("alice", "lab")) // by nobody
	w.get(w.url("alice", "lab"), w.as(alice), header("Origin", "https://evil.test"))
	w.get(w.origins.HubURL("home"))
	c := w.mustSocket(alice, "socket")
	must(t, c.WriteMessage(websocket.TextMessage, []byte("hello")))
	if _, _, err := c.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	w.shows(map[string]string{
		`carrel_proxy_requests_total{class="poll",code="200"}`:            "3",
		`carrel_proxy_requests_total{class="static",code="200"}`:          "1",
		`carrel_proxy_requests_total{class="notebook",code="other"}`:      "1",
		`carrel_proxy_requests_total{class="notebook",code="200"}`:        "1",
		`carrel_proxy_requests_total{class="hub",code="200"}`:             "1",
		`carrel_proxy_request_duration_seconds_count{class="poll"}`:       "3",
		`carrel_proxy_refused_total{reason="signed_out"}`:                 "1",
		`carrel_proxy_refused_total{reason="origin"}`:                     "1",
		`carrel_proxy_http_bytes_total{direction="received"}`:             "5",
		`carrel_proxy_tunnels_open`:                                       "1",
		`carrel_proxy_tunnels_opened_total`:                               "1",
		`carrel_proxy_tunnel_bytes_total{direction="received"}`:           "11", // a masked frame: 6 + 5
		`carrel_proxy_cache_lookups_total{cache="session",result="miss"}`: "1",
		`carrel_proxy_cache_lookups_total{cache="session",result="hit"}`:  "8",
		`carrel_proxy_routes`:                                             "1",
		`carrel_proxy_ready`:                                              "1",
		`carrel_proxy_revocation_lag_seconds_count`:                       "0",
	})
	w.end(hub.SessionQuery{Hash: alice.session.Hash})
	w.shows(map[string]string{
		`carrel_proxy_tunnels_open`:                                 "0",
		`carrel_proxy_tunnels_cut_total{reason="revoked"}`:          "1",
		`carrel_proxy_revocation_lag_seconds_count`:                 "1",
		`carrel_proxy_requests_total{class="websocket",code="101"}`: "1",
	})
	for name := range w.scrape() {
		if strings.Contains(name, "alice") {
			t.Errorf("%s holds what a person or a container chose", name)
		}
	}
}

// TestRefusedConnectionsAreCounted: those that never become a request, too.
func TestRefusedConnectionsAreCounted(t *testing.T) {
	w := newWorld(t, setup{})
	for range 2 {
		if got := w.raw("GET / HTTP/1.1\r\nHost: hub.test\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400") {
			t.Errorf("%q", got)
		}
	}
	w.shows(map[string]string{`carrel_proxy_refused_total{reason="framing"}`: "2", `carrel_proxy_refused_total{reason="too_many_connections"}`: "0"})
	w.proxy.crowd.mu.Lock()
	w.proxy.crowd.open = map[netip.Addr]int{netip.MustParseAddr("127.0.0.1"): maxPerAddress}
	w.proxy.crowd.mu.Unlock()
	if got := w.raw("GET / HTTP/1.1\r\nHost: hub.test\r\n\r\n"); got != "" {
		t.Errorf("one too many is answered: %q", got)
	}
	w.shows(map[string]string{`carrel_proxy_refused_total{reason="framing"}`: "2", `carrel_proxy_refused_total{reason="too_many_connections"}`: "1"})
}

func TestAServerThatDoesNotAnswerIsAnUpstreamError(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	w.route(serverKey(t, "alice", ""), 1, endpoint(t, gone.URL))
	if got := w.get(w.url("alice", "lab"), w.as(alice)); got.status != http.StatusServiceUnavailable {
		t.Fatalf("%d", got.status)
	}
	w.shows(map[string]string{"carrel_proxy_upstream_errors_total": "1", `carrel_proxy_refused_total{reason="unavailable"}`: "0"})
}

func TestMetricsFollowTheConventions(t *testing.T) {
	w := newWorld(t, setup{})
	w.get(w.origins.HubURL("home"))
	problems, err := testutil.GatherAndLint(w.proxy.metrics.registry)
	must(t, err)
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "carrel_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func BenchmarkCountingARequest(b *testing.B) {
	w := newWorld(b, setup{})
	rec := &recorder{class: classNotebook, status: 200, bytes: 1000}
	b.ReportAllocs()
	for b.Loop() {
		w.proxy.metrics.answered(rec, 1234567, nil)
	}
}
