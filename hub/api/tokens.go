package api

import (
	"cmp"
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"time"

	"carrel/hub"
)

// tokenModel is JupyterHub's "Token"; Token, the secret, is in the answer to its creation only.
type tokenModel struct {
	ID           string      `json:"id"`
	Kind         string      `json:"kind"`
	User         string      `json:"user"`
	Note         string      `json:"note"`
	Scopes       []hub.Scope `json:"scopes"`
	Created      time.Time   `json:"created"`
	ExpiresAt    *time.Time  `json:"expires_at"`
	LastActivity *time.Time  `json:"last_activity"`
	Token        string      `json:"token,omitempty"`
}

func model(t hub.Token) tokenModel {
	return tokenModel{
		ID: t.ID, Kind: "api_token", User: t.User.String(), Note: t.Note, Scopes: t.Scopes,
		Created: t.Created, ExpiresAt: orNull(t.Expires), LastActivity: orNull(t.LastUsed),
	}
}

// ownTokens checks that the caller may manage the tokens of the path's user: their owner with all
// of their rights, never an administrator and never a narrower token.
func (c caller) ownTokens(r *http.Request) error {
	name, err := hub.ParseUserName(r.PathValue("name"))
	if err != nil {
		return err
	}
	if name != c.User || !c.Can(hub.ScopeSelf, c.User) {
		return &hub.Error{Kind: hub.Forbidden, Op: "manage tokens", Message: "these tokens are not yours to manage", Remedy: "sign in, or use a token with the scope self"}
	}
	return nil
}

func (a *API) listTokens(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := c.ownTokens(r); err != nil {
		return err
	}
	tokens, err := a.tokens(r, c)
	if err != nil {
		return err
	}
	models := make([]tokenModel, len(tokens))
	for i, t := range tokens {
		models[i] = model(t)
	}
	return reply(w, http.StatusOK, map[string]any{"api_tokens": models})
}

// tokens are the caller's live ones, the oldest first.
func (a *API) tokens(r *http.Request, c caller) ([]hub.Token, error) {
	var list []hub.Token
	for t, err := range a.cfg.Tokens.Tokens(r.Context(), c.User) {
		if err != nil {
			return nil, err
		}
		if t.Live(time.Now()) {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b hub.Token) int { return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID)) })
	return list, nil
}

func (a *API) getToken(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := c.ownTokens(r); err != nil {
		return err
	}
	tokens, err := a.tokens(r, c)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(tokens, func(t hub.Token) bool { return t.ID == r.PathValue("id") })
	if i < 0 {
		return hub.Errorf(hub.NotFound, "find token", "there is no such token")
	}
	return reply(w, http.StatusOK, model(tokens[i]))
}

const (
	maxNote       = 200
	maxExpires    = 366 * 24 * 60 * 60 // seconds
	maxScopes     = 20
	maxTokens     = 100 // a person's
	defaultExpiry = 30 * 24 * time.Hour
)

func (a *API) createToken(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := c.ownTokens(r); err != nil {
		return err
	}
	body := struct {
		Note      string      `json:"note"`
		ExpiresIn *int        `json:"expires_in"` // seconds
		Scopes    []hub.Scope `json:"scopes"`
	}{}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	life := defaultExpiry
	if body.ExpiresIn != nil {
		if *body.ExpiresIn <= 0 || *body.ExpiresIn > maxExpires {
			return badToken("expires_in", "expires_in is out of range", "give 1 to 31622400 seconds")
		}
		life = time.Duration(*body.ExpiresIn) * time.Second
	}
	if len(body.Note) > maxNote {
		return badToken("note", "the note is too long", "use at most 200 bytes")
	}
	scopes, err := c.grant(body.Scopes)
	if err != nil {
		return err
	}
	have, err := a.tokens(r, c)
	if err != nil {
		return err
	}
	if len(have) >= maxTokens {
		return &hub.Error{Kind: hub.TooMany, Op: "create token", Message: "you have as many tokens as you may", Remedy: "revoke some that you no longer use"}
	}
	secret, now := hub.RandomSecret(), time.Now()
	t := hub.Token{
		ID: strings.ToLower(rand.Text()[:16]), Hash: secret.Hash(), User: c.User, UserID: c.UserID, Note: body.Note,
		Scopes: scopes, Created: now, Expires: now.Add(life),
	}
	if err := a.cfg.Tokens.CreateToken(r.Context(), t); err != nil {
		return err
	}
	m := model(t)
	m.Token = secret.Reveal()
	return reply(w, http.StatusCreated, m)
}

func badToken(field, message, remedy string) error {
	return &hub.Error{Kind: hub.Invalid, Op: "create token", Field: field, Message: message, Remedy: remedy}
}

// grant resolves the scopes that a new token asks for: never more than its maker holds now. What an
// administrator could do to others' things must be among the maker's own scopes; all else is
// narrowed to the maker's own things, so that it stays small should they ever administer.
func (c caller) grant(asked []hub.Scope) ([]hub.Scope, error) {
	if len(asked) == 0 {
		return []hub.Scope{hub.ScopeSelf}, nil
	}
	if len(asked) > maxScopes {
		return nil, badToken("scopes", "these are too many scopes", "choose 20 at most")
	}
	var granted []hub.Scope
	for _, s := range asked {
		plain, filter, filtered := strings.Cut(string(s), "!user=")
		if !known(hub.Scope(plain)) {
			return nil, badToken("scopes", "these scopes are not known", "choose of self, access:servers, servers, read:users, users:activity, admin:servers, admin:users, read:metrics, with !user=NAME where needed")
		}
		owner := c.User
		if filtered {
			var err error
			if owner, err = hub.ParseUserName(filter); err != nil {
				return nil, badToken("scopes", "a scope's filter names nobody", "write !user=NAME")
			}
			s = hub.Scope(plain + "!user=" + owner.String())
		}
		administers := plain != string(hub.ScopeSelf) && c.Admin && (c.Scopes == nil || slices.Contains(c.Scopes, hub.Scope(plain)) || slices.Contains(c.Scopes, s))
		admin := strings.HasPrefix(plain, "admin:")
		switch {
		case administers:
		case owner != c.User || admin:
			return nil, &hub.Error{Kind: hub.Forbidden, Op: "create token", Field: "scopes", Message: "the scope " + string(s) + " is more than you hold", Remedy: "leave it out"}
		case plain == string(hub.ScopeSelf):
			s = hub.ScopeSelf
		default:
			s = hub.Scope(plain + "!user=" + c.User.String())
		}
		granted = append(granted, s)
	}
	slices.Sort(granted)
	return slices.Compact(granted), nil
}

func known(s hub.Scope) bool {
	switch s {
	case hub.ScopeSelf, hub.ScopeAccessServers, hub.ScopeServers, hub.ScopeReadUsers, hub.ScopeAdminServers, hub.ScopeAdminUsers, hub.ScopeReadMetrics, hub.ScopeRuns, scopeActivity:
		return true
	}
	return false
}

func (a *API) deleteToken(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := c.ownTokens(r); err != nil {
		return err
	}
	if err := a.cfg.Tokens.DeleteToken(r.Context(), c.User, r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
