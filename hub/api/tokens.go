package api

import (
	"crypto/rand"
	"net/http"
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
	models := []tokenModel{}
	for t, err := range a.cfg.Tokens.Tokens(r.Context(), c.User) {
		if err != nil {
			return err
		}
		models = append(models, model(t))
	}
	return reply(w, http.StatusOK, map[string]any{"api_tokens": models})
}

const (
	maxNote       = 200
	maxExpires    = 366 * 24 * 60 * 60 // seconds
	maxScopes     = 20
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
	if err := decode(r, &body); err != nil {
		return err
	}
	bad := func(field, message, remedy string) error {
		return &hub.Error{Kind: hub.Invalid, Op: "create token", Field: field, Message: message, Remedy: remedy}
	}
	life := defaultExpiry
	if body.ExpiresIn != nil {
		if *body.ExpiresIn <= 0 || *body.ExpiresIn > maxExpires {
			return bad("expires_in", "expires_in is out of range", "give 1 to 31622400 seconds")
		}
		life = time.Duration(*body.ExpiresIn) * time.Second
	}
	if len(body.Note) > maxNote {
		return bad("note", "the note is too long", "use at most 200 bytes")
	}
	if len(body.Scopes) == 0 {
		body.Scopes = []hub.Scope{hub.ScopeSelf}
	}
	for _, s := range body.Scopes {
		if !known(s) || len(body.Scopes) > maxScopes {
			return bad("scopes", "these scopes are not known", "choose of self, access:servers, servers, read:users, admin:servers, admin:users, with !user=NAME where needed")
		}
	}
	secret, now := hub.RandomSecret(), time.Now()
	t := hub.Token{
		ID: strings.ToLower(rand.Text()[:16]), Hash: secret.Hash(), User: c.User, UserID: c.UserID, Note: body.Note,
		Scopes: body.Scopes, Created: now, Expires: now.Add(life),
	}
	if err := a.cfg.Tokens.CreateToken(r.Context(), t); err != nil {
		return err
	}
	m := model(t)
	m.Token = secret.Reveal()
	return reply(w, http.StatusCreated, m)
}

func known(s hub.Scope) bool {
	plain, filter, filtered := strings.Cut(string(s), "!user=")
	if filtered {
		if _, err := hub.ParseUserName(filter); err != nil {
			return false
		}
	}
	switch hub.Scope(plain) {
	case hub.ScopeSelf, hub.ScopeAccessServers, hub.ScopeServers, hub.ScopeReadUsers, hub.ScopeAdminServers, hub.ScopeAdminUsers, "users:activity":
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
