package hub

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func testKeyring(t *testing.T, deployment string) *Keyring {
	t.Helper()
	k, err := NewKeyring(deployment, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyring(t *testing.T) {
	k, other := testKeyring(t, "one"), testKeyring(t, "two")
	alice := ServerKey{User: mustUser(t, "alice")}
	tok := k.ServerToken(alice, 1)
	if tok.Reveal() != k.ServerToken(alice, 1).Reveal() {
		t.Error("a server's token must be derivable again")
	}
	for name, s := range map[string]Secret{
		"next generation": k.ServerToken(alice, 2), "another deployment": other.ServerToken(alice, 1),
		"another server": k.ServerToken(ServerKey{User: alice.User, Server: ServerName{"x"}}, 1),
	} {
		if s.Reveal() == tok.Reveal() {
			t.Error("same token for " + name)
		}
	}
	if k.UserID(Identity{"https://a", "b"}) == k.UserID(Identity{"https://", "ab"}) {
		t.Error("two identities with one id")
	}
	if !k.CheckLabelMAC(k.LabelMAC("a", "bc"), "a", "bc") || k.CheckLabelMAC(k.LabelMAC("a", "bc"), "ab", "c") || k.CheckLabelMAC("", "a") {
		t.Error("label MACs do not tell their parts apart")
	}
}

func TestSeal(t *testing.T) {
	k, other := testKeyring(t, "one"), testKeyring(t, "two")
	sealed := k.Seal([]byte("hello"), "purpose")
	if got, err := k.Open(sealed, "purpose"); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	changed := []byte(sealed)
	changed[20] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"other context":    func() ([]byte, error) { return k.Open(sealed, "else") },
		"other deployment": func() ([]byte, error) { return other.Open(sealed, "purpose") },
		"edge key":         func() ([]byte, error) { return k.OpenEdge(sealed, "purpose") },
		"changed":          func() ([]byte, error) { return k.Open(string(changed), "purpose") },
		"garbage":          func() ([]byte, error) { return k.Open("%%%", "purpose") },
		"empty":            func() ([]byte, error) { return k.Open("", "purpose") },
	} {
		if _, err := open(); KindOf(err) != Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyringForProxy(t *testing.T) {
	k := testKeyring(t, "one")
	p, err := UnmarshalKeyring(k.ForProxy().Marshal())
	if err != nil {
		t.Fatal(err)
	}
	alice := ServerKey{User: mustUser(t, "alice")}
	if p.ServerToken(alice, 3).Reveal() != k.ServerToken(alice, 3).Reveal() || p.Deployment() != "one" {
		t.Error("the proxy's keys differ from the hub's")
	}
	defer func() {
		if recover() == nil {
			t.Error("a proxy could forge labels")
		}
	}()
	p.LabelMAC("x")
}

func TestSecretStaysHidden(t *testing.T) {
	s := NewSecret("hunter2")
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "in", struct{ S Secret }{s})
	for _, shown := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s), log.String()} {
		if strings.Contains(shown, "hunter2") {
			t.Errorf("the secret shows in %q", shown)
		}
	}
}
