package docker

import (
	"log/slog"
	"testing"

	"carrel/hub"
)

// TestNew checks everything and starts nothing.
func TestNew(t *testing.T) {
	keys := offline(t, "main").cfg.Keyring
	good := Config{Deployment: "main", Keyring: keys, StateDir: "/var/lib/x", Logger: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		name   string
		change func(*Config)
		kind   hub.Kind
		field  string
	}{
		{"no keys", func(c *Config) { c.Keyring = nil }, hub.Internal, ""},
		{"no logger", func(c *Config) { c.Logger = nil }, hub.Internal, ""},
		{"no deployment", func(c *Config) { c.Deployment = "" }, hub.Internal, ""},
		{"a relative directory", func(c *Config) { c.StateDir = "x" }, hub.Internal, ""},
		{"an unknown kind of home", func(c *Config) { c.HomeKind = "zfs" }, hub.Invalid, "spawner.docker.home_kind"},
		{"no address", func(c *Config) { c.Host = "nonsense" }, hub.Invalid, "spawner.docker.host"},
		{"a small pool", func(c *Config) { c.Subnets = "10.0.0.0/24" }, hub.Invalid, "spawner.docker.subnets"},
	} {
		cfg := good
		c.change(&cfg)
		if _, err := New(cfg); err == nil || hub.KindOf(err) != c.kind || hub.FieldOf(err) != c.field {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, kind := range []string{"", "auto", "loop", "volume"} {
		cfg := good
		cfg.HomeKind = kind
		d, err := New(cfg)
		if err != nil {
			t.Fatalf("home %q: %v", kind, err)
		}
		if k := d.cfg.HomeKind; k != homeLoop && k != homeVolume || kind == homeVolume && k != kind {
			t.Errorf("home %q is taken for %q", kind, k)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
