package top

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func p[T any](v T) *T { return &v }

// busy is a sample of three servers, seconds after noon.
func busy(seconds int) Sample {
	n := uint64(seconds)
	return Sample{Time: noon.Add(time.Duration(seconds) * time.Second), Proxies: 2, Servers: []Server{
		{User: "alice", State: "ready", Requests: 10 + 20*n, Received: 1024 * n, Sent: 3 << 20 * n, Websockets: 4, Cores: p(0.25), Memory: p(int64(300 << 20)), Started: p(noon.Add(-time.Hour)), LastActivity: p(noon)},
		{User: "bob", Server: "gpu", State: "ready", Requests: 5, Cores: p(1.5), Memory: p(int64(100 << 20)), Started: p(noon.Add(-50 * time.Hour))},
		{User: "carl", State: "starting", Started: nil},
	}}
}

func TestRates(t *testing.T) {
	for name, c := range map[string]struct {
		before, now Sample
		want        []float64 // requests, received and sent of alice
	}{
		"two seconds":      {busy(1), busy(3), []float64{20, 1024, 3 << 20}},
		"a proxy ended":    {busy(9), busy(1), []float64{0, 0, 0}}, // no time went by either
		"counters go back": {busy(9), func() Sample { s := busy(2); s.Time = noon.Add(time.Minute); return s }(), []float64{0, 0, 0}},
		"a proxy is back":  {func() Sample { s := busy(1); s.Proxies, s.Servers[0].Requests = 1, 0; return s }(), busy(3), []float64{0, 0, 0}},
		"the same moment":  {busy(3), busy(3), []float64{0, 0, 0}},
		"a new server":     {Sample{Time: noon}, busy(3), []float64{0, 0, 0}},
		"the very first":   {Sample{}, busy(3), []float64{0, 0, 0}},
	} {
		rep := Compare(c.before, c.now)
		got := []float64{rep.Rows[0].RequestsRate, rep.Rows[0].ReceivedRate, rep.Rows[0].SentRate}
		if len(rep.Rows) != 3 || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestOrder(t *testing.T) {
	rep := Compare(busy(1), busy(3))
	for by, want := range map[Order]string{
		ByCPU: "bob/gpu alice carl", ByMemory: "alice bob/gpu carl", ByRequests: "alice bob/gpu carl", ByIdle: "bob/gpu alice carl",
	} {
		rep.Sort(by)
		var got []string
		for _, r := range rep.Rows {
			got = append(got, r.name())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("by %v: %v, want %s", by, got, want)
		}
		if !strings.HasSuffix(rep.Lines(0, 0, by)[0], "by "+by.String()) || Orders[by.String()] != by {
			t.Errorf("%v is not told", by)
		}
	}
}

func TestTheTable(t *testing.T) {
	rep := Compare(busy(1), busy(3))
	rep.Sort(ByCPU)
	want := strings.Split(`12:00:03  3 servers, 2 ready  20.0 req/s  4 websockets  in 1.0K/s  out 3.0M/s  CPU 175  by cpu

SERVER          STATE   REQ/S    WS   IN/S  OUT/S   CPU%    MEM   IDLE
bob/gpu         ready     0.0     0     0B     0B    150   100M  2d02
alice           ready    20.0     4   1.0K   3.0M   25.0   300M     3s
carl         starting     0.0     0     0B     0B      -      -      -`, "\n")
	got := rep.Lines(0, 0, ByCPU)
	for i := range want {
		if i >= len(got) || strings.Join(strings.Fields(got[i]), " ") != strings.Join(strings.Fields(want[i]), " ") {
			t.Fatalf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d lines", len(got))
	}
}

// TestItFitsTheTerminal: nothing wraps at any size, and the name, CPU and memory are the last to go.
func TestItFitsTheTerminal(t *testing.T) {
	rep := Compare(busy(1), busy(3))
	for width := 1; width < 120; width++ {
		for _, height := range []int{1, 2, 4, 24} {
			lines := rep.Lines(width, height, ByCPU)
			if len(lines) > height {
				t.Fatalf("%d lines in %d", len(lines), height)
			}
			for _, l := range lines {
				if utf8.RuneCountInString(l) > width {
					t.Fatalf("%q is wider than %d", l, width)
				}
			}
			if height == 24 && width >= 26 && (!strings.Contains(lines[2], "CPU%") || !strings.Contains(lines[2], "MEM") || !strings.Contains(lines[4], "bob/gpu")) {
				t.Fatalf("%d columns: %q", width, lines)
			}
			if height == 24 && width >= 79 && !strings.Contains(lines[2], "IN/S") {
				t.Fatalf("%d columns: %q", width, lines[2])
			}
		}
	}
}

// TestNothingSteersTheTerminal: whatever the hub says, what is printed are letters.
func TestNothingSteersTheTerminal(t *testing.T) {
	evil := "a\x1b]0;owned\x07\x1b[2J\r\n\t\x9b31m\u202e\u200b\u00ad\u2028界\xff\xfe"
	s := Sample{Time: noon, Servers: []Server{
		{User: evil, Server: evil, State: evil, Profile: evil, Websockets: math.MinInt64, Requests: math.MaxUint64, Received: math.MaxUint64, Sent: math.MaxUint64, Cores: p(math.MaxFloat64), Memory: p(int64(math.MinInt64)), LastActivity: p(noon.Add(99999 * time.Hour))},
		{User: strings.Repeat("x", 5000), State: "ready", Cores: p(-1.0), Memory: p(int64(math.MaxInt64))},
	}}
	before := s
	before.Time, before.Servers = noon.Add(-time.Second), []Server{{User: evil, Server: evil}}
	for _, width := range []int{0, 3, 40, 80} {
		for _, line := range Compare(before, s).Lines(width, 0, ByIdle) {
			for _, c := range line {
				if c == utf8.RuneError || unicode.IsControl(c) || !unicode.IsPrint(c) || c > 0x250 {
					t.Errorf("%q holds %q", line, c)
				}
			}
		}
	}
	if _, err := json.Marshal(Compare(before, s)); err != nil {
		t.Error(err)
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[float64]string{0: "0B", 999: "999B", 1000: "1.0K", 1023: "1.0K", 1 << 20: "1.0M", 99.9 * 1024: "99.9K", 100 * 1024: "100K", 5 << 40: "5.0T", math.Inf(1): "+InfE"} {
		if got := size(n); got != want {
			t.Errorf("%v: %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "-", 0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01", 3 * time.Hour: "3h00", 49 * time.Hour: "2d01"} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
