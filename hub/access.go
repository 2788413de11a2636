package hub

import "slices"

// Principal is who makes a request, once a session or a token is known to be live.
type Principal struct {
	User    UserName
	UserID  UserID
	Admin   bool
	Groups  []string
	Session SecretHash // the session's or the token's hash
	Scopes  []Scope    // nil for a browser session: everything that the person may do
}

// Principal is the session's.
func (s Session) Principal() Principal {
	return Principal{User: s.User, UserID: s.UserID, Admin: s.Admin, Groups: s.Groups, Session: s.Hash}
}

// Principal is the token's; admin and groups are the owner's as they stand now.
func (t Token) Principal(owner User) Principal {
	return Principal{User: t.User, UserID: t.UserID, Admin: owner.Admin, Groups: owner.Groups, Session: t.Hash, Scopes: append([]Scope{}, t.Scopes...)}
}

// Can tells whether the principal's scopes include scope for the user's things. Only an
// administrator reaches what is another's.
func (p Principal) Can(scope Scope, owner UserName) bool {
	own := p.User == owner && !p.User.IsZero()
	if !own && !p.Admin {
		return false
	}
	if p.Scopes == nil {
		return true
	}
	if own && slices.Contains(p.Scopes, ScopeSelf) {
		return true
	}
	for _, s := range p.Scopes {
		if s == scope || s == scope+Scope("!user="+owner.String()) {
			return true
		}
	}
	return false
}

// Access decides whether the principal may open a server's pages: its owner; an administrator where
// the policy and the form of origins let them (see [Origins.AdminAccess]). It is pure. The error is
// Unauthenticated for nobody, Forbidden otherwise.
func Access(p Principal, key ServerKey, userID UserID, adminAccess bool) error {
	const op = "open server"
	if p.User.IsZero() {
		return &Error{Kind: Unauthenticated, Op: op, Message: "nobody is signed in", Remedy: "sign in"}
	}
	switch {
	case p.User == key.User && (userID == "" || p.UserID == userID) && p.Can(ScopeAccessServers, key.User):
		return nil
	case p.User != key.User && p.Admin && adminAccess && p.Can(ScopeAccessServers, key.User):
		return nil
	}
	return &Error{Kind: Forbidden, Op: op, Message: "this server is someone else's", Remedy: "open your own from the home page"}
}
