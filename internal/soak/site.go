package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"carrel/hub"
	"carrel/hub/redisstore"
	"carrel/internal/deployed"
	"carrel/internal/program"
)

// A site is the deployment under test: one hub with its private Redis, and two proxies beside it.
// People reach the proxies as through a load balancer that keeps each browser at one of them, and
// takes the other while that one refuses connections.
type site struct {
	deployed.Deployment

	o       options
	url     string // the hub's public address
	ports   [2]string
	metrics map[string]string // ports, by process
	origins hub.Origins

	mu      sync.Mutex
	hub     *program.Process
	proxies [2]*program.Process
	since   [2]time.Time // when each proxy last began anew
}

func newSite(o options, dir string) (*site, error) {
	var ports [5]string
	for i := range ports {
		ports[i] = strconv.Itoa(program.FreePort())
	}
	s := &site{
		Deployment: deployed.Deployment{Name: "soak" + strings.ToLower(filepath.Base(dir)[len(dirPrefix):]), Dir: dir},
		o:          o,
		url:        "http://localhost:" + ports[0] + "/", ports: [2]string(ports[:2]),
		metrics: map[string]string{"hub": ports[2], proxyScope(0): ports[3], proxyScope(1): ports[4]},
	}
	s.Own = func(path string) bool { return strings.HasSuffix(path, ".log") || path == s.config() }
	var err error
	if s.origins, err = hub.NewOrigins(hub.Subdomains, s.url, ""); err != nil {
		return nil, err
	}
	return s, os.WriteFile(s.config(), s.yaml(), 0o600)
}

func (s *site) config() string { return filepath.Join(s.Dir, "carrel.yaml") }

// yaml gives half of the real people a home, and the others neither that nor a network.
func (s *site) yaml() []byte {
	var people []string
	for i := range s.o.people {
		people = append(people, realName(i))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "deployment: %s\nstate_dir: %s\npublic_url: %s\nlisten: [\"127.0.0.1:%s\"]\n", s.Name, filepath.Join(s.Dir, "state"), s.url, s.ports[0])
	fmt.Fprintf(&b, "metrics: {listen: \"127.0.0.1:%s\"}\n", s.metrics["hub"])
	fmt.Fprintf(&b, "demo: {people: [%s]}\n", strings.Join(people, ", "))
	fmt.Fprint(&b, "spawner: {kernel_check: false, reconcile_every: 10s}\nprofiles:\n")
	fmt.Fprint(&b, "  - {name: desk, title: Desk, default: true, cpu: 1, memory: 512MiB, disk: 64MiB, tmp: 64MiB, cull: {idle: 0s}}\n")
	fmt.Fprint(&b, "  - {name: bare, title: Bare, cpu: 1, memory: 512MiB, tmp: 64MiB, home: none, network: none, cull: {idle: 0s}}\n")
	fmt.Fprint(&b, "  - {name: soak, title: None, cull: {idle: 0s}}\n") // of those that run nowhere
	return []byte(b.String())
}

func profileOf(i int) string { return [...]string{"desk", "bare"}[i%2] }

func realName(i int) string { return fmt.Sprintf("person%02d", i) }

// up starts everything and waits until it answers.
func (s *site) up(ctx context.Context) error {
	if err := s.startHub(ctx); err != nil {
		return fmt.Errorf("start the hub: %w", err)
	}
	for i := range s.proxies {
		if err := s.startProxy(ctx, i); err != nil {
			return fmt.Errorf("start proxy %d: %w", i, err)
		}
	}
	return s.hub.Answers(ctx, 10*time.Minute, func() bool { return s.hubAnswers(ctx) }) // a fresh machine builds the kernel image first
}

func (s *site) startHub(ctx context.Context) error {
	cmd := exec.Command(s.o.binary, "hub", "--config", s.config()) //nolint:noctx // it is stopped in order, by down
	p, err := program.Launch(cmd, filepath.Join(s.Dir, "hub.log"))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.hub = p
	s.mu.Unlock()
	key := filepath.Join(s.Dir, "state", "secrets", "deployment.key") // made by the first of them to need it
	return p.Answers(ctx, time.Minute, func() bool { _, err := os.Stat(key); return err == nil })
}

