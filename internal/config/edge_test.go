package config

import (
	"testing"
	"time"
)

func TestStrictTransport(t *testing.T) {
	const day = Duration(24 * time.Hour)
	for _, c := range []struct {
		name, url string
		hsts      HSTS
		want      string
	}{
		{"the default", "https://hub.example.org/", Default().HSTS, "max-age=15552000"},
		{"with subdomains", "https://hub.example.org/", HSTS{day, true}, "max-age=86400; includeSubDomains"},
		{"off", "https://hub.example.org/", HSTS{0, true}, ""},
		{"without HTTPS", "http://hub.example.org/", HSTS{day, false}, ""},
		{"localhost", "https://localhost:8000/", HSTS{day, false}, ""},
		{"below localhost", "https://hub.localhost/", HSTS{day, false}, ""},
		{"loopback", "https://[::1]/", HSTS{day, false}, ""},
	} {
		cfg := Default()
		cfg.PublicURL, cfg.HSTS = c.url, c.hsts
		if got := cfg.StrictTransport(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestDoors(t *testing.T) {
	cfg := Default()
	cfg.Listen, cfg.ListenRedirect, cfg.ProxyProtocol = []string{":443", "[::1]:8443"}, []string{":80"}, []string{":80", ":443"}
	want := []Door{{":443", "listen", false, true}, {"[::1]:8443", "listen", false, false}, {":80", "listen_redirect", true, true}}
	got := cfg.Doors()
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("door %d is %+v", i, got[i])
		}
	}
}
