package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"carrel/hub"
	"carrel/hub/redisstore"
	"carrel/internal/config"
	"carrel/internal/redisserver"
	"carrel/kernelimage"
	"carrel/spawner/docker"
)

func serveCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run everything: hub, proxy and, with no redis.url, a private Redis", Args: cobra.NoArgs,
		Example: "  carrel serve\n  carrel serve --config carrel.yaml",
		RunE:    func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), f, true) },
	}
}

func hubCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "hub", Short: "Run the hub alone; carrel proxy reaches it through <state_dir>/run", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), f, false) },
	}
}

func proxyCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "proxy", Short: "Run a proxy alone, beside carrel hub", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := openDeployment(f)
			if err != nil {
				return err
			}
			address := d.cfg.Redis.URL
			if address == "" {
				s, err := d.redisServer()
				if err != nil {
					return err
				}
				address = s.ProxyURL()
			}
			listeners, err := d.listen(cmd.Context())
			if err != nil {
				return err
			}
			return runProxy(cmd.Context(), d.handover(address), listeners)
		},
	}
}

func childCommandOf() *cobra.Command {
	return &cobra.Command{
		Use: childCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(os.Interrupt) // the hub says when
			if err := dropPrivileges(); err != nil {
				return err
			}
			ctx, h, listeners, err := receiveHandover(cmd.Context())
			if err != nil {
				return err
			}
			return runProxy(ctx, h, listeners)
		},
	}
}

func runProxy(ctx context.Context, h handover, listeners []net.Listener) error {
	logger := newLogger(h.LogLevel, h.LogFormat).With("process", "proxy")
	p, store, err := newProxy(h, logger)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the process ends with it
	if len(h.Cert) > 0 {
		pair, err := tls.X509KeyPair(h.Cert, h.Key)
		if err != nil {
			return &hub.Error{Kind: hub.Invalid, Op: "read certificate", Field: "tls", Message: "certificate and key do not fit together", Remedy: "check tls.cert_file and tls.key_file", Err: err}
		}
		for i, l := range listeners {
			listeners[i] = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
		}
	}
	return p.Run(ctx, listeners...)
}

// listen opens the proxy's listeners here, so that a port in use is told before anything starts.
func (d *deployment) listen(ctx context.Context) ([]net.Listener, error) {
	var lc net.ListenConfig
	var list []net.Listener
	for _, address := range d.cfg.Listen {
		l, err := lc.Listen(ctx, "tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "listen", Field: "listen", Message: address + " is in use by another program", Remedy: "stop that program, or choose another port here and in public_url", Err: err}
		}
		if err != nil {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "listen", Field: "listen", Message: address + " can't be listened on", Remedy: "choose another address", Err: err}
		}
		list = append(list, l)
	}
	return list, nil
}

func (d *deployment) redisServer() (*redisserver.Server, error) {
	return redisserver.New(redisserver.Config{
		Dir: d.state.redis(), SocketDir: d.state.redisSocket(), GID: d.state.proxyGID, Prefix: d.cfg.KeyPrefix(),
		Hub: d.keys.Password("redis-hub"), Proxy: d.keys.Password("redis-proxy"), Logger: d.logger,
	})
}

// stage is a group of loops that end together, before or after other groups.
type stage struct {
	ctx    context.Context //nolint:containedctx // it is the stage
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan<- error
}

