package hub

import (
	"strings"
	"testing"
)

func mustUser(t *testing.T, s string) UserName {
	t.Helper()
	u, err := ParseUserName(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestOrigins(t *testing.T) {
	alice := mustUser(t, "alice")
	key := ServerKey{User: alice}
	for _, c := range []struct {
		mode          OriginMode
		public, nbs   string
		server, login string
		bad           string // the field at fault
	}{
		{Subdomains, "http://localhost:8000/", "", "http://alice.localhost:8000/user/alice/lab", "http://localhost:8000/hub/login", ""},
		{Subdomains, "https://Hub.Example.org/", "nb.example.net:443", "https://alice.nb.example.net/user/alice/lab", "https://hub.example.org/hub/login", ""},
		{Subdomains, "https://example.org/carrel", "", "https://alice.example.org/carrel/user/alice/lab", "https://example.org/carrel/hub/login", ""},
		{Paths, "https://example.org/", "example.org:8443", "https://example.org:8443/user/alice/lab", "https://example.org/hub/login", ""},
		{OneOrigin, "https://example.org/", "", "https://example.org/user/alice/lab", "https://example.org/hub/login", ""},
		{Paths, "https://example.org/", "", "", "", "notebook_host"},
		{Paths, "https://example.org/", "example.org:443", "", "", "notebook_host"},
		{Subdomains, "http://127.0.0.1:8000/", "", "", "", "notebook_host"},
		{Subdomains, "http://[::1]:8000/", "", "", "", "notebook_host"},
		{"cubes", "https://example.org/", "", "", "", "origins"},
		{Subdomains, "ftp://example.org/", "", "", "", "public_url"},
		{Subdomains, "https://example.org/a%2fb/", "", "", "", "public_url"},
		{Subdomains, "https://u:p@example.org/", "", "", "", "public_url"},
		{Subdomains, "https://example.org/a//b/", "", "", "", "public_url"},
		{Subdomains, "https://example.org/a/./b/", "", "", "", "public_url"},
		{Subdomains, "https://exa mple.org/", "", "", "", "public_url"},
		{Subdomains, "https://example.org:99999/", "", "", "", "public_url"},
		{Subdomains, "https://example.org/", "https://nb.example.org/", "", "", "notebook_host"},
		{Subdomains, "https://example.org/", "nb.example.org/x", "", "", "notebook_host"},
		{Subdomains, "https://example.org/", ".example.org", "", "", "notebook_host"},
		{Paths, "https://example.org/", "example.org:0", "", "", "notebook_host"},
		{Paths, "https://[2001:db8::1]/", "[2001:db8::1]:8443", "https://[2001:db8::1]:8443/user/alice/lab", "https://[2001:db8::1]/hub/login", ""},
	} {
		o, err := NewOrigins(c.mode, c.public, c.nbs)
		if c.bad != "" {
			if _, remedy := Public(err); KindOf(err) != Invalid || FieldOf(err) != c.bad || remedy == "" {
				t.Errorf("%s %s %s: %v, remedy %q; want a fault in %s", c.mode, c.public, c.nbs, err, remedy, c.bad)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %s %s: %v", c.mode, c.public, c.nbs, err)
			continue
		}
		if got := o.ServerURL(key, "lab"); got != c.server {
			t.Errorf("server %q, want %q", got, c.server)
		}
		if got := o.HubURL("login"); got != c.login {
			t.Errorf("login %q, want %q", got, c.login)
		}
	}
}

func TestClassify(t *testing.T) {
	sub, _ := NewOrigins(Subdomains, "http://localhost:8000/", "")
	paths, _ := NewOrigins(Paths, "https://example.org/", "example.org:8443")
	one, _ := NewOrigins(OneOrigin, "https://example.org/", "")
	for _, c := range []struct {
		o    Origins
		host string
		want Place
	}{
		{sub, "localhost:8000", Place{Hub: true}},
		{sub, "LOCALHOST:8000", Place{Hub: true}},
		{sub, "alice.localhost:8000", Place{Notebooks: true, Label: "alice"}},
		{sub, "alice.localhost.:8000", Place{Notebooks: true, Label: "alice"}},
		{sub, "a.b.localhost:8000", Place{}},
		{sub, ".localhost:8000", Place{}},
		{sub, "alice.localhost:9000", Place{}},
		{sub, "evil.example", Place{}},
		{sub, "", Place{}},
		{paths, "example.org", Place{Hub: true}},
		{paths, "example.org:443", Place{Hub: true}},
		{paths, "example.org:8443", Place{Notebooks: true}},
		{paths, "alice.example.org", Place{}},
		{one, "example.org", Place{Hub: true, Notebooks: true}},
	} {
		if got := c.o.Classify(c.host); got != c.want {
			t.Errorf("%s: Classify(%q) = %+v, want %+v", c.o.Mode(), c.host, got, c.want)
		}
	}
	if sub.AdminAccess(false) || !sub.AdminAccess(true) || paths.AdminAccess(true) || one.AdminAccess(true) {
		t.Error("administrators may open others' servers only where each has an origin of their own")
	}
}

func TestLocalPath(t *testing.T) {
	for next, ok := range map[string]bool{
		"/hub/home": true, "/user/alice/lab?x=1#y": true, "/user/alice/lab/tree/a%20b": true,
		"": false, "//evil.example": false, "/\\evil.example": false, "https://evil.example": false, "javascript:alert(1)": false,
		"/\t/evil.example": false, "/%5cevil": false, "/a/../../b": false, "/a/%2e%2e/b": false, "/%2f/evil": false, "hub/home": false,
		"/\n/evil": false, "/a\x00b": false, "/hub/home\r\nSet-Cookie: x": false, "/é": false,
	} {
		got := LocalPath(next, "/", "/hub/home!")
		if ok && got != next || !ok && got != "/hub/home!" {
			t.Errorf("LocalPath(%q) = %q, want kept=%v", next, got, ok)
		}
	}
	if got := LocalPath("/other/x", "/carrel/", "/carrel/hub/home"); got != "/carrel/hub/home" {
		t.Errorf("a path outside the base came through: %q", got)
	}
}

// Whatever comes out is a path on our own host.
func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/hub/home", "//evil", "/\\evil", "/%2f%2fevil", "/a/..//evil", "javascript:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, next string) {
		got := LocalPath(next, "/", "/fallback")
		if !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\r\n\t\x00") {
			t.Fatalf("LocalPath(%q) = %q", next, got)
		}
	})
}
