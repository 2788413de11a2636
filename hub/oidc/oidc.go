package oidc

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/time/rate"

	"carrel/hub"
)

// Auth signs people in and out.
type Auth struct {
	cfg       Config
	providers []*provider
	front     *rate.Limiter // front-channel logout, which anybody can ask for
}

// New checks the configuration and starts nothing: no provider is asked for anything yet.
func New(cfg Config) (*Auth, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	a := &Auth{cfg: cfg, front: rate.NewLimiter(20, 50)}
	seen := map[string]bool{}
	issuers := map[string]bool{}
	for _, pc := range cfg.Providers {
		p, err := newProvider(pc, cfg.Origins, cfg.Now)
		if err != nil {
			return nil, err
		}
		if seen[p.cfg.Name] {
			return nil, fault("oidc.name", "two providers are named "+p.cfg.Name, "give each a name of its own")
		}
		if issuers[p.cfg.Issuer] {
			return nil, fault("oidc."+p.cfg.Name+".issuer", "two providers have one issuer", "configure each issuer once")
		}
		seen[p.cfg.Name], issuers[p.cfg.Issuer] = true, true
		a.providers = append(a.providers, p)
	}
	return a, nil
}

// ProviderInfo is what the sign-in page shows of a provider.
type ProviderInfo struct {
	Name  string // in paths
	Title string // for people
}

// Providers are those that people can choose from, in the configured order.
func (a *Auth) Providers() []ProviderInfo {
	var list []ProviderInfo
	for _, p := range a.providers {
		list = append(list, ProviderInfo{p.cfg.Name, p.cfg.Title})
	}
	return list
}

// LoginPath is where a browser begins to sign in with a provider, and comes back to next from.
func (a *Auth) LoginPath(provider, next string) string {
	return a.cfg.Origins.HubPath("oidc/"+provider+"/login") + "?next=" + url.QueryEscape(next)
}

// Check asks every provider for its discovery document; the errors are by provider name.
func (a *Auth) Check(ctx context.Context) map[string]error {
	faults := map[string]error{}
	for _, p := range a.providers {
		if _, err := p.discover(ctx); err != nil {
			faults[p.cfg.Name] = err
		}
	}
	return faults
}

func (a *Auth) provider(name string) (*provider, bool) {
	for _, p := range a.providers {
		if p.cfg.Name == name {
			return p, true
		}
	}
	return nil, false
}

// Handler serves everything below the hub's oidc/ path.
func (a *Auth) Handler() http.Handler {
	mux := http.NewServeMux()
	a.Mount(mux)
	return mux
}

// Mount adds the handlers to a mux, below the hub's oidc/ path.
func (a *Auth) Mount(mux *http.ServeMux) {
	at := a.cfg.Origins.HubPath("oidc/{provider}/")
	mux.Handle("GET "+at+"login", a.handle(a.login))
	mux.Handle("GET "+at+"callback", a.handle(a.counted(a.callback)))
	mux.Handle("GET "+at+"logged-out", a.handle(a.loggedOut))
	mux.Handle("GET "+at+"frontchannel-logout", a.handle(a.frontChannel))
	mux.Handle("POST "+at+"backchannel-logout", http.HandlerFunc(a.backChannel))
}

// handle finds the provider and renders errors. Nothing here may be cached, or leak its query.
func (a *Auth) handle(do func(http.ResponseWriter, *http.Request, *provider) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Referrer-Policy", "no-referrer")
		p, ok := a.provider(r.PathValue("provider"))
		if !ok {
			a.cfg.RenderError(w, r, &hub.Error{Kind: hub.NotFound, Op: "sign in", Message: "there is no such sign-in service here", Remedy: "choose one on the sign-in page"})
			return
		}
		if err := do(w, r, p); err != nil {
			if hub.KindOf(err) != hub.Canceled {
				a.cfg.Logger.WarnContext(r.Context(), "sign-in refused", "provider", p.cfg.Name, "kind", hub.KindOf(err).String(), "from", a.cfg.ClientAddr(r), "error", err)
			}
			a.cfg.RenderError(w, r, err)
		}
	})
}

// counted has it told what came of an answer.
func (a *Auth) counted(do func(http.ResponseWriter, *http.Request, *provider) error) func(http.ResponseWriter, *http.Request, *provider) error {
	return func(w http.ResponseWriter, r *http.Request, p *provider) error {
		err := do(w, r, p)
		if a.cfg.SignedIn != nil {
			a.cfg.SignedIn(p.cfg.Name, err)
		}
		return err
	}
}

// plain makes a provider's text fit to be shown and logged: one line of printable characters, cut.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == '\uFFFD' {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > 200 {
		s = string(runes[:200]) + "…"
	}
	return s
}
