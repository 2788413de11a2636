// Package oidc signs people in by OpenID Connect: it sends the browser to a provider, verifies what
// comes back, binds the person to a name, makes the session, keeps its groups fresh, and ends it
// when the provider says so (back-channel and front-channel logout).
//
// It owns everything that speaks to a provider, and the cookie of a sign-in under way. It refuses
// to own pages: errors go to the renderer that it is given, and the choice of a provider and the
// sign-out button are hub/web's. Nothing is written to a store until a provider has vouched for
// somebody.
package oidc

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"carrel/hub"
)

// Config is what sign-in is made of.
type Config struct {
	Providers []ProviderConfig
	Origins   hub.Origins
	Keyring   *hub.Keyring
	Sessions  SessionStore
	Tickets   hub.TicketStore
	Users     hub.UserStore
	Bindings  hub.Bindings // beside the homes; nil: the user store alone keeps them
	Leases    hub.Leases   // so that replicas do not refresh twice; nil: this is the only process

	Lifetime  time.Duration // of a session, at most; default 14 days
	Idle      time.Duration // a session unused for so long ends; 0: never
	SignedOut string        // where the browser goes after signing out at the provider; default the page that says so

	RenderError func(http.ResponseWriter, *http.Request, error)
	ClientAddr  func(*http.Request) string       // the browser's address; nil: the peer's
	SignedIn    func(provider string, err error) // told what came of each answer of a provider's; may be nil
	Logger      *slog.Logger
	Now         func() time.Time // nil: time.Now
}

// SessionStore is what signing in and refreshing do with sessions.
type SessionStore interface {
	hub.SessionStore
	hub.SessionUpdater
}

// ProviderConfig is one provider.
type ProviderConfig struct {
	Name         string // in paths: a–z, 0–9 and -
	Title        string // for people; default Name
	Issuer       string // exactly as in the provider's tokens
	ClientID     string
	ClientSecret hub.Secret // none: a public client
	// Scopes are asked for; empty: openid, profile and email, and groups and offline_access where
	// the provider offers them.
	Scopes         []string
	AuthParams     map[string]string // more parameters of the authorization request
	UsernameClaim  string            // default preferred_username; email counts only when verified
	GroupsClaim    string            // default groups; a dotted path for claims in claims; "-": this provider has no groups
	Allowed        Allowed
	Admins         Admins
	RefreshEvery   time.Duration     // how often groups are asked for again; 0: at sign-in only
	KeepGroups     time.Duration     // how long groups that the provider no longer tells are kept; default a day
	FrontChannel   bool              // accept front-channel logout, for providers without a back channel
	LogoutRedirect string            // replaces Config.SignedOut
	CAFile         string            // PEM certificates trusted besides the system's
	Transport      http.RoundTripper // nil: one of its own
}

// Allowed says who may sign in. Administrators may always.
type Allowed struct {
	Everyone     bool
	Users        []string
	Groups       []string
	EmailDomains []string // of verified addresses
}

// Admins says who administers.
type Admins struct {
	Users  []string
	Groups []string
}

const (
	opConfig        = "sign-in configuration"
	defaultLifetime = 14 * 24 * time.Hour
	defaultKeep     = 24 * time.Hour
)

