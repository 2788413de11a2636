package oidc

import (
	"context"
	"errors"
	"slices"
	"strings"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"carrel/hub"
)

// person is what a provider says of somebody.
type person struct {
	identity    hub.Identity
	sid         string
	name        hub.UserName
	display     string
	email       string
	verified    bool // the e-mail address
	groups      []string
	groupsKnown bool // a missing claim is unknown, not empty
	partial     bool // the userinfo endpoint did not answer
}

const (
	maxGroups = 1000
	maxText   = 256
)

// errSubject says that userinfo was about somebody else.
var errSubject = errors.New("userinfo is about another subject")

// describe reads the claims of an ID token, asking the userinfo endpoint for what is missing. With an
// error about the name, the rest is as good.
func (p *provider) describe(ctx context.Context, d *discovered, subject string, claims map[string]any, token *oauth2.Token) (person, error) {
	partial := false
	if p.incomplete(claims) && d.doc.UserInfo != "" && token.AccessToken != "" {
		more, err := p.userInfo(ctx, d, subject, token)
		if errors.Is(err, errSubject) {
			return person{}, unverified(p, err)
		}
		partial = err != nil
		for name, value := range more {
			if _, known := claims[name]; !known {
				claims[name] = value
			}
		}
	}
	who := person{
		identity: hub.Identity{Issuer: p.cfg.Issuer, Subject: subject},
		sid:      text(claims["sid"]), display: text(claims["name"]), email: text(claims["email"]),
		verified: isTrue(claims["email_verified"]), partial: partial,
	}
	who.groups, who.groupsKnown = groups(p.cfg.GroupsClaim, claims)
	var err error
	who.name, err = p.userName(claims, who)
	return who, err
}

// incomplete tells whether a claim that we use is not in the ID token.
func (p *provider) incomplete(claims map[string]any) bool {
	_, groupsKnown := groups(p.cfg.GroupsClaim, claims)
	return !groupsKnown || claims[p.cfg.UsernameClaim] == nil || len(p.cfg.Allowed.EmailDomains) > 0 && claims["email"] == nil
}

// userInfo asks the userinfo endpoint. A provider that does not answer leaves claims unknown; the
// caller knows which it cannot do without.
func (p *provider) userInfo(ctx context.Context, d *discovered, subject string, token *oauth2.Token) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := d.op.UserInfo(d.context(ctx), oauth2.StaticTokenSource(token))
	if err != nil {
		return nil, err
	}
	if !sameText(info.Subject, subject) {
		return nil, errSubject
	}
	var claims map[string]any
	err = info.Claims(&claims)
	return claims, err
}

// userName reads the name by the configured claim. An e-mail address is a name only when the
// provider verified it: anybody can type one.
func (p *provider) userName(claims map[string]any, who person) (hub.UserName, error) {
	claim := p.cfg.UsernameClaim
	value := text(claims[claim])
	switch {
	case value == "":
		return hub.UserName{}, &hub.Error{
			Kind: hub.Forbidden, Op: opSignIn, Message: p.cfg.Title + " did not tell your user name (claim " + claim + ")",
			Remedy: "your administrator can choose another claim with oidc.username_claim, or ask for another scope",
		}
	case claim == "email" && !who.verified:
		return hub.UserName{}, &hub.Error{
			Kind: hub.Forbidden, Op: opSignIn, Message: "your e-mail address is not verified at " + p.cfg.Title,
			Remedy: "verify it there, then sign in again",
		}
	}
	name, err := hub.ParseUserName(value)
	if err != nil {
		_, remedy := hub.Public(err)
		return hub.UserName{}, &hub.Error{Kind: hub.Forbidden, Op: opSignIn, Message: "your name at " + p.cfg.Title + ", “" + plain(value) + "”, can't be used here", Remedy: remedy, Err: err}
	}
	if name.IsVisitor() {
		return hub.UserName{}, &hub.Error{Kind: hub.Forbidden, Op: opSignIn, Message: "your name at " + p.cfg.Title + " is one that visitors have here", Remedy: "ask an administrator for another, or for another oidc.username_claim"}
	}
	return name, nil
}

func text(v any) string {
	s, _ := v.(string)
	if len(s) > 4*maxText {
		return ""
	}
	return s
}

// isTrue takes the string too, which some providers send.
func isTrue(v any) bool { return v == true || v == "true" }

// groups reads the groups claim: a list, or one name. A dotted claim that does not exist as such is a path.
func groups(claim string, claims map[string]any) ([]string, bool) {
	if claim == "" {
		return nil, true
	}
	value, found := claims[claim]
	if !found {
		value, found = dig(claims, strings.Split(claim, "."))
	}
	var list []string
	switch v := value.(type) {
	case string:
		list = []string{v}
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok {
				list = append(list, s)
			}
		}
	default:
		return nil, false
	}
	list = slices.DeleteFunc(list, func(s string) bool { return s == "" || len(s) > maxText })
	slices.Sort(list)
	list = slices.Compact(list)
	return list[:min(len(list), maxGroups)], found
}

func dig(claims map[string]any, path []string) (any, bool) {
	var value any = claims
	for _, name := range path {
		m, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, ok = m[name]; !ok {
			return nil, false
		}
	}
	return value, len(path) > 0
}

// isAdmin tells whether somebody administers the hub.
func (p *provider) isAdmin(who person) bool {
	return slices.Contains(p.cfg.Admins.Users, who.name.String()) || shares(who.groups, p.cfg.Admins.Groups)
}

// allows tells whether somebody may sign in.
func (p *provider) allows(who person) bool {
	c := p.cfg.Allowed
	if c.Everyone || slices.Contains(c.Users, who.name.String()) || shares(who.groups, c.Groups) || p.isAdmin(who) {
		return true
	}
	_, domain, ok := strings.Cut(who.email, "@")
	return ok && who.verified && slices.Contains(c.EmailDomains, strings.ToLower(domain))
}

func shares(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// needsGroups tells whether groups decide anything at this provider.
func (p *provider) needsGroups() bool { return len(p.cfg.Allowed.Groups)+len(p.cfg.Admins.Groups) > 0 }

var _ gooidc.KeySet = keys{}
