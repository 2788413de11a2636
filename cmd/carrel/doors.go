package main

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"

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
