package hub

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

// A user name that is accepted is its own canonical form, needs no escaping in a path, and comes
// through JSON as itself.
func FuzzUserName(f *testing.F) {
	for _, s := range []string{"alice", "Alice", "a@b.c", "-a", "a..b", "a\x00", "\u212a", "..", "a/b", "%41"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUserName(s)
		if err != nil {
			if KindOf(err) != Invalid || !u.IsZero() {
				t.Fatalf("%q: %v, %q", s, err, u)
			}
			return
		}
		if again, err := ParseUserName(u.String()); err != nil || again != u {
			t.Fatalf("%q became %q, which is read as %q, %v", s, u, again, err)
		}
		if !strings.EqualFold(u.String(), s) || len(u.String()) > MaxUserName || url.PathEscape(u.String()) != strings.ReplaceAll(url.PathEscape(u.String()), "%", "") {
			t.Fatalf("%q became %q", s, u)
		}
		b, err := json.Marshal(u)
		var back UserName
		if err != nil || json.Unmarshal(b, &back) != nil || back != u {
			t.Fatalf("%q came back from JSON as %q, %v", u, back, err)
		}
	})
}

// No text is taken for a label that was not made by Label, and none is read as two names.
func FuzzServerLabel(f *testing.F) {
	for _, s := range []string{"alice", "alice--gpu", "a-2eb--x-2dy", "a--", "--a", "a-2E", "a-zz", "a---2d", "-61lice", "a-z" + strings.Repeat("a", 26)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, label string) {
		key, ok := ParseServerLabel(label)
		if !ok {
			return
		}
		if key.Label() != label {
			t.Fatalf("%q is read as %v, whose label is %q", label, key, key.Label())
		}
		if again, err := ParseServerKey(key.User.String(), key.Server.String()); err != nil || again != key {
			t.Fatalf("%q holds the key %v, which is read as %v, %v", label, key, again, err)
		}
	})
}

// Whatever stands in a Host header, in every form of origins: a place is never both somebody's
// notebooks and the hub's unless that form says so, and a label has one host.
func FuzzClassify(f *testing.F) {
	alice, err := ParseUserName("alice")
	if err != nil {
		f.Fatal(err)
	}
	var all []Origins
	for _, c := range [][3]string{
		{string(Subdomains), "http://localhost:8000/", ""}, {string(Subdomains), "https://hub.example.org/", "nb.example.net"},
		{string(Paths), "https://example.org/", "example.org:8443"}, {string(OneOrigin), "https://example.org/", ""},
	} {
		o, err := NewOrigins(OriginMode(c[0]), c[1], c[2])
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, o)
	}
	for _, o := range all {
		f.Add(strings.TrimPrefix(o.HubOrigin(), o.scheme+"://"))
		f.Add(o.Host(alice))
	}
	for _, s := range []string{"", ".", "alice.localhost:8000.", "[::1]:8000", "a.b.localhost:8000", "localhost:8000@evil", "ALICE.localhost:8000", "x:y:z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		for _, o := range all {
			p := o.Classify(host)
			if p.Hub && p.Notebooks != (o.Mode() == OneOrigin) {
				t.Fatalf("%s: Classify(%q) = %+v", o.Mode(), host, p)
			}
			if p.Label != "" && (o.Mode() != Subdomains || p.Hub || !p.Notebooks) || o.Mode() == Subdomains && p.Notebooks && p.Label == "" {
				t.Fatalf("%s: Classify(%q) = %+v", o.Mode(), host, p)
			}
			if key, ok := ParseServerLabel(p.Label); ok && o.Classify(o.Host(key.User)) != (Place{Notebooks: true, Label: key.User.Label()}) {
				t.Fatalf("%s: %q holds the label of %v, whose host %q is elsewhere", o.Mode(), host, key, o.Host(key.User))
			}
		}
	})
}

// Origins that are accepted recognise their own addresses.
func FuzzOrigins(f *testing.F) {
	f.Add("subdomains", "http://localhost:8000/", "")
	f.Add("paths", "https://example.org/carrel", "example.org:8443")
	f.Add("one-origin", "https://EXAMPLE.org.:443/a/b/", "")
	f.Add("subdomains", "https://example.org/%2e", "x y")
	alice, err := ParseServerKey("alice", "gpu")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, mode, public, notebooks string) {
		o, err := NewOrigins(OriginMode(mode), public, notebooks)
		if err != nil {
			if KindOf(err) != Invalid || FieldOf(err) == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, address := range []string{o.HubURL("home"), o.ServerURL(alice, "lab")} {
			u, err := url.Parse(address)
			if err != nil || u.Path != u.EscapedPath() {
				t.Fatalf("%q is no plain address: %v", address, err)
			}
		}
		if hubURL, _ := url.Parse(o.HubURL("home")); !o.Classify(hubURL.Host).Hub {
			t.Fatalf("%s %q %q: the hub's own host %q is unknown", mode, public, notebooks, hubURL.Host)
		}
		if nb, _ := url.Parse(o.ServerURL(alice, "lab")); !o.Classify(nb.Host).Notebooks {
			t.Fatalf("%s %q %q: the notebooks' own host %q is unknown", mode, public, notebooks, nb.Host)
		}
	})
}

// Nothing that was not sealed here opens.
func FuzzOpen(f *testing.F) {
	k, err := NewKeyring("one", []byte(strings.Repeat("k", 32)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("", "")
	f.Add("AAAA", "context")
	f.Add(strings.Repeat("A", 80), "context")
	f.Fuzz(func(t *testing.T, sealed, context string) {
		if plain, err := k.Open(sealed, context); err == nil {
			t.Fatalf("%q opened as %q", sealed, plain)
		}
		if plain, err := k.OpenEdge(sealed, context); KindOf(err) != Invalid || err == nil {
			t.Fatalf("%q opened as %q, %v", sealed, plain, err)
		}
		back, err := k.Open(k.Seal([]byte(sealed), context), context)
		if err != nil || string(back) != sealed {
			t.Fatalf("%q came back as %q, %v", sealed, back, err)
		}
	})
}

func FuzzKeyring(f *testing.F) {
	k, err := NewKeyring("one", []byte(strings.Repeat("k", 32)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Marshal())
	f.Add([]byte("one\nserver-token 00"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := UnmarshalKeyring(b)
		if err != nil {
			return
		}
		again, err := UnmarshalKeyring(k.Marshal())
		if err != nil || again.Deployment() != k.Deployment() || len(again.keys) != len(k.keys) {
			t.Fatalf("%q was read as %v, then as %v, %v", b, k.Deployment(), again, err)
		}
	})
}
