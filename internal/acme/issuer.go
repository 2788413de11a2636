package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// issuer orders certificates with an account of our own. Challenges wait in it to be asked for.
type issuer struct {
	client  acmez.Client
	email   string
	key     string // of the storage: one for each server
	storage certmagic.Storage
	logger  *slog.Logger

	mu      sync.Mutex // the account is made once
	account *acme.Account

	waiting sync.Mutex
	alpn    map[string]acme.Challenge // by name
	http    map[string]acme.Challenge // by token
}

// IssuerKey implements [certmagic.Issuer].
func (i *issuer) IssuerKey() string { return i.key }

func newIssuer(cfg Config, storage certmagic.Storage) *issuer {
	sum := sha256.Sum256([]byte(cfg.Directory))
	i := &issuer{
		email: cfg.Email, key: "acme-" + hex.EncodeToString(sum[:8]), storage: storage, logger: cfg.Logger,
		alpn: map[string]acme.Challenge{}, http: map[string]acme.Challenge{},
	}
	i.client = acmez.Client{
		Client: &acme.Client{
			Directory: cfg.Directory, UserAgent: "carrel", PollTimeout: orderWithin,
			HTTPClient: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: cfg.CA, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
			}},
		},
		ChallengeSolvers: map[string]acmez.Solver{acme.ChallengeTypeTLSALPN01: solver{i}},
	}
	if cfg.HTTP01 {
		i.client.ChallengeSolvers[acme.ChallengeTypeHTTP01] = solver{i}
	}
	return i
}

// Issue implements [certmagic.Issuer].
func (i *issuer) Issue(ctx context.Context, request *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	account, err := i.ready(ctx)
	if err != nil {
		return nil, fmt.Errorf("open ACME account: %w", err)
	}
	order, err := acmez.OrderParametersFromCSR(*account, request)
	if err != nil {
		return nil, err
	}
	chains, err := i.client.ObtainCertificate(ctx, order)
	if err != nil {
		i.logger.WarnContext(ctx, "no certificate this time", "names", request.DNSNames, "error", err)
		return nil, err
	}
	if len(chains) == 0 {
		return nil, errors.New("the ACME server gave no certificate")
	}
	return &certmagic.IssuedCertificate{Certificate: chains[0].ChainPEM}, nil
}

// kept is an account on the disk.
type kept struct {
	Account acme.Account `json:"account"`
	Key     []byte       `json:"key"` // PKCS #8
}

// ready gives the account, made at the first order.
func (i *issuer) ready(ctx context.Context) (*acme.Account, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.account != nil {
		return i.account, nil
	}
	at := i.key + "/account.json"
	raw, err := i.storage.Load(ctx, at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		i.account, err = i.register(ctx, at)
	case err == nil:
		i.account, err = restore(raw)
	}
	return i.account, err
}

func restore(raw []byte) (*acme.Account, error) {
	var k kept
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, fmt.Errorf("read ACME account: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(k.Key)
	if err != nil {
		return nil, errors.New("read ACME account: its key is damaged")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("read ACME account: its key does not sign")
	}
	k.Account.PrivateKey = signer
	return &k.Account, nil
}

func (i *issuer) register(ctx context.Context, at string) (*acme.Account, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	account := acme.Account{TermsOfServiceAgreed: true, PrivateKey: key} // the operator agreed: tls.acme.agree_to_terms
	if i.email != "" {
		account.Contact = []string{"mailto:" + i.email}
	}
	if account, err = i.client.NewAccount(ctx, account); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(kept{account, der})
	if err != nil {
		return nil, err
	}
	i.logger.InfoContext(ctx, "ACME account made", "account", account.Location)
	return &account, i.storage.Store(ctx, at, raw)
}

// solver has a challenge wait for whoever asks for its answer.
type solver struct{ i *issuer }

// Present implements [acmez.Solver].
func (s solver) Present(_ context.Context, c acme.Challenge) error {
	s.i.waiting.Lock()
	defer s.i.waiting.Unlock()
	if c.Type == acme.ChallengeTypeHTTP01 {
		s.i.http[c.Token] = c
	} else {
		s.i.alpn[tidy(c.Identifier.Value)] = c
	}
	return nil
}

// CleanUp implements [acmez.Solver].
func (s solver) CleanUp(_ context.Context, c acme.Challenge) error {
	s.i.waiting.Lock()
	defer s.i.waiting.Unlock()
	if c.Type == acme.ChallengeTypeHTTP01 {
		delete(s.i.http, c.Token)
	} else {
		delete(s.i.alpn, tidy(c.Identifier.Value))
	}
	return nil
}

// tlsAnswer is the certificate that answers TLS-ALPN-01 (RFC 8737, section 3) with its key, made for
// this challenge alone.
func (i *issuer) tlsAnswer(name string) (chain [][]byte, key []byte, ok bool, err error) {
	i.waiting.Lock()
	c, ok := i.alpn[name]
	i.waiting.Unlock()
	if !ok {
		return nil, nil, false, nil
	}
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return nil, nil, false, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	return cert.Certificate, key, true, err
}

// httpAnswer is what HTTP-01 wants to read (RFC 8555, section 8.3).
func (i *issuer) httpAnswer(name, token string) (string, bool) {
	i.waiting.Lock()
	defer i.waiting.Unlock()
	c, ok := i.http[token]
	return c.KeyAuthorization, ok && tidy(c.Identifier.Value) == name
}
