package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"carrel/internal/deployed"
)

// A report is all that a run found out.
type report struct {
	Seed         uint64              `json:"seed"`
	Length       float64             `json:"seconds_asked_for"`
	Lasted       float64             `json:"seconds"`
	Clients      int                 `json:"clients"`
	People       int                 `json:"people_with_a_server"`
	MadeUp       int                 `json:"made_up_people"`
	Think        float64             `json:"think_seconds"`
	Actions      int64               `json:"actions"`
	Rate         float64             `json:"actions_per_second"`
	Rows         []row               `json:"outcomes"`
	Excuses      map[string]int      `json:"excused_for"`
	Findings     []string            `json:"findings"`
	More         int                 `json:"findings_not_listed"`
	Disturbances []disturbance       `json:"disturbances"`
	LagMedian    float64             `json:"sign_out_to_cut_median_ms"`
	LagMax       float64             `json:"sign_out_to_cut_max_ms"`
	SignOuts     int                 `json:"sign_outs_timed"`
	Flatness     []deployed.Flatness `json:"flatness"`
	Descriptors  map[string][2]int   `json:"descriptors_before_and_after_the_load"`
	Made         deployed.Leftovers  `json:"made"`
	Left         deployed.Leftovers  `json:"left"`
	Samples      []deployed.Sample   `json:"samples"`
}

// fill takes in what the run gathered.
func (r *run) fill(rep *report) {
	rep.Flatness = flat(r.samples, r.o.length, r.o.clients)
	for _, f := range rep.Flatness {
		if f.Judged && !f.Flat && rep.Lasted >= rep.Length {
			r.judge.find("%s is not flat: %.0f to %.0f KiB, %.0f to %.0f descriptors, %.0f to %.0f goroutines", f.Process, f.RSSBefore, f.RSSAfter, f.FDsBefore, f.FDsAfter, f.GosBefore, f.GosAfter)
		}
	}
	rep.Actions, rep.Rows, rep.Samples = r.actions.Load(), r.judge.rows(), r.samples
	if rep.Lasted > 0 {
		rep.Rate = float64(rep.Actions) / rep.Lasted
	}
	rep.Excuses, rep.Findings, rep.More = r.judge.excuses, r.judge.findings, r.judge.more
	rep.Disturbances = r.disturbances
	slices.Sort(r.lags)
	if n := len(r.lags); n > 0 {
		rep.SignOuts, rep.LagMedian, rep.LagMax = n, milliseconds(r.lags[n/2]), milliseconds(r.lags[n-1])
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// print shows the report; the error says that there are findings.
func (rep *report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\naction\tright\texcused\twrong\t\n")
	for _, r := range rep.Rows {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t\n", r.Action, r.OK, r.Excused, r.Wrong)
	}
	fmt.Fprintf(w, "\nprocess\tMiB, 1st half\t2nd half\tfds, 1st half\t2nd half\tgoroutines, 1st half\t2nd half\tmost MiB\tCPU s\t\n")
	for _, f := range rep.Flatness {
		verdict := ""
		switch {
		case f.Judged && f.Flat:
			verdict = "flat"
		case f.Judged:
			verdict = "NOT FLAT"
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%s\t\n", f.Process, f.RSSBefore/1024, f.RSSAfter/1024, f.FDsBefore, f.FDsAfter, f.GosBefore, f.GosAfter, float64(f.Max.RSS)/1024, rep.cpu(f.Process), verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d actions in %.0f s, %.0f a second; %d disturbances; seed %d\n", rep.Actions, rep.Lasted, rep.Rate, len(rep.Disturbances), rep.Seed)
	fmt.Fprintf(out, "sign-out to cut websocket: median %.0f ms, longest %.0f ms, of %d\n", rep.LagMedian, rep.LagMax, rep.SignOuts)
	fmt.Fprintf(out, "descriptors before and after the load: %v\nmade: %v\nleft: %v\n", rep.Descriptors, rep.Made, rep.Left)
	for _, f := range rep.Findings {
		fmt.Fprintln(out, "WRONG", f)
	}
	if n := len(rep.Findings) + rep.More; n > 0 {
		return fmt.Errorf("%d findings; seed %d", n, rep.Seed)
	}
	fmt.Fprintln(out, "no wrong answer")
	return nil
}

// cpu is what all lives of a process used together, in seconds.
func (rep *report) cpu(process string) float64 {
	lives := map[int]float64{}
	for _, s := range rep.Samples {
		if s.Process == process {
			lives[s.PID] = s.CPU
		}
	}
	sum := 0.0
	for _, c := range lives {
		sum += c
	}
	return sum
}

var logs = []string{"hub.log", "proxy0.log", "proxy1.log", "backends.log"}

// faults finds in the logs what must never be there, whatever was killed.
func (s *site) faults() []string {
	var found []string
	for _, name := range logs {
		b, err := os.ReadFile(filepath.Join(s.Dir, name))
		if err != nil {
			continue // it never began
		}
		for line := range strings.Lines(string(b)) {
			for _, bad := range []string{"msg=panic", "panic:", "DATA RACE", "fatal error:", "sweep refused"} {
				if strings.Contains(line, bad) {
					found = append(found, fmt.Sprintf("%s: %.400s", name, strings.TrimSpace(line)))
				}
			}
		}
	}
	return found
}

// keepLogs copies the logs beside the report.
func (s *site) keepLogs(dir string) error {
	var errs []error
	for _, name := range logs {
		b, err := os.ReadFile(filepath.Join(s.Dir, name))
		if err == nil {
			errs = append(errs, os.MkdirAll(dir, 0o750), os.WriteFile(filepath.Join(dir, "soak-"+name), b, 0o600))
		}
	}
	return errors.Join(errs...)
}
