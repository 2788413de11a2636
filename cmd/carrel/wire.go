package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"carrel/hub"
	"carrel/hub/api"
	"carrel/hub/captcha"
	"carrel/hub/devidp"
	"carrel/hub/jupyter"
	"carrel/hub/metrics"
	"carrel/hub/oidc"
	"carrel/hub/redisstore"
	"carrel/hub/siblings"
	"carrel/hub/web"
	"carrel/internal/acme"
	"carrel/internal/config"
	"carrel/internal/httpx"
	"carrel/proxy"
	"carrel/spawner/docker"
)

// deployment is what every command of a deployment needs.
type deployment struct {
	cfg     *config.Config
	origins hub.Origins
	state   state
	keys    *hub.Keyring
	logger  *slog.Logger
}

func openDeployment(f *flags) (*deployment, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	origins, err := cfg.HubOrigins()
	if err != nil {
		return nil, err
	}
	d := &deployment{cfg: cfg, origins: origins, logger: newLogger(cfg.Log.Level, cfg.Log.Format)}
	d.state = state{dir: cfg.StateDir, run: cfg.RunDir(), proxyGID: cfg.Proxy.UID}
	if err := d.state.prepare(); err != nil {
		return nil, err
	}
	d.keys, err = d.state.keyring(cfg.Deployment)
	return d, err
}

func (d *deployment) driver() (*docker.Driver, error) {
	c := d.cfg.Spawner.Docker
	var place hub.HomePath
	if c.HomePath != "" {
		var err error
		if place, err = hub.ParseHomePath(c.HomePath); err != nil {
			return nil, err
		}
	}
	return docker.New(docker.Config{
		Host: c.Host, Deployment: d.cfg.Deployment, Keyring: d.keys, StateDir: d.state.docker(), HomeKind: c.HomeKind, HomePath: place,
		Subnets: c.Subnets, Upstreams: c.DNS, Quarantine: time.Duration(c.Quarantine), Statics: d.state.statics(), SocketGID: d.cfg.Proxy.UID, Logger: d.logger,
	})
}

// redisCA is the CA of redis.ca_file; nothing without one.
func (d *deployment) redisCA() ([]byte, error) {
	if d.cfg.Redis.CAFile == "" {
		return nil, nil
	}
	ca, err := os.ReadFile(d.cfg.Redis.CAFile)
	if err != nil {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "read redis.ca_file", Field: "redis.ca_file", Message: "the file can't be read", Remedy: "check the path", Err: err}
	}
	return ca, nil
}

func (d *deployment) store(address string) (*redisstore.Store, error) {
	ca, err := d.redisCA()
	if err != nil {
		return nil, err
	}
	return redisstore.New(redisstore.Config{URL: address, CA: ca, Prefix: d.cfg.KeyPrefix(), Logger: d.logger})
}

// hubParts are the hub process, assembled and not started.
type hubParts struct {
	manager *hub.Manager
	auth    *oidc.Auth
	visits  *hub.Visitors
	runs    *hub.Runs
	driver  *docker.Driver
	pages   http.Handler // <base>hub/...
	edge    http.Handler
	top     http.Handler    // for operators on this host
	metrics http.Handler    // for who may read them
	people  []devidp.Person // of the demo provider; nil without it
}