func newStage(ctx context.Context, failed chan<- error) *stage {
	s := &stage{failed: failed}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

// run launches a loop; one that ends by itself ends the whole.
func (s *stage) run(loop func(context.Context) error) {
	s.wg.Go(func() {
		if err := loop(s.ctx); err != nil && s.ctx.Err() == nil {
			select {
			case s.failed <- err:
			default:
			}
		}
	})
}

func (s *stage) stop() {
	s.cancel()
	s.wg.Wait()
}

// serve runs the hub, and with it the proxy where withProxy says so, until ctx ends; then it stops
// in order: proxy, hub, Redis. Notebooks go on.
func serve(ctx context.Context, f *flags, withProxy bool) error {
	d, err := openDeployment(f)
	if err != nil {
		return err
	}
	var listeners []net.Listener
	if withProxy {
		if listeners, err = d.listen(ctx); err != nil {
			return err
		}
	}
	failed := make(chan error, 8)
	redisStage, hubStage, proxyStage := newStage(ctx, failed), newStage(ctx, failed), newStage(ctx, failed)
	defer redisStage.stop()
	defer hubStage.stop()
	defer proxyStage.stop()

	hubURL, proxyURL, err := d.startRedis(ctx, redisStage, failed)
	if err != nil {
		return err
	}
	parts, policy, err := d.prepareHub(ctx, hubURL, failed)
	if err != nil {
		return err
	}
	hubStage.run(parts.manager.Run)
	hubStage.run(parts.auth.Run)
	hubStage.run(parts.driver.Run)
	hubStage.run(func(ctx context.Context) error { return d.watchConfig(ctx, f, policy) })
	for path, handler := range map[string]http.Handler{d.state.hubSocket(): parts.pages, d.state.edgeSocket(): parts.edge} {
		l, err := d.listenUnix(ctx, path)
		if err != nil {
			return err
		}
		hubStage.run(func(ctx context.Context) error { return serveHTTP(ctx, l, handler) })
	}
	if withProxy {
		child, err := d.child(proxyURL, listeners)
		if err != nil {
			return err
		}
		proxyStage.run(child.Run)
		d.greet(ctx, parts)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-failed:
		return err
	}
}

// startRedis starts the private Redis where none is configured, and waits for one that is.
func (d *deployment) startRedis(ctx context.Context, s *stage, failed <-chan error) (hubURL, proxyURL string, err error) {
	if d.cfg.Redis.URL != "" {
		return d.cfg.Redis.URL, d.cfg.Redis.URL, nil
	}
	server, err := d.redisServer()
	if err != nil {
		return "", "", err
	}
	ready := make(chan struct{})
	s.run(func(ctx context.Context) error { return server.Run(ctx, sync.OnceFunc(func() { close(ready) })) })
	select {
	case <-ready:
		return server.HubURL(), server.ProxyURL(), nil
	case err := <-failed:
		return "", "", err
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
}

// prepareHub waits for Docker and Redis, makes the kernel image if it is missing, and assembles the hub.
func (d *deployment) prepareHub(ctx context.Context, redisURL string, failed <-chan error) (*hubParts, *atomic.Pointer[hub.Policy], error) {
	store, err := d.store(redisURL)
	if err != nil {
		return nil, nil, err
	}
	driver, err := d.driver()
	if err != nil {
		return nil, nil, err
	}
	if err := awaitAnswer(ctx, failed, "Redis", "check redis.url, and that Redis runs", store.Ping); err != nil {
		return nil, nil, err
	}
	if err := store.Check(ctx); err != nil {
		return nil, nil, err
	}
	if err := awaitAnswer(ctx, failed, "Docker", "start it, or set spawner.docker.host", driver.Ping); err != nil {
		return nil, nil, err
	}
	facts, err := driver.Facts(ctx)
	if err != nil {
		return nil, nil, err
	}
	image, err := d.kernelImage(ctx, driver)
	if err != nil {
		return nil, nil, err
	}
	policy := &atomic.Pointer[hub.Policy]{}
	p := d.cfg.Policy(image, facts.Memory)
	policy.Store(&p)
	parts, err := d.assembleHub(driver, store, policy)
	return parts, policy, err
}

// awaitAnswer asks until it is answered, saying once in a while what it waits for.
func awaitAnswer(ctx context.Context, failed <-chan error, what, remedy string, ask func(context.Context) error) error {
	for i := 0; ; i++ {
		askCtx, done := context.WithTimeout(ctx, 5*time.Second)
		err := ask(askCtx)
		done()
		if err == nil {
			return nil
		}
		if i%30 == 0 {
			fmt.Printf("carrel: waiting for %s, which does not answer (%s)\n", what, remedy)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case <-time.After(time.Second):
		}
	}
}

// kernelImage is the image of profiles that name none; it is built when it is missing.
func (d *deployment) kernelImage(ctx context.Context, driver *docker.Driver) (string, error) {
	if d.cfg.Image.Name != "" {
		return d.cfg.Image.Name, nil
	}
	opts, err := d.imageOptions()
	if err != nil {
		return "", err
	}
	needed := false
	for _, p := range d.cfg.Profiles {
		needed = needed || p.Image == ""
	}
	if !needed {
		return opts.Name(), nil
	}
	return kernelimage.Build(ctx, driver, opts, tellBuild())
}

func (d *deployment) imageOptions() (kernelimage.Options, error) {
	opts := kernelimage.HostOptions(os.Getenv)
	opts.Base = d.cfg.Image.Base
	if path := d.cfg.Image.ExtraCAFile; path != "" {
		ca, err := os.ReadFile(path) //nolint:gosec // the operator's own choice
		if err != nil {
			return opts, &hub.Error{Kind: hub.Invalid, Op: "read extra CA", Field: "image.extra_ca_file", Message: "the file can't be read", Remedy: "check the path", Err: err}
		}
		opts.ExtraCA = ca
	}
	return opts, nil
}

// tellBuild prints a build's steps, each once, with its percent now and then.
func tellBuild() func(step string, percent int, message string) {
	last, at := "", time.Time{}
	return func(step string, percent int, message string) {
		if step == kernelimage.StepDone && last == "" {
			return // it was there
		}
		if step != last || time.Since(at) > 3*time.Second {
			fmt.Printf("carrel: kernel image: %3d%% %s\n", percent, message)
			last, at = step, time.Now()
		}
	}
}

func (d *deployment) child(redisURL string, listeners []net.Listener) (*proxyChild, error) {
	h := d.handover(redisURL)
	for _, file := range []struct {
		path string
		into *[]byte
	}{{d.cfg.Redis.CAFile, &h.RedisCA}, {d.cfg.TLS.CertFile, &h.Cert}, {d.cfg.TLS.KeyFile, &h.Key}} {
		if file.path == "" {
			continue
		}
		raw, err := os.ReadFile(file.path)
		if err != nil {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "read file for proxy", Message: file.path + " can't be read", Remedy: "check tls and redis.ca_file", Err: err}
		}
		*file.into = raw
	}
	return newProxyChild(h, listeners, d.cfg.Proxy.UID, d.cfg.Proxy.UID, d.logger)
}

// serveHTTP serves the hub's own handlers on a socket until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		drain, done := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer done()
		if srv.Shutdown(drain) != nil {
			srv.Close() //nolint:errcheck // an event stream that did not end
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
		return ctx.Err()
	}
	return err
}

