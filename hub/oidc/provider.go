package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/time/rate"

	"carrel/hub"
)

const (
	rediscoverEvery = time.Hour
	retryDiscovery  = 2 * time.Second // after a failure, nobody asks again for so long
	retryKnown      = time.Minute     // the same when an older document is at hand
	callTimeout     = 10 * time.Second
	knownTimeout    = 3 * time.Second
	maxExchanges    = 16 // token requests under way at once
)

// algorithms are those that we take, all of them signatures with a private key; "none" and the
// HMAC family, for which a public key would be the secret, are not among them.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// provider is one provider, discovered when it is first needed.
type provider struct {
	cfg       ProviderConfig
	client    *http.Client
	redirect  string        // our exact redirect address
	exchanges chan struct{} // bounds the token requests under way
	now       func() time.Time

	turn  chan struct{} // one discovers at a time; holds the fields below
	known *discovered
	next  time.Time // when to discover again
	err   error     // the last failure
}

// discovered is what a provider says of itself.
type discovered struct {
	doc     document
	op      *gooidc.Provider
	oauth   oauth2.Config
	signIn  *gooidc.IDTokenVerifier
	backch  *gooidc.IDTokenVerifier // for logout tokens, which anybody can send: its key fetches are few
	undated *gooidc.IDTokenVerifier // for those that lack an end
	context func(context.Context) context.Context
}

