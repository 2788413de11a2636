package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"carrel/internal/program"
)

// The peers that are measured, pinned.
const (
	jupyterhubVersion    = "6.1.1"
	dockerspawnerVersion = "14.0.0"
	proxyVersion         = "5.3.0"
)

//go:embed jupyterhub_config.py
var jupyterhubConfig []byte

//go:embed Dockerfile
var singleuserDockerfile []byte

// jupyterHub is JupyterHub with DockerSpawner and configurable-http-proxy, each as installed from
// its registry.
type jupyterHub struct {
	o      options
	dir    string // of this run
	cache  string // what is installed, kept for the next run
	prefix string // of containers, volumes and the network
	image  string
	log    io.Writer
	c      *client
	p      *program.Process
}

func newJupyterHub(o options, dir, cache string, log io.Writer) *jupyterHub {
	id := strings.ToLower(rand.Text()[:8])
	return &jupyterHub{o: o, dir: dir, cache: cache, prefix: "bench" + id, image: "carrel-bench/singleuser:" + id, log: log}
}

func (j *jupyterHub) name() string { return peer }

func (j *jupyterHub) start(ctx context.Context, person string) (time.Duration, error) {
	return j.c.start(ctx, person)
}
func (j *jupyterHub) cell(ctx context.Context, person string) error { return j.c.cell(ctx, person) }
func (j *jupyterHub) stop(ctx context.Context, person string) error { return j.c.stop(ctx, person) }

func (j *jupyterHub) python() string { return filepath.Join(j.cache, "venv", "bin", "python") }
func (j *jupyterHub) proxy() string {
	return filepath.Join(j.cache, "npm", "node_modules", ".bin", "configurable-http-proxy")
}

func (j *jupyterHub) version(ctx context.Context) string {
	hub, err := program.Output(ctx, filepath.Join(j.cache, "venv", "bin", "jupyterhub"), "--version")
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("JupyterHub %s, dockerspawner %s, configurable-http-proxy %s", hub, dockerspawnerVersion, proxyVersion)
}

// install puts the pinned versions into the cache, unless they are there.
func (j *jupyterHub) install(ctx context.Context) error {
	want := strings.Join([]string{jupyterhubVersion, dockerspawnerVersion, proxyVersion}, " ")
	stamp := filepath.Join(j.cache, "installed")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return nil
	}
	fmt.Fprintln(j.log, "jupyterhub: installing from PyPI and npm")
	if err := os.RemoveAll(j.cache); err != nil {
		return err
	}
	if err := os.MkdirAll(j.cache, 0o750); err != nil {
		return err
	}
	python := "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		python = "python3"
	}
	for _, c := range [][]string{
		{python, "-m", "venv", filepath.Join(j.cache, "venv")},
		{j.python(), "-m", "pip", "install", "-q", "jupyterhub==" + jupyterhubVersion, "dockerspawner==" + dockerspawnerVersion},
		{"npm", "install", "--no-audit", "--no-fund", "--prefix", filepath.Join(j.cache, "npm"), "configurable-http-proxy@" + proxyVersion},
	} {
		if _, err := program.Output(ctx, c[0], c[1:]...); err != nil {
			return err
		}
	}
	return os.WriteFile(stamp, []byte(want), 0o600)
}

// build puts the single-user server on top of the kernel image. The wheels are fetched out here,
// for the Python in there: a build has no network of its own on every machine.
func (j *jupyterHub) build(ctx context.Context) error {
	minor, err := program.Output(ctx, "docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", j.o.image,
		"-c", "import sys; print('%d.%d' % sys.version_info[:2])")
	if err != nil {
		return fmt.Errorf("look into the kernel image (is it built? `carrel image build`): %w", err)
	}
	fmt.Fprintf(j.log, "jupyterhub: building its image on %s (Python %s)\n", j.o.image, minor)
	build := filepath.Join(j.cache, "image")
	wheels := filepath.Join(build, "wheels")
	if err := os.MkdirAll(wheels, 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(build, "Dockerfile"), singleuserDockerfile, 0o600); err != nil {
		return err
	}
	if _, err := program.Output(ctx, j.python(), "-m", "pip", "download", "-q", "--only-binary", ":all:", "--python-version", minor,
		"-d", wheels, "jupyterhub=="+jupyterhubVersion); err != nil {
		return err
	}
	_, err = program.Output(ctx, "docker", "build", "-q", "--network", "none", "--build-arg", "BASE="+j.o.image, "-t", j.image, build)
	return err
}

