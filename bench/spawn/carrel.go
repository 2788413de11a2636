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
	"sync"
	"time"

	"carrel/internal/deployed"
	"carrel/internal/program"
)

// carrel is a deployment of the binary under measurement, with its own Redis and demo provider.
type carrel struct {
	deployed.Deployment

	o      options
	spare  int // servers kept ready
	max    int // visitors with a notebook at once; 0: the servers are for people with accounts
	config string
	base   string // its public address
	c      *client
	p      *program.Process

	mu     sync.Mutex
	guests map[string]*guest // by the person that each stands in for
}

func newCarrel(o options, spare int, dir string) *carrel {
	c := &carrel{o: o, spare: spare, config: filepath.Join(dir, "carrel.yaml"), guests: map[string]*guest{}}
	c.Name, c.Dir = "bench"+strings.ToLower(rand.Text()[:8]), dir
	c.Own = func(path string) bool { return path == c.config || path == c.log() }
	return c
}

func (c *carrel) log() string { return filepath.Join(c.Dir, "log") }

func (c *carrel) name() string {
	switch {
	case c.max > 0:
		return "carrel-visitor"
	case c.spare > 0:
		return "carrel-ready"
	}
	return "carrel"
}

// start is the click, of a person with an account or of somebody without one.
func (c *carrel) start(ctx context.Context, person string) (time.Duration, error) {
	if c.max == 0 {
		return c.c.start(ctx, person)
	}
	g, err := newGuest(c.base)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.guests[person] = g
	c.mu.Unlock()
	return g.come(ctx)
}

func (c *carrel) cell(ctx context.Context, person string) error {
	if c.max == 0 {
		return c.c.cell(ctx, person)
	}
	c.mu.Lock()
	g := c.guests[person]
	c.mu.Unlock()
	return g.use(ctx)
}

func (c *carrel) stop(ctx context.Context, person string) error {
	if c.max == 0 {
		return c.c.stop(ctx, person)
	}
	c.mu.Lock()
	g := c.guests[person]
	delete(c.guests, person)
	left := len(c.guests)
	c.mu.Unlock()
	if err := g.leave(ctx); err != nil {
		return err
	}
	return c.emptied(ctx, left)
}

// emptied waits until no more visits are there than that.
func (c *carrel) emptied(ctx context.Context, left int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		status, body, err := c.c.do(ctx, http.MethodGet, "hub/api/tmp/stats", "")
		if err != nil {
			return err
		}
		var room struct{ Available int }
		if err := json.Unmarshal(body, &room); err != nil {
			return fmt.Errorf("stats: status %d: %.300s", status, body)
		}
		if room.Available >= c.max-left {
			return nil
		}
		if err := program.Pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("the visit is still there: %w", err)
		}
	}
}

// settle waits until as many servers are ready as are kept so; the log tells of each.
func (c *carrel) settle(ctx context.Context) error {
	for {
		raw, err := os.ReadFile(c.log())
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
	if err := os.MkdirAll(c.Dir, 0o711); err != nil { //nolint:gosec // the proxy's user passes through
		return err
	}
	port := strconv.Itoa(program.FreePort())
	if err := os.WriteFile(c.config, c.yaml(port, people), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(c.o.binary, "serve", "--config", c.config) //nolint:noctx // it is stopped in order, by down
	var err error
	if c.p, err = program.Launch(cmd, c.log()); err != nil {
		return err
	}
	tokens := map[string]string{}
	c.base = "http://localhost:" + port + "/"
	c.c = newClient(c.base, func(person string) string { return tokens[person] })
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
		if tokens[p], err = token(ctx, c.base, p, passwords[p]); err != nil {
			return fmt.Errorf("sign %s in: %w", p, err)
		}
	}
	return nil
}

func (c *carrel) passwords() (map[string]string, error) {
	raw, err := os.ReadFile(filepath.Join(c.Dir, "state", "demo-users.json"))
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
func (c *carrel) yaml(port string, people []string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "deployment: %s\nstate_dir: %s\npublic_url: http://localhost:%s/\nlisten: [\"127.0.0.1:%s\"]\n", c.Name, filepath.Join(c.Dir, "state"), port, port)
	fmt.Fprintf(&b, "demo: {people: [%s]}\n", strings.Join(people, ", "))
	if c.max > 0 {
		fmt.Fprintf(&b, "tmp: {enabled: true, profile: bench, max: %d, line: 1000, per_address: 0, arrivals_per_address: 0}\n", c.max)
		fmt.Fprint(&b, "profiles:\n  - {name: account, title: Account, default: true}\n")
		fmt.Fprintf(&b, "  - {name: bench, title: Bench, image: %q, cpu: %g, memory: %d, disk: 64MiB, home_kind: tmpfs, network: none, spare: %d}\n", c.o.image, c.o.limits.CPUs, c.o.limits.Memory, c.spare)
		return []byte(b.String())
	}
	fmt.Fprintf(&b, "profiles:\n  - {name: bench, title: Bench, default: true, image: %q, cpu: %g, memory: %d, disk: 1GiB, spare: %d}\n", c.o.image, c.o.limits.CPUs, c.o.limits.Memory, c.spare)
	return []byte(b.String())
}