// greet prints where to go, once the proxy answers there.
func (d *deployment) greet(ctx context.Context, parts *hubParts) {
	health := "http://" + d.cfg.Listen[0] + d.origins.Base() + "carrel-health"
	for range 200 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, health, nil)
		if err != nil || len(d.cfg.TLS.CertFile) > 0 {
			break
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close() //nolint:errcheck // only whether it came
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Printf("\nCarrel is ready: %s\n", d.cfg.PublicURL)
	if len(parts.people) > 0 {
		fmt.Printf("\nDemo people, for this machine only (also in %s):\n", d.state.demoUsers())
		for _, p := range parts.people {
			role := ""
			if p.Admin {
				role = "  (administrator)"
			}
			fmt.Printf("  %-12s %s%s\n", p.Name, p.Password.Reveal(), role)
		}
	}
	fmt.Println("\nCtrl-C stops Carrel and leaves notebooks running; carrel down removes them.")
}

// watchConfig reads the configuration anew on SIGHUP and when the file changes; a bad one is told of
// and the last good one kept.
func (d *deployment) watchConfig(ctx context.Context, f *flags, policy *atomic.Pointer[hub.Policy]) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	modified := func() time.Time {
		if info, err := os.Stat(f.config); err == nil {
			return info.ModTime()
		}
		return time.Time{}
	}
	last := modified()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hup:
		case <-tick.C:
			if f.config == "" || modified().Equal(last) {
				continue
			}
		}
		last = modified()
		cfg, faults := config.Load(f.config, os.Environ(), machine())
		if len(faults) > 0 {
			for _, fault := range faults {
				d.logger.ErrorContext(ctx, "configuration not reloaded: the last good one stays", "fault", fault.String())
			}
			continue
		}
		kernel := d.cfg.Image.Name
		for _, p := range policy.Load().Profiles {
			if kernel == "" {
				kernel = p.Image
			}
		}
		if opts, err := d.imageOptions(); err == nil && d.cfg.Image.Name == "" {
			kernel = opts.Name()
		}
		p := cfg.Policy(kernel, policy.Load().MachineMemory)
		policy.Store(&p)
		d.logger.InfoContext(ctx, "configuration reloaded", "profiles", len(p.Profiles), "file", filepath.Base(f.config))
	}
}

func downCommand(f *flags) *cobra.Command {
	volumes := false
	cmd := &cobra.Command{
		Use: "down", Short: "Remove everything that this deployment made: servers, networks, the private Redis", Args: cobra.NoArgs,
		Example: "  carrel down             people's homes stay\n  carrel down --volumes   homes are removed too",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := openDeployment(f)
			if err != nil {
				return err
			}
			driver, err := d.driver()
			if err != nil {
				return err
			}
			errs := []error{driver.Down(cmd.Context(), volumes)}
			if d.cfg.Redis.URL == "" {
				s, err := d.redisServer()
				if err != nil {
					return err
				}
				s.Stop()
				errs = append(errs, os.RemoveAll(d.state.redis()))
			} else {
				errs = append(errs, d.forget(cmd.Context()))
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "Everything of", d.cfg.Deployment, "is gone.")
			return nil
		},
	}
	cmd.Flags().BoolVar(&volumes, "volumes", false, "remove people's homes too")
	return cmd
}

// forget removes the deployment's keys from a Redis that is not ours to end.
func (d *deployment) forget(ctx context.Context) error {
	store, err := d.store(d.cfg.Redis.URL)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the process ends with it
	return forgetAll(ctx, store)
}

func forgetAll(ctx context.Context, store *redisstore.Store) error {
	for s, err := range store.Servers(ctx) {
		if err != nil {
			return err
		}
		if err := store.DeleteServer(ctx, s); err != nil {
			return err
		}
		if err := store.DeleteRoute(ctx, s.Key, s.Generation); err != nil {
			return err
		}
	}
	return nil
}

func imageCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Build the kernel image"}
	rebuild := false
	build := &cobra.Command{
		Use: "build", Short: "Build the kernel image, and print its name", Args: cobra.NoArgs, Example: "  carrel image build",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := openDeployment(f)
			if err != nil {
				return err
			}
			driver, err := d.driver()
			if err != nil {
				return err
			}
			opts, err := d.imageOptions()
			if err != nil {
				return err
			}
			opts.Rebuild = rebuild
			name, err := kernelimage.Build(cmd.Context(), driver, opts, tellBuild())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), name)
			return nil
		},
	}
	build.Flags().BoolVar(&rebuild, "rebuild", false, "build although the image is there")
	cmd.AddCommand(build)
	return cmd
}
