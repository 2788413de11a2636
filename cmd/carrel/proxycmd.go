package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"carrel/proxy"
)

func proxyCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "proxy", Short: "Run a proxy alone, beside carrel hub; it gives its rights up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runProxyAlone(cmd.Context(), f) },
	}
}

// runProxyAlone keeps a proxy running until ctx ends, or another process succeeds this one.
func runProxyAlone(ctx context.Context, f *flags) (err error) {
	signal.Ignore(syscall.SIGHUP) // a certificate is watched, all else takes an upgrade
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
	address := d.cfg.Redis.URL
	if address == "" {
		s, err := d.redisServer()
		if err != nil {
			return err
		}
		address = s.ProxyURL()
	}
	sockets, err := d.listen(ctx, in)
	if err != nil {
		return err
	}
	if err := in.rest(); err != nil {
		return err
	}
	child, err := d.child(ctx, address, sockets)
	if err != nil {
		return err
	}
	failed := make(chan error, 4)
	stage := newStage(ctx, failed)
	defer stage.stop()
	if err := d.runACME(ctx, stage, address); err != nil {
		return err
	}
	stage.run(child.Run)
	stage.run(func(ctx context.Context) error { return d.watchCertificate(ctx, child.renew) })
	err = d.untilTheEnd(ctx, in, again, sockets, failed, child.ready)
	if errors.Is(err, proxy.ErrSucceeded) {
		stage.end(proxy.ErrSucceeded)
		return nil
	}
	return err
}

func childCommandOf() *cobra.Command {
	return &cobra.Command{
		Use: childCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(os.Interrupt, syscall.SIGHUP, syscall.SIGUSR2)   // the hub says when
			_ = os.WriteFile("/proc/self/comm", []byte("carrel-proxy"), 0) // for ps and top
			if err := dropPrivileges(); err != nil {
				return err
			}
			ctx, h, err := receiveHandover(cmd.Context())
			if err != nil {
				return err
			}
			return runProxy(ctx, h)
		},
	}
}

func runProxy(ctx context.Context, h heir) error {
	logger := newLogger(h.LogLevel, h.LogFormat).With("process", "proxy")
	var buffered *lineBuffer
	h.access, buffered = accessLog(h.handover)
	keys, err := h.keys()
	if err != nil {
		return err
	}
	p, store, err := newProxy(h, keys, logger)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the process ends with it
	secure, err := h.tls(h.renewals, keys)
	if err != nil {
		return err
	}
	listeners, err := h.doors(h.listeners, secure, logger)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var aside sync.WaitGroup
	defer aside.Wait()
	defer stop()
	if buffered != nil { // it ends after the last request
		logs, end := context.WithCancel(context.WithoutCancel(ctx))
		aside.Go(func() { buffered.Run(logs) })
		defer end()
	}
	if h.traffic != nil { // it tells of a drain too
		telling, end := context.WithCancel(context.WithoutCancel(ctx))
		aside.Go(func() { serveTraffic(telling, h.traffic, p.Traffic(), logger) })
		defer end()
	}
	if h.Metrics != "" {
		aside.Go(func() { serveMetrics(ctx, h.Metrics, p.Metrics(), logger) })
	}
	return p.Run(ctx, listeners...)
}

// child is a proxy process that takes the sockets over, with all that it needs to know.
func (d *deployment) child(ctx context.Context, redisURL string, sockets []socket) (*proxyChild, error) {
	h := d.handover(redisURL)
	var err error
	if h.Certificate, err = d.readCertificate(); err != nil {
		return nil, err
	}
	if h.RedisCA, err = d.redisCA(); err != nil {
		return nil, err
	}
	traffic, err := d.listenTraffic(ctx)
	if err != nil {
		return nil, err
	}
	h.Traffic = true
	child := newProxyChild(h, sockets, d.cfg.Proxy.UID, d.cfg.Proxy.UID, ctx.Done(), d.logger)
	child.traffic = traffic
	return child, nil
}
