package main

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

// leftovers counts what the deployment has on this machine, by kind.
type leftovers struct {
	Containers int `json:"containers"`
	Networks   int `json:"networks"`
	Volumes    int `json:"volumes"`
	Mounts     int `json:"mounts"`
	Processes  int `json:"processes"`
	Files      int `json:"files"`
	Keys       int `json:"keys"` // of Redis that name a made-up person
}

func (l leftovers) none() bool { return l == leftovers{} }

func (l leftovers) String() string {
	return fmt.Sprintf("%d containers, %d networks, %d volumes, %d mounts, %d processes, %d files, %d keys", l.Containers, l.Networks, l.Volumes, l.Mounts, l.Processes, l.Files, l.Keys)
}

// count counts all but keys.
func (s *site) count(ctx context.Context) (leftovers, error) {
	var l leftovers
	var errs []error
	for _, kind := range []struct {
		n    *int
		args []string
	}{
		{&l.Containers, []string{"ps", "-a", "-q", "--filter", "label=dev.carrel.deployment=" + s.name}},
		{&l.Networks, []string{"network", "ls", "-q", "--filter", "name=" + s.name}},
		{&l.Volumes, []string{"volume", "ls", "-q", "--filter", "name=" + s.name}},
	} {
		out, err := program.Output(ctx, "docker", kind.args...)
		errs = append(errs, err)
		*kind.n = len(strings.Fields(out))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	errs = append(errs, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, s.dir+"/") || strings.Contains(line, s.name) {
			l.Mounts++
		}
	}
	l.Processes = s.processesOf()
	errs = append(errs, filepath.WalkDir(s.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".log") && path != s.config() {
			l.Files++
		}
		return nil //nolint:nilerr // what goes while it is counted is not there
	}))
	return l, errors.Join(errs...)
}

// processesOf counts the processes that name the run's directory or work in it.
func (s *site) processesOf() int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	n := 0
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile("/proc/" + d.Name() + "/cmdline") // of one that ended: empty
		cwd, _ := os.Readlink("/proc/" + d.Name() + "/cwd")
		if strings.Contains(string(line), s.dir) || strings.HasPrefix(cwd, s.dir) {
			n++
		}
	}
	return n
}

// keys counts Redis's keys that name a made-up person, or hold such a session.
func (s *site) keys(ctx context.Context) (int, error) {
	out, err := s.redis(ctx, "--scan", "--pattern", "*made*")
	if err != nil {
		return 0, err
	}
	return len(strings.Fields(out)), nil
}
