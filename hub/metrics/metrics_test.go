package metrics

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"carrel/hub"
)

type servers struct {
	list []hub.Server
	err  error
}

func (s servers) Servers(context.Context) iter.Seq2[hub.Server, error] {
	return func(yield func(hub.Server, error) bool) {
		for _, rec := range s.list {
			if !yield(rec, nil) {
				return
			}
		}
		if s.err != nil {
			yield(hub.Server{}, s.err)
		}
	}
}

func (s servers) QueueLength() (int, int) { return 3, 2 }

func (s servers) SlotStock() (hub.SlotStock, bool) {
	return hub.SlotStock{Ready: 4, Memory: 400 << 20}, s.err == nil
}

type guests struct{ err error }

func (guests) Policy() hub.VisitPolicy { return hub.VisitPolicy{Enabled: true} }
func (g guests) Stats(context.Context) (hub.VisitStats, error) {
	return hub.VisitStats{Capacity: 3, Open: 3, Waiting: 2}, g.err
}

func shown(t *testing.T, s servers) (*Metrics, func() string) {
	t.Helper()
	m, err := New(Config{
		Version: "1.2.3", Providers: []string{"demo"}, Logger: slog.New(slog.DiscardHandler),
		Parts: map[string]func(context.Context) error{
			"redis": func(context.Context) error { return nil }, "docker": func(context.Context) error { return errors.New("away") },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Show(s); err != nil {
		t.Fatal(err)
	}
	if err := m.ShowVisits(guests{s.err}); err != nil {
		t.Fatal(err)
	}
	return m, func() string {
		rec := httptest.NewRecorder()
		m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
		b, _ := io.ReadAll(rec.Result().Body)
		return string(b)
	}
}

func TestWhatIsShown(t *testing.T) {
	m, text := shown(t, servers{list: []hub.Server{{Phase: hub.Ready}, {Phase: hub.Ready}, {Phase: hub.Failed}}})
	m.StartOver("ready", 3*time.Second, []hub.StepTime{{Step: "queue", Took: time.Second}, {Step: "create", Took: time.Second}, {Step: "create", Took: time.Second}, {Step: "a driver's own"}})
	m.StartOver("failed", time.Minute, nil)
	m.Culled("idle")
	m.VisitBegan(25 * time.Second)
	m.VisitOver(hub.EndClosed)
	m.VisitOver("")
	m.VisitRefused(hub.RefusedFull)
	m.PauseOver("objected")
	m.WakeOver(20*time.Millisecond, nil)
	m.WakeOver(time.Minute, errors.New("no"))
	m.SignedIn("demo", nil)
	m.SignedIn("demo", hub.Errorf(hub.Forbidden, "sign in", "no"))
	got := text()
	for _, want := range []string{
		`carrel_hub_servers{phase="ready"} 2`, `carrel_hub_servers{phase="failed"} 1`, `carrel_hub_servers{phase="queued"} 0`,
		`carrel_hub_starts_total{outcome="ready"} 1`, `carrel_hub_starts_total{outcome="failed"} 1`,
		`carrel_hub_start_duration_seconds_sum 3`, `carrel_hub_start_duration_seconds_count 1`,
		`carrel_hub_start_step_duration_seconds_sum{step="create"} 2`, `carrel_hub_start_step_duration_seconds_count{step="create"} 1`,
		`carrel_hub_start_step_duration_seconds_count{step="other"} 1`,
		`carrel_hub_culls_total{rule="idle"} 1`, `carrel_hub_culls_total{rule="age"} 0`,
		`carrel_hub_sign_ins_total{outcome="ok",provider="demo"} 1`, `carrel_hub_sign_ins_total{outcome="forbidden",provider="demo"} 1`,
		`carrel_hub_visits_begun_total 1`, `carrel_hub_visit_wait_seconds_sum 25`, `carrel_hub_visits_ended_total{end="closed"} 1`, `carrel_hub_visits_ended_total{end="lost"} 1`, `carrel_hub_visits_ended_total{end="age"} 0`,
		`carrel_hub_visits_refused_total{reason="full"} 1`, `carrel_hub_visits_refused_total{reason="ban"} 0`, `carrel_hub_visits{phase="open"} 3`, `carrel_hub_visits{phase="waiting"} 2`, `carrel_hub_visits_capacity 3`,
		`carrel_hub_pauses_total{outcome="objected"} 1`, `carrel_hub_pauses_total{outcome="paused"} 0`, `carrel_hub_wakes_total{outcome="ok"} 1`, `carrel_hub_wakes_total{outcome="failed"} 1`, `carrel_hub_wake_duration_seconds_count 1`,
		`carrel_hub_part_up{part="redis"} 1`, `carrel_hub_part_up{part="docker"} 0`, `carrel_hub_part_answer_seconds{part="redis"} `,
		`carrel_hub_starts_waiting 3`, `carrel_hub_starts_at_work 2`, `carrel_hub_slots_ready 4`, `carrel_hub_slots_memory_bytes 4.194304e+08`, `carrel_build_info{goversion="go`,
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(got, `carrel_hub_part_answer_seconds{part="docker"}`) {
		t.Error("a part that does not answer has a time of its answer")
	}
}

func TestNoNumberIsBetterThanAWrongOne(t *testing.T) {
	_, text := shown(t, servers{list: []hub.Server{{Phase: hub.Ready}}, err: errors.New("the store went away")})
	if got := text(); strings.Contains(got, "\ncarrel_hub_servers{") || strings.Contains(got, "\ncarrel_hub_visits{") || !strings.Contains(got, "\ncarrel_hub_starts_waiting 3") {
		t.Errorf("%s", got)
	}
}

func TestConventions(t *testing.T) {
	m, _ := shown(t, servers{list: []hub.Server{{Phase: hub.Ready}}})
	m.StartOver("ready", time.Second, []hub.StepTime{{Step: "wait", Took: time.Second}})
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "carrel_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
