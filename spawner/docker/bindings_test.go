package docker

import (
	"os"
	"strings"
	"testing"

	"carrel/hub"
)

func TestBindings(t *testing.T) {
	d := offline(t, "main")
	alice := key(t, "alice", "").User
	if _, err := d.Binding(t.Context(), alice); hub.KindOf(err) != hub.NotFound {
		t.Errorf("before anyone: %v", err)
	}
	want := hub.Binding{Name: alice, UserID: "uabc", Identity: hub.Identity{Issuer: "https://id.example", Subject: "1"}}
	for range 2 {
		if err := d.Bind(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := d.Binding(t.Context(), alice); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if info, err := os.Stat(d.bindingPath(alice)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	raw, err := os.ReadFile(d.bindingPath(alice))
	if err != nil {
		t.Fatal(err)
	}
	bob := key(t, "bob", "").User
	for what, forged := range map[string]struct {
		name hub.UserName
		text string
	}{
		"another home":         {alice, strings.Replace(string(raw), "uabc", "uxyz", 1)},
		"another person":       {alice, strings.Replace(string(raw), `"1"`, `"2"`, 1)},
		"another name's":       {bob, string(raw)},
		"another name written": {bob, strings.Replace(string(raw), "alice", "bob", 1)},
		"no MAC":               {alice, `{"name":"alice","user_id":"uabc","identity":{"issuer":"https://id.example","subject":"1"}}`},
		"torn":                 {alice, string(raw[:20])},
		"empty":                {alice, ""},
	} {
		if err := os.WriteFile(d.bindingPath(forged.name), []byte(forged.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := d.Binding(t.Context(), forged.name); err == nil || hub.KindOf(err) == hub.NotFound {
			t.Errorf("%s: %+v, %v", what, b, err)
		}
	}
	entries, err := os.ReadDir(d.cfg.StateDir + "/bindings")
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v: nothing half-written stays", entries, err)
	}
}
