package api

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrel/hub"
)

// Visits is the part of hub.Visitors that the API uses.
type Visits interface {
	Policy() hub.VisitPolicy
	Come(ctx context.Context, from netip.Addr, path, agent string) (hub.Visit, hub.Secret, error)
	Visit(ctx context.Context, name hub.UserName) (hub.Visit, hub.LinePlace, error)
	Leave(ctx context.Context, name hub.UserName, why string) error
	Stats(ctx context.Context) (hub.VisitStats, error)
	Challenge(from netip.Addr) (hub.Challenge, error)
	Prove(ctx context.Context, from netip.Addr, proof hub.Proof) error
}

// Siblings are deployments elsewhere that may have room where this one has none.
type Siblings interface {
	// Room gives the public address of one that has, with a slash at the end, and counts one place there as
	// taken if it is.
	Room(ctx context.Context, take bool) (base string, ok bool)
}

// mountVisits adds the calls about notebooks for visitors, which need no credentials: Carrel's own, and
// tmpnb's as it answered them, which the proxy hands on from <base>api/.
func (a *API) mountVisits() {
	for path, methods := range map[string]map[string]func(http.ResponseWriter, *http.Request) error{
		"/tmp":           {http.MethodPost: a.openVisit, http.MethodDelete: a.endVisit},
		"/tmp/challenge": {http.MethodGet: a.challenge},
		"/tmp/stats":     {http.MethodGet: a.visitStats},
		"/tmpnb/spawn":   {http.MethodPost: a.tmpnbSpawn},
		"/tmpnb/stats":   {http.MethodGet: a.tmpnbStats},
	} {
		var allowed []string
		for method, h := range methods {
			a.mux.Handle(method+" "+path, a.cfg.Wrap(a.shared(h)))
			allowed = append(allowed, method)
		}
		slices.Sort(allowed)
		a.mux.Handle("OPTIONS "+path, a.cfg.Wrap(a.shared(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Access-Control-Allow-Methods", strings.Join(allowed, ", "))
			w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
			w.Header().Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return nil
		})))
	}
}

// shared lets h be called by scripts of our own origin and of those that the operator named, and by
// programs, which are of none (the Fetch standard, section 3.2). Nothing here goes by a cookie.
func (a *API) shared(h func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if a.cfg.Visits == nil || !a.cfg.Visits.Policy().Enabled {
			return errNoCall
		}
		w.Header().Add("Vary", "Origin")
		if origin := r.Header.Get("Origin"); origin != "" && origin != a.cfg.Origins.HubOrigin() {
			if !slices.Contains(a.cfg.VisitOrigins, origin) {
				return &hub.Error{Kind: hub.Forbidden, Op: "check origin", Message: "pages of this site may not open notebooks here", Remedy: "an administrator can add it to tmp.cors_origins"}
			}
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Expose-Headers", "Location, Retry-After")
		}
		return h(w, r)
	}
}

var errFull = &hub.Error{Kind: hub.Unavailable, Op: "open visit", Message: "all notebooks are taken", Remedy: "try again in a minute"}

// opened is a visit of a program's, which waits in no line.
type opened struct {
	visit hub.Visit
	token hub.Secret
}

func (a *API) client(r *http.Request) netip.Addr {
	from, err := netip.ParseAddr(a.cfg.ClientAddr(r))
	if err != nil {
		return netip.Addr{}
	}
	return from
}

// challenge gives a program the work that it shows then.
func (a *API) challenge(w http.ResponseWriter, r *http.Request) error {
	c, err := a.cfg.Visits.Challenge(a.client(r))
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, c)
}

// prove checks what a program shows, unless it has the token of an account and need not.
func (a *API) prove(r *http.Request, proof hub.Proof) error {
	if c := a.cfg.Visits.Policy().Captcha; c.Kind == hub.CaptchaNone || c.Exempt && a.hasAccount(r) {
		return nil
	}
	return a.cfg.Visits.Prove(r.Context(), a.client(r), proof)
}

// hasAccount tells whether a request has a token that an account made, and that is good still.
func (a *API) hasAccount(r *http.Request) bool {
	if r.Header.Get("Authorization") == "" {
		return false
	}
	_, err := a.caller(r)
	return err == nil // a visitor's is no account's
}

// open takes a program in, waits until its server is ready, and gives the token for it.
func (a *API) open(r *http.Request, proof hub.Proof) (opened, error) {
	if err := a.prove(r, proof); err != nil {
		return opened{}, err
	}
	from := a.client(r)
	visit, _, err := a.cfg.Visits.Come(r.Context(), from, "", "program")
	if err != nil {
		return opened{}, err
	}
	token := hub.RandomSecret()
	if visit.Phase == hub.VisitWaiting {
		err = errFull
	} else if err = a.awaitVisit(r.Context(), visit); err == nil {
		p, now := a.cfg.Visits.Policy(), time.Now()
		err = a.cfg.Tokens.CreateToken(r.Context(), hub.Token{
			ID: strings.ToLower(rand.Text()), Hash: token.Hash(), User: visit.Name, UserID: hub.VisitorUser(visit.Name).ID, Note: "visit",
			Scopes: []hub.Scope{hub.ScopeAccessServers + hub.Scope("!user="+visit.Name.String())}, Created: now,
			Expires: visit.Expires.Add(time.Duration(p.Extensions) * p.Extend), // it goes with the visit
		})
	}
	if err != nil {
		clean, done := context.WithTimeout(context.WithoutCancel(r.Context()), 10*time.Second)
		defer done()
		_ = a.cfg.Visits.Leave(clean, visit.Name, "whoever asked for it got none") // else it ends unused
		return opened{}, err
	}
	return opened{visit, token}, nil
}

