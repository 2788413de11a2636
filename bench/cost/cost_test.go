package cost

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		name, line string
		want       stat
		fails      bool
	}{
		{
			name: "a plain one, whose four times add up",
			line: "42 (nginx) S 7 42 42 0 -1 4194304 100 200 0 0 150 50 20 3 20 0 1 0 12345 1000 200 18446744073709551615",
			want: stat{42, 7, 2230 * time.Millisecond},
		},
		{
			name: "a name with blanks and parentheses",
			line: "43 (a) b (c) ) R 1 43 43 0 -1 0 0 0 0 0 100 0 0 0 20 0 1 0 1 1 1",
			want: stat{43, 1, time.Second},
		},
		{name: "cut off", line: "44 (x) R 1 44", fails: true},
		{name: "no name", line: "45 R 1 45 45 0 -1 0 0 0 0 0 100 0 0 0 20", fails: true},
		{name: "no number where one should be", line: "46 (x) R one 46 46 0 -1 0 0 0 0 0 100 0 0 0 20 0", fails: true},
		{name: "no time where one should be", line: "46 (x) R 1 46 46 0 -1 0 0 0 0 0 100 ? 0 0 20 0", fails: true},
		{name: "nothing", line: "", fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseStat([]byte(c.line))
			if (err != nil) != c.fails || got != c.want {
				t.Errorf("%+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestStolen(t *testing.T) {
	read := func(text string) Machine {
		t.Helper()
		m, err := parseMachine([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	before := read("cpu  1000 200 300 4000 50 0 10 5 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
	after := read("cpu  1300 250 400 4400 150 0 50 15 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n") // 10 s, of which 5 idle
	if got := after.Stolen(before, 3*time.Second); got != 0.2 {
		t.Errorf("of 5 busy seconds in 10, 3 of them ours, %v were others'", got)
	}
	if got := after.Stolen(before, 9*time.Second); got != 0 {
		t.Errorf("more of ours than there was makes %v", got)
	}
	if got := before.Stolen(before, 0); got != 0 {
		t.Errorf("no time at all makes %v", got)
	}
	for _, text := range []string{"", "cpu 1 2 3\n", "cpu0 1 1 1 1 1 1 1 1 0 0\n", "cpu 1 1 1 1 1 1 x 1 0 0\n"} {
		if _, err := parseMachine([]byte(text)); err == nil {
			t.Errorf("%q passes", text)
		}
	}
	if m, err := ReadMachine(); err != nil || m.all <= m.idle {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestParseResident(t *testing.T) {
	for _, c := range []struct {
		name, status string
		want         int64
		fails        bool
	}{
		{name: "among others", status: "Name:\tx\nVmHWM:\t  999 kB\nVmRSS:\t    5120 kB\nRssAnon:\t 1 kB\n", want: 5 << 20},
		{name: "a process that ends", status: "Name:\tx\nState:\tZ (zombie)\n"},
		{name: "no number", status: "VmRSS:\tlots kB\n", fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseResident([]byte(c.status))
			if (err != nil) != c.fails || got != c.want {
				t.Errorf("%d, %v; want %d", got, err, c.want)
			}
		})
	}
}

// What a worker costs counts while it runs, and once it has ended.
func TestCPUCountsWorkers(t *testing.T) {
	const burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "("+burn+"); echo ended; read line; ("+burn+"; echo burnt; read line)")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	said := bufio.NewReader(out)
	cpuAfter := func(word string) time.Duration {
		if line, err := said.ReadString('\n'); err != nil || line != word+"\n" {
			t.Fatalf("it says %q, %v", line, err)
		}
		cpu, err := CPU(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		return cpu
	}
	ended := cpuAfter("ended")
	if ended < 50*time.Millisecond {
		t.Errorf("a worker that ended counts %v", ended)
	}
	if _, err := io.WriteString(in, "go on\n"); err != nil {
		t.Fatal(err)
	}
	if both := cpuAfter("burnt"); both < ended+ended/2 || both > 4*ended {
		t.Errorf("one that ended counts %v, and a second one with it, which lives, %v", ended, both)
	}
}

func TestHoldCountsDescriptorsAndMemory(t *testing.T) {
	before, err := Hold(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:revive // all stay open
	}
	room := make([]byte, 64<<20)
	for i := range room {
		room[i] = 1
	}
	after, err := Hold(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if more := after.Descriptors - before.Descriptors; more < 20 || more > 25 {
		t.Errorf("20 files make %d descriptors", more)
	}
	if more := after.Resident - before.Resident; more < 48<<20 {
		t.Errorf("64 MiB make %d bytes", more)
	}
	if room[len(room)-1] != 1 {
		t.Error("the room was not used")
	}
}
