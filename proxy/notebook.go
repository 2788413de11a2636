package proxy

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"carrel/hub"
)

// serveNotebook lets a request through to a server, or says what stands in its way.
func (p *Proxy) serveNotebook(w http.ResponseWriter, r *http.Request, place hub.Place, path string) error {
	o := p.cfg.Origins
	key, rest, err := split(o, r.URL, p.known)
	if err != nil {
		return err
	}
	if place.Label != "" && key.User.Label() != place.Label {
		return &statusError{http.StatusNotFound, "this host serves another person's notebooks", "go to " + o.HubURL("home")}
	}
	about(w, notebookClass(r, rest), nil)
	if p.embedded(w, r, key) {
		return nil
	}
	host := canonicalHost(r.Host)
	if place.Notebooks {
		host = o.Host(key.User) // however it was spelt
	}
	who, err := p.authenticate(r, host)
	if err != nil {
		if hub.KindOf(err) != hub.Unauthenticated {
			return err
		}
		return p.askSignIn(w, r, place, key)
	}
	// On the hub's host a notebook's page would share the hub's origin: only programs come here.
	if !place.Notebooks && !who.byToken {
		return p.toOwnHost(w, r, key)
	}
	if !who.byToken {
		if err := sameOrigin(r, o.ServerOrigin(key.User)); err != nil {
			return err
		}
	}
	rt := p.routes.get(key)
	owner := hub.UserID("")
	if rt != nil {
		owner = rt.UserID
	}
	if err := hub.Access(who.Principal, key, owner, o.AdminAccess(p.cfg.AdminAccess)); err != nil {
		return err
	}
	if path == strings.TrimSuffix(o.ServerPath(key), "/") {
		to := url.URL{Path: o.ServerPath(key), RawQuery: r.URL.RawQuery}
		http.Redirect(w, r, to.String(), http.StatusFound)
		return nil
	}
	if what := noticeOf(r, key, rest); what != "" {
		err := p.serveNotice(w, r, key, what)
		if what == "leave" && err == nil {
			p.saidGoodbye(rt)
		}
		return err
	}
	if rt == nil {
		return p.notRunning(w, r, key)
	}
	p.isBack(r.Context(), rt)
	about(w, notebookClass(r, rest), rt)
	return p.serveServer(w, r, rt, rest, who)
}

// serveServer passes a request on to the server that it was let through to, which is woken if need be.
func (p *Proxy) serveServer(w http.ResponseWriter, r *http.Request, rt *route, rest string, who caller) error {
	rt.stats.requests.Add(1)
	countBody(r, rt)
	upgrade := isUpgrade(r)
	if !upgrade && isUse(r.Method, rest) {
		rt.touch()
	}
	if !upgrade && p.serveStatic(w, r, rt, rest) {
		return nil
	}
	q, err := readPoll(r, rest)
	if err != nil {
		return p.unanswered(w, r, err)
	}
	if q.name != "" && rt.paused() && rt.rest.copies.answer(w, who, q, rt.lastUsed(), func(h http.Header) { p.share(h, r, rt.Key) }) {
		return nil
	}
	rt.rest.holds.Add(1)
	defer rt.rest.holds.Add(-1)
	if err := p.awake(r.Context(), rt); err != nil {
		return unreachable(w, err)
	}
	if upgrade {
		return p.tunnel(w, r, rt, who)
	}
	return p.forward(w, r, rt, who, q)
}

// known tells whether there is a server of this name: its route says so, or its record. After the
// store was wiped routes stay for a while, and records come back with what runs.
func (p *Proxy) known(key hub.ServerKey) bool { return p.routes.known(key) || p.names.known(key) }

// isUse tells whether an ordinary request shows that a person is there: unsafe methods do, but for
// what an open tab sends by itself. JupyterLab writes its layout down every ten seconds.
func isUse(method, rest string) bool {
	return !isSafe(method) && !strings.HasPrefix(rest, layouts+"/")
}

func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// askSignIn leads a person to the hub for a session on this host, and tells a program that it has none.
func (p *Proxy) askSignIn(w http.ResponseWriter, r *http.Request, place hub.Place, key hub.ServerKey) error {
	switch {
	case isUpgrade(r):
		return &hub.Error{Kind: hub.Forbidden, Op: "authenticate", Message: "nobody is signed in", Remedy: "sign in"}
	case !isNavigation(r):
		return errNobody
	case !place.Notebooks, canonicalHost(r.Host) != p.cfg.Origins.Host(key.User): // on the hub's host, or by another spelling
		return p.toOwnHost(w, r, key)
	case p.cfg.Origins.Mode() == hub.OneOrigin:
		http.Redirect(w, r, p.cfg.Origins.HubURL("login?next="+url.QueryEscape(r.URL.RequestURI())), http.StatusFound)
		return nil
	}
	secret := p.waitingSecret(w, r)
	q := url.Values{"host": {canonicalHost(r.Host)}, "browser": {string(secret.Hash())}, "next": {r.URL.RequestURI()}}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, p.cfg.Origins.HubURL("ticket?"+q.Encode()), http.StatusFound)
	return nil
}

const ticketWait = 5 * time.Minute