// assembleHub is where the hub's concrete types meet.
func (d *deployment) assembleHub(driver *docker.Driver, store *redisstore.Store, policy *atomic.Pointer[hub.Policy]) (*hubParts, error) {
	providers, idp, people, err := d.providers()
	if err != nil {
		return nil, err
	}
	seen, err := d.metrics(driver, store, providers)
	if err != nil {
		return nil, err
	}
	manager, err := hub.NewManager(hub.ManagerConfig{
		Spawner: driver, Servers: store, Routes: store, Users: store, Leases: store, Events: store, Notebook: jupyter.Client{},
		Keyring: d.keys, Origins: d.origins, Policy: func() hub.Policy { return *policy.Load() }, Observer: seen, Logger: d.logger,
	})
	if err != nil {
		return nil, err
	}
	if err := seen.Show(manager); err != nil {
		return nil, err
	}
	service, err := d.captcha()
	if err != nil {
		return nil, err
	}
	visitors, err := hub.NewVisitors(hub.VisitorsConfig{
		Manager: manager, Visits: store, Servers: store, Sessions: store, Tokens: store, Leases: store, Keyring: d.keys, Captcha: service, Observer: seen, Logger: d.logger,
	})
	if err != nil {
		return nil, err
	}
	if err := seen.ShowVisits(visitors); err != nil {
		return nil, err
	}
	runs, err := hub.NewRuns(hub.RunsConfig{Runner: driver, Store: store, Leases: store, Policy: manager.Policy, Logger: d.logger})
	if err != nil {
		return nil, err
	}
	elsewhere, err := siblings.New(siblings.Config{URLs: d.cfg.Tmp.Siblings, Logger: d.logger})
	if err != nil {
		return nil, err
	}
	// Errors of sign-in are shown in the clothes of the pages, which in turn need sign-in.
	var pages *web.Web
	auth, err := oidc.New(oidc.Config{
		Providers: providers, Origins: d.origins, Keyring: d.keys, Sessions: store, Tickets: store, Users: store, Bindings: driver, Leases: store,
		Lifetime: time.Duration(d.cfg.Sessions.Lifetime), Idle: time.Duration(d.cfg.Sessions.Idle), SignedOut: d.origins.HubURL("signed-out"),
		RenderError: func(w http.ResponseWriter, r *http.Request, err error) { pages.RenderError(w, r, err) },
		ClientAddr:  clientAddr,
		SignedIn:    seen.SignedIn,
		Logger:      d.logger,
	})
	if err != nil {
		return nil, err
	}
	pages, err = web.New(web.Config{
		Origins: d.origins, Sessions: store, Tickets: store, Users: store, Activities: store, Servers: manager, Auth: authForWeb{auth},
		FormAction: formAction(d.origins, providers, d.cfg.Tmp.Siblings), Visits: visitors, Siblings: elsewhere, Tokens: store, ClientAddr: clientAddr, Logger: d.logger,
	})
	if err != nil {
		return nil, err
	}
	rest, err := api.New(api.Config{
		Origins: d.origins, Servers: manager, Sessions: store, Tokens: store, Users: store, Routes: store, Meters: meters{manager, d.state, d.logger}, Logger: d.logger,
		Visits: visitors, VisitOrigins: d.cfg.Tmp.CORS, Runs: runs, Siblings: elsewhere, ClientAddr: clientAddr,
		Wrap: func(h func(http.ResponseWriter, *http.Request) error) http.Handler {
			return httpx.Kit{Logger: d.logger}.Handle(h)
		},
	})
	if err != nil {
		return nil, err
	}
	root := strings.TrimSuffix(d.origins.HubPath(""), "/")
	mux := http.NewServeMux()
	mux.Handle(root+"/", http.StripPrefix(root, pages.Handler()))
	mux.Handle(root+"/oidc/", auth.Handler())
	mux.Handle(root+"/api/", http.StripPrefix(root+"/api", rest))
	mux.Handle(root+"/metrics", rest.For(hub.ScopeReadMetrics, seen.Handler()))
	if idp != nil {
		mux.Handle(root+"/demo-provider/", idp)
	}
	return &hubParts{manager: manager, auth: auth, visits: visitors, runs: runs, driver: driver, pages: mux, edge: pages.Edge(), top: rest.Top(), metrics: seen.Handler(), people: people}, nil
}

// captcha is the service that checks visitors' captchas; nil without one.
func (d *deployment) captcha() (hub.Captcha, error) {
	c := d.cfg.Tmp.Captcha
	if c.Kind != string(hub.CaptchaSite) {
		return nil, nil
	}
	at, err := url.Parse(d.cfg.PublicURL)
	if err != nil {
		return nil, hub.Wrap(hub.Invalid, "read public_url", err)
	}
	return captcha.New(captcha.Config{VerifyURL: c.Resolved().VerifyURL, Secret: hub.NewSecret(c.Secret), Host: at.Hostname()})
}

