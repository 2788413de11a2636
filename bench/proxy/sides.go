package main

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"carrel/internal/program"
)

// A side is one of the proxies that are compared.
type side interface {
	name() string
	// up starts it in front of the backend's port and returns when it answers.
	up(ctx context.Context, backend string) error
	// version is what was measured, for the record.
	version(ctx context.Context) string
	// at is its address, people those whom it serves, and pid its process, with all workers below it.
	at() string
	people() []person
	pid() int
	down() error
}

// chpVersion is pinned; the others are the distribution's.
const chpVersion = "5.3.0"

//go:embed nginx.conf
var nginxConf string

//go:embed haproxy.cfg
var haproxyConf string

// peer is a proxy that checks nobody.
type peer struct {
	title string
	dir   string // of this run
	// start gives the command that listens on a port of loopback in front of the backend's.
	start func(ctx context.Context, p *peer, port, backend string) (*exec.Cmd, error)
	// routes, where there is one, is called once it answers.
	routes func(ctx context.Context, p *peer, backend string) error
	asked  []string // the command that says its version

	port, admin string
	proc        *program.Process
}

func (p *peer) name() string     { return p.title }
func (p *peer) at() string       { return "127.0.0.1:" + p.port }
func (p *peer) pid() int         { return p.proc.PID() }
func (p *peer) people() []person { return strangers() }
func (p *peer) down() error      { return p.proc.Stop() }

func (p *peer) version(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, p.asked[0], p.asked[1:]...).CombinedOutput()
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

func (p *peer) up(ctx context.Context, backend string) error {
	p.port, p.admin = strconv.Itoa(program.FreePort()), strconv.Itoa(program.FreePort())
	if err := os.MkdirAll(p.dir, 0o755); err != nil { //nolint:gosec // workers run as users of their own
		return err
	}
	cmd, err := p.start(ctx, p, p.port, backend)
	if err != nil {
		return err
	}
	if p.proc, err = program.Launch(cmd, filepath.Join(p.dir, "log")); err != nil {
		return err
	}
	if err := p.proc.Answers(ctx, time.Minute, func() bool { return listens(ctx, p.at()) }); err != nil {
		return err
	}
	if p.routes == nil {
		return nil
	}
	return p.routes(ctx, p, backend)
}

func listens(ctx context.Context, at string) bool {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", at)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// peers are all but Carrel.
func peers(dir, cache, self string) []side {
	return []side{
		&peer{title: "nginx", dir: filepath.Join(dir, "nginx"), start: startNginx, asked: []string{"nginx", "-v"}},
		&peer{title: "haproxy", dir: filepath.Join(dir, "haproxy"), start: startHaproxy, asked: []string{"haproxy", "-v"}},
		&peer{
			title: "chp", dir: filepath.Join(dir, "chp"), start: startCHP(cache), routes: addRoutes,
			asked: []string{"node", chpScript(cache), "--version"},
		},
		&peer{title: "reverseproxy", dir: filepath.Join(dir, "reverseproxy"), start: func(ctx context.Context, _ *peer, port, backend string) (*exec.Cmd, error) {
			return exec.Command(self, "reverseproxy", port+":"+backend), nil //nolint:noctx // ended by Stop
		}, asked: []string{"go", "version"}},
	}
}

// configured writes a configuration with the ports put in.
func (p *peer) configured(text, port, backend string) (string, error) {
	path := filepath.Join(p.dir, "conf")
	text = strings.NewReplacer("@dir@", p.dir, "@port@", port, "@backend@", backend).Replace(text)
	return path, os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // there is no secret in it
}

func startNginx(_ context.Context, p *peer, port, backend string) (*exec.Cmd, error) {
	conf, err := p.configured(nginxConf, port, backend)
	return exec.Command("nginx", "-c", conf, "-p", p.dir, "-e", "stderr"), err //nolint:noctx // ended by Stop
}

func startHaproxy(_ context.Context, p *peer, port, backend string) (*exec.Cmd, error) {
	conf, err := p.configured(haproxyConf, port, backend)
	return exec.Command("haproxy", "-db", "-f", conf), err //nolint:noctx // ended by Stop
}

func chpScript(cache string) string {
	return filepath.Join(cache, "proxy", "node_modules", "configurable-http-proxy", "bin", "configurable-http-proxy")
}

// startCHP runs configurable-http-proxy from npm, installed once into the cache.
func startCHP(cache string) func(context.Context, *peer, string, string) (*exec.Cmd, error) {
	return func(ctx context.Context, p *peer, port, _ string) (*exec.Cmd, error) {
		dir := filepath.Join(cache, "proxy")
		if b, err := os.ReadFile(filepath.Join(dir, "installed")); err != nil || string(b) != chpVersion {
			if err := os.MkdirAll(dir, 0o750); err != nil {
				return nil, err
			}
			if _, err := program.Output(ctx, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", dir, "configurable-http-proxy@"+chpVersion); err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(dir, "installed"), []byte(chpVersion), 0o600); err != nil {
				return nil, err
			}
		}
		return exec.Command("node", chpScript(cache), "--ip", "127.0.0.1", "--port", port, "--api-ip", "127.0.0.1", "--api-port", p.admin), nil //nolint:noctx // ended by Stop
	}
}

// addRoutes gives configurable-http-proxy a route for each person, as JupyterHub does.
func addRoutes(ctx context.Context, p *peer, backend string) error {
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	for _, who := range strangers() {
		at := "http://127.0.0.1:" + p.admin + "/api/routes" + strings.TrimSuffix(who.Path, "/")
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(`{"target": "http://127.0.0.1:`+backend+`"}`))
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusCreated {
			return fmt.Errorf("a route is answered with %s", res.Status)
		}
	}
	return nil
}
