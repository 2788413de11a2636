package redisserver

import (
	"log/slog"
	"strings"
	"testing"

	"carrel/hub"
)

func sound() Config {
	return Config{Dir: "/x/redis", SocketDir: "/x/run", Prefix: "carrel:t:", Hub: hub.NewSecret("h"), Proxy: hub.NewSecret("p"), Logger: slog.New(slog.DiscardHandler)}
}

func TestPartsAreRequired(t *testing.T) {
	if _, err := New(sound()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"dir": func(c *Config) { c.Dir = "" }, "socket dir": func(c *Config) { c.SocketDir = "" }, "prefix": func(c *Config) { c.Prefix = "" },
		"hub": func(c *Config) { c.Hub = hub.Secret{} }, "proxy": func(c *Config) { c.Proxy = hub.Secret{} }, "logger": func(c *Config) { c.Logger = nil },
	} {
		c := sound()
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("without %s it is made", name)
		}
	}
}

func TestASocketsPathIsShort(t *testing.T) {
	c := sound()
	c.SocketDir = "/" + strings.Repeat("d", 96) // and "/redis.sock" makes 108
	if _, err := New(c); hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != "state_dir" {
		t.Errorf("%v", err)
	}
	c.SocketDir = c.SocketDir[:96]
	if _, err := New(c); err != nil {
		t.Errorf("107 bytes: %v", err)
	}
}

func TestAddressesHoldTheirUser(t *testing.T) {
	c := sound()
	c.Hub, c.Proxy = hub.NewSecret("a/b@c?d"), hub.NewSecret("e f")
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.HubURL(); got != "unix://hub:a%2Fb%40c%3Fd@/x/run/redis.sock" {
		t.Error(got)
	}
	if got := s.ProxyURL(); got != "unix://proxy:e%20f@/x/run/redis.sock" {
		t.Error(got)
	}
}

// TestStopWithoutADirectoryIsNothing: `carrel down` on a machine where nothing ever ran.
func TestStopWithoutADirectoryIsNothing(t *testing.T) {
	c := sound()
	c.Dir = t.TempDir() + "/none"
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}
