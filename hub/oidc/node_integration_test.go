//go:build integration

package oidc

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"carrel/internal/program"
)

func realDevIDP(t *testing.T) real {
	d := &demo{}
	srv := d.listen(t)
	return real{
		config: ProviderConfig{Issuer: d.url},
		start: func(t *testing.T, h *testHub) {
			d.start(t, srv, h, "real", h.auth.providers[0].cfg.ClientSecret.Reveal())
		},
		login:   fillIn(map[string]string{"username": "alice", "password": demoPassword}),
		logout:  func(_ *testing.T, _ *browser, at page) page { return at },
		refresh: true,
	}
}

// realNode is npm's certified oidc-provider.
func realNode(t *testing.T) real {
	dir := filepath.Join("testdata", "node-oidc-provider")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "oidc-provider")); err != nil {
		c := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
	issuer := "http://" + freeAddress()
	return real{
		config: ProviderConfig{
			Issuer: issuer, Scopes: []string{"openid", "profile", "email", "groups", "offline_access"},
			AuthParams: map[string]string{"prompt": "consent"}, // or it gives no refresh token
		},
		start: func(t *testing.T, h *testHub) {
			cfg, err := json.Marshal(map[string]any{
				"issuer": issuer, "client_id": testClient, "client_secret": h.auth.providers[0].cfg.ClientSecret.Reveal(),
				"redirect_uri": h.at("callback"), "post_logout_redirect_uri": h.at("logged-out"), "backchannel_logout_uri": h.at("backchannel-logout"),
				"people": map[string]any{"alice": map[string]any{"preferred_username": "alice", "name": "Alice", "email": "alice@example.org", "email_verified": true, "groups": []string{"staff"}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			c := exec.Command("node", "server.mjs")
			c.Dir = dir
			in, err := c.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			run(t, c)
			t.Cleanup(func() { in.Close() }) // before the process is awaited: it ends with its input
			if _, err := fmt.Fprintf(in, "%s\n", cfg); err != nil {
				t.Fatal(err)
			}
			until(t, "oidc-provider did not come up", answers(issuer+"/.well-known/openid-configuration"))
		},
		login: fillIn(map[string]string{"login": "alice", "password": "any"}),
		logout: func(t *testing.T, b *browser, at page) page {
			return b.submit(at, map[string]string{"logout": "yes"})
		},
		refresh: true,
	}
}

// run starts a process that ends with the test, whose output is shown when the test fails.
func run(t *testing.T, c *exec.Cmd) {
	t.Helper()
	out := &program.Buffer{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		done := make(chan struct{})
		go func() { c.Wait(); close(done) }() // it is killed
		select {
		case <-done:
		case <-time.After(3 * time.Second):
			c.Process.Kill() // it may just have ended
			<-done
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", c.Path, out)
		}
	})
}
