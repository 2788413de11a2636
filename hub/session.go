package hub

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"time"
)

// Secret is a value that never shows itself in logs, JSON or %v; Reveal gives it.
type Secret struct{ s string }

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{s} }

// RandomSecret makes one of 256 random bits, in base64url without padding (43 characters).
func RandomSecret() Secret {
	var b [32]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return Secret{base64.RawURLEncoding.EncodeToString(b[:])}
}

// Reveal gives the secret itself.
func (s Secret) Reveal() string { return s.s }

// IsZero tells whether there is no secret.
func (s Secret) IsZero() bool { return s.s == "" }

// Hash is the hex SHA-256 of the secret: all that a store keeps of what only needs checking.
func (s Secret) Hash() SecretHash {
	sum := sha256.Sum256([]byte(s.s))
	return SecretHash(hex.EncodeToString(sum[:]))
}

// String is a placeholder.
func (s Secret) String() string { return "[redacted]" }

// GoString is a placeholder, for %#v.
func (s Secret) GoString() string { return "[redacted]" }

// MarshalText is a placeholder: a secret is never written by accident.
func (s Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// SecretHash is a [Secret]'s SHA-256 in hex: it identifies a session, token or ticket in stores,
// indexes and logs.
type SecretHash string

// Session is a signed-in browser. Its id is a [Secret] of 256 bits that only the cookie holds.
//
// In subdomain mode each notebook host has a session of its own: Parent is then the hub session it
// was made from by a ticket, and Host the one host that it is good for. It ends with its parent, and
// is of whom its parent is, whatever it says itself (see [Session.Under]): whoever can make such
// sessions can make nobody an administrator.
type Session struct {
	Hash     SecretHash `json:"hash"`
	Parent   SecretHash `json:"parent,omitempty"`
	Host     string     `json:"host,omitempty"`
	User     UserName   `json:"user"`
	UserID   UserID     `json:"user_id"`
	Admin    bool       `json:"admin,omitempty"`
	Groups   []string   `json:"groups,omitempty"`
	Provider string     `json:"provider"`      // the configured provider's name
	Identity Identity   `json:"identity"`      // for back-channel logout by subject
	SID      string     `json:"sid,omitempty"` // the provider's session id, for back-channel logout
	Created  time.Time  `json:"created"`
	LastSeen time.Time  `json:"last_seen"`
	Expires  time.Time  `json:"expires"`          // absolute end
	Idle     Duration   `json:"idle"`             // ends when unused for so long
	Tokens   []byte     `json:"tokens,omitempty"` // the provider's tokens, sealed with [Keyring.Seal]; read by hub/oidc alone
	From     string     `json:"from,omitempty"`   // the address it was made from, for the admin page
	Agent    string     `json:"agent,omitempty"`  // the browser's name for itself, cut to 200 bytes
}

// Duration is a time.Duration whose JSON is nanoseconds; named so that stores can depend on it.
type Duration = time.Duration

// Live tells whether the session counts at now.
func (s Session) Live(now time.Time) bool {
	return now.Before(s.Expires) && (s.Idle <= 0 || now.Before(s.LastSeen.Add(s.Idle)))
}

// Under is a notebook host's session as it counts: hash, host, time of making and, where it is the
// earlier, end are its own; everything else is its parent's as that stands now.
func (s Session) Under(parent Session) Session {
	x := parent
	x.Hash, x.Parent, x.Host, x.Created, x.Tokens = s.Hash, parent.Hash, s.Host, s.Created, nil
	if s.Expires.Before(x.Expires) {
		x.Expires = s.Expires
	}
	return x
}

// SessionQuery picks sessions to end; every non-empty field must match.
type SessionQuery struct {
	Hash     SecretHash // the session and what was made from it
	User     UserName
	Identity Identity // by issuer and subject; with an empty Subject, SID must be set
	// SID goes with Identity.Issuer. Where the subject is named too, sessions of theirs without any
	// sid match as well: some providers name it at sign-out only, and then nothing tells them apart.
	SID    string
	Except SecretHash
}

// Matches tells whether a session is among those that the query picks. A notebook host's ends by its
// own hash, or with its parent.
func (q SessionQuery) Matches(s Session) bool {
	if q.Hash == "" && s.Parent != "" {
		return false
	}
	sid := q.SID == "" || s.SID == q.SID || s.SID == "" && q.Identity.Subject != ""
	return sid && (q.Hash == "" || s.Hash == q.Hash) && (q.User.IsZero() || s.User == q.User) &&
		(q.Identity.Issuer == "" || s.Identity.Issuer == q.Identity.Issuer) &&
		(q.Identity.Subject == "" || s.Identity.Subject == q.Identity.Subject) &&
		(q.Except == "" || s.Hash != q.Except)
}

// Ticket is a single-use permission to open a session on one notebook host.
type Ticket struct {
	Parent  SecretHash `json:"parent"`  // the hub session it was made from
	Host    string     `json:"host"`    // the only host where it counts, as in the Host header
	Browser SecretHash `json:"browser"` // hash of the value in the browser's own waiting cookie on that host
	Next    string     `json:"next"`    // local path to go to
}
