package chp

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"carrel/hub"
)

// Listen opens a TCP address or, with network "unix", a socket. A socket that nobody listens on any
// more is replaced: what was killed could not remove it.
func Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, address)
	if network == "unix" && errors.Is(err, syscall.EADDRINUSE) && abandoned(ctx, address) {
		if rerr := os.Remove(address); rerr == nil {
			l, err = lc.Listen(ctx, network, address)
		}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &hub.Error{Kind: hub.Invalid, Op: "listen", Message: address + " is in use by another program", Remedy: "stop that program, or choose another address", Err: err}
	case err != nil:
		return nil, &hub.Error{Kind: hub.Invalid, Op: "listen", Message: address + " can't be listened on", Remedy: "choose another address", Err: err}
	}
	return l, nil
}

func abandoned(ctx context.Context, socket string) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
