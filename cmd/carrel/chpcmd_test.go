package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carrel/hub"
)

func TestALinkOfTheOriginalsNameIsChp(t *testing.T) {
	for _, c := range []struct{ args, want []string }{
		{[]string{"/usr/bin/carrel", "serve"}, []string{"serve"}},
		{[]string{"carrel"}, []string{}},
		{[]string{"/usr/local/bin/configurable-http-proxy", "--port", "1"}, []string{"chp", "--port", "1"}},
	} {
		if diff := cmp.Diff(c.want, arguments(c.args)); diff != "" {
			t.Errorf("%v: %s", c.args, diff)
		}
	}
}

func TestChpRefusesWhatItCannotDo(t *testing.T) {
	for option, field := range map[string]string{
		"--storage-backend=./store": "--storage-backend", "--storage-backend=redis": "--redis-url", "--redis-url=redis://x": "--redis-url", "--storage-backend=redis --redis-url=http://:hunter2@x": "--redis-url", "--ssl-ciphers=HIGH": "--ssl-ciphers", "--ssl-dhparam=/x": "--ssl-dhparam",
		"--ssl-allow-rc4": "--ssl-allow-rc4", "--log-level=loud": "--log-level", "--custom-header=none": "--custom-header",
		"--redirect-port=80": "--redirect-port", "--ssl-key=/none": "--ssl-key", "--timeout=-1": "--timeout",
	} {
		cmd := root()
		cmd.SetArgs(append([]string{"chp"}, strings.Fields(option)...))
		err := cmd.ExecuteContext(t.Context())
		if strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("a secret is told: %v", err)
		}
		if hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != field {
			t.Errorf("%s: %v, of %q", option, err, hub.FieldOf(err))
		}
	}
	for _, args := range []string{"--error-path=/x --error-target=http://x", "--socket=/x --port=1", "--metrics-socket=/x --metrics-port=1", "--nonsense", "argument"} {
		cmd := root()
		cmd.SetArgs(append([]string{"chp"}, strings.Fields(args)...))
		if err := cmd.ExecuteContext(t.Context()); err == nil {
			t.Errorf("%s is taken", args)
		}
	}
}

func TestChpTellsThatTheMetricsPortIsTaken(t *testing.T) {
	var lc net.ListenConfig
	taken, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	dir := t.TempDir()
	cmd := root()
	cmd.SetOut(io.Discard)
	cmd.SetArgs([]string{"chp", "--socket", dir + "/p", "--api-socket", dir + "/a", "--metrics-ip", "127.0.0.1", "--metrics-port", port})
	err = cmd.ExecuteContext(t.Context())
	if hub.KindOf(err) != hub.Invalid || !strings.Contains(err.Error(), taken.Addr().String()+" is in use by another program") {
		t.Errorf("it ended with %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("sockets are left: %v", left)
	}
}

func TestChpTellsTheVersionWhosePlaceItTakes(t *testing.T) {
	for _, option := range []string{"-V", "--version"} {
		var out bytes.Buffer
		cmd := root()
		cmd.SetOut(&out)
		cmd.SetArgs([]string{"chp", option})
		if err := cmd.ExecuteContext(t.Context()); err != nil || out.String() != "5.3.0\n" {
			t.Errorf("%q %v", &out, err)
		}
	}
}

func TestChpRunsOnSocketsAndEnds(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "chp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("CONFIGPROXY_AUTH_TOKEN", "t")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	said := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(r)
		said <- string(b)
	}()
	ended := make(chan error, 1)
	pid := filepath.Join(dir, "pid")
	go func() {
		cmd := root()
		cmd.SetOut(w)
		cmd.SetArgs([]string{"chp", "--socket", dir + "/p", "--api-socket", dir + "/a", "--default-target", "http://127.0.0.1:1", "--pid-file", pid, "--insecure", "--metrics-socket", dir + "/m"})
		ended <- cmd.ExecuteContext(ctx)
		w.Close()
	}()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(pid); err == nil && len(b) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no pid file came")
		}
	}
	stop()
	err = <-ended
	if status, ok := errors.AsType[exitStatus](err); !ok || status != 2 {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Stat(pid); err == nil {
		t.Error("the pid file is left")
	}
	lines := <-said
	for _, want := range []string{"info: Proxying http://" + dir + "/p to http://127.0.0.1:1\n", "info: Proxy API at http://" + dir + "/a/api/routes\n", "info: Serve metrics at http://" + dir + "/m/metrics\n", "warn: Terminated\n", "warn: --insecure has no effect"} {
		if !strings.Contains(lines, want) {
			t.Errorf("no %q in %s", want, lines)
		}
	}
	if strings.Contains(lines, "not authenticated") {
		t.Errorf("the token was not taken: %s", lines)
	}
}
