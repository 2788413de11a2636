package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const tools = "-modfile=internal/tools/go.mod"

// shownError is a failure whose output has been printed already.
type shownError struct{ error }

// command runs a program with its output in the step's log, and prints the log when it fails.
func (r *runner) command(ctx context.Context, log, dir, name string, args ...string) error {
	path := filepath.Join(r.logs, log+".log")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := gentle(exec.CommandContext(ctx, name, args...))
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, f, f
	if err := cmd.Run(); err != nil {
		r.show(path)
		return shownError{fmt.Errorf("%s: %w", name, err)}
	}
	return nil
}

// gentle lets a command that is no longer wanted clean up before it is killed.
func gentle(cmd *exec.Cmd) *exec.Cmd {
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

const shownLines = 200

// show prints the end of a log.
func (r *runner) show(path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		r.say("%v", err)
		return
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if cut := len(lines) - shownLines; cut > 0 {
		r.say("(%d lines before these are in %s)", cut, path)
		lines = lines[cut:]
	}
	r.say("%s", strings.Join(lines, "\n"))
}

func (r *runner) format(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "git", "ls-files", "-z", "*.go")
	listed, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git ls-files: %w", err)
	}
	var files []string
	for f := range strings.SplitSeq(strings.TrimRight(string(listed), "\x00"), "\x00") {
		if _, err := os.Stat(f); err == nil { // listed, but removed and not yet committed
			files = append(files, f)
		}
	}
	out, err := exec.CommandContext(ctx, "gofmt", append([]string{"-l", "-s"}, files...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		return "", fmt.Errorf("gofmt -s would change these:\n%s", out)
	}
	return fmt.Sprintf(", %d files", len(files)), nil
}

func (r *runner) build(ctx context.Context) (string, error) {
	if err := r.command(ctx, "build", "", "go", "build", "./..."); err != nil {
		return "", err
	}
	return "", r.command(ctx, "build-carrel", "", "go", "build", "-o", filepath.Join("bin", "carrel"), "./cmd/carrel")
}

func (r *runner) vet(ctx context.Context) (string, error) {
	if err := r.command(ctx, "vet", "", "go", "vet", "./..."); err != nil {
		return "", err
	}
	return "", r.command(ctx, "vet-integration", "", "go", "vet", "-tags", "integration", "./...")
}

func (r *runner) lint(ctx context.Context) (string, error) {
	return "", r.command(ctx, "lint", "", "go", "tool", tools, "golangci-lint", "run")
}

// vuln tells apart a database that can't be reached, which is no fault of the code but leaves it
// unchecked, from findings.
func (r *runner) vuln(ctx context.Context) (string, error) {
	db := os.Getenv("GOVULNDB")
	if db == "" {
		db = "https://vuln.go.dev"
	}
	if strings.HasPrefix(db, "http") {
		if err := reachable(ctx, db+"/index/db.json"); err != nil {
			r.notChecked = append(r.notChecked, "known vulnerabilities: "+err.Error())
			return ", NOT CHECKED: the vulnerability database can't be reached", nil
		}
	}
	return "", r.command(ctx, "vuln", "", "go", "tool", tools, "govulncheck", "./...")
}

func reachable(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, res.Status)
	}
	return nil
}

func (r *runner) unit(ctx context.Context) (string, error) {
	return r.goTest(ctx, "unit", "-race", "-timeout", "10m", "./...")
}

// engine is every package whose tests start containers themselves.
func (r *runner) engine(ctx context.Context) (string, error) {
	return r.tagged(ctx, "engine", engineTests, 1, 3)
}

// services is every package that needs other real programs, but no container.
func (r *runner) services(ctx context.Context) (string, error) {
	return r.tagged(ctx, "services", serviceTests, 2, 3)
}

func (r *runner) e2e(ctx context.Context) (string, error) {
	return r.tagged(ctx, "e2e", browserTests, 1, 4)
}

// tagged runs the tests of a kind that only the build tag "integration" brings in, of so many packages at a time, and
// of each so many tests.
func (r *runner) tagged(ctx context.Context, name string, wanted kind, pkgsAtOnce, testsAtOnce int) (string, error) {
	found, err := integrationTests(ctx)
	if err != nil {
		return "", err
	}
	var pkgs, tests []string
	for _, f := range found {
		if f.kind() == wanted {
			pkgs, tests = append(pkgs, f.pkg), append(tests, f.tests...)
		}
	}
	if len(pkgs) == 0 {
		return "", fmt.Errorf("no %s tests were found", name)
	}
	// Few packages at a time: each starts programs, and waits for them with deadlines. The tests of one that
	// may run side by side wait for the most part.
	args := append([]string{
		"-race", "-tags", "integration", "-p", strconv.Itoa(pkgsAtOnce), "-parallel", strconv.Itoa(testsAtOnce), "-timeout", "25m",
		"-run", "^(" + strings.Join(tests, "|") + ")$",
	}, pkgs...)
	return r.goTest(ctx, name, args...)
}

