package metrics

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"carrel/hub"
)

// askWithin bounds what a collection asks of others: Prometheus waits ten seconds.
const askWithin = 3 * time.Second

// Servers is the part of hub.Manager that is shown.
type Servers interface {
	Servers(ctx context.Context) iter.Seq2[hub.Server, error]
	QueueLength() (waiting, working int)
	SlotStock() (hub.SlotStock, bool)
}

// Show adds the servers, which are made after whoever observes them.
func (m *Metrics) Show(servers Servers) error {
	return hub.Wrap(hub.Internal, "show servers", m.registry.Register(serverStates{servers, m.cfg.Logger}))
}

var (
	serversDesc = prometheus.NewDesc("carrel_hub_servers", "Servers by phase, as all hubs of the deployment see them.", []string{"phase"}, nil)
	waitingDesc = prometheus.NewDesc("carrel_hub_starts_waiting", "Starts that wait for their turn at this hub.", nil, nil)
	workingDesc = prometheus.NewDesc("carrel_hub_starts_at_work", "Starts at work at this hub.", nil, nil)
	slotsDesc   = prometheus.NewDesc("carrel_hub_slots_ready", "Servers that this hub keeps ready for whoever comes next.", nil, nil)
	slotsMemory = prometheus.NewDesc("carrel_hub_slots_memory_bytes", "Memory that servers kept ready use.", nil, nil)
	upDesc      = prometheus.NewDesc("carrel_hub_part_up", "Whether a part that the hub needs answers.", []string{"part"}, nil)
	tookDesc    = prometheus.NewDesc("carrel_hub_part_answer_seconds", "How long the part took to answer just now.", []string{"part"}, nil)
)

// phases are all that a record can be in.
var phases = []hub.Phase{hub.Queued, hub.Starting, hub.Ready, hub.Paused, hub.Stopping, hub.Failed, hub.Absent}

// serverStates counts servers where they stand when somebody collects.
type serverStates struct {
	servers Servers
	logger  *slog.Logger
}

// Describe implements [prometheus.Collector].
func (s serverStates) Describe(to chan<- *prometheus.Desc) {
	to <- serversDesc
	to <- waitingDesc
	to <- workingDesc
	to <- slotsDesc
	to <- slotsMemory
}

// Collect implements [prometheus.Collector]. With the store away the phases are left out: no number
// is better than a wrong one.
func (s serverStates) Collect(to chan<- prometheus.Metric) {
	waiting, working := s.servers.QueueLength()
	to <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(waiting))
	to <- prometheus.MustNewConstMetric(workingDesc, prometheus.GaugeValue, float64(working))
	if stock, ok := s.servers.SlotStock(); ok {
		to <- prometheus.MustNewConstMetric(slotsDesc, prometheus.GaugeValue, float64(stock.Ready))
		to <- prometheus.MustNewConstMetric(slotsMemory, prometheus.GaugeValue, float64(stock.Memory))
	}
	ctx, done := context.WithTimeout(context.Background(), askWithin)
	defer done()
	n := map[hub.Phase]int{}
	for rec, err := range s.servers.Servers(ctx) {
		if err != nil {
			s.logger.LogAttrs(ctx, slog.LevelWarn, "servers not counted", slog.Any("error", err))
			return
		}
		n[rec.Phase]++
	}
	for _, p := range phases {
		to <- prometheus.MustNewConstMetric(serversDesc, prometheus.GaugeValue, float64(n[p]), string(p))
	}
}

// parts asks what the hub needs.
type parts struct {
	ask map[string]func(context.Context) error
}

// Describe implements [prometheus.Collector].
func (p parts) Describe(to chan<- *prometheus.Desc) {
	to <- upDesc
	to <- tookDesc
}

// Collect implements [prometheus.Collector].
func (p parts) Collect(to chan<- prometheus.Metric) {
	ctx, done := context.WithTimeout(context.Background(), askWithin)
	defer done()
	var asking sync.WaitGroup
	defer asking.Wait()
	for name, ask := range p.ask {
		asking.Go(func() {
			began := time.Now()
			err := ask(ctx)
			if err != nil {
				to <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, 0, name)
				return
			}
			to <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, 1, name)
			to <- prometheus.MustNewConstMetric(tookDesc, prometheus.GaugeValue, time.Since(began).Seconds(), name)
		})
	}
}
