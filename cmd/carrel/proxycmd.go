package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"carrel/hub"
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
	if len(h.Certificate.Cert) > 0 {
		if err := serveTLS(listeners, h.Certificate, renewals, logger); err != nil {
			return err
		}
	}
	return p.Run(ctx, listeners...)
}

// listen opens the proxy's listeners here, so that a port in use, or a certificate that is not to be
// had, is told before anything starts.
func (d *deployment) listen(ctx context.Context) ([]net.Listener, error) {
	if _, err := d.readCertificate(); err != nil {
		return nil, err
	}
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
