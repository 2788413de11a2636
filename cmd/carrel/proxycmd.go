package main

import (
	"context"
	"crypto/tls"
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

// child is a proxy process that takes the listeners over, with all that it needs to know.
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
