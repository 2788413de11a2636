package deployed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"carrel/internal/program"
)

// Leftovers counts what a deployment has on this machine, by kind.
type Leftovers struct {
	Containers int `json:"containers"`
	Networks   int `json:"networks"`
	Volumes    int `json:"volumes"`
	Mounts     int `json:"mounts"`
	Loops      int `json:"loop_devices"`
	Processes  int `json:"processes"`
	Files      int `json:"files"`
	Keys       int `json:"keys"` // of Redis, as far as the caller counts them
}

// None tells that there is nothing.
func (l Leftovers) None() bool { return l == Leftovers{} }

// String tells all counts.
func (l Leftovers) String() string {
	return fmt.Sprintf("%d containers, %d networks, %d volumes, %d mounts, %d loop devices, %d processes, %d files, %d keys", l.Containers, l.Networks, l.Volumes, l.Mounts, l.Loops, l.Processes, l.Files, l.Keys)
}

// Count counts all but keys.
func (d Deployment) Count(ctx context.Context) (Leftovers, error) {
	var l Leftovers
	var errs []error
	for _, kind := range []struct {
		n    *int
		args []string
	}{
		{&l.Containers, []string{"ps", "-a", "-q", "--filter", "label=dev.carrel.deployment=" + d.Name}},
		{&l.Networks, []string{"network", "ls", "-q", "--filter", "name=" + d.Name}},
		{&l.Volumes, []string{"volume", "ls", "-q", "--filter", "name=" + d.Name}},
	} {
		out, err := program.Output(ctx, "docker", kind.args...)
		errs = append(errs, err)
		*kind.n = len(strings.Fields(out))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	errs = append(errs, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, d.Dir+"/") || strings.Contains(line, d.Name) {
			l.Mounts++
		}
	}
	l.Processes = d.processesOf()
	l.Loops, err = d.loops()
	errs = append(errs, err)
	errs = append(errs, filepath.WalkDir(d.Dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !d.Own(path) {
			l.Files++
		}
		return nil //nolint:nilerr // what goes while it is counted is not there
	}))
	return l, errors.Join(errs...)
}

// processesOf counts the processes that name the run's directory or work in it.
func (d Deployment) processesOf() int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	n := 0
	for _, p := range dirs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile("/proc/" + p.Name() + "/cmdline") // of one that ended: empty
		cwd, _ := os.Readlink("/proc/" + p.Name() + "/cwd")
		if strings.Contains(string(line), d.Dir) || strings.HasPrefix(cwd, d.Dir) {
			n++
		}
	}
	return n
}

// loops counts the loop devices that show a file of the deployment.
func (d Deployment) loops() (n int, err error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if backing, err := os.ReadFile(f); err == nil && strings.Contains(string(backing), d.Dir+"/") { // else it went just now
			n++
		}
	}
	return n, err
}
