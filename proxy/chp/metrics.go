package chp

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the original's, by its names; a nil one counts nothing.
type metrics struct {
	registry                        *prometheus.Registry
	routeGet, routeAdd, routeDelete prometheus.Counter
	webSockets, requests            prometheus.Counter
	findTarget, lastActivity        prometheus.Summary
	proxied, called                 *prometheus.CounterVec
}

// quantiles are the original's, with how exact each has to be.
var quantiles = map[float64]float64{0.01: 0.001, 0.05: 0.005, 0.5: 0.05, 0.9: 0.01, 0.95: 0.005, 0.99: 0.001, 0.999: 0.0001}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	summary := func(name, help string) prometheus.Summary {
		return prometheus.NewSummary(prometheus.SummaryOpts{Name: name, Help: help, Objectives: quantiles})
	}
	byStatus := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"status"})
	}
	m := &metrics{
		registry:     prometheus.NewRegistry(),
		routeGet:     counter("api_route_get", "Requests to the REST API for all routes."),
		routeAdd:     counter("api_route_add", "Routes that were set."),
		routeDelete:  counter("api_route_delete", "Requests to delete a route, whether or not there was one."),
		webSockets:   counter("requests_ws", "Websocket requests."),
		requests:     counter("requests_web", "Requests that are no websockets, health checks excepted."),
		findTarget:   summary("find_target_for_req", "Seconds that finding a request's target took."),
		lastActivity: summary("last_activity_updating", "Seconds that noting a route's activity took."),
		proxied:      byStatus("requests_proxy", "Answers of servers, and of this proxy where a server gave none."),
		called:       byStatus("requests_api", "Answers of the REST API."),
	}
	m.registry.MustRegister(m.routeGet, m.routeAdd, m.routeDelete, m.webSockets, m.requests, m.findTarget, m.lastActivity, m.proxied, m.called,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// serve answers /metrics and nothing else.
func (m *metrics) serve(w http.ResponseWriter, r *http.Request) {
	if r.RequestURI != "/metrics" {
		text(w, http.StatusNotFound, "")
		return
	}
	promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

func (m *metrics) asked(upgrade bool) {
	switch {
	case m == nil:
	case upgrade:
		m.webSockets.Inc()
	default:
		m.requests.Inc()
	}
}

func (m *metrics) answered(status int) {
	if m != nil {
		m.proxied.WithLabelValues(strconv.Itoa(status)).Inc()
	}
}

// api counts an answer of the REST API.
func (m *metrics) api(status int) {
	if m != nil {
		m.called.WithLabelValues(strconv.Itoa(status)).Inc()
	}
}

// routes counts what the REST API did to the table, by the HTTP method that does it.
func (m *metrics) routes(method string) {
	if m != nil {
		map[string]prometheus.Counter{http.MethodGet: m.routeGet, http.MethodPost: m.routeAdd, http.MethodDelete: m.routeDelete}[method].Inc()
	}
}

// find times a look-up and what it gave.
func (p *Proxy) find(path []string) (*route, int) {
	if p.metrics == nil {
		return p.routes.find(path)
	}
	begun := time.Now()
	found, depth := p.routes.find(path)
	p.metrics.findTarget.Observe(time.Since(begun).Seconds())
	return found, depth
}

// used notes activity of a route.
func (p *Proxy) used(path string) {
	if p.metrics == nil {
		p.routes.used(path)
		return
	}
	begun := time.Now()
	p.routes.used(path)
	p.metrics.lastActivity.Observe(time.Since(begun).Seconds())
}
