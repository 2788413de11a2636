package hub

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParseUserName(t *testing.T) {
	for _, c := range []struct {
		in, want string // want "" is a refusal
	}{
		{"alice", "alice"},
		{"Alice", "alice"},
		{"a", "a"},
		{"alice@example.org", "alice@example.org"},
		{"first.last+tag_1-2", "first.last+tag_1-2"},
		{strings.Repeat("a", 64), strings.Repeat("a", 64)},
		{strings.Repeat("a", 65), ""},
		{strings.Repeat("a", 1<<20), ""},
		{"", ""},
		{".", ""},
		{"..", ""},
		{"../etc", ""},
		{"a/b", ""},
		{"a%2fb", ""},
		{"-alice", ""},
		{"alice.", ""},
		{"аlice", ""}, // the first letter is Cyrillic
		{"alice\x00", ""},
		{"a b", ""},
		{"\u212a", ""}, // KELVIN SIGN folds to k in Unicode
	} {
		got, err := ParseUserName(c.in)
		if got.String() != c.want || (err == nil) != (c.want != "") {
			t.Errorf("ParseUserName(%.20q) = %q, %v; want %q", c.in, got, err, c.want)
		}
		if err != nil && KindOf(err) != Invalid {
			t.Errorf("ParseUserName(%.20q): kind %v, want invalid", c.in, KindOf(err))
		}
	}
	t.Attr("seen-30", "hostile names are refused, capitals are the same person")
}

func TestParseServerName(t *testing.T) {
	for in, ok := range map[string]bool{
		"": true, "gpu": true, "a-b-c": true, "a--b": false, "-a": false, "a-": false, "A": false,
		"lab": false, "api": false, "carrel": false, "labs": true, "lab-1": true, "user": false,
		strings.Repeat("a", 30): true, strings.Repeat("a", 31): false, "a/b": false, "a.b": false,
	} {
		if _, err := ParseServerName(in); (err == nil) != ok {
			t.Errorf("ParseServerName(%q): %v, want ok=%v", in, err, ok)
		}
	}
}

// A name that would take a part of the default server's address away is refused, and says so; the one
// that is offered instead is none.
func TestServerNamesThatJupyterUses(t *testing.T) {
	for _, name := range jupytersOwn {
		_, err := ParseServerName(name)
		var e *Error
		if !errors.As(err, &e) || e.Kind != Invalid || e.Field != "server" || !strings.Contains(e.Message, name) {
			t.Errorf("%s: %+v", name, err)
			continue
		}
		if _, err := ParseServerName(e.Remedy[strings.LastIndex(e.Remedy, " ")+1:]); err != nil {
			t.Errorf("%s: %q is no remedy: %v", name, e.Remedy, err)
		}
		if key, err := ParseServerKey("alice", name); err == nil {
			t.Errorf("%s is a server", key)
		}
	}
	if !slices.IsSorted(jupytersOwn) {
		t.Error("the list is out of order")
	}
}

func TestServerKeyForms(t *testing.T) {
	for _, c := range []struct{ user, server, label, path string }{
		{"alice", "", "alice", "/user/alice/"},
		{"alice", "gpu", "alice--gpu", "/user/alice/gpu/"},
		{"a.b@c", "x-y", "a-2eb-40c--x-2dy", "/user/a.b@c/x-y/"},
	} {
		k, err := ParseServerKey(c.user, c.server)
		if err != nil || k.Label() != c.label || k.Path() != c.path {
			t.Errorf("%s/%s: label %q, path %q, %v; want %q, %q", c.user, c.server, k.Label(), k.Path(), err, c.label, c.path)
		}
		if back, ok := ParseServerLabel(k.Label()); !ok || back != k {
			t.Errorf("ParseServerLabel(%q) = %v, %v", k.Label(), back, ok)
		}
	}
}

// The encoder is injective and its results are DNS labels, whatever two names are given.
func FuzzLabels(f *testing.F) {
	f.Add("alice", "", "alice", "gpu")
	f.Add("a-b", "", "a", "b")
	f.Add("a--2d", "", "a-", "2d")
	f.Add(strings.Repeat("a", 34)+strings.Repeat("@", 29)+"b", "", strings.Repeat("a", 34)+strings.Repeat("@", 29)+"c", "")
	f.Fuzz(func(t *testing.T, u1, s1, u2, s2 string) {
		k1, err1 := ParseServerKey(u1, s1)
		k2, err2 := ParseServerKey(u2, s2)
		if err1 != nil || err2 != nil {
			return
		}
		if (k1 == k2) != (k1.Label() == k2.Label()) || (k1 == k2) != (k1.Path() == k2.Path()) {
			t.Fatalf("%v and %v: labels %q and %q", k1, k2, k1.Label(), k2.Label())
		}
		l := k1.User.Label()
		if len(l) == 0 || len(l) > maxLabel || l[0] == '-' || l[len(l)-1] == '-' || strings.Contains(l, "--") || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Fatalf("%v: %q is no DNS label", k1.User, l)
		}
		if back, ok := ParseServerLabel(k1.Label()); ok && back != k1 {
			t.Fatalf("%v came back as %v", k1, back)
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	f.Add("http://10.0.0.1:8888")
	f.Add("unix:///run/x.sock")
	f.Add("http://a:1/?x")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseEndpoint(s)
		if err != nil {
			return
		}
		again, err := ParseEndpoint(e.String())
		if err != nil || again != e {
			t.Fatalf("%q became %q, which is read as %q, %v", s, e, again, err)
		}
	})
}