// startProxy starts proxy i. Its port may be taken for a moment yet, by the child of one that was killed.
func (s *site) startProxy(ctx context.Context, i int) error {
	var p *program.Process
	var err error
	for range 20 {
		cmd := exec.Command(s.o.binary, "proxy", "--config", s.config()) //nolint:noctx // likewise
		cmd.Env = append(os.Environ(), "CARREL_LISTEN=127.0.0.1:"+s.ports[i], "CARREL_METRICS_PROXY_LISTEN=127.0.0.1:"+s.metrics[proxyScope(i)])
		if p, err = program.Launch(cmd, s.proxyLog(i)); err != nil {
			return err
		}
		s.mu.Lock()
		s.proxies[i], s.since[i] = p, time.Now()
		s.mu.Unlock()
		if err = p.Answers(ctx, time.Minute, func() bool { return s.answers(ctx, i, "carrel-health") }); err == nil {
			return nil
		}
		if err := program.Pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return err
}

// began tells when proxy i last began anew, with nothing in its cache.
func (s *site) began(i int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since[i]
}

func (s *site) beginsAnew(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since[i] = time.Now()
}

func (s *site) hubAnswers(ctx context.Context) bool {
	return s.answers(ctx, 0, "hub/health") || s.answers(ctx, 1, "hub/health")
}

// answers asks proxy i for a page, under the public name.
func (s *site) answers(ctx context.Context, i int, page string) bool {
	ctx, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+s.ports[i]+"/"+page, nil)
	if err != nil {
		return false
	}
	req.Host = "localhost:" + s.ports[0]
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err == nil && res.StatusCode == http.StatusOK
}

// down ends every process and removes what the deployment made.
func (s *site) down(ctx context.Context) error {
	s.mu.Lock()
	running := []*program.Process{s.proxies[0], s.proxies[1], s.hub}
	s.mu.Unlock()
	var errs []error
	for _, p := range running {
		errs = append(errs, p.Stop())
	}
	_, err := program.Output(ctx, s.o.binary, "down", "--volumes", "--config", s.config())
	return errors.Join(append(errs, err)...)
}

// registry opens the deployment's Redis, with the hub's rights.
func (s *site) registry() (registry, error) {
	password, err := s.RedisPassword()
	if err != nil {
		return registry{}, err
	}
	store, err := redisstore.New(redisstore.Config{URL: "unix://hub:" + password + "@" + s.RedisSocket(), Prefix: "carrel:" + s.Name + ":", Logger: slog.New(slog.DiscardHandler)})
	return registry{store, s.origins}, err
}

// passwords are the demo people's.
func (s *site) passwords() (map[string]string, error) {
	raw, err := os.ReadFile(filepath.Join(s.Dir, "state", "demo-users.json"))
	if err != nil {
		return nil, err
	}
	var people []struct{ Name, Password string }
	if err := json.Unmarshal(raw, &people); err != nil {
		return nil, err
	}
	known := map[string]string{}
	for _, p := range people {
		known[p.Name] = p.Password
	}
	return known, nil
}

// pids are the processes that are measured, by name; one that is being restarted is left out.
func (s *site) pids() map[string]int {
	s.mu.Lock()
	hub, proxies := s.hub, s.proxies
	s.mu.Unlock()
	pids := map[string]int{"hub": hub.PID()}
	for i, p := range proxies {
		if pid := deployed.ProxyChild(p.PID()); pid != 0 {
			pids[proxyScope(i)] = pid
		}
	}
	if pid := s.RedisPID(); pid != 0 {
		pids["redis"] = pid
	}
	return pids
}

// successor finds another process than old that is proxy i; 0 if there is none.
func (s *site) successor(i, old int) int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == old {
			continue
		}
		line, _ := os.ReadFile("/proc/" + d.Name() + "/cmdline") // of one that ended: empty
		env, _ := os.ReadFile("/proc/" + d.Name() + "/environ")
		if strings.HasSuffix(string(line), "\x00proxy\x00--config\x00"+s.config()+"\x00") && strings.Contains(string(env), "CARREL_LISTEN=127.0.0.1:"+s.ports[i]+"\x00") {
			return pid
		}
	}
	return 0
}

// adopt makes a successor proxy i.
func (s *site) adopt(i, pid int) error {
	p, err := program.Adopt(pid, s.proxyLog(i))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proxies[i], s.since[i] = p, time.Now()
	return nil
}

func (s *site) proxyLog(i int) string { return filepath.Join(s.Dir, fmt.Sprintf("proxy%d.log", i)) }
