package proxy

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"carrel/hub"
)

// TestPaths: whatever has two readings is refused, and what gets through reaches its owner's server
// by the path that was authorised (attack 31).
func TestPaths(t *testing.T) {
	w := newWorld(t, setup{mode: hub.Paths, public: "https://hub.test/carrel/"})
	alice, bob, odd := w.person("alice"), w.person("bob"), w.person("a.b@c+d_e")
	got := &inbox{}
	w.serve("alice", echo(got))
	gpu := serverKey(t, "alice", "gpu")
	w.route(gpu, 1, w.proxy.routes.get(serverKey(t, "alice", "")).Endpoint)
	w.serve("a.b@c+d_e", echo(got))
	bobs := &inbox{}
	w.serve("bob", echo(bobs))
	paths := 0
	defer func() { t.Attr("seen-31", fmt.Sprintf("%d paths: no request reached another's server", paths)) }()
	for _, c := range []struct {
		path   string
		who    *person
		status int
		to     string // what the server is asked for
	}{
		{"/carrel/user/alice/lab", alice, 200, "/carrel/user/alice/lab"},
		{"/carrel/user/alice/a%2Fb", alice, 400, ""}, {"/carrel/user/alice/files/a%2Fb", alice, 200, "/carrel/user/alice/files/a%2Fb"},
		{"/carrel/user/alice/api/contents/a%20b%3F", alice, 200, "/carrel/user/alice/api/contents/a%20b%3F"},
		{"/carrel/user/alice/a//b", alice, 200, "/carrel/user/alice/a//b"},
		{"/carrel/user/alice//bob", alice, 200, "/carrel/user/alice//bob"},
		{"/carrel/user/alice/x?a=/../b&c;d", alice, 200, "/carrel/user/alice/x?a=/../b&c;d"},
		{"/carrel/user/alice/gpu/lab", alice, 200, "/carrel/user/alice/gpu/lab"},
		{"/carrel/user/alice/%67pu/lab", alice, 200, "/carrel/user/alice/%67pu/lab"},
		{"/carrel/user/a.b@c+d_e/lab", odd, 200, "/carrel/user/a.b@c+d_e/lab"},
		{"/carrel/user/a.b%40c%2Bd_e/lab", odd, 200, "/carrel/user/a.b%40c%2Bd_e/lab"},
		{"/carrel/user/%61lice/lab", alice, 200, "/carrel/user/%61lice/lab"},
		{"/carrel/user/alice/../bob/", alice, 400, ""}, {"/carrel/user/alice/%2e%2e/bob/", alice, 400, ""}, {"/carrel/user/alice/.%2E/bob/", alice, 400, ""},
		{"/carrel/user/alice/%252e%252e/bob/", alice, 400, ""}, {"/carrel/user/alice/..%2fbob/", alice, 400, ""}, {"/carrel/user/alice/%2e%2e%2fbob/", alice, 400, ""},
		{"/carrel/user/alice/..%5cbob/", alice, 400, ""}, {"/carrel/user/alice/x%5c..%5cbob/", alice, 400, ""}, {"/carrel/user/alice/\\..\\bob/", alice, 400, ""}, {"/carrel/user/alice/%255c", alice, 400, ""},
		{"/carrel/user/alice/./x", alice, 400, ""}, {"/carrel/user/alice/%2e/x", alice, 400, ""}, {"/carrel/user/alice/..", alice, 400, ""},
		{"/carrel/user/alice%2F..%2Fbob/", alice, 400, ""}, {"/carrel/user/alice%2Flab", alice, 400, ""}, {"/carrel/user%2Falice/lab", alice, 400, ""}, {"/carrel%2Fuser/alice/lab", alice, 400, ""},
		{"/carrel/user/alice/gpu%2Flab", alice, 400, ""}, {"/carrel/user/alice%2Fgpu/lab", alice, 400, ""},
		{"/carrel/user/alice/%00", alice, 400, ""}, {"/carrel/user/alice/%0a", alice, 400, ""}, {"/carrel/user/alice/%7f", alice, 400, ""}, {"/carrel/user/alice/%2500", alice, 400, ""},
		{"//carrel/user/alice/lab", alice, 400, ""}, {"/%2Fcarrel/user/alice/lab", alice, 400, ""}, {"//evil.test/carrel/user/alice/lab", alice, 400, ""},
		{"/carrel//user/alice/lab", alice, 404, ""}, {"/carrel/user//alice/lab", alice, 400, ""},
		{"/carrel/user/ALICE/lab", alice, 400, ""}, {"/carrel/user/al%C4%B1ce/lab", alice, 400, ""}, {"/carrel/user/alice;x/lab", alice, 400, ""}, {"/carrel/user/-alice/lab", alice, 400, ""}, {"/carrel/user/", alice, 400, ""},
		{"/carrel/user/" + strings.Repeat("a", 5000) + "/lab", alice, 400, ""}, {"/carrel/user/alice/%zz", alice, 400, ""},
		{"/carrel/user/alice/" + strings.Repeat("a", maxURL), alice, 414, ""},
		{"https://books.test/carrel/user/alice/lab", alice, 400, ""}, {"*", alice, 400, ""},
		{"/carrel/user/bob/lab", alice, 403, ""}, {"/carrel/user/%62ob/lab", alice, 403, ""}, {"/carrel/user/alice/lab", bob, 403, ""},
	} {
		name := c.path[:min(len(c.path), 60)] + " " + c.who.user.Name.String()
		paths++
		t.Run(name, func(t *testing.T) {
			before, others := len(got.all()), len(bobs.all())
			answer := w.raw("GET " + c.path + " HTTP/1.1\r\nHost: books.test\r\nConnection: close\r\nCookie: " + w.cookieName() + "=" + c.who.cookie.Reveal() + "\r\n\r\n")
			if fields := strings.Fields(answer); len(fields) < 2 || fields[1] != strconv.Itoa(c.status) {
				t.Errorf("%.80q, want %d", answer, c.status)
			}
			all := got.all()[before:]
			if len(bobs.all()) > others {
				t.Error("reached another's server")
			}
			if c.to == "" && len(all) > 0 || c.to != "" && (len(all) != 1 || all[0].RequestURI != c.to) {
				t.Errorf("the server was asked for %d things, want %q", len(all), c.to)
				for _, r := range all {
					t.Log(r.RequestURI)
				}
			}
		})
	}
}

