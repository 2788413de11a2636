package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"carrel/hub"
	"carrel/hub/devidp"
	"carrel/internal/redisserver"
	"carrel/proxy"
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

func (d *deployment) redisServer() (*redisserver.Server, error) {
	return redisserver.New(redisserver.Config{
		Dir: d.state.redis(), SocketDir: d.state.redisSocket(), GID: d.state.proxyGID, Prefix: d.cfg.KeyPrefix(),
		Hub: d.keys.Password("redis-hub"), Proxy: d.keys.Password("redis-proxy"), Logger: d.logger,
	})
}

// serve runs the hub, and with it the proxy where withProxy says so, until ctx ends; then it stops
// in order: proxy, hub, Redis. Notebooks go on. Where another process succeeds this one, Redis and
// the hub's work are that one's at once, and the proxy finishes what it has.
func serve(ctx context.Context, f *flags, withProxy bool) (err error) {
	again := newUpgrades()
	in, err := inherit()
	if err != nil {
		return err
	}
	defer func() { in.end(err) }()
	d, err := openDeployment(f)
	if err != nil {
		return err
	}
	release, err := d.state.hold(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer release()
	var public []socket
	if withProxy {
		if public, err = d.listen(ctx, in); err != nil {
			return err
		}
	}
	failed := make(chan error, 8)
	redisStage, hubStage, proxyStage := newStage(ctx, failed), newStage(ctx, failed), newStage(ctx, failed)
	defer redisStage.stop()
	defer hubStage.stop()
	defer proxyStage.stop()

	hubURL, proxyURL, err := d.startRedis(ctx, in, redisStage, failed)
	if err != nil {
		return err
	}
	parts, policy, err := d.prepareHub(ctx, hubURL, failed)
	if err != nil {
		return err
	}
	private, err := d.serveHub(ctx, f, in, hubStage, parts, policy)
	defer closeSockets(private)
	if err != nil {
		return err
	}
	if err := in.rest(); err != nil {
		return err
	}
	ready := make(chan struct{})
	if !withProxy {
		close(ready)
	} else {
		child, err := d.child(ctx, proxyURL, public)
		if err != nil {
			return err
		}
		if err := d.runACME(ctx, proxyStage, proxyURL); err != nil {
			return err
		}
		ready = child.ready
		proxyStage.run(child.Run)
		proxyStage.run(func(ctx context.Context) error { return d.watchCertificate(ctx, child.renew) })
		if !in.succeeds() {
			proxyStage.run(func(ctx context.Context) error { return d.greet(ctx, child.ready, parts.people) })
		}
	}
	err = d.untilTheEnd(ctx, in, again, slices.Concat(public, private), failed, ready)
	if !errors.Is(err, proxy.ErrSucceeded) {
		return err
	}
	redisStage.end(redisserver.ErrLeft)
	var ends sync.WaitGroup // a call of the hub's that takes its time keeps no tab from being told
	ends.Go(func() { hubStage.end(proxy.ErrSucceeded); release() })
	proxyStage.end(proxy.ErrSucceeded)
	ends.Wait()
	return nil
}

// serveHub starts what the hub does, and serves its sockets.
func (d *deployment) serveHub(ctx context.Context, f *flags, in *inheritance, s stage, parts *hubParts, policy *atomic.Pointer[hub.Policy]) ([]socket, error) {
	s.run(parts.manager.Run)
	s.run(parts.auth.Run)
	s.run(parts.visits.Run)
	s.run(parts.runs.Run)
	s.run(parts.driver.Run)
	s.run(func(ctx context.Context) error { return d.watchConfig(ctx, f, policy) })
	if at := d.cfg.Metrics.Listen; at != "" {
		s.run(func(ctx context.Context) error { serveMetrics(ctx, at, parts.metrics, d.logger); return ctx.Err() })
	}
	var sockets []socket
	for _, at := range []struct {
		path    string
		handler http.Handler
		mode    os.FileMode
	}{{d.state.hubSocket(), parts.pages, proxysToo}, {d.state.edgeSocket(), parts.edge, proxysToo}, {d.state.topSocket(), parts.top, ownersOnly}} {
		l, kept, err := d.listenUnix(ctx, in, at.path, at.mode)
		if err != nil {
			return sockets, err
		}
		sockets = append(sockets, kept)
		s.run(func(ctx context.Context) error { return serveHTTP(ctx, l, at.handler) })
	}
	return sockets, nil
}

// untilTheEnd tells whoever waits when this process is ready, and waits until ctx ends, something
// failed, or another process succeeds this one: that is [proxy.ErrSucceeded].
func (d *deployment) untilTheEnd(ctx context.Context, in *inheritance, again upgrades, sockets []socket, failed <-chan error, ready <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-failed:
		return err
	case <-ready:
	}
	if in.succeeds() {
		in.ready()
	} else {
		notifyReady()
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	succeeded := make(chan error, 1)
	go func() { succeeded <- again.await(ctx, d.logger, sockets) }()
	select {
	case err := <-failed:
		stop()
		if err := <-succeeded; err == nil {
			return proxy.ErrSucceeded // just before
		}
		notifyStopping()
		return err
	case err := <-succeeded:
		if err == nil {
			return proxy.ErrSucceeded
		}
		notifyStopping()
		return err
	}
}

// startRedis starts the private Redis where none is configured, and waits for one that is.
func (d *deployment) startRedis(ctx context.Context, in *inheritance, s stage, failed <-chan error) (hubURL, proxyURL string, err error) {
	if d.cfg.Redis.URL != "" {
		return d.cfg.Redis.URL, d.cfg.Redis.URL, nil
	}
	server, err := d.redisServer()
	if err != nil {
		return "", "", err
	}
	run := server.Run
	if in.succeeds() {
		run = server.Succeed
	}
	ready := make(chan struct{})
	s.run(func(ctx context.Context) error { return run(ctx, sync.OnceFunc(func() { close(ready) })) })
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
	for _, profile := range p.Profiles {
		driver.WantStatics(profile.Image)
	}
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

const (
	hubSettle = time.Second     // how long a proxy's idle connection may bring one more request
	hubDrain  = 3 * time.Second // for requests under way; event streams do not end
)

// serveHTTP serves the hub's own handlers on a socket until ctx ends. Where another process has the
// socket too, proxies are told with each last answer to come back on another connection.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	leave := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
	srv := &http.Server{Handler: leave, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		if errors.Is(context.Cause(ctx), proxy.ErrSucceeded) {
			l.Close()
			time.Sleep(hubSettle)
		}
		drain, done := context.WithTimeout(context.WithoutCancel(ctx), hubDrain)
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

// greet prints where to go, once the proxy serves there.
func (d *deployment) greet(ctx context.Context, ready <-chan struct{}, people []devidp.Person) error {
	late := time.NewTicker(10 * time.Second)
	defer late.Stop()
	for waits := true; waits; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			fmt.Println("carrel: the proxy does not answer yet; its lines in the log say why")
		case <-ready:
			waits = false
		}
	}
	fmt.Printf("\nCarrel is ready: %s\n", d.cfg.PublicURL)
	if len(people) > 0 {
		fmt.Printf("\nDemo people, for this machine only (also in %s):\n", d.state.demoUsers())
		for _, p := range people {
			role := ""
			if p.Admin {
				role = "  (administrator)"
			}
			fmt.Printf("  %-12s %s%s\n", p.Name, p.Password.Reveal(), role)
		}
	}
	fmt.Println("\nCtrl-C stops Carrel and leaves notebooks running; carrel down removes them.")
	return nil
}
