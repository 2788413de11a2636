// Package devidp is a small, real OpenID Provider for demonstrations and tests, built on zitadel's
// op: authorization code with PKCE, refresh tokens, userinfo, key rotation, sign-out with
// back-channel logout, and a sign-in page.
//
// It owns the demo people, their passwords and its own state file. It refuses to own real
// accounts: it answers on loopback addresses only, to clients on this machine only, and a hub that
// is to be reached from elsewhere must name a provider of its own.
package devidp

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"carrel/hub"
)

// Config is what a provider is made of.
type Config struct {
	Issuer  string // a loopback address; its path is where the handler is mounted
	People  []Person
	Clients []Client
	Dir     string // state directory: signing keys and sessions are kept there, for the owner alone
	// Trusted tells whether a request came through our own proxy, whose forwarding headers are true.
	// Nil: never, and any forwarding header is refused.
	Trusted func(*http.Request) bool
	// FormAction lists more origins (Content-Security-Policy's form-action) where a sign-in may lead by
	// redirects, such as the notebooks': Chromium holds a form's whole way to it.
	FormAction string
	HTTPClient *http.Client // sends logout tokens; nil: one with a deadline of five seconds
	Logger     *slog.Logger
}

// Client is an application that people sign in to.
type Client struct {
	ID                     string
	Secret                 hub.Secret
	RedirectURIs           []string
	PostLogoutRedirectURIs []string
	BackChannelLogoutURI   string // empty: it is not told
}

// Provider is the provider; it is an http.Handler for everything below the issuer's path.
type Provider struct {
	cfg     Config
	issuer  *url.URL
	prefix  string // the issuer's path without its trailing slash
	state   *state
	pending *pending
	guesses *guesses
	handler http.Handler
	pages   *pages

	mu     sync.RWMutex
	people map[string]Person
}

// New checks the configuration, reads or makes the state file, and starts nothing. Errors are
// Invalid with the field, or Internal for the disk's.
func New(cfg Config) (*Provider, error) {
	issuer, err := url.Parse(cfg.Issuer)
	if err != nil || issuer.Scheme != "http" && issuer.Scheme != "https" || issuer.RawQuery != "" || issuer.Fragment != "" || strings.HasSuffix(cfg.Issuer, "/") {
		return nil, invalid("issuer", "the demo provider's address is no http or https address", "give something like http://localhost:8000/hub/demo-provider")
	}
	if !loopbackHost(issuer.Host) {
		return nil, invalid("issuer", "the demo provider answers on loopback addresses only, and "+issuer.Host+" is none", "set oidc.issuer to a real provider, or public_url to http://localhost:<port>/")
	}
	if cfg.Dir == "" {
		return nil, invalid("dir", "the demo provider has no state directory", "give one")
	}
	if len(cfg.Clients) == 0 {
		return nil, invalid("clients", "the demo provider has no client", "give one")
	}
	for _, c := range cfg.Clients {
		if c.ID == "" || c.Secret.IsZero() || len(c.RedirectURIs) == 0 {
			return nil, invalid("clients", "a client needs an id, a secret and a redirect address", "give them")
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = &http.Client{Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	p := &Provider{cfg: cfg, issuer: issuer, prefix: issuer.EscapedPath(), pending: newPending(), guesses: newGuesses()}
	if err := p.SetPeople(cfg.People); err != nil {
		return nil, err
	}
	if p.state, err = openState(cfg.Dir); err != nil {
		return nil, err
	}
	if p.pages, err = newPages(p.prefix, cfg.FormAction); err != nil {
		return nil, err
	}
	return p, p.route()
}

func invalid(field, message, remedy string) error {
	return &hub.Error{Kind: hub.Invalid, Op: "demo provider", Field: field, Message: message, Remedy: remedy}
}

func (p *Provider) route() error {
	options := []op.Option{op.WithCORSOptions(nil)}
	if p.issuer.Scheme == "http" {
		options = append(options, op.WithAllowInsecure())
	}
	provider, err := op.NewProvider(&op.Config{
		CryptoKey:                         p.state.cryptoKey(),
		DefaultLogoutRedirectURI:          p.cfg.Issuer + "/signed-out",
		CodeMethodS256:                    true,
		GrantTypeRefreshToken:             true,
		SupportedScopes:                   []string{"openid", "profile", "email", "groups", "offline_access"},
		SupportedClaims:                   []string{"sub", "sid", "name", "preferred_username", "email", "email_verified", "groups"},
		BackChannelLogoutSupported:        true,
		BackChannelLogoutSessionSupported: true,
	}, &storage{p}, op.StaticIssuer(p.cfg.Issuer), options...)
	if err != nil {
		return hub.Wrap(hub.Internal, "demo provider", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.account)
	mux.HandleFunc("GET /login", p.showLogin)
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("POST /logout", p.logout)
	mux.HandleFunc("GET /signed-out", p.signedOut)
	mux.HandleFunc("GET /style.css", p.pages.style)
	mux.Handle("/authorize", p.bindBrowser(provider))
	mux.Handle("/authorize/callback", p.sameBrowser(provider))
	mux.Handle("/end_session", p.endSession(provider))
	for _, path := range []string{"/.well-known/openid-configuration", "/oauth/token", "/userinfo", "/revoke", "/keys"} {
		mux.Handle(path, provider)
	}
	p.handler = http.StripPrefix(p.prefix, http.NewCrossOriginProtection().Handler(mux))
	return nil
}

// maxBody is far above any request of the protocol.
const maxBody = 64 << 10

// ServeHTTP answers requests from this machine.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if err := p.guard(r); err != nil {
		p.cfg.Logger.WarnContext(r.Context(), "demo provider: request refused", "error", err)
		http.Error(w, "The demo provider answers to this machine only.", http.StatusForbidden)
		return
	}
	if r.URL.Path == p.prefix {
		http.Redirect(w, r, p.prefix+"/", http.StatusSeeOther) //nolint:gosec // the issuer's own path
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	p.handler.ServeHTTP(w, r)
}

// SetPeople replaces the demo people. Whoever is gone can no longer sign in or refresh.
func (p *Provider) SetPeople(people []Person) error {
	m := make(map[string]Person, len(people))
	for _, one := range people {
		one, err := one.ready()
		if err != nil {
			return err
		}
		if _, twice := m[one.Name]; twice {
			return invalid("people", "two people are named "+one.Name, "give each a name of their own")
		}
		m[one.Name] = one
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.people = m
	return nil
}

func (p *Provider) person(name string) (Person, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	one, ok := p.people[name]
	return one, ok
}

func (p *Provider) client(id string) (Client, bool) {
	i := slices.IndexFunc(p.cfg.Clients, func(c Client) bool { return c.ID == id })
	if i < 0 {
		return Client{}, false
	}
	return p.cfg.Clients[i], true
}

func (p *Provider) checkSecret(id, secret string) error {
	c, ok := p.client(id)
	if !ok || subtle.ConstantTimeCompare([]byte(c.Secret.Reveal()), []byte(secret)) != 1 {
		return errors.New("unknown client or wrong secret")
	}
	return nil
}

// RotateKey begins to sign with a new key. The old one is still published, unless forget is set, in
// which case everything that it signed is void.
func (p *Provider) RotateKey(_ context.Context, forget bool) error { return p.state.rotate(forget) }
