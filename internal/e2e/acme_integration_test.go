//go:build integration

package e2e

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrel/internal/acme/acmetest"
	"carrel/internal/program"
)

// With tls.acme the hub's name gets its certificate from a real ACME server, and a person's host at
// its first use; hosts of nobody get none. The proxy, which faces the network, can read none of the
// account's and the certificates' keys.
func TestACME(t *testing.T) {
	t.Parallel()
	port := program.FreePort()
	server := acmetest.Start(t, port, program.FreePort(), time.Hour)
	d := deploy(t, options{notReady: true, publicURL: fmt.Sprintf("https://localhost:%d/", port), port: port, extra: fmt.Sprintf(
		"tls: {acme: {directory: %q, agree_to_terms: true, ca_file: %s}}\n", server.Directory, server.CAFile)})
	show := func(name string) error {
		c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{RootCAs: server.Roots, ServerName: name})
		if err == nil {
			c.Close()
		}
		return err
	}
	eventually(t, time.Minute, "the hub's certificate is shown", func() bool { return show("localhost") == nil && strings.Contains(d.output(), "Carrel is ready") })
	d.readPeople()
	if err := show("alice.localhost"); err == nil {
		t.Error("a host of nobody has a certificate")
	}
	alice := d.person("alice")
	alice.signIn()
	eventually(t, time.Minute, "alice's host gets a certificate once she is known", func() bool { return show("alice.localhost") == nil })

	kept := 0
	err := filepath.WalkDir(filepath.Join(d.dir, "state", "secrets", "acme"), func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".key") || strings.HasSuffix(path, "account.json") {
			kept++
		}
		return err
	})
	if err != nil || kept < 3 {
		t.Errorf("%d keys are kept: %v", kept, err)
	}
	if info, err := os.Stat(filepath.Join(d.dir, "state", "secrets")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the keys' directory: %v %v", info, err)
	}
}
