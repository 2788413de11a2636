package docker

import (
	"errors"
	"strings"
	"testing"
)

// What a program prints is kept up to the cap on both streams together, and nothing beyond it is.
func TestOutputIsCapped(t *testing.T) {
	o := &output{room: 10}
	stdout, stderr := &stream{o, &o.stdout, &o.stdoutCut}, &stream{o, &o.stderr, &o.stderrCut}
	for _, c := range []struct {
		to   *stream
		text string
		n    int
		full bool
	}{{stdout, "1234", 4, false}, {stderr, "56789", 5, false}, {stdout, "", 0, false}, {stdout, "abc", 1, true}, {stderr, "x", 0, true}} {
		n, err := c.to.Write([]byte(c.text))
		if n != c.n || errors.Is(err, errOutputFull) != c.full {
			t.Errorf("of %q %d were written, %v", c.text, n, err)
		}
	}
	if o.stdout.String() != "1234a" || o.stderr.String() != "56789" || !o.stdoutCut || !o.stderrCut {
		t.Errorf("%q, %q, cut %v and %v", o.stdout.String(), o.stderr.String(), o.stdoutCut, o.stderrCut)
	}
}

// The control groups are found in the forms of both versions, and only by the container's id.
func TestGroupsOf(t *testing.T) {
	id := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		text, cpu, memory string
		v2                bool
	}{
		"version 1":            {"12:memory:/docker/" + id + "\n3:cpu,cpuacct:/docker/" + id + "\n0::/docker/" + id + "\n", "/sys/fs/cgroup/cpuacct/docker/" + id, "/sys/fs/cgroup/memory/docker/" + id, false},
		"version 2":            {"0::/docker/" + id + "\n", "/sys/fs/cgroup/docker/" + id, "/sys/fs/cgroup/docker/" + id, true},
		"version 2, systemd":   {"0::/system.slice/docker-" + id + ".scope\n", "/sys/fs/cgroup/system.slice/docker-" + id + ".scope", "/sys/fs/cgroup/system.slice/docker-" + id + ".scope", true},
		"another's":            {"0::/docker/" + strings.Repeat("cd", 32) + "\n", "", "", true},
		"below another's path": {"0::/docker/" + id + "/evil\n", "", "", true},
		"nothing":              {"", "", "", true},
	} {
		if cpu, memory, v2 := groupsOf(c.text, id); cpu != c.cpu || memory != c.memory || v2 != c.v2 {
			t.Errorf("%s: %q, %q, %v", name, cpu, memory, v2)
		}
	}
}
