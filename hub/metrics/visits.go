package metrics

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"carrel/hub"
)

// visits are the metrics of visitors and of pauses.
type visits struct {
	begun   prometheus.Counter
	waited  prometheus.Histogram
	ended   *prometheus.CounterVec
	refused *prometheus.CounterVec
	pauses  *prometheus.CounterVec
	wakes   *prometheus.CounterVec
	woken   prometheus.Histogram
}

var _ hub.VisitObserver = (*Metrics)(nil)

// wakeBuckets are seconds; a person notices from a tenth on.
var wakeBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// waitBuckets are seconds.
var waitBuckets = []float64{.1, 1, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600}

func newVisits() visits {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	v := visits{
		begun:   prometheus.NewCounter(prometheus.CounterOpts{Name: "carrel_hub_visits_begun_total", Help: "Visitors who were let in."}),
		waited:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "carrel_hub_visit_wait_seconds", Help: "Time that visitors who were let in had waited in line.", Buckets: waitBuckets}),
		ended:   counter("carrel_hub_visits_ended_total", "Visits of which nothing is left, by how they ended.", "end"),
		refused: counter("carrel_hub_visits_refused_total", "Visitors who were not taken in, by the reason.", "reason"),
		pauses:  counter("carrel_hub_pauses_total", "Pauses of servers, by outcome: paused, objected (in use) or failed.", "outcome"),
		wakes:   counter("carrel_hub_wakes_total", "Wakes of paused servers, by outcome: ok or failed.", "outcome"),
		woken:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "carrel_hub_wake_duration_seconds", Help: "Time that a paused server took to go on.", Buckets: wakeBuckets}),
	}
	for _, e := range hub.VisitEnds {
		v.ended.WithLabelValues(string(e))
	}
	for _, r := range hub.VisitRefusals {
		v.refused.WithLabelValues(string(r))
	}
	for _, o := range []string{"paused", "objected", "failed"} {
		v.pauses.WithLabelValues(o)
	}
	for _, o := range []string{"ok", "failed"} {
		v.wakes.WithLabelValues(o)
	}
	return v
}

func (v visits) collectors() []prometheus.Collector {
	return []prometheus.Collector{v.begun, v.waited, v.ended, v.refused, v.pauses, v.wakes, v.woken}
}

// PauseOver implements [hub.Observer].
func (m *Metrics) PauseOver(outcome string) { m.visits.pauses.WithLabelValues(outcome).Inc() }

// WakeOver implements [hub.Observer].
func (m *Metrics) WakeOver(took time.Duration, err error) {
	if err != nil {
		m.visits.wakes.WithLabelValues("failed").Inc()
		return
	}
	m.visits.wakes.WithLabelValues("ok").Inc()
	m.visits.woken.Observe(took.Seconds())
}

// VisitBegan implements [hub.VisitObserver].
func (m *Metrics) VisitBegan(waited time.Duration) {
	m.visits.begun.Inc()
	m.visits.waited.Observe(waited.Seconds())
}

// VisitOver implements [hub.VisitObserver].
func (m *Metrics) VisitOver(end hub.VisitEnd) {
	if end == "" {
		end = hub.EndLost // recorded by an older hub
	}
	m.visits.ended.WithLabelValues(string(end)).Inc()
}

// VisitRefused implements [hub.VisitObserver].
func (m *Metrics) VisitRefused(why hub.VisitRefusal) {
	m.visits.refused.WithLabelValues(string(why)).Inc()
}

// Visits is the part of hub.Visitors that is shown.
type Visits interface {
	Policy() hub.VisitPolicy
	Stats(ctx context.Context) (hub.VisitStats, error)
}

// ShowVisits adds the visits that there are.
func (m *Metrics) ShowVisits(v Visits) error {
	return hub.Wrap(hub.Internal, "show visits", m.registry.Register(visitStates{v, m.cfg.Logger}))
}

var (
	visitsDesc   = prometheus.NewDesc("carrel_hub_visits", "Visits by phase (open, waiting), as all hubs of the deployment see them.", []string{"phase"}, nil)
	capacityDesc = prometheus.NewDesc("carrel_hub_visits_capacity", "Visitors who may have a notebook at once.", nil, nil)
)

// visitStates counts visits when somebody collects.
type visitStates struct {
	visits Visits
	logger *slog.Logger
}

// Describe implements [prometheus.Collector].
func (s visitStates) Describe(to chan<- *prometheus.Desc) {
	to <- visitsDesc
	to <- capacityDesc
}

// Collect implements [prometheus.Collector]. Nothing is shown where there are no visitors, or the store is
// away.
func (s visitStates) Collect(to chan<- prometheus.Metric) {
	if !s.visits.Policy().Enabled {
		return
	}
	ctx, done := context.WithTimeout(context.Background(), askWithin)
	defer done()
	now, err := s.visits.Stats(ctx)
	if err != nil {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "visits not counted", slog.Any("error", err))
		return
	}
	to <- prometheus.MustNewConstMetric(visitsDesc, prometheus.GaugeValue, float64(now.Open), "open")
	to <- prometheus.MustNewConstMetric(visitsDesc, prometheus.GaugeValue, float64(now.Waiting), "waiting")
	to <- prometheus.MustNewConstMetric(capacityDesc, prometheus.GaugeValue, float64(now.Capacity))
}