// metrics are the hub's, with whether what it needs answers.
func (d *deployment) metrics(driver *docker.Driver, store *redisstore.Store, providers []oidc.ProviderConfig) (*metrics.Metrics, error) {
	var names []string
	for _, p := range providers {
		names = append(names, p.Name)
	}
	return metrics.New(metrics.Config{
		Version: version(), Providers: names, Logger: d.logger,
		Parts: map[string]func(context.Context) error{"redis": store.Ping, "docker": driver.Ping},
	})
}

// clientAddr is where a request came from: our proxy says it, and nobody else reaches the hub.
func clientAddr(r *http.Request) string { return r.Header.Get("X-Forwarded-For") }

// authForWeb shows the sign-in adapter to the pages.
type authForWeb struct{ *oidc.Auth }

// Providers implements [web.Auth].
func (a authForWeb) Providers() []web.Provider {
	var list []web.Provider
	for _, p := range a.Auth.Providers() {
		list = append(list, web.Provider(p))
	}
	return list
}

// providers are the configured ones, or the demo provider on a loopback address.
func (d *deployment) providers() ([]oidc.ProviderConfig, *devidp.Provider, []devidp.Person, error) {
	if len(d.cfg.OIDC.Providers) == 0 {
		return d.demoProvider()
	}
	var list []oidc.ProviderConfig
	for _, p := range d.cfg.OIDC.Providers {
		list = append(list, oidc.ProviderConfig{
			Name: p.Name, Title: p.Title, Issuer: p.Issuer, ClientID: p.ClientID, ClientSecret: hub.NewSecret(p.ClientSecret), Scopes: p.Scopes,
			UsernameClaim: p.UsernameClaim, GroupsClaim: p.GroupsClaim, RefreshEvery: time.Duration(p.RefreshEvery), FrontChannel: p.FrontChannel, CAFile: p.CAFile,
			Allowed: oidc.Allowed{Everyone: p.Everyone, Users: p.AllowedUsers, Groups: p.AllowedGroups, EmailDomains: p.AllowedDomains},
			Admins:  oidc.Admins{Users: p.AdminUsers, Groups: p.AdminGroups},
		})
	}
	return list, nil, nil, nil
}

const demoClient = "carrel"

func (d *deployment) demoProvider() ([]oidc.ProviderConfig, *devidp.Provider, []devidp.Person, error) {
	people, _, err := devidp.LoadPeople(d.state.demoUsers(), d.cfg.Demo.People)
	if err != nil {
		return nil, nil, nil, err
	}
	issuer := d.origins.HubURL("demo-provider")
	at := func(page string) string { return d.origins.HubURL("oidc/demo/" + page) }
	secret := d.keys.Password("demo-client")
	idp, err := devidp.New(devidp.Config{
		Issuer: issuer, People: people, Dir: d.state.secrets(), Logger: d.logger,
		Trusted: func(*http.Request) bool { return true }, // hub.sock is reached by our proxy alone
		Clients: []devidp.Client{{
			ID: demoClient, Secret: secret, RedirectURIs: []string{at("callback")},
			PostLogoutRedirectURIs: []string{at("logged-out")}, BackChannelLogoutURI: "",
		}},
	})
	if err != nil {
		return nil, nil, nil, err
	}
	return []oidc.ProviderConfig{{
		Name: "demo", Title: "Demo accounts", Issuer: issuer, ClientID: demoClient, ClientSecret: secret, RefreshEvery: 15 * time.Minute,
		Allowed: oidc.Allowed{Everyone: true}, Admins: oidc.Admins{Groups: []string{devidp.AdminGroup}}, Transport: idp.Transport(),
	}}, idp, people, nil
}

