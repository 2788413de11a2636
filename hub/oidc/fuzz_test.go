package oidc

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"carrel/hub"
)

func FuzzReply(f *testing.F) {
	for _, s := range []string{"code=a&state=b", "state=a&state=b", "%zz", "a;b=c", "iss=https%3A%2F%2Fexample.org&code=", "&&=&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		reply, err := single(query)
		if err == nil == (reply == nil) {
			t.Errorf("%q: %v, %v", query, reply, err)
		}
		if strings.Count("&"+query, "&state=") > 1 && err == nil {
			t.Errorf("%q has two states", query)
		}
	})
}

func FuzzPlain(f *testing.F) {
	for _, s := range []string{"denied", "a\r\nb", "\x1b[31m", "\u202egnp", strings.Repeat("é", 300), "\xff\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := plain(s)
		if !utf8.ValidString(out) || utf8.RuneCountInString(out) > 201 || strings.ContainsFunc(out, unicode.IsControl) {
			t.Errorf("%q became %q", s, out)
		}
		if again := plain(out); again != out && utf8.RuneCountInString(out) <= 200 {
			t.Errorf("%q became %q, then %q", s, out, again)
		}
	})
}

func FuzzSignInCookie(f *testing.F) {
	h := newHub(f, nil, newHostile(f).config())
	f.Add(h.auth.sealSignIn(signIn{Provider: "main", State: "s", Begun: h.clock.now()})[1:])
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		if s, ok := h.auth.openSignIn(value); ok {
			t.Errorf("%q opens as %+v", value, s)
		}
	})
}

func FuzzNext(f *testing.F) {
	h := newHub(f, nil, newHostile(f).config())
	for _, s := range []string{"/hub/home", "//evil", `/\evil`, "/hub/../x", "/%2e%2e/", "/hub/login?x", "javascript:1", "/a?b=//c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, next string) {
		got := h.auth.localNext(next)
		if !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\r\n\t ") || hub.LocalPath(got, "/", "") != got {
			t.Errorf("%q became %q", next, got)
		}
	})
}

func FuzzTokenType(f *testing.F) {
	f.Add("eyJ0eXAiOiJKV1QifQ.e30.x")
	f.Add("....")
	f.Fuzz(func(t *testing.T, raw string) {
		if typ := tokenType(raw); typ != strings.ToLower(typ) {
			t.Errorf("%q has type %q", raw, typ)
		}
	})
}
