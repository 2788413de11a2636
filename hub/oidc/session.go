package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"carrel/hub"
)

// tokenSet is what a session keeps of the provider's tokens, sealed.
type tokenSet struct {
	ID        string    `json:"i,omitempty"` // the hint at sign-out
	Refresh   string    `json:"r,omitempty"`
	Refreshed time.Time `json:"t"`
}

func (a *Auth) sealTokens(h hub.SecretHash, t tokenSet) []byte {
	b, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and a time always marshal
	}
	return []byte(a.cfg.Keyring.Seal(b, "tokens "+string(h)))
}

func (a *Auth) openTokens(s hub.Session) (tokenSet, bool) {
	b, err := a.cfg.Keyring.Open(string(s.Tokens), "tokens "+string(s.Hash))
	var t tokenSet
	if err != nil || json.Unmarshal(b, &t) != nil {
		return tokenSet{}, false
	}
	return t, true
}

// establish makes a verified person's session: may they in, is the name theirs, then the record.
func (a *Auth) establish(ctx context.Context, r *http.Request, p *provider, who person, tokens tokenSet, begun time.Time) (hub.Secret, hub.Session, error) {
	user, err := a.admit(ctx, p, who)
	if err != nil {
		return hub.Secret{}, hub.Session{}, err
	}
	secret := hub.RandomSecret()
	s := hub.Session{
		Hash: secret.Hash(), User: user.Name, UserID: user.ID, Admin: user.Admin, Groups: user.Groups,
		Provider: p.cfg.Name, Identity: who.identity, SID: who.sid,
		Created: begun, LastSeen: begun, Expires: begun.Add(a.cfg.Lifetime), Idle: a.cfg.Idle,
		From: a.cfg.ClientAddr(r), Agent: agent(r.UserAgent()),
	}
	s.Tokens = a.sealTokens(s.Hash, tokens)
	if err := a.cfg.Sessions.CreateSession(ctx, s); err != nil {
		if hub.KindOf(err) == hub.Unauthenticated {
			err = &hub.Error{Kind: hub.Forbidden, Op: opSignIn, Message: p.cfg.Title + " signed you out while you signed in", Remedy: "begin again at the sign-in page", Err: err}
		}
		return hub.Secret{}, hub.Session{}, err
	}
	return secret, s, nil
}

func agent(s string) string {
	s = plain(s)
	return strings.ToValidUTF8(s[:min(len(s), 200)], "")
}

// admit decides whether a person may in, sees that the name is theirs, and keeps what is known of
// them. It gives the stored record, whose groups are those in force.
func (a *Auth) admit(ctx context.Context, p *provider, who person) (hub.User, error) {
	now := a.cfg.Now()
	known, err := a.cfg.Users.User(ctx, who.name)
	if err != nil && hub.KindOf(err) != hub.NotFound {
		return hub.User{}, err
	}
	groupsAt := now
	if !who.groupsKnown {
		groupsAt = time.Time{}
		if err == nil && known.Identity == who.identity && now.Sub(known.GroupsAt) <= p.cfg.KeepGroups {
			who.groups, groupsAt = known.Groups, known.GroupsAt
		}
		if p.needsGroups() {
			a.cfg.Logger.WarnContext(ctx, "the provider told no groups; the last known are kept for a while", "provider", p.cfg.Name, "user", who.name.String(), "claim", p.cfg.GroupsClaim, "known_at", groupsAt)
		}
	}
	if !p.allows(who) {
		return hub.User{}, &hub.Error{
			Kind: hub.Forbidden, Op: opSignIn, Message: "you are signed in at " + p.cfg.Title + " as " + who.name.String() + ", but may not use this hub",
			Remedy: "ask your administrator to let you in (oidc.allowed)", Err: errOut,
		}
	}
	return a.bind(ctx, hub.User{
		Name: who.name, Identity: who.identity, Provider: p.cfg.Name,
		DisplayName: plain(who.display), Email: plain(who.email), EmailVerified: who.verified,
		Groups: who.groups, GroupsAt: groupsAt, Admin: p.isAdmin(who), Created: now, LastSeen: now,
	})
}

// bind ties a name to an identity and to the id that keys the home, at the first sign-in; later
// ones with another identity are refused. The note beside the home comes first: it outlives a
// wiped store.
func (a *Auth) bind(ctx context.Context, u hub.User) (hub.User, error) {
	taken := func(cause error) error {
		return &hub.Error{
			Kind: hub.Forbidden, Op: opSignIn, Message: "the name " + u.Name.String() + " belongs to another account at this hub",
			Remedy: "ask your administrator, who can give the name to you", Err: errors.Join(errOut, cause),
		}
	}
	u.ID = a.cfg.Keyring.UserID(u.Identity)
	noted := a.cfg.Bindings == nil
	if a.cfg.Bindings != nil {
		b, err := a.cfg.Bindings.Binding(ctx, u.Name)
		switch {
		case err == nil && b.Identity != u.Identity:
			return hub.User{}, taken(nil)
		case err == nil:
			u.ID, noted = b.UserID, true
		case hub.KindOf(err) != hub.NotFound:
			return hub.User{}, err
		}
	}
	stored, err := a.cfg.Users.BindUser(ctx, u)
	if hub.KindOf(err) == hub.Conflict {
		return hub.User{}, taken(err)
	}
	if err != nil {
		return hub.User{}, err
	}
	if noted && a.cfg.Bindings != nil && stored.ID != u.ID {
		return hub.User{}, &hub.Error{Kind: hub.Internal, Op: opSignIn, Message: "the store and the note beside the home name different ids", Remedy: "compare them and rebind the name"}
	}
	if !noted {
		if err := a.cfg.Bindings.Bind(ctx, hub.Binding{Name: stored.Name, UserID: stored.ID, Identity: stored.Identity}); err != nil {
			return hub.User{}, err
		}
	}
	return stored, nil
}
