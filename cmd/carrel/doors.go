package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"syscall"

	"carrel/hub"
	"carrel/internal/front"
)

// trusted are the networks of proxies in front.
func (h handover) trusted() (list []netip.Prefix, err error) {
	for _, t := range h.TrustedProxies {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, hub.Wrap(hub.Invalid, "read trusted proxies", err)
		}
		list = append(list, p)
	}
	return list, nil
}

// doors puts what each listener is in front of it; config is the TLS of those that speak it, nil for
// plain HTTP.
func (h handover) doors(listeners []net.Listener, config *tls.Config, logger *slog.Logger) ([]net.Listener, error) {
	trusted, err := h.trusted()
	if err != nil {
		return nil, err
	}
	list := make([]net.Listener, len(listeners))
	for i, l := range listeners {
		opt := front.Options{Logger: logger, Redirect: h.Doors[i].Redirect}
		if !opt.Redirect {
			opt.TLS = config
		}
		if h.Doors[i].ProxyProtocol {
			opt.Proxies = func(a netip.Addr) bool {
				for _, p := range trusted {
					if p.Contains(a) {
						return true
					}
				}
				return false
			}
		}
		list[i] = front.New(l, opt)
	}
	return list, nil
}

// listen opens the proxy's listeners here, so that a port in use, or a certificate that is not to be
// had, is told before anything starts.
func (d *deployment) listen(ctx context.Context) ([]net.Listener, error) {
	if _, err := d.readCertificate(); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	var list []net.Listener
	for _, door := range d.cfg.Doors() {
		l, err := lc.Listen(ctx, "tcp", door.Address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "listen", Field: door.Field, Message: door.Address + " is in use by another program", Remedy: "stop that program, or choose another port here and in public_url", Err: err}
		}
		if err != nil {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "listen", Field: door.Field, Message: door.Address + " can't be listened on", Remedy: "choose another address", Err: err}
		}
		list = append(list, l)
	}
	return list, nil
}
