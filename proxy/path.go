package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"carrel/hub"
)

// canonical gives the one path by which a request is matched, authorised and forwarded. What two
// parsers could read differently is refused: dot segments, backslashes, NUL and other control
// bytes, a doubled slash at the front, in whatever encoding; and an encoded slash anywhere in the
// routing prefix (checked by [split], since later ones are the server's own business).
func canonical(u *url.URL) (string, error) {
	bad := &statusError{http.StatusBadRequest, "this address is ambiguous", "use a plain path"}
	path := u.Path
	if u.Host != "" || u.Opaque != "" || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") {
		return "", bad
	}
	for i := range len(path) {
		if path[i] < ' ' || path[i] == 0x7f || path[i] == '\\' {
			return "", bad
		}
	}
	for seg := range strings.SplitSeq(path, "/") {
		if seg == "." || seg == ".." {
			return "", bad
		}
	}
	// A second decoding must not turn up a dot segment either: some servers decode twice.
	if lower := strings.ToLower(path); strings.Contains(lower, "%2e") || strings.Contains(lower, "%5c") || strings.Contains(lower, "%00") {
		return "", bad
	}
	return path, nil
}

// split reads the server that a canonical path below <base>user/ names; known tells which named
// servers there are. Rest is what follows the server's own path, as decoded.
func split(o hub.Origins, u *url.URL, known func(hub.ServerKey) bool) (key hub.ServerKey, rest string, err error) {
	prefix := o.Base() + "user/"
	user, rest, found := strings.Cut(strings.TrimPrefix(u.Path, prefix), "/")
	if key, err = hub.ParseServerKey(user, ""); err != nil || key.User.String() != user {
		return hub.ServerKey{}, "", noNotebook(o)
	}
	// The routing prefix must be written plainly, so that every parser finds the same one.
	if !plainly(u.EscapedPath(), prefix+user) {
		return hub.ServerKey{}, "", noNotebook(o)
	}
	if !found {
		return key, "", nil
	}
	first, after, _ := strings.Cut(rest, "/")
	if named, err := hub.ParseServerKey(user, first); err == nil && first != "" {
		// Whether there is such a server or not, so that the answer tells nobody.
		if !plainly(u.EscapedPath(), prefix+user+"/"+first) {
			return hub.ServerKey{}, "", noNotebook(o)
		}
		if known(named) {
			return named, after, nil
		}
	}
	return key, rest, nil
}

func noNotebook(o hub.Origins) error {
	return &statusError{http.StatusBadRequest, "this address names no notebook", "it should look like " + o.Base() + "user/NAME/"}
}

// plainly tells whether an escaped path begins with the segments of want, each segment's escapes
// decoding to it: "%40" for "@" is a plain way to write a name, "%2F" for a slash is not.
func plainly(escaped, want string) bool {
	for more := true; more; {
		var seg, w string
		seg, escaped, _ = strings.Cut(escaped, "/")
		w, want, more = strings.Cut(want, "/")
		if seg == w {
			continue
		}
		if plain, err := url.PathUnescape(seg); err != nil || plain != w {
			return false
		}
	}
	return true
}
