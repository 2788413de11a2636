package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"

	"carrel/hub"
	"carrel/internal/acme"
)

// keysSocket is where this process gives its proxy what it needs of certificates; "" without ACME.
func (d *deployment) keysSocket() string {
	if d.cfg.TLS.ACME.Directory == "" {
		return ""
	}
	return d.state.keysSocket()
}

// runACME gets certificates, keeps them, and serves the proxy with what it needs of them. Account and
// keys stay in this process.
func (d *deployment) runACME(ctx context.Context, s stage, redisURL string) error {
	c := d.cfg.TLS.ACME
	if c.Directory == "" {
		return nil
	}
	var cas *x509.CertPool
	if c.CAFile != "" {
		raw, err := os.ReadFile(c.CAFile)
		cas = x509.NewCertPool()
		if err != nil || !cas.AppendCertsFromPEM(raw) {
			return &hub.Error{Kind: hub.Invalid, Op: "read tls.acme.ca_file", Field: "tls.acme.ca_file", Message: "the file can't be read, or holds no certificate", Remedy: "check the path", Err: err}
		}
	}
	store, err := d.store(redisURL)
	if err != nil {
		return err
	}
	authority, err := acme.New(acme.Config{
		Directory: c.Directory, CA: cas, Email: c.Email, Dir: d.state.acme(), Names: d.certificateNames(),
		May: d.mayHaveCertificate(store), HTTP01: len(d.cfg.ListenRedirect) > 0, Logger: d.logger,
	})
	if err != nil {
		return err
	}
	d.state.dropDeadSockets()
	// Not for a successor, which has an account and keys of its own: they are on the same disk.
	l, kept, err := d.listenUnix(ctx, &inheritance{}, d.keysSocket(), proxysToo)
	if err != nil {
		return err
	}
	kept.file.Close()
	s.run(func(ctx context.Context) error {
		defer store.Close() //nolint:errcheck // the process ends with it
		var both sync.WaitGroup
		defer os.Remove(d.keysSocket())
		defer both.Wait()
		both.Go(func() { _ = serveHTTP(ctx, l, authority.Handler()) }) // it ends with ctx alone
		return authority.Run(ctx)
	})
	return nil
}

// certificateNames are the hosts that need a certificate from the start.
func (d *deployment) certificateNames() []string {
	names := []string{hostname(d.origins.HubOrigin())}
	if d.origins.Mode() == hub.Paths {
		if other := hostname(d.origins.ServerOrigin(hub.UserName{})); other != names[0] {
			names = append(names, other)
		}
	}
	return names
}

func hostname(origin string) string {
	u, err := url.Parse(origin)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// notebookLabel is the label of a name that is a notebooks' host of its own, or "".
func notebookLabel(o hub.Origins, name string) string {
	u, err := url.Parse(o.ServerOrigin(hub.UserName{}))
	if err != nil {
		return ""
	}
	if u.Port() != "" {
		name = net.JoinHostPort(name, u.Port())
	}
	return o.Classify(name).Label
}

// mayHaveCertificate lets people who exist have a certificate for their host, and nobody else:
// strangers can make up names without end.
func (d *deployment) mayHaveCertificate(users hub.UserStore) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, name string) (bool, error) {
		key, ok := hub.ParseServerLabel(notebookLabel(d.origins, name))
		if !ok {
			return false, nil
		}
		_, err := users.User(ctx, key.User)
		if hub.KindOf(err) == hub.NotFound {
			return false, nil
		}
		return err == nil, err
	}
}

// keys is the way to whoever keeps the certificates' keys; nil without ACME.
func (h handover) keys() (*acme.Client, error) {
	if h.Keys == "" {
		return nil, nil //nolint:nilnil // certificates come from files, or there are none
	}
	origins, err := h.Origins.origins()
	if err != nil {
		return nil, fmt.Errorf("read origins: %w", err)
	}
	hubName, books := hostname(origins.HubOrigin()), hostname(origins.ServerOrigin(hub.UserName{}))
	return acme.NewClient(h.Keys, hubName, func(name string) bool {
		if name == books && origins.Mode() == hub.Paths {
			return true
		}
		_, ok := hub.ParseServerLabel(notebookLabel(origins, name))
		return ok
	}), nil
}
