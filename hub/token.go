package hub

import "time"

// Token is a permission for programs; only the hash of its secret is kept.
type Token struct {
	ID       string     `json:"id"` // public, random
	Hash     SecretHash `json:"hash"`
	User     UserName   `json:"user"`
	UserID   UserID     `json:"user_id"`
	Note     string     `json:"note,omitempty"`
	Scopes   []Scope    `json:"scopes"`
	Created  time.Time  `json:"created"`
	Expires  time.Time  `json:"expires"` // zero: never
	LastUsed time.Time  `json:"last_used"`
}

// Live tells whether the token counts at now.
func (t Token) Live(now time.Time) bool { return t.Expires.IsZero() || now.Before(t.Expires) }

// Scope is a permission in JupyterHub's words, with an optional filter: "self",
// "access:servers!user=alice", "admin:servers".
type Scope string

// The scopes that Carrel knows.
const (
	ScopeSelf          Scope = "self"           // all that the owner may do to what is theirs
	ScopeAccessServers Scope = "access:servers" // open a server's pages
	ScopeServers       Scope = "servers"        // start and stop servers
	ScopeReadUsers     Scope = "read:users"
	ScopeAdminServers  Scope = "admin:servers"
	ScopeAdminUsers    Scope = "admin:users"
	ScopeRuns          Scope = "runs"         // have code run
	ScopeReadMetrics   Scope = "read:metrics" // an administrator's, as there is nobody whose they are
)