// FuzzPath: what is matched, authorised and forwarded is one path, whoever reads it, and however often
// it is decoded, it stays below the server's own.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/user/alice/lab", "/user/alice/%2e%2e/bob/", "/user/alice%2Fgpu/", "/user/alice/gpu/x%2Fy", "/user/alice/gpu%2Fx", "//user/alice/", "/user/a%40b/x", "/user/alice/..;/bob", "/user/alice/%252e%252e/"} {
		f.Add(s)
	}
	o, err := hub.NewOrigins(hub.Paths, "https://hub.test/", "books.test")
	must(f, err)
	gpu := serverKey(f, "alice", "gpu")
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		path, err := canonical(u)
		if err != nil || !strings.HasPrefix(path, "/user/") {
			return
		}
		key, rest, err := split(o, u, func(k hub.ServerKey) bool { return k == gpu })
		if err != nil {
			return
		}
		if key.User != serverKey(t, key.User.String(), "").User || key.Server.String() != "" && key != gpu {
			t.Fatalf("%q names %v", target, key)
		}
		if base := o.ServerPath(key); path != base+rest && path+"/" != base {
			t.Fatalf("%q is matched as %v and %q", target, key, rest)
		}
		out := (&url.URL{Scheme: "http", Host: "server", Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).RequestURI()
		for reading := range 3 { // as forwarded, decoded once, decoded twice
			clean, _, _ := strings.Cut(out, "?")
			segments := strings.Split(clean, "/")
			want := strings.Split(strings.TrimSuffix(o.ServerPath(key), "/"), "/")
			for i, s := range segments {
				if s == ".." || s == "." || strings.ContainsAny(s, "\\\x00") {
					t.Fatalf("%q is forwarded as %q (reading %d)", target, out, reading)
				}
				if i < len(want) && s != want[i] {
					if got, err := url.PathUnescape(s); reading > 0 || err != nil || got != want[i] {
						t.Fatalf("%q, of %v, is forwarded as %q (reading %d)", target, key, out, reading)
					}
				}
			}
			next, err := url.PathUnescape(clean)
			if err != nil {
				return
			}
			out = next
		}
	})
}
