// Package metrics shows the hub to Prometheus.
//
// It owns the names and labels of the hub's metrics, and the handler that serves them. It refuses to
// own who may read them, which is the API's, and any metric of the proxy's, which is another process.
// Labels come of short lists: no user's, server's or image's name is ever one.
package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"carrel/hub"
)

// Config is what there is to be shown.
type Config struct {
	Version   string
	Providers []string                               // names of the sign-in providers
	Parts     map[string]func(context.Context) error // asks what the hub needs, such as Redis, whether it answers
	Logger    *slog.Logger
}

// Metrics are the hub's. It is a hub.Observer.
type Metrics struct {
	cfg      Config
	registry *prometheus.Registry
	starts   *prometheus.CounterVec
	duration prometheus.Histogram
	step     *prometheus.HistogramVec
	culls    *prometheus.CounterVec
	signIns  *prometheus.CounterVec
	visits   visits
}

var _ hub.Observer = (*Metrics)(nil)

// steps are those of a start that have a series of their own.
var steps = map[string]bool{"queue": true, "create": true, "image": true, "start": true, "wait": true, "kernel": true}

// startBuckets are seconds.
var startBuckets = []float64{.05, .1, .25, .5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600}

// New makes the registry; nothing is asked before somebody collects.
func New(cfg Config) (*Metrics, error) {
	if cfg.Logger == nil {
		return nil, hub.Errorf(hub.Internal, "make metrics", "a part is missing")
	}
	m := &Metrics{
		cfg: cfg, registry: prometheus.NewRegistry(),
		starts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carrel_hub_starts_total", Help: "Starts of servers that are over, by outcome: ready, failed or stopped.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "carrel_hub_start_duration_seconds", Help: "Time from the request for a server to the end of its start, where it came up.", Buckets: startBuckets,
		}),
		step: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "carrel_hub_start_step_duration_seconds", Help: "Time that a start spent in each step.", Buckets: startBuckets,
		}, []string{"step"}),
		culls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carrel_hub_culls_total", Help: "Servers stopped by a rule: idle or age.",
		}, []string{"rule"}),
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carrel_hub_sign_ins_total", Help: "Answers of providers, by what came of them: ok, or the kind of error.",
		}, []string{"provider", "outcome"}),
		visits: newVisits(),
	}
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "carrel_build_info", Help: "1; the version is in the labels.", ConstLabels: prometheus.Labels{"version": cfg.Version, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.starts, m.duration, m.step, m.culls, m.signIns, build, parts{cfg.Parts},
	)
	m.registry.MustRegister(m.visits.collectors()...)
	for _, o := range []string{"ready", "failed", "stopped"} {
		m.starts.WithLabelValues(o)
	}
	for _, rule := range []string{"idle", "age"} {
		m.culls.WithLabelValues(rule)
	}
	for _, p := range cfg.Providers {
		m.signIns.WithLabelValues(p, "ok")
	}
	return m, nil
}

// StartOver implements [hub.Observer].
func (m *Metrics) StartOver(last string, took time.Duration, times []hub.StepTime) {
	m.starts.WithLabelValues(last).Inc()
	if last == "ready" {
		m.duration.Observe(took.Seconds())
	}
	sums := map[string]time.Duration{}
	for _, t := range times {
		name := t.Step
		if !steps[name] {
			name = "other"
		}
		sums[name] += t.Took
	}
	for name, sum := range sums {
		m.step.WithLabelValues(name).Observe(sum.Seconds())
	}
}

// Culled implements [hub.Observer].
func (m *Metrics) Culled(rule string) { m.culls.WithLabelValues(rule).Inc() }

// SignedIn counts a provider's answer, and what came of it.
func (m *Metrics) SignedIn(provider string, err error) {
	outcome := "ok"
	if err != nil {
		outcome = hub.KindOf(err).String()
	}
	m.signIns.WithLabelValues(provider, outcome).Inc()
}

// Handler serves the metrics, to whoever asks.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: faults{m.cfg.Logger}, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Registry: m.registry,
	})
}

// faults has what can't be collected told to the log.
type faults struct{ logger *slog.Logger }

// Println implements [promhttp.Logger].
func (f faults) Println(v ...any) {
	f.logger.LogAttrs(context.Background(), slog.LevelWarn, "metrics not collected", slog.Any("error", v))
}
