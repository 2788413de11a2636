package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"carrel/hub"
)

// class is what a request was for. Labels are made of it and of other short lists only, never of
// what a client or a container chose: no name, no path.
type class uint8

const (
	classOther     class = iota // doors between hosts, health, what is refused before it is known
	classHub                    // the hub's pages and API
	classNotebook               // a person's server
	classStatic                 // its static files
	classImage                  // those that the proxy has of the image itself
	classPoll                   // what an open tab of JupyterLab asks for by itself
	classWebsocket              // an upgrade; its duration is that of the tunnel, and not in the histogram
	classes        = iota
)

var classNames = [classes]string{"other", "hub", "notebook", "static", "image", "poll", "websocket"}

// polls are what JupyterLab asks every few seconds, below a server's path.
var polls = map[string]bool{
	"api": true, "api/kernels": true, "api/sessions": true, "api/terminals": true, "api/status": true, "api/me": true,
	"api/metrics/v1": true, "carrel/notice": true, "lsp/status": true,
}

// notebookClass is that of a request to a server, by the path below its own.
func notebookClass(r *http.Request, rest string) class {
	switch {
	case isUpgrade(r):
		return classWebsocket
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return classNotebook
	case polls[rest]:
		return classPoll
	case strings.HasPrefix(rest, "static/") || strings.HasPrefix(rest, "lab/extensions/"):
		return classStatic
	}
	return classNotebook
}

const lastStatus = 599

// metrics are the proxy's. What a request touches is resolved beforehand: there is no look-up by
// label and no lock on its way.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	byStatus [classes][lastStatus + 1]atomic.Pointer[prometheus.Counter]
	duration [classes]prometheus.Observer
	refused  [refusals]prometheus.Counter
	upstream prometheus.Counter
	opened   prometheus.Counter
	cut      [3]prometheus.Counter // going away, revoked, unchecked
	revoked  prometheus.Counter
	lag      prometheus.Histogram

	received, sent atomic.Uint64 // bytes of bodies of HTTP, from and to clients
	tunnels        tunnelMeter
}

// refusal is why the proxy itself said no.
type refusal uint8

const (
	refusedOther refusal = iota
	refusedNobody
	refusedForbidden
	refusedOrigin
	refusedMalformed
	refusedTooLarge
	refusedHost
	refusedNotFound
	refusedNotRunning
	refusedTooMany
	refusedSlow
	refusedUnavailable
	refusedInternal
	refusedFraming // of connections: nothing of what comes is taken for a request
	refusedCrowd   // of connections, by their address
	refusals       = iota
)

var refusalNames = [refusals]string{
	"other", "signed_out", "forbidden", "origin", "malformed", "too_large", "unknown_host", "not_found", "not_running",
	"too_many", "too_slow", "unavailable", "internal",
	"framing", "too_many_connections",
}

// refusalOf sorts an error by why it is one.
func refusalOf(err error) refusal {
	if errors.Is(err, errForeign) {
		return refusedOrigin
	}
	switch status, _, _ := statusOf(err); status {
	case http.StatusUnauthorized:
		return refusedNobody
	case http.StatusForbidden:
		return refusedForbidden
	case http.StatusBadRequest, http.StatusMethodNotAllowed:
		return refusedMalformed
	case http.StatusRequestURITooLong, http.StatusRequestHeaderFieldsTooLarge, http.StatusRequestEntityTooLarge:
		return refusedTooLarge
	case http.StatusMisdirectedRequest:
		return refusedHost
	case http.StatusNotFound:
		return refusedNotFound
	case http.StatusFailedDependency:
		return refusedNotRunning
	case http.StatusTooManyRequests:
		return refusedTooMany
	case http.StatusRequestTimeout:
		return refusedSlow
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return refusedUnavailable
	case http.StatusInternalServerError:
		return refusedInternal
	}
	return refusedOther
}

// newMetrics makes the proxy's registry. Nothing is collected before somebody asks.
func newMetrics(p *Proxy) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "carrel_proxy_requests_total", Help: "Requests answered, by what they were for and status code.",
	}, []string{"class", "code"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "carrel_proxy_request_duration_seconds", Help: "Time from a request's head to the end of its answer, by what it was for; websockets are not in it.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"class"})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "carrel_proxy_refused_total", Help: "Requests that the proxy itself refused, by why; with framing and too_many_connections, connections.",
	}, []string{"reason"})
	cut := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "carrel_proxy_tunnels_cut_total", Help: "Websockets that the proxy ended, by why: revoked (close code 1008), going_away (1001) or unchecked (1013: the store is away for too long).",
	}, []string{"reason"})
	m.upstream = newCounter("carrel_proxy_upstream_errors_total", "Requests that failed because the server behind did not answer, or not sensibly.")
	m.opened = newCounter("carrel_proxy_tunnels_opened_total", "Websockets opened.")
	m.revoked = newCounter("carrel_proxy_revocations_total", "Sessions and tokens whose end the proxy was told of.")
	m.lag = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "carrel_proxy_revocation_lag_seconds", Help: "Time from when the proxy heard that a session or token is over until each websocket opened with it was closed.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
	})
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "carrel_build_info", Help: "1; the version is in the labels.", ConstLabels: prometheus.Labels{"version": p.cfg.Version, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
	m.registry.MustRegister(build, m.requests, duration, refused, cut, m.upstream, m.opened, m.revoked, m.lag)
	for c := range class(classes) {
		if c != classWebsocket {
			m.duration[c] = duration.WithLabelValues(classNames[c])
		}
	}
	for i, name := range refusalNames {
		m.refused[i] = refused.WithLabelValues(name)
	}
	m.cut = [3]prometheus.Counter{cut.WithLabelValues("going_away"), cut.WithLabelValues("revoked"), cut.WithLabelValues("unchecked")}
	m.registerStates(p)
	return m
}