// formAction lists the origins that our forms lead to by redirect: the notebooks', the providers' and the
// siblings'.
func formAction(o hub.Origins, providers []oidc.ProviderConfig, siblings []string) string {
	var list []string
	if u, err := url.Parse(o.ServerOrigin(hub.UserName{})); err == nil {
		host := u.Host
		if o.Mode() == hub.Subdomains {
			host = "*." + strings.TrimPrefix(host, ".")
		}
		list = append(list, u.Scheme+"://"+host)
	}
	others := slices.Clone(siblings)
	for _, p := range providers {
		others = append(others, p.Issuer)
	}
	for _, o := range others {
		if u, err := url.Parse(o); err == nil {
			list = append(list, u.Scheme+"://"+u.Host)
		}
	}
	return strings.Join(list, " ")
}

// newProxy assembles a proxy from what it was handed.
func newProxy(h heir, certificates *acme.Client, logger *slog.Logger) (*proxy.Proxy, *redisstore.Store, error) {
	origins, err := h.Origins.origins()
	if err != nil {
		return nil, nil, err
	}
	keys, err := hub.UnmarshalKeyring(h.Keyring)
	if err != nil {
		return nil, nil, err
	}
	store, err := redisstore.New(redisstore.Config{URL: h.RedisURL, CA: h.RedisCA, Prefix: h.RedisPrefix, Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	trusted, err := h.trusted()
	if err != nil {
		return nil, nil, err
	}
	hubAt, err := hub.ParseEndpoint(h.Hub)
	if err != nil {
		return nil, nil, err
	}
	edgeAt, err := hub.ParseEndpoint(h.Edge)
	if err != nil {
		return nil, nil, err
	}
	var challenge func(ctx context.Context, host, token string) (string, bool)
	if certificates != nil {
		challenge = certificates.HTTPChallenge
	}
	p, err := proxy.New(proxy.Config{
		Origins: origins, Keyring: keys, Sessions: store, Tickets: store, Tokens: store, Users: store, Routes: store, Names: store, Changes: store, Events: store,
		AdminAccess: h.AdminAccess, TrustedProxies: trusted, EmbedOrigins: h.Embeds, Hub: hubAt, Edge: edgeAt, RedisGrace: h.RedisGrace, PausePing: h.PausePing, EventLoop: h.EventLoop, Statics: h.Statics, StrictTransport: h.StrictTransport, Challenge: challenge, Version: version(), Drain: h.Drain, Ready: h.serves, Logger: logger,
		Access: h.access,
	})
	return p, store, err
}

// handover is what a proxy of this deployment needs to know; address is Redis's.
func (d *deployment) handover(address string) handover {
	return handover{
		Keyring: d.keys.ForProxy().Marshal(), RedisURL: address, RedisPrefix: d.cfg.KeyPrefix(),
		Origins:     originsConfig{hub.OriginMode(d.cfg.Origins), d.cfg.PublicURL, d.cfg.NotebookHost},
		AdminAccess: d.cfg.AdminAccess, Embeds: d.cfg.Tmp.CORS, TrustedProxies: d.cfg.TrustedProxies, RedisGrace: time.Duration(d.cfg.Proxy.RedisGrace), PausePing: time.Duration(d.cfg.Proxy.PausePing), EventLoop: d.cfg.Proxy.EventLoop,
		Statics: d.state.statics(), Drain: d.drain(),
		Hub: "unix://" + d.state.hubSocket(), Edge: "unix://" + d.state.edgeSocket(), LogLevel: d.cfg.Log.Level, LogFormat: d.cfg.Log.Format,
		Doors: d.cfg.Doors(), StrictTransport: d.cfg.StrictTransport(), Keys: d.keysSocket(), Metrics: d.cfg.Metrics.ProxyListen,
		Access: d.cfg.Log.Access, AccessFormat: d.cfg.Log.AccessFormat,
	}
}

// drain is how a proxy of this deployment goes away.
func (d *deployment) drain() proxy.Drain {
	c := d.cfg.Proxy
	return proxy.Drain{
		Notice: time.Duration(c.DrainNotice), Requests: time.Duration(c.DrainTimeout),
		Handed: time.Duration(c.UpgradeTimeout), Tunnels: time.Duration(c.DrainSpread),
	}
}
