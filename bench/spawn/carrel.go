package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"carrel/internal/program"
)

// carrel is a deployment of the binary under measurement, with its own Redis and demo provider.
type carrel struct {
	o      options
	spare  int // servers kept ready
	dir    string
	config string
	c      *client
	p      *program.Process
}

func newCarrel(o options, spare int, dir string) *carrel {
	return &carrel{o: o, spare: spare, dir: dir, config: filepath.Join(dir, "carrel.yaml")}
}

func (c *carrel) name() string {
	if c.spare > 0 {
		return "carrel-ready"
	}
	return "carrel"
}

func (c *carrel) client() *client { return c.c }

// settle waits until as many servers are ready as are kept so; the log tells of each.
func (c *carrel) settle(ctx context.Context) error {
	for {
		raw, err := os.ReadFile(filepath.Join(c.dir, "log"))
		if err != nil {
			return err
		}
		if bytes.Count(raw, []byte(`msg="slot ready"`))-bytes.Count(raw, []byte(`msg="slot claimed"`)) >= c.spare {
			return nil
		}
		if err := program.Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (c *carrel) version(ctx context.Context) string {
	v, err := program.Output(ctx, c.o.binary, "version")
	if err != nil {
		return "unknown"
	}
	return strings.ReplaceAll(v, "\n", ", ")
}

// up starts `carrel serve`, signs everyone in as a browser would, and makes each a token: from then
// on both sides are driven in the same way.
func (c *carrel) up(ctx context.Context, people []string) error {
	if err := os.MkdirAll(c.dir, 0o711); err != nil { //nolint:gosec // the proxy's user passes through
		return err
	}
	port := strconv.Itoa(program.FreePort())
	deployment := "bench" + strings.ToLower(rand.Text()[:8])
	if err := os.WriteFile(c.config, c.yaml(deployment, port, people), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(c.o.binary, "serve", "--config", c.config) //nolint:noctx // it is stopped in order, by down
	var err error
	if c.p, err = program.Launch(cmd, filepath.Join(c.dir, "log")); err != nil {
		return err
	}
	tokens := map[string]string{}
	base := "http://localhost:" + port + "/"
	c.c = newClient(base, func(person string) string { return tokens[person] })
	err = c.p.Answers(ctx, 10*time.Minute, func() bool {
		status, _, err := c.c.do(ctx, http.MethodGet, "hub/health", "")
		return err == nil && status == http.StatusOK
	})
	if err != nil {
		return err
	}
	passwords, err := c.passwords()
	if err != nil {
		return err
	}
	for _, p := range people {
		if tokens[p], err = token(ctx, base, p, passwords[p]); err != nil {
			return fmt.Errorf("sign %s in: %w", p, err)
		}
	}
	return nil
}

func (c *carrel) passwords() (map[string]string, error) {
	raw, err := os.ReadFile(filepath.Join(c.dir, "state", "demo-users.json"))
	if err != nil {
		return nil, err
	}
	var people []struct{ Name, Password string }
	if err := json.Unmarshal(raw, &people); err != nil {
		return nil, fmt.Errorf("demo-users.json: %w", err)
	}
	known := map[string]string{}
	for _, p := range people {
		known[p.Name] = p.Password
	}
	return known, nil
}

// down ends the process and removes what it made.
func (c *carrel) down(ctx context.Context) error {
	if err := c.p.Stop(); err != nil {
		return err
	}
	if _, err := os.Stat(c.config); err != nil {
		return nil // it never came up
	}
	_, err := program.Output(ctx, c.o.binary, "down", "--volumes", "--config", c.config)
	return err
}

// yaml is the smallest configuration that gives the bench's people the same limits as the peer's.
func (c *carrel) yaml(deployment, port string, people []string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "deployment: %s\nstate_dir: %s\npublic_url: http://localhost:%s/\nlisten: [\"127.0.0.1:%s\"]\n", deployment, filepath.Join(c.dir, "state"), port, port)
	fmt.Fprintf(&b, "demo: {people: [%s]}\n", strings.Join(people, ", "))
	fmt.Fprintf(&b, "profiles:\n  - {name: bench, title: Bench, default: true, image: %q, cpu: %g, memory: %d, disk: 1GiB, spare: %d}\n", c.o.image, c.o.limits.CPUs, c.o.limits.Memory, c.spare)
	return []byte(b.String())
}