// awaitVisit waits until a visit's server is ready.
func (a *API) awaitVisit(ctx context.Context, visit hub.Visit) error {
	ctx, done := context.WithTimeout(ctx, 2*time.Minute)
	defer done()
	for {
		s, err := a.cfg.Servers.Server(ctx, visit.Key())
		switch {
		case err != nil:
			return err
		case s.Phase == hub.Ready || s.Phase == hub.Paused:
			return nil
		case s.Phase == hub.Failed || s.Phase == hub.Absent && s.Revision != 0:
			return &hub.Error{Kind: hub.Unavailable, Op: "open visit", Message: "the notebook could not be started", Remedy: "try again in a minute"}
		}
		select {
		case <-ctx.Done():
			return hub.Wrap(hub.Unavailable, "open visit", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (a *API) openVisit(w http.ResponseWriter, r *http.Request) error {
	var proof struct {
		Challenge string `json:"challenge"`
		Answer    string `json:"answer"`
		Captcha   string `json:"captcha"`
	}
	if err := decode(w, r, &proof); err != nil {
		return err
	}
	o, err := a.open(r, hub.Proof{Challenge: proof.Challenge, Answer: proof.Answer, Response: proof.Captcha})
	if err != nil {
		a.pointOn(w, r, err, "hub/api/tmp")
		w.Header().Set("Retry-After", strconv.Itoa(a.comeAgain(r.Context())))
		return err
	}
	return reply(w, http.StatusCreated, struct {
		URL     string    `json:"url"`
		Token   string    `json:"token"`
		Expires time.Time `json:"expires_at"`
	}{a.cfg.Origins.ServerURL(o.visit.Key(), ""), o.token.Reveal(), o.visit.Expires.UTC().Truncate(time.Second)})
}

// pointOn names, in the answer to somebody for whom there is no room, the same call of a sibling that has;
// a call that was sent on by one is not sent on again. It is no redirect: a browser that followed one would
// no longer say of which site its page is.
func (a *API) pointOn(w http.ResponseWriter, r *http.Request, err error, call string) {
	if a.cfg.Siblings == nil || hub.KindOf(err) != hub.Unavailable || r.URL.Query().Has("hop") {
		return
	}
	if base, ok := a.cfg.Siblings.Room(r.Context(), true); ok {
		w.Header().Set("Location", base+call+"?hop=1")
	}
}

// comeAgain is in how many seconds somebody who was refused has a chance, as far as that is known.
func (a *API) comeAgain(ctx context.Context) int {
	s, err := a.cfg.Visits.Stats(ctx)
	if err != nil || !s.Wait.Known {
		return 30
	}
	return max(1, min(600, int(s.Wait.Wait.Seconds())+1))
}

// endVisit ends the visit of a token.
func (a *API) endVisit(w http.ResponseWriter, r *http.Request) error {
	_, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token, err := a.cfg.Tokens.Token(r.Context(), hub.NewSecret(strings.TrimSpace(value)).Hash())
	if err != nil || !token.User.IsVisitor() {
		return orNobody(err)
	}
	if err := a.cfg.Visits.Leave(r.Context(), token.User, "its program said that it is done"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) visitStats(w http.ResponseWriter, r *http.Request) error {
	s, err := a.cfg.Visits.Stats(r.Context())
	if err != nil {
		return err
	}
	answer := struct {
		Available int    `json:"available"`
		Capacity  int    `json:"capacity"`
		Waiting   int    `json:"waiting"`
		Wait      *int   `json:"wait_seconds,omitempty"` // of somebody who comes now; none where it can't be told
		Version   string `json:"version"`
		Image     string `json:"image"`
	}{s.Available(), s.Capacity, s.Waiting, nil, Version, s.Image}
	if s.Wait.Known {
		seconds := int(s.Wait.Wait.Round(time.Second).Seconds())
		answer.Wait = &seconds
	}
	return reply(w, http.StatusOK, answer)
}

// tmpnbSpawn is tmpnb's: the path of a notebook, or 429 when there is none. The path comes with the token
// that opens it, where tmpnb's was open to everybody who knew it.
func (a *API) tmpnbSpawn(w http.ResponseWriter, r *http.Request) error {
	o, err := a.open(r, hub.Proof{}) // its clients know of none
	switch {
	case err == nil:
		return reply(w, http.StatusOK, map[string]string{"url": a.cfg.Origins.ServerPath(o.visit.Key()) + "?token=" + o.token.Reveal()})
	case hub.KindOf(err) == hub.Unavailable || hub.KindOf(err) == hub.TooMany:
		a.pointOn(w, r, err, "api/spawn")
		return reply(w, http.StatusTooManyRequests, map[string]string{"status": "full"})
	}
	return err
}

func (a *API) tmpnbStats(w http.ResponseWriter, r *http.Request) error {
	s, err := a.cfg.Visits.Stats(r.Context())
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct {
		Available int    `json:"available"`
		Capacity  int    `json:"capacity"`
		Version   string `json:"version"`
		Image     string `json:"container_image"`
	}{s.Available(), s.Capacity, Version, s.Image})
}
