package redisstore

import (
	"crypto/tls"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"

	"carrel/hub"
)

func TestURLForms(t *testing.T) {
	type want struct {
		addrs          []string
		user, password string
		db             int
		tls            bool
		master         string
		sentinel       [2]string
	}
	for text, w := range map[string]want{
		"redis://localhost":                            {addrs: []string{"localhost:6379"}},
		"redis://localhost/":                           {addrs: []string{"localhost:6379"}},
		"redis://redis.example.org:7000/3":             {addrs: []string{"redis.example.org:7000"}, db: 3},
		"redis://[::1]":                                {addrs: []string{"[::1]:6379"}},
		"redis://[::1]:7000/1":                         {addrs: []string{"[::1]:7000"}, db: 1},
		"redis://:secret@127.0.0.1":                    {addrs: []string{"127.0.0.1:6379"}, password: "secret"},
		"redis://carrel:se%40cr%2Fet%3F@127.0.0.1:1/0": {addrs: []string{"127.0.0.1:1"}, user: "carrel", password: "se@cr/et?"},
		"redis://carrel:a:b@127.0.0.1":                 {addrs: []string{"127.0.0.1:6379"}, user: "carrel", password: "a:b"},
		"rediss://carrel:secret@redis.example.org":     {addrs: []string{"redis.example.org:6379"}, user: "carrel", password: "secret", tls: true},

		"unix:///run/redis.sock":                   {addrs: []string{"/run/redis.sock"}},
		"unix://hub:secret@/run/redis.sock":        {addrs: []string{"/run/redis.sock"}, user: "hub", password: "secret"},
		"unix:///run/with%20space/redis.sock?db=2": {addrs: []string{"/run/with space/redis.sock"}, db: 2},

		"redis+sentinel://one,two:7000,[::1]/2?master=main":                                   {addrs: []string{"one:26379", "two:7000", "[::1]:26379"}, db: 2, master: "main"},
		"redis+sentinel://carrel:se%2Ccret@one/?master=main":                                  {addrs: []string{"one:26379"}, user: "carrel", password: "se,cret", master: "main"},
		"redis+sentinel://one?master=main":                                                    {addrs: []string{"one:26379"}, master: "main"},
		"rediss+sentinel://:secret@one:1,two:2?master=my%20main":                              {addrs: []string{"one:1", "two:2"}, password: "secret", master: "my main", tls: true},
		"redis+sentinel://one/0?master=main&sentinel_username=watch&sentinel_password=se%26c": {addrs: []string{"one:26379"}, master: "main", sentinel: [2]string{"watch", "se&c"}},
		"redis+sentinel://u:p@one,two/0?sentinel_password=p2&master=main":                     {addrs: []string{"one:26379", "two:26379"}, user: "u", password: "p", master: "main", sentinel: [2]string{"", "p2"}},
	} {
		o, err := parseURL(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := want{o.Addrs, o.Username, o.Password, o.DB, o.TLSConfig != nil, o.MasterName, [2]string{o.SentinelUsername, o.SentinelPassword}}
		if !slices.Equal(got.addrs, w.addrs) || got.user != w.user || got.password != w.password || got.db != w.db || got.tls != w.tls || got.master != w.master || got.sentinel != w.sentinel {
			t.Errorf("%s:\ngot  %+v\nwant %+v", text, got, w)
		}
		if got.tls && (o.TLSConfig.MinVersion < tls.VersionTLS12 || o.TLSConfig.InsecureSkipVerify) {
			t.Errorf("%s: TLS is weak", text)
		}
	}
}

func TestURLRefusals(t *testing.T) {
	for _, text := range []string{
		"", "redis", "redis:", "redis://", "redis:///0", "localhost:6379", "//localhost",
		"http://localhost", "redis+tls://localhost", "rediss+unix:///run/x", "REDIS://localhost",
		"redis://localhost:0", "redis://localhost:65536", "redis://localhost:x", "redis://localhost:80:80", "redis://::1", "redis://[one]", "redis://carrel:a@b@localhost",
		"redis://localhost/x", "redis://localhost/-1", "redis://localhost/1/2", "redis://localhost/99999",
		"redis://one,two", "redis://one?master=main", "redis://localhost?db=1", "redis://localhost/0?pool_size=3", "redis://localhost#x",
		"rediss://localhost?skip_verify=true",
		"redis://user:sec%ret@localhost", "redis://user:secr et@localhost", "redis://a b", "redis://%20", "redis://host%41",
		"unix://", "unix:///", "unix://run/redis.sock", "unix://localhost/run/redis.sock", "unix:///run/redis.sock?x=1", "unix:///run/redis.sock?db=x", "unix:///run/",
		"redis+sentinel://one", "redis+sentinel://?master=main", "redis+sentinel://one,?master=main", "redis+sentinel://,one?master=main",
		"redis+sentinel://one?master=", "redis+sentinel://one?master=a&master=b", "redis+sentinel://one?master=main&x=1", "redis+sentinel://one/x?master=main",
		"redis+sentinel://one,two:x?master=main", "redis+sentinel://u:p@one,u:p@two?master=main", "redis+sentinel://one?master=main;sentinel_password=x",
	} {
		_, err := parseURL(text)
		if err == nil || hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != "redis.url" {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	for _, text := range []string{
		"redis://carrel:secret@localhost:6379/0", "rediss://localhost", "unix://hub:secret@/run/redis.sock?db=1",
		"redis+sentinel://carrel:secret@one:1,two/0?master=main&sentinel_password=secret", "redis://a:b@c:d@e/f?g#h", "redis://[::1]:1,[::2]:2",
	} {
		f.Add(text)
	}
	_, refusal := parseURL("")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parseURL(text)
		if err != nil {
			// The same text whatever was given: it can't show a secret.
			if err.Error() != refusal.Error() || strings.Contains(err.Error(), "%!") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if len(o.Addrs) == 0 || o.DB < 0 || slices.Contains(o.Addrs, "") {
			t.Fatalf("%q: %+v", text, o)
		}
		if o.TLSConfig != nil != strings.HasPrefix(text, "rediss") {
			t.Fatalf("%q: TLS %v", text, o.TLSConfig != nil)
		}
		if s, err := New(Config{URL: text, Prefix: "x", Logger: slog.New(slog.DiscardHandler)}); err != nil {
			t.Fatalf("%q: %v", text, err)
		} else if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzPassword: whatever the password, it arrives as it was written, and no error shows it.
func FuzzPassword(f *testing.F) {
	f.Add("carrel", "secret with / ? # @ : , % and ä")
	f.Add("", "redis://x@y")
	f.Fuzz(func(t *testing.T, user, password string) {
		for _, u := range []url.URL{
			{Scheme: "redis", Host: "127.0.0.1:1", User: url.UserPassword(user, password)},
			{Scheme: "unix", Path: "/nowhere/redis.sock", User: url.UserPassword(user, password)},
			{Scheme: "rediss+sentinel", Host: "one", User: url.UserPassword(user, password), RawQuery: url.Values{"master": {"main"}, "sentinel_password": {password}}.Encode()},
		} {
			o, err := parseURL(u.String())
			if err != nil {
				t.Fatalf("%s: %v", &u, err)
			}
			if o.Username != user || o.Password != password || o.MasterName != "" && o.SentinelPassword != password {
				t.Fatalf("%s: read as %q %q %q", &u, o.Username, o.Password, o.SentinelPassword)
			}
		}
	})
}

func TestErrorsShowNoPassword(t *testing.T) {
	const secret = "correct-horse"
	for _, text := range []string{
		"redis://carrel:" + secret + "@127.0.0.1:1/0", "unix://carrel:" + secret + "@/nowhere/redis.sock", "rediss://carrel:" + secret + "@127.0.0.1:1",
		"redis+sentinel://carrel:" + secret + "@127.0.0.1:1,127.0.0.1:2?master=main&sentinel_password=" + secret,
	} {
		s := openStore(t, Config{URL: text})
		err := s.Ping(t.Context())
		if err == nil || hub.KindOf(err) != hub.Unavailable {
			t.Fatalf("%v", err)
		}
		message, remedy := hub.Public(err)
		for _, shown := range []string{err.Error(), message, remedy} {
			if strings.Contains(shown, secret) {
				t.Errorf("the password is shown: %s", shown)
			}
		}
	}
}

func TestNewChecksItsConfiguration(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		cfg   Config
		kind  hub.Kind
		field string
	}{
		"no logger":       {Config{URL: "redis://localhost", Prefix: "x"}, hub.Internal, ""},
		"no prefix":       {Config{URL: "redis://localhost", Logger: logger}, hub.Internal, ""},
		"no url":          {Config{Prefix: "x", Logger: logger}, hub.Invalid, "redis.url"},
		"no certificate":  {Config{URL: "rediss://localhost", Prefix: "x", Logger: logger, CA: []byte("nonsense")}, hub.Invalid, "redis.ca_file"},
		"a CA and no TLS": {Config{URL: "redis://localhost", Prefix: "x", Logger: logger, CA: []byte("nonsense")}, hub.Invalid, "redis.ca_file"},
	} {
		if _, err := New(c.cfg); err == nil || hub.KindOf(err) != c.kind || hub.FieldOf(err) != c.field {
			t.Errorf("%s: got %v (%v, %q)", name, err, hub.KindOf(err), hub.FieldOf(err))
		}
	}
}