// goTest runs go test, prints a line per package as it ends, and counts every test.
func (r *runner) goTest(ctx context.Context, log string, args ...string) (string, error) {
	path := filepath.Join(r.logs, log+".json")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	errLog, err := os.Create(filepath.Join(r.logs, log+".log"))
	if err != nil {
		return "", err
	}
	defer errLog.Close()
	cmd := gentle(exec.CommandContext(ctx, "go", append([]string{"test", "-json", "-count=1"}, args...)...))
	cmd.Stderr = errLog
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	c := newCount()
	scan := bufio.NewReader(io.TeeReader(stdout, f))
	readErr := c.read(scan, func(line string) { r.say("   %s", line) })
	err = cmd.Wait()
	r.add(c)
	passed, failed, _ := c.totals()
	if err != nil || failed > 0 {
		c.showFailures(r, shownLines)
		if failed == 0 {
			r.show(errLog.Name())
		}
		return "", shownError{errors.Join(err, errors.New("tests failed"))}
	}
	if readErr != nil {
		return "", readErr
	}
	return fmt.Sprintf(", %d tests", passed), nil
}

// bench proves that `make bench-spawn` still measures something; its figures are too few to tell.
func (r *runner) bench(ctx context.Context) (string, error) {
	return "", r.command(ctx, "bench", "", "go", "run", "./bench/spawn", "-only", "carrel", "-rounds", "1", "-together", "3",
		"-o", filepath.Join(r.logs, "bench.json"))
}

// soak is five minutes of `make soak`. The program is built, not run by the go command, so that it
// hears when it is to end, and cleans up.
func (r *runner) soak(ctx context.Context) (string, error) {
	program, err := filepath.Abs(filepath.Join(r.logs, "soak"))
	if err != nil {
		return "", err
	}
	for path, pkg := range map[string]string{program: "./internal/soak", filepath.Join("bin", "carrel"): "./cmd/carrel"} {
		if err := r.command(ctx, "soak-build", "", "go", "build", "-o", path, pkg); err != nil {
			return "", err
		}
	}
	defer os.Remove(program)
	if err := r.command(ctx, "soak", "", program, "-for", "5m", "-o", filepath.Join(r.logs, "soak.json")); err != nil {
		return "", err
	}
	log, err := os.ReadFile(filepath.Join(r.logs, "soak.log"))
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, " actions in ") {
			return ", " + strings.TrimSpace(line), err
		}
	}
	return "", err
}

// fuzz builds each package's tests once, instrumented, and then runs its targets one by one.
func (r *runner) fuzz(ctx context.Context) (string, error) {
	found, err := fuzzTargets(ctx)
	if err != nil {
		return "", err
	}
	corpus, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	n := 0
	for _, f := range found {
		binary, err := filepath.Abs(filepath.Join(r.logs, strings.ReplaceAll(f.pkg, "/", "-")+".fuzz"))
		if err != nil {
			return "", err
		}
		if err := r.command(ctx, "fuzz-build", "", "go", "test", "-c", "-fuzz", ".", "-o", binary, f.pkg); err != nil {
			return "", err
		}
		for _, target := range f.tests {
			err := r.fuzzTarget(ctx, target, f.dir, binary, filepath.Join(corpus, "carrel-fuzz", f.pkg))
			if err != nil {
				return "", fmt.Errorf("%s in %s: %w", target, f.pkg, err)
			}
			n++
		}
		if err := os.Remove(binary); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf(", %d targets", n), nil
}

// fuzzTarget runs one target for its time. When that is over, Go before 1.27 now and then takes its own
// deadline for a failure (golang.org/issue/75804): with that alone, and no input that fails, the
// target is run again.
func (r *runner) fuzzTarget(ctx context.Context, target, dir, binary, cache string) error {
	for try := 0; ; try++ {
		name := fmt.Sprintf("fuzz-%s-%d", target, try)
		err := r.command(ctx, name, dir, binary, "-test.run=^$", "-test.fuzz=^"+target+"$",
			"-test.fuzztime="+r.fuzzTime.String(), "-test.parallel=2", "-test.fuzzcachedir="+cache)
		if err == nil || try == 3 {
			return err
		}
		said, rerr := os.ReadFile(filepath.Join(r.logs, name+".log"))
		if rerr != nil || !onlyDeadline(string(said)) {
			return err
		}
	}
}

// onlyDeadline tells whether a target's failure is nothing but the end of its time.
func onlyDeadline(said string) bool {
	_, after, failed := strings.Cut(said, "--- FAIL: ")
	_, after, _ = strings.Cut(after, "\n")
	return failed && strings.TrimSpace(after) == "context deadline exceeded\nFAIL"
}