// registerStates adds what is read where it stands when somebody asks.
func (m *metrics) registerStates(p *Proxy) {
	gauge := func(name, help string, read func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
	}
	count := func(name, help string, labels prometheus.Labels, n *atomic.Uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(n.Load()) }))
	}
	gauge("carrel_proxy_tunnels_open", "Websockets open.", func() float64 { return float64(p.tunnels.open()) })
	gauge("carrel_proxy_connections_open", "Connections of clients open, websockets left out.", func() float64 { return float64(p.conns.Load()) })
	gauge("carrel_proxy_requests_in_flight", "Requests at work, websockets among them.", func() float64 { return float64(p.handlers.Load()) })
	gauge("carrel_proxy_routes", "Servers that requests are forwarded to.", func() float64 {
		n := 0
		for range p.routes.all() {
			n++
		}
		return float64(n)
	})
	gauge("carrel_proxy_ready", "Whether the proxy takes requests.", func() float64 {
		if p.ready.Load() {
			return 1
		}
		return 0
	})
	const (
		httpName, httpHelp     = "carrel_proxy_http_bytes_total", "Bytes of bodies of requests and answers, received from and sent to clients."
		tunnelName, tunnelHelp = "carrel_proxy_tunnel_bytes_total", "Bytes of websockets, received from and sent to clients."
		cacheName, cacheHelp   = "carrel_proxy_cache_lookups_total", "Look-ups of sessions and tokens; a miss asks the store."
	)
	count(httpName, httpHelp, prometheus.Labels{"direction": "received"}, &m.received)
	count(httpName, httpHelp, prometheus.Labels{"direction": "sent"}, &m.sent)
	count(tunnelName, tunnelHelp, prometheus.Labels{"direction": "received"}, &m.tunnels.received)
	count(tunnelName, tunnelHelp, prometheus.Labels{"direction": "sent"}, &m.tunnels.sent)
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "carrel_proxy_image_bytes_total", Help: "Bytes of static files that were sent from the image's copy; no server had to.",
	}, func() float64 { return float64(p.statics.bytes.Load()) }))
	for name, c := range map[string]*lookups{"session": &p.sessions.lookups, "token": &p.tokens.lookups} {
		count(cacheName, cacheHelp, prometheus.Labels{"cache": name, "result": "hit"}, &c.hits)
		count(cacheName, cacheHelp, prometheus.Labels{"cache": name, "result": "miss"}, &c.misses)
	}
}

func newCounter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

// lookups counts a cache's answers.
type lookups struct{ hits, misses atomic.Uint64 }

// answered counts one request.
func (m *metrics) answered(w *recorder, took time.Duration, err error) {
	if w.fromImage {
		w.class = classImage
	}
	m.status(w.class, w.status).Inc()
	if d := m.duration[w.class]; d != nil {
		d.Observe(took.Seconds())
	}
	if w.status != http.StatusSwitchingProtocols {
		m.sent.Add(uint64(w.bytes))
	}
	switch {
	case err == nil || hub.KindOf(err) == hub.Canceled:
	case w.upstream:
		m.upstream.Inc()
	default:
		m.refused[refusalOf(err)].Inc()
	}
}

// status is the counter of a status. A container may answer with any: those that have no name count
// as one.
func (m *metrics) status(c class, status int) prometheus.Counter {
	if status < 0 || status > lastStatus {
		status = 0
	}
	at := &m.byStatus[c][status]
	if known := at.Load(); known != nil {
		return *known
	}
	code := "other"
	if status == statusClosed || http.StatusText(status) != "" {
		code = strconv.Itoa(status)
	}
	found := m.requests.WithLabelValues(classNames[c], code)
	at.Store(&found)
	return found
}

// begun counts a tunnel.
func (m *metrics) begun(t *live) {
	m.opened.Inc()
	t.route.stats.tunnels.Add(1)
}

// ended counts the end of a tunnel.
func (m *metrics) ended(t *live) {
	t.route.stats.tunnels.Add(-1)
	code, since := t.cutBy()
	switch code {
	case closeGoingAway:
		m.cut[0].Inc()
	case closePolicy:
		m.cut[1].Inc()
		m.lag.Observe(time.Since(since).Seconds())
	case closeTryAgain:
		m.cut[2].Inc()
	}
}

// Metrics serves what Prometheus collects. It tells how much a deployment is used, and so is for a
// listener that strangers don't reach.
func (p *Proxy) Metrics() http.Handler {
	return promhttp.HandlerFor(p.metrics.registry, promhttp.HandlerOpts{
		ErrorLog: slogErrors{p.cfg.Logger}, MaxRequestsInFlight: 4, Registry: p.metrics.registry,
	})
}

// slogErrors has promhttp's faults told to the log.
type slogErrors struct{ *slog.Logger }

// Println implements [promhttp.Logger].
func (l slogErrors) Println(v ...any) {
	l.Logger.LogAttrs(context.Background(), slog.LevelWarn, "metrics not collected", slog.Any("error", v))
}
