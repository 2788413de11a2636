package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"sync"

	"github.com/spf13/cobra"
)

func proxyCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "proxy", Short: "Run a proxy alone, beside carrel hub; it gives its rights up", Args: cobra.NoArgs,
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
			child, err := d.child(address, listeners)
			if err != nil {
				return err
			}
			stage := newStage(cmd.Context(), make(chan error, 1))
			defer stage.stop()
			stage.run(func(ctx context.Context) error { return d.watchCertificate(ctx, child.renew) })
			return child.Run(cmd.Context())
		},
	}
}

func childCommandOf() *cobra.Command {
	return &cobra.Command{
		Use: childCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(os.Interrupt)                                    // the hub says when
			_ = os.WriteFile("/proc/self/comm", []byte("carrel-proxy"), 0) // for ps and top
			if err := dropPrivileges(); err != nil {
				return err
			}
			ctx, h, listeners, renewals, err := receiveHandover(cmd.Context())
			if err != nil {
				return err
			}
			return runProxy(ctx, h, listeners, renewals)
		},
	}
}

func runProxy(ctx context.Context, h handover, listeners []net.Listener, renewals <-chan renewal) error {
	logger := newLogger(h.LogLevel, h.LogFormat).With("process", "proxy")
	p, store, err := newProxy(h, logger)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the process ends with it
	secure, err := h.tls(renewals)
	if err != nil {
		return err
	}
	if listeners, err = h.doors(listeners, secure, logger); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var aside sync.WaitGroup
	defer aside.Wait()
	defer stop()
	if h.Metrics != "" {
		aside.Go(func() { serveMetrics(ctx, h.Metrics, p.Metrics(), logger) })
	}
	return p.Run(ctx, listeners...)
}

// child is a proxy process that takes the listeners over, with all that it needs to know.
func (d *deployment) child(redisURL string, listeners []net.Listener) (*proxyChild, error) {
	h := d.handover(redisURL)
	var err error
	if h.Certificate, err = d.readCertificate(); err != nil {
		return nil, err
	}
	if h.RedisCA, err = d.redisCA(); err != nil {
		return nil, err
	}
	return newProxyChild(h, listeners, d.cfg.Proxy.UID, d.cfg.Proxy.UID, d.logger)
}
