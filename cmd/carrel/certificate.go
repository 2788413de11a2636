package main

import (
	"context"
	"crypto/tls"
	"os"
	"sync/atomic"
	"time"

	"carrel/hub"
	"carrel/internal/acme"
	"carrel/internal/front"
)

// renewal is a new certificate with its key, in PEM, as the hub hands it to a proxy that serves.
type renewal struct {
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
}

// pair parses it; the error names the field.
func (r renewal) pair() (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(r.Cert, r.Key)
	if err != nil {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "read certificate", Field: "tls", Message: "certificate and key do not fit together", Remedy: "check tls.cert_file and tls.key_file", Err: err}
	}
	return &pair, nil
}

// readCertificate reads the configured pair; a zero renewal without one.
func (d *deployment) readCertificate() (renewal, error) {
	var r renewal
	if d.cfg.TLS.CertFile == "" {
		return r, nil
	}
	for _, file := range []struct {
		path, field string
		into        *[]byte
	}{{d.cfg.TLS.CertFile, "tls.cert_file", &r.Cert}, {d.cfg.TLS.KeyFile, "tls.key_file", &r.Key}} {
		raw, err := os.ReadFile(file.path)
		if err != nil {
			return renewal{}, &hub.Error{Kind: hub.Invalid, Op: "read certificate", Field: file.field, Message: "the file can't be read", Remedy: "check the path and its rights", Err: err}
		}
		*file.into = raw
	}
	_, err := r.pair()
	return r, err
}

const certificateEvery = 2 * time.Second

// watchCertificate has renew called with each new certificate, when its files changed and fit
// together: tools write one after the other. Open connections keep what they began with.
func (d *deployment) watchCertificate(ctx context.Context, renew func(renewal)) error {
	if d.cfg.TLS.CertFile == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	changed := func() [2]time.Time {
		var at [2]time.Time
		for i, path := range []string{d.cfg.TLS.CertFile, d.cfg.TLS.KeyFile} {
			if info, err := os.Stat(path); err == nil {
				at[i] = info.ModTime()
			}
		}
		return at
	}
	last, told := changed(), time.Time{}
	tick := time.NewTicker(certificateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := changed()
		if now == last {
			continue
		}
		r, err := d.readCertificate()
		if err != nil {
			if time.Since(told) > time.Minute {
				d.logger.ErrorContext(ctx, "certificate not renewed: the last good one stays", "error", err)
				told = time.Now()
			}
			continue // until both fit
		}
		last = now
		renew(r)
		d.logger.InfoContext(ctx, "certificate renewed", "file", d.cfg.TLS.CertFile)
	}
}

// tls shows the handed certificate, and each that comes after it, or what the keeper of the keys has;
// nil without any.
func (h handover) tls(renewals <-chan renewal, keys *acme.Client) (*tls.Config, error) {
	if keys != nil {
		config := front.TLS(keys.GetCertificate)
		config.NextProtos = append(config.NextProtos, acme.Protocols()...)
		return config, nil
	}
	if len(h.Certificate.Cert) == 0 {
		return nil, nil //nolint:nilnil // plain HTTP
	}
	pair, err := h.Certificate.pair()
	if err != nil {
		return nil, err
	}
	var now atomic.Pointer[tls.Certificate]
	now.Store(pair)
	go func() { // ends with the pipe that renewals come from
		for r := range renewals {
			if pair, err := r.pair(); err == nil { // the hub looked before
				now.Store(pair)
			}
		}
	}()
	return front.TLS(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return now.Load(), nil }), nil
}
