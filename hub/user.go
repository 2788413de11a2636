package hub

import (
	"slices"
	"strings"
	"time"
)

// MaxUserName is the longest user name, in bytes.
const MaxUserName = 64

// UserName is a person's name at this hub: what their pages, paths and containers carry. Only
// [ParseUserName] makes one; the zero value is nobody.
type UserName struct{ s string }

// ParseUserName reads a user name: 1 to 64 of a–z, 0–9 and - . _ @ +, first and last a letter or a
// digit. ASCII capitals are folded, since two people whose names differ in case alone would be
// one to most readers; anything else, look-alike letters included, is refused. Whether two
// sign-ins with one name are one person is not decided here but by the binding of a name to an
// [Identity]. Errors are Invalid.
func ParseUserName(s string) (UserName, error) {
	fail := func(what string) (UserName, error) {
		return UserName{}, &Error{
			Kind: Invalid, Op: "parse user name", Field: "name", Message: "this user name " + what,
			Remedy: "use 1 to 64 of a-z, 0-9 and - . _ @ +, first and last a letter or digit; an administrator can choose another claim with oidc.username_claim",
		}
	}
	if s == "" {
		return fail("is empty")
	}
	if len(s) > MaxUserName {
		return fail("is longer than 64 characters")
	}
	s = lowerASCII(s)
	for i := range len(s) {
		c := s[i]
		switch {
		case alphanumeric(c):
		case strings.IndexByte("-._@+", c) >= 0:
			if i == 0 || i == len(s)-1 {
				return fail("begins or ends with a sign")
			}
		default:
			return fail("holds a character that is not allowed")
		}
	}
	return UserName{s}, nil
}

func alphanumeric(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// String is the name as people read it, and as it stands in a URL's path.
func (u UserName) String() string { return u.s }

// IsZero tells whether u is nobody.
func (u UserName) IsZero() bool { return u.s == "" }

// Label is the name's one encoded form: a DNS label, a container-name part, a key part.
func (u UserName) Label() string { return encodeLabel(u.s, maxLabel) }

// MarshalText gives the name, for JSON.
func (u UserName) MarshalText() ([]byte, error) { return []byte(u.s), nil }

// UnmarshalText parses the name; an empty text is nobody.
func (u *UserName) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*u = UserName{}
		return nil
	}
	v, err := ParseUserName(string(b))
	if err != nil {
		return err
	}
	*u = v
	return nil
}

// UserID is a person's immutable id; it keys their home. [Keyring.UserID] derives it from the
// identity first bound to the name, so a wiped store gives the same person the same home.
type UserID string

// Identity is who the provider says a person is (OpenID Connect Core 1.0, section 5.7: only issuer
// and subject together identify an end-user).
type Identity struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// User is a person seen at least once.
type User struct {
	ID            UserID    `json:"id"`
	Name          UserName  `json:"name"`
	Identity      Identity  `json:"identity"`
	Provider      string    `json:"provider"` // the configured provider's name
	DisplayName   string    `json:"display_name,omitempty"`
	Email         string    `json:"email,omitempty"`
	EmailVerified bool      `json:"email_verified,omitempty"`
	Groups        []string  `json:"groups,omitempty"`
	GroupsAt      time.Time `json:"groups_at"` // when the groups were last known; a missing claim is unknown, not empty
	Admin         bool      `json:"admin,omitempty"`
	Created       time.Time `json:"created"`
	LastSeen      time.Time `json:"last_seen"`
}

// InGroup tells whether the person is in any of the groups.
func (u User) InGroup(groups ...string) bool {
	return slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(u.Groups, g) })
}
