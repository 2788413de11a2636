package hub

import (
	"path"
	"strings"
	"testing"
)

func TestParseHomePath(t *testing.T) {
	for text, want := range map[string]string{
		"/srv/homes/{user}":        "/srv/homes ada@example.org",
		"/home/{user}/notebooks":   "/home ada@example.org/notebooks",
		"/srv/x-{id}.d":            "/srv x-u1.d",
		"/srv/{id}/{user}-{id}":    "/srv u1/ada@example.org-u1",
		"/a/b/.{user}":             "/a/b .ada@example.org",
		"/mnt/with blank/é/{user}": "/mnt/with blank/é ada@example.org",
	} {
		p, err := ParseHomePath(text)
		if err != nil || p.Base()+" "+p.For(UserName{"ada@example.org"}, "u1") != want {
			t.Errorf("%s: %q below %q, %v", text, p.For(UserName{"ada@example.org"}, "u1"), p.Base(), err)
		}
	}
	for _, text := range []string{
		"", "/", "srv/{user}", "/srv/homes", "/{user}", "/{id}/x", "/srv/../{user}", "/srv/{user}/..", "/srv//{user}", "/srv/{user}/", "/srv/{users}",
		"/srv/{user", "/srv/user}", "/srv/{}/{user}", "/srv/{{user}}", "/srv/\n{user}", "/srv/\x00{user}",
	} {
		if p, err := ParseHomePath(text); KindOf(err) != Invalid || FieldOf(err) != "home_path" || !p.IsZero() {
			t.Errorf("%q was taken: %+v, %v", text, p, err)
		}
	}
}

// FuzzHomePath: whatever a person is called, their directory is below the base, at the template's depth.
func FuzzHomePath(f *testing.F) {
	for _, s := range []string{"a", "a..b", "a.b", "a-_@+b", "..", "a/b", "{id}", "a{id}b"} {
		f.Add(s)
	}
	templates := []string{"/srv/homes/{user}", "/srv/{user}/x", "/srv/.{user}.{user}"}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := ParseUserName(s)
		if err != nil {
			return
		}
		for _, text := range templates {
			p, err := ParseHomePath(text)
			if err != nil {
				t.Fatal(err)
			}
			rel := p.For(name, "u1")
			if path.Clean(rel) != rel || strings.HasPrefix(rel, "/") || strings.Contains(rel, "..") && !strings.Contains(s, "..") || strings.Count(rel, "/") != strings.Count(p.rel, "/") || !strings.HasPrefix(path.Join(p.Base(), rel), p.Base()+"/") {
				t.Errorf("%q in %s is %q", s, text, rel)
			}
		}
	})
}