func (j *jupyterHub) up(ctx context.Context, people []string) error {
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return err
	}
	if err := j.install(ctx); err != nil {
		return err
	}
	if err := j.build(ctx); err != nil {
		return err
	}
	if _, err := program.Output(ctx, "docker", "network", "create", j.prefix); err != nil {
		return err
	}
	gateway, err := program.Output(ctx, "docker", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", j.prefix)
	if err != nil {
		return err
	}
	home, err := program.Output(ctx, "docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", j.image, "-c", "cd && pwd")
	if err != nil {
		return err
	}
	port := program.FreePort()
	config := filepath.Join(j.dir, "jupyterhub_config.py")
	if err := os.WriteFile(config, jupyterhubConfig, 0o600); err != nil {
		return err
	}
	token := rand.Text()
	cmd := exec.Command(j.python(), "-m", "jupyterhub", "-f", config) //nolint:noctx // it is stopped in order, by down
	cmd.Dir = j.dir
	cmd.Env = append(os.Environ(), "BENCH_STATE="+j.dir, "BENCH_NETWORK="+j.prefix, "BENCH_GATEWAY="+gateway, "BENCH_HOME="+home,
		"BENCH_PREFIX="+j.prefix, "BENCH_IMAGE="+j.image, "BENCH_TOKEN="+token, "BENCH_PROXY="+j.proxy(),
		fmt.Sprintf("BENCH_PORT=%d", port), fmt.Sprintf("BENCH_HUB_PORT=%d", program.FreePort()), fmt.Sprintf("BENCH_PROXY_PORT=%d", program.FreePort()),
		fmt.Sprintf("BENCH_MEMORY=%d", j.o.limits.Memory), fmt.Sprintf("BENCH_CPU=%g", j.o.limits.CPUs))
	if j.p, err = program.Launch(cmd, filepath.Join(j.dir, "log")); err != nil {
		return err
	}
	j.c = newClient(fmt.Sprintf("http://127.0.0.1:%d/", port), func(string) string { return token })
	err = j.p.Answers(ctx, time.Minute, func() bool {
		status, _, err := j.c.do(ctx, http.MethodGet, "hub/api/", "")
		return err == nil && status == http.StatusOK
	})
	if err != nil {
		return err
	}
	for _, p := range people {
		if status, body, err := j.c.do(ctx, http.MethodPost, "hub/api/users/"+p, ""); err != nil || status != http.StatusCreated {
			return fmt.Errorf("add %s: status %d: %.300s (%w)", p, status, body, err)
		}
	}
	return nil
}

// settle has nothing to wait for: nothing is made ahead.
func (j *jupyterHub) settle(context.Context) error { return nil }

// down removes what carries this run's prefix, and nothing else.
func (j *jupyterHub) down(ctx context.Context) error {
	err := j.p.Stop()
	for _, kind := range []struct{ list, remove []string }{
		{[]string{"ps", "-aq"}, []string{"rm", "-f"}},
		{[]string{"volume", "ls", "-q"}, []string{"volume", "rm"}},
		{[]string{"network", "ls", "-q"}, []string{"network", "rm"}},
	} {
		ids, lerr := program.Output(ctx, "docker", append(kind.list, "--filter", "name="+j.prefix)...)
		if lerr == nil && ids != "" {
			_, lerr = program.Output(ctx, "docker", append(kind.remove, strings.Fields(ids)...)...)
		}
		err = errors.Join(err, lerr)
	}
	if ids, lerr := program.Output(ctx, "docker", "images", "-q", j.image); lerr == nil && ids != "" {
		_, lerr = program.Output(ctx, "docker", "rmi", j.image)
		err = errors.Join(err, lerr)
	}
	return err
}