// document is the part of the discovery document that go-oidc leaves to us.
type document struct {
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	UserInfo      string   `json:"userinfo_endpoint"`
	Keys          string   `json:"jwks_uri"`
	EndSession    string   `json:"end_session_endpoint"`
	Scopes        []string `json:"scopes_supported"`
	Challenges    []string `json:"code_challenge_methods_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	TokenAuth     []string `json:"token_endpoint_auth_methods_supported"`
	IssuerInReply bool     `json:"authorization_response_iss_parameter_supported"`
}

func newProvider(cfg ProviderConfig, origins hub.Origins, now func() time.Time) (*provider, error) {
	cfg, err := cfg.ready()
	if err != nil {
		return nil, err
	}
	client, err := cfg.HTTPClient()
	if err != nil {
		return nil, err
	}
	return &provider{
		cfg: cfg, client: client, now: now, redirect: origins.HubURL("oidc/" + cfg.Name + "/callback"),
		exchanges: make(chan struct{}, maxExchanges), turn: make(chan struct{}, 1),
	}, nil
}

// discover gives what the provider says of itself, asking when that is unknown or old. While the
// provider is away the old document stays in force.
func (p *provider) discover(ctx context.Context) (*discovered, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, hub.Wrap(hub.Unavailable, "discover "+p.cfg.Name, ctx.Err())
	}
	now := p.now()
	if now.Before(p.next) {
		if p.known != nil {
			return p.known, nil
		}
		return nil, p.err
	}
	timeout := callTimeout
	if p.known != nil {
		timeout = knownTimeout
	}
	// A browser that leaves must not make the others wait for another try.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	d, err := p.ask(asking)
	switch {
	case err == nil:
		p.known, p.err, p.next = d, nil, now.Add(rediscoverEvery)
		return d, nil
	case p.known != nil:
		p.next = now.Add(retryKnown)
		return p.known, nil
	}
	p.err, p.next = p.away(err), now.Add(retryDiscovery)
	return nil, p.err
}

// away is the error that people see when the provider can't be used.
func (p *provider) away(err error) error {
	e := &hub.Error{
		Kind: hub.Unavailable, Op: "discover " + p.cfg.Name, Err: err,
		Message: "the sign-in service " + p.cfg.Title + " can't be reached at the moment",
		Remedy:  "try again in a minute; whoever is signed in already can go on working",
	}
	var wrong *gooidc.IssuerMismatchError
	var unfit unfitError
	if errors.As(err, &wrong) || errors.As(err, &unfit) {
		e.Message = "the sign-in service " + p.cfg.Title + " is not set up as Carrel needs it"
		e.Remedy = "tell your administrator; the hub's log says what is wrong"
	}
	return e
}

// unfitError says that a provider's document can't be worked with.
type unfitError string

// Error says what is wrong.
func (e unfitError) Error() string { return string(e) }

func (p *provider) ask(ctx context.Context) (*discovered, error) {
	with := func(ctx context.Context) context.Context { return gooidc.ClientContext(ctx, p.client) }
	op, err := gooidc.NewProvider(with(ctx), p.cfg.Issuer)
	if err != nil {
		return nil, err
	}
	d := &discovered{op: op, context: with}
	if err := op.Claims(&d.doc); err != nil {
		return nil, unfitError("malformed discovery document: " + err.Error())
	}
	if err := d.doc.check(p.cfg.Issuer); err != nil {
		return nil, err
	}
	accepted := d.doc.accepted()
	if len(accepted) == 0 {
		return nil, unfitError(fmt.Sprintf("the provider signs with none of %v", algorithms))
	}
	d.oauth = oauth2.Config{
		ClientID: p.cfg.ClientID, ClientSecret: p.cfg.ClientSecret.Reveal(), RedirectURL: p.redirect,
		Endpoint: oauth2.Endpoint{AuthURL: d.doc.Authorization, TokenURL: d.doc.Token, AuthStyle: d.doc.authStyle(p.cfg)},
		Scopes:   p.scopes(d.doc),
	}
	known := func(limit *rate.Limiter) keys { return newKeys(ctx, p.client, d.doc.Keys, limit) }
	verifier := func(k keys, undated bool) *gooidc.IDTokenVerifier {
		return gooidc.NewVerifier(p.cfg.Issuer, k,
			&gooidc.Config{ClientID: p.cfg.ClientID, SupportedSigningAlgs: accepted, Now: p.now, SkipExpiryCheck: undated})
	}
	d.signIn = verifier(known(rate.NewLimiter(rate.Every(time.Second), 10)), false)
	anybodys := known(rate.NewLimiter(rate.Every(10*time.Second), 3))
	d.backch, d.undated = verifier(anybodys, false), verifier(anybodys, true)
	return d, nil
}

// check refuses documents that would have us speak without TLS where the issuer has it, or without PKCE.
func (d document) check(issuer string) error {
	for name, address := range map[string]string{
		"authorization_endpoint": d.Authorization, "token_endpoint": d.Token, "jwks_uri": d.Keys, "userinfo_endpoint": d.UserInfo, "end_session_endpoint": d.EndSession,
	} {
		if address == "" && (name == "userinfo_endpoint" || name == "end_session_endpoint") {
			continue
		}
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || strings.HasPrefix(issuer, "https:")) {
			return unfitError(name + " is missing, malformed or without TLS")
		}
	}
	if len(d.Challenges) > 0 && !slices.Contains(d.Challenges, "S256") {
		return unfitError("the provider offers PKCE, but not with S256")
	}
	return nil
}

// accepted are the algorithms that both sides know; a provider that names none signs with RS256.
func (d document) accepted() []string {
	if len(d.Algorithms) == 0 {
		return []string{"RS256"}
	}
	return slices.DeleteFunc(slices.Clone(algorithms), func(a string) bool { return !slices.Contains(d.Algorithms, a) })
}

// authStyle is said, not tried: a first try that fails would use the code up.
func (d document) authStyle(cfg ProviderConfig) oauth2.AuthStyle {
	basic := len(d.TokenAuth) == 0 || slices.Contains(d.TokenAuth, "client_secret_basic")
	if cfg.ClientSecret.IsZero() || !basic {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

func (p *provider) scopes(d document) []string {
	if len(p.cfg.Scopes) > 0 {
		return p.cfg.Scopes
	}
	scopes := []string{"openid", "profile", "email"}
	if p.cfg.GroupsClaim != "" && slices.Contains(d.Scopes, "groups") {
		scopes = append(scopes, "groups")
	}
	if p.cfg.RefreshEvery > 0 && slices.Contains(d.Scopes, gooidc.ScopeOfflineAccess) {
		scopes = append(scopes, gooidc.ScopeOfflineAccess)
	}
	return scopes
}

// exchange turns a code into tokens.
func (p *provider) exchange(ctx context.Context, d *discovered, code, verifier string) (*oauth2.Token, error) {
	const op = "exchange code"
	select {
	case p.exchanges <- struct{}{}:
		defer func() { <-p.exchanges }()
	case <-ctx.Done():
		return nil, hub.Wrap(hub.Unavailable, op, ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	token, err := d.oauth.Exchange(d.context(ctx), code, oauth2.VerifierOption(verifier))
	if err == nil {
		return token, nil
	}
	if answer := (*oauth2.RetrieveError)(nil); errors.As(err, &answer) && answer.Response != nil && answer.Response.StatusCode < 500 {
		return nil, &hub.Error{
			Kind: hub.Forbidden, Op: op, Message: p.cfg.Title + " did not confirm this sign-in",
			Remedy: "begin again at the sign-in page", Err: errors.New(answer.ErrorCode + " " + answer.Response.Status),
		}
	}
	return nil, p.away(scrub(err))
}

// scrub drops what an error of x/oauth2 quotes of an answer: it may hold a token.
func scrub(err error) error {
	if answer := (*oauth2.RetrieveError)(nil); errors.As(err, &answer) && answer.Response != nil {
		return errors.New("token endpoint: " + answer.ErrorCode + " " + answer.Response.Status)
	}
	return err
}
