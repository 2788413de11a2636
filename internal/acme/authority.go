// Package acme gets certificates from an ACME server (RFC 8555) and keeps them renewed.
//
// It owns the account, the certificates' keys and the answers to challenges, all of which stay in the
// process that makes an [Authority]; the process that faces the network has a [Client], which shows
// certificates, has signatures made for single handshakes, and can order nothing. It refuses to own
// the question which names deserve a certificate: that is asked of whoever makes it.
package acme

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// Config is what an Authority needs.
type Config struct {
	Directory string         // the ACME server's directory, an https address
	CA        *x509.CertPool // who signed that server's certificate; nil: the system's
	Email     string         // where the server's operator can reach the hub's; may be empty
	Dir       string         // where account, keys and certificates are kept, for this user's eyes only
	Names     []string       // got at the start
	// May tells, at a handshake for another name that there is no certificate for, whether one is got;
	// an error says that it can't be told now.
	May    func(ctx context.Context, name string) (bool, error)
	HTTP01 bool // whether HTTP is answered at port 80 of every name; TLS-ALPN-01 needs 443 alone
	Logger *slog.Logger
}

// Limits on what strangers' handshakes can make us order: a server such as Let's Encrypt gives 50
// certificates a week for a domain, and five failures an hour for a name.
const (
	ordersAtOnce = 10
	orderEvery   = 10 * time.Minute
	failureRests = 15 * time.Minute
	orderWithin  = 2 * time.Minute
	maxFailures  = 1000 // names that are remembered

	renewCheck = 10 * time.Minute // it is looked for what is in the last third of its life
)

// Authority holds account and keys. Run must be running for it to have any certificate.
type Authority struct {
	cfg    Config
	issuer *issuer
	limit  *rate.Limiter
	flight singleflight.Group

	storage    certmagic.Storage
	renewCheck time.Duration

	mu     sync.Mutex
	magic  *certmagic.Config // nil while Run does not run
	cache  *certmagic.Cache
	keys   map[string]crypto.Signer // by certificate
	failed map[string]time.Time     // names that are left alone until then
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Authority, error) {
	if cfg.Directory == "" || cfg.Dir == "" || len(cfg.Names) == 0 || cfg.May == nil || cfg.Logger == nil {
		return nil, errors.New("make ACME client: a part is missing")
	}
	storage := &certmagic.FileStorage{Path: filepath.Clean(cfg.Dir)}
	return &Authority{
		cfg: cfg, issuer: newIssuer(cfg, storage), limit: rate.NewLimiter(rate.Every(orderEvery), ordersAtOnce),
		keys: map[string]crypto.Signer{}, failed: map[string]time.Time{}, storage: storage, renewCheck: renewCheck,
	}, nil
}

// Run gets certificates for the names and keeps all renewed, until ctx ends.
func (a *Authority) Run(ctx context.Context) error {
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil }, Logger: zap.NewNop(),
		RenewCheckInterval: a.renewCheck,
	})
	defer cache.Stop()
	magic = certmagic.New(cache, certmagic.Config{
		Storage: a.storage, Issuers: []certmagic.Issuer{a.issuer}, KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		OCSP: certmagic.OCSPConfig{DisableStapling: true}, OnEvent: a.tell, Logger: zap.NewNop(),
	})
	a.mu.Lock()
	a.magic, a.cache = magic, cache
	a.mu.Unlock()
	if err := magic.ManageAsync(ctx, a.cfg.Names); err != nil {
		return fmt.Errorf("get certificates: %w", err)
	}
	<-ctx.Done()
	return ctx.Err()
}

// tell logs what happens to certificates.
func (a *Authority) tell(ctx context.Context, event string, data map[string]any) error {
	switch event {
	case "cert_obtained":
		a.cfg.Logger.InfoContext(ctx, "certificate obtained", "name", data["identifier"], "renewal", data["renewal"])
	case "cert_failed":
		a.cfg.Logger.ErrorContext(ctx, "certificate not obtained", "name", data["identifier"], "renewal", data["renewal"], "error", data["error"])
	}
	return nil
}

var (
	errNotYet  = errors.New("there is no certificate yet")
	errRefused = errors.New("no certificate is got for this name")
)

// certificate gives a name's, and orders one that deserves it.
func (a *Authority) certificate(ctx context.Context, name string) (tls.Certificate, error) {
	a.mu.Lock()
	magic, cache, until := a.magic, a.cache, a.failed[name]
	a.mu.Unlock()
	if magic == nil {
		return tls.Certificate{}, errNotYet
	}
	if c, ok := cached(cache, name); ok {
		return c, nil
	}
	if slices.Contains(a.cfg.Names, name) || time.Now().Before(until) {
		return tls.Certificate{}, errNotYet // Run is at it, or will be tried again
	}
	switch may, err := a.cfg.May(ctx, name); {
	case err != nil:
		return tls.Certificate{}, errors.Join(errNotYet, err)
	case !may:
		return tls.Certificate{}, errRefused
	}
	// It belongs to nobody's handshake: another one may wait for it, too.
	result := a.flight.DoChan(name, func() (any, error) { return nil, a.order(context.WithoutCancel(ctx), magic, name) })
	select {
	case <-ctx.Done():
		return tls.Certificate{}, errNotYet
	case r := <-result:
		if r.Err != nil {
			return tls.Certificate{}, errors.Join(errNotYet, r.Err)
		}
	}
	if c, ok := cached(cache, name); ok {
		return c, nil
	}
	return tls.Certificate{}, errNotYet
}

// order gets a certificate, from the disk where it is there.
func (a *Authority) order(ctx context.Context, magic *certmagic.Config, name string) error {
	ctx, done := context.WithTimeout(ctx, orderWithin)
	defer done()
	if _, err := magic.CacheManagedCertificate(ctx, name); err == nil {
		return magic.ManageSync(ctx, []string{name})
	}
	if !a.limit.Allow() {
		return errors.New("too many certificates are wanted at once")
	}
	err := magic.ManageSync(ctx, []string{name})
	if err != nil {
		a.rest(name)
	}
	return err
}

// rest leaves a name alone for a while.
func (a *Authority) rest(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.failed) >= maxFailures {
		clear(a.failed)
	}
	a.failed[name] = time.Now().Add(failureRests)
}

func cached(cache *certmagic.Cache, name string) (tls.Certificate, bool) {
	for _, c := range cache.AllMatchingCertificates(name) {
		if !c.Expired() {
			return c.Certificate, true
		}
	}
	return tls.Certificate{}, false
}

// hold keeps a certificate's key for signatures and gives the name that it is asked for by.
func (a *Authority) hold(c tls.Certificate) (string, error) {
	key, ok := c.PrivateKey.(crypto.Signer)
	if !ok || len(c.Certificate) == 0 {
		return "", errors.New("the certificate has no key that signs")
	}
	sum := sha256.Sum256(c.Certificate[0])
	id := hex.EncodeToString(sum[:])
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[id] = key
	return id, nil
}

// Handler answers a [Client] on a socket that only the process with it can reach. It is trusted with
// nothing but what it must have: the paths give chains, single signatures by the keys of certificates,
// and the answers to challenges under way; none orders a certificate for a name that May refuses.
func (a *Authority) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /certificate", a.serveCertificate)
	mux.HandleFunc("POST /sign", a.serveSignature)
	mux.HandleFunc("GET /challenge/tls", a.serveTLSChallenge)
	mux.HandleFunc("GET /challenge/http", a.serveHTTPChallenge)
	return mux
}

// tidy is a name as certificates have it.
func tidy(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