var providerName = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$`)

// fault makes a configuration error.
func fault(field, message, remedy string) error {
	return &hub.Error{Kind: hub.Invalid, Op: opConfig, Field: field, Message: message, Remedy: remedy}
}

func (c *Config) check() error {
	missing := map[string]bool{
		"Keyring": c.Keyring == nil, "Sessions": c.Sessions == nil, "Tickets": c.Tickets == nil,
		"Users": c.Users == nil, "RenderError": c.RenderError == nil, "Providers": len(c.Providers) == 0, "Origins": c.Origins.Base() == "",
	}
	for field, is := range missing {
		if is {
			return fault(field, "sign-in lacks "+field, "give it")
		}
	}
	if c.Lifetime < 0 || c.Idle < 0 {
		return fault("session", "a session's lifetime is negative", "give a duration, such as 336h")
	}
	if c.Lifetime == 0 {
		c.Lifetime = defaultLifetime
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.ClientAddr == nil {
		c.ClientAddr = func(r *http.Request) string { return r.RemoteAddr }
	}
	if c.SignedOut == "" {
		c.SignedOut = c.Origins.HubPath("signed-out")
	}
	return nil
}

// at is the path of one of the provider's fields in the configuration.
func (c ProviderConfig) at(field string) string { return "oidc." + c.Name + "." + field }

// ready checks one provider and fills in the defaults.
func (c ProviderConfig) ready() (ProviderConfig, error) {
	if err := c.check(); err != nil {
		return c, err
	}
	if c.Title == "" {
		c.Title = c.Name
	}
	if c.UsernameClaim == "" {
		c.UsernameClaim = "preferred_username"
	}
	switch c.GroupsClaim {
	case "":
		c.GroupsClaim = "groups"
	case "-":
		c.GroupsClaim = ""
	}
	if c.KeepGroups == 0 {
		c.KeepGroups = defaultKeep
	}
	var err error
	if c.Allowed.Users, err = names(c.at("allowed.users"), c.Allowed.Users); err != nil {
		return c, err
	}
	if c.Admins.Users, err = names(c.at("admins.users"), c.Admins.Users); err != nil {
		return c, err
	}
	c.Allowed.EmailDomains, err = domains(c.at("allowed.email_domains"), c.Allowed.EmailDomains)
	return c, err
}

// reserved are the parameters of an authorization request that are ours alone.
var reserved = []string{"client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce", "code_challenge", "code_challenge_method", "request", "request_uri"}

func (c ProviderConfig) check() error {
	if !providerName.MatchString(c.Name) {
		return fault("oidc.name", "a provider's name is empty or holds a character that is not allowed", "use 1 to 32 of a-z, 0-9 and -")
	}
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fault(c.at("issuer"), "the issuer is no http or https address", "copy the value of \"issuer\" from the provider's /.well-known/openid-configuration")
	}
	if c.ClientID == "" {
		return fault(c.at("client_id"), "the client id is empty", "register Carrel at the provider and copy the id")
	}
	if !c.Allowed.Everyone && len(c.Allowed.Users)+len(c.Allowed.Groups)+len(c.Allowed.EmailDomains)+len(c.Admins.Users)+len(c.Admins.Groups) == 0 {
		return fault(c.at("allowed"), "nobody may sign in", "name users, groups or email_domains, or set everyone: true")
	}
	if c.RefreshEvery < 0 || c.KeepGroups < 0 {
		return fault(c.at("refresh_every"), "a duration is negative", "give one such as 15m, or 0 for never")
	}
	for key := range c.AuthParams {
		if slices.Contains(reserved, key) {
			return fault(c.at("auth_params"), key+" can't be set", "leave it out; Carrel sets it itself")
		}
	}
	if len(c.Scopes) > 0 && !slices.Contains(c.Scopes, "openid") {
		return fault(c.at("scopes"), "the scope openid is missing", "add it")
	}
	return nil
}

// domains brings configured mail domains into the form in which people's are compared.
func domains(field string, in []string) ([]string, error) {
	out := slices.Clone(in)
	for i, d := range out {
		out[i] = strings.ToLower(strings.TrimPrefix(d, "@"))
		if out[i] == "" || strings.ContainsAny(out[i], "@ *") {
			return nil, fault(field, d+": this is no mail domain", "give whole domains, such as example.org")
		}
	}
	return out, nil
}

// names brings configured user names into the form in which people's are compared.
func names(field string, in []string) ([]string, error) {
	out := make([]string, len(in))
	for i, s := range in {
		n, err := hub.ParseUserName(s)
		if err != nil {
			message, remedy := hub.Public(err)
			return nil, fault(field, s+": "+message, remedy)
		}
		out[i] = n.String()
	}
	return out, nil
}

// HTTPClient reaches the provider: it follows no redirect, and bounds time and size.
func (c ProviderConfig) HTTPClient() (*http.Client, error) {
	next := c.Transport
	if next == nil {
		t := &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second,
			TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		}
		if c.CAFile != "" {
			pool, err := x509.SystemCertPool()
			if err != nil {
				pool = x509.NewCertPool()
			}
			pem, err := os.ReadFile(c.CAFile)
			if err != nil || !pool.AppendCertsFromPEM(pem) {
				return nil, fault("oidc."+c.Name+".ca_file", "the file holds no PEM certificate, or can't be read", "give the certificate of the provider's authority")
			}
			t.TLSClientConfig.RootCAs = pool
		}
		next = t
	}
	return &http.Client{Transport: bounded{next}, Timeout: 10 * time.Second, CheckRedirect: refuseRedirect}, nil
}

func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