// waitingSecret is what this browser's tickets are bound to: one for all of its tabs.
func (p *Proxy) waitingSecret(w http.ResponseWriter, r *http.Request) hub.Secret {
	secret := hub.RandomSecret()
	if c, err := r.Cookie(p.cfg.Origins.Cookie(hub.CookieTicket)); err == nil && len(c.Value) == 43 {
		secret = hub.NewSecret(c.Value)
	}
	http.SetCookie(w, p.cookie(hub.CookieTicket, secret.Reveal(), int(ticketWait.Seconds())))
	return secret
}

func (p *Proxy) cookie(name, value string, maxAge int) *http.Cookie {
	return &http.Cookie{Name: p.cfg.Origins.Cookie(name), Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: p.cfg.Origins.Secure(), SameSite: http.SameSiteLaxMode} //nolint:gosec // Secure wherever there is HTTPS
}

// toOwnHost leads a person from the hub's host to the one that serves the notebook.
func (p *Proxy) toOwnHost(w http.ResponseWriter, r *http.Request, key hub.ServerKey) error {
	if !isNavigation(r) {
		return errNobody
	}
	http.Redirect(w, r, p.cfg.Origins.ServerOrigin(key.User)+r.URL.RequestURI(), http.StatusFound) //nolint:gosec // the host is a person's own, the path canonical
	return nil
}

// enter exchanges a ticket for a session on this host (see hub.Ticket). A ticket that does not fit
// this browser or host leads back to where a new one is had; what it was for is the ticket's own
// word, never the query's.
func (p *Proxy) enter(w http.ResponseWriter, r *http.Request) error {
	o := p.cfg.Origins
	if r.Method != http.MethodGet { // looking at a link must not use it up
		return &statusError{http.StatusMethodNotAllowed, "this address takes GET", ""}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	waiting, err := r.Cookie(o.Cookie(hub.CookieTicket))
	if err != nil {
		return &statusError{http.StatusForbidden, "this link was made for another browser", "open the notebook from the home page: " + o.HubURL("home")}
	}
	t, err := p.cfg.Tickets.TakeTicket(r.Context(), hub.NewSecret(r.URL.Query().Get("ticket")).Hash())
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		return err
	case err != nil || t.Host != canonicalHost(r.Host) || t.Browser != hub.NewSecret(waiting.Value).Hash():
		return &statusError{http.StatusForbidden, "this link was used already, or was made for another browser", "open the notebook from the home page: " + o.HubURL("home")}
	}
	parent, err := p.cfg.Sessions.Session(r.Context(), t.Parent)
	if err != nil {
		if hub.KindOf(err) == hub.NotFound {
			return errNobody
		}
		return err
	}
	secret := hub.RandomSecret()
	child := hub.Session{Hash: secret.Hash(), Host: t.Host, Created: time.Now(), Expires: parent.Expires}.Under(parent)
	if err := p.cfg.Sessions.CreateSession(r.Context(), child); err != nil {
		return err
	}
	http.SetCookie(w, p.cookie(hub.CookieNotebook, secret.Reveal(), 0))
	http.SetCookie(w, p.cookie(hub.CookieTicket, "", -1))
	http.Redirect(w, r, hub.LocalPath(t.Next, o.Base(), o.Base()), http.StatusFound)
	return nil
}

// notRunning leads a person to the start page, and tells a program as JupyterHub does: 424.
func (p *Proxy) notRunning(w http.ResponseWriter, r *http.Request, key hub.ServerKey) error {
	if isNavigation(r) {
		page := "spawn/" + key.User.String()
		if key.Server.String() != "" {
			page += "/" + key.Server.String()
		}
		if key.User.IsVisitor() {
			page = "tmp/wait"
		}
		w.Header().Set("Cache-Control", "no-store")
		http.Redirect(w, r, p.cfg.Origins.HubURL(page+"?next="+url.QueryEscape(r.URL.RequestURI())), http.StatusFound)
		return nil
	}
	w.Header().Set("Retry-After", "5")
	return &statusError{http.StatusFailedDependency, "this server is not running", "start it at " + p.cfg.Origins.HubURL("home")}
}

// noticeOf is what of the hub's a page of a server asks for, or "".
func noticeOf(r *http.Request, key hub.ServerKey, rest string) string {
	switch {
	case rest == "carrel/notice":
		return "notice"
	case (rest == "carrel/more" || rest == "carrel/leave") && r.Method == http.MethodPost && key.User.IsVisitor():
		return strings.TrimPrefix(rest, "carrel/")
	}
	return ""
}

// serveNotice hands the lab extension's question, or what it has to tell, to the hub: this caller may ask
// for this server.
func (p *Proxy) serveNotice(w http.ResponseWriter, r *http.Request, key hub.ServerKey, what string) error {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return &statusError{http.StatusMethodNotAllowed, "this address takes GET and POST", ""}
	}
	return p.pass(w, r, p.cfg.Edge, func(out *http.Request) {
		out.URL.Path, out.URL.RawPath, out.URL.RawQuery = "/"+what+"/"+key.Label(), "", ""
		out.Header.Del("Cookie")
		out.Header.Del("Authorization")
	}, nil)
}

// serveHub hands a request to the hub's own pages.
func (p *Proxy) serveHub(w http.ResponseWriter, r *http.Request) error {
	about(w, classHub, nil)
	if isUpgrade(r) {
		return &statusError{http.StatusBadRequest, "the hub speaks plain HTTP here", ""}
	}
	return p.pass(w, r, p.cfg.Hub, nil, nil)
}
