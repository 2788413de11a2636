package hub

import (
	"path"
	"strings"
)

// HomePath is a template for the places of people's homes, such as "/srv/homes/{user}". Only
// [ParseHomePath] makes one.
type HomePath struct{ base, rel string }

// The words of a HomePath that stand for a person.
const (
	homeUser = "{user}"
	homeID   = "{id}"
)

// ParseHomePath reads a template: an absolute, plain path below a directory of the operator's, with {user}
// (the name) or {id} (the id, which is never another person's) in it. Errors are Invalid.
func ParseHomePath(s string) (HomePath, error) {
	fail := func(message, remedy string) (HomePath, error) {
		return HomePath{}, &Error{Kind: Invalid, Op: "parse home path", Field: "home_path", Message: message, Remedy: remedy}
	}
	const example = "write something like /srv/homes/{user}"
	if !path.IsAbs(s) || path.Clean(s) != s || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fail("the path must be absolute and plain", example)
	}
	if strings.ContainsAny(strings.NewReplacer(homeUser, "", homeID, "").Replace(s), "{}") {
		return fail("only {user} and {id} stand for something", example)
	}
	at := strings.IndexByte(s, '{')
	if at < 0 {
		return fail("all people would have one directory", "put {user} or {id} where they differ, as in /srv/homes/{user}")
	}
	cut := strings.LastIndexByte(s[:at], '/')
	if cut <= 0 {
		return fail("homes would be in the root directory", example)
	}
	return HomePath{s[:cut], s[cut+1:]}, nil
}

// Base is the operator's directory, which all homes are below.
func (p HomePath) Base() string { return p.base }

// For is where a person's home is below the base. A user name begins and ends with a letter or a digit
// and has no slash in it, so that it can't lead anywhere else, and an id has letters and digits alone.
func (p HomePath) For(user UserName, id UserID) string {
	return strings.NewReplacer(homeUser, user.s, homeID, string(id)).Replace(p.rel)
}

// IsZero tells whether there is no template.
func (p HomePath) IsZero() bool { return p.base == "" }
