//go:build integration

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"carrel/internal/program"
)

// guideNginx is the configuration that the operator guide gives for nginx, for a test's addresses.
func guideNginx(t *testing.T, port, back int, certificates string) string {
	t.Helper()
	guide, err := os.ReadFile(filepath.Join("..", "..", "docs", "operator-guide.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(guide), "\nnginx:\n\n```\n")
	text, _, found := strings.Cut(rest, "\n```\n")
	if !found {
		t.Fatal("the operator guide has no configuration for nginx")
	}
	for _, change := range [][2]string{
		{"listen 443 ssl;", fmt.Sprintf("listen 127.0.0.1:%d ssl;", port)},
		{"server_name hub.example.org *.hub.example.org;", "server_name localhost *.localhost;"},
		{"/etc/ssl/hub/fullchain.pem", filepath.Join(certificates, "cert.pem")},
		{"/etc/ssl/hub/privkey.pem", filepath.Join(certificates, "key.pem")},
		{"http://127.0.0.1:8000;", fmt.Sprintf("http://127.0.0.1:%d;", back)},
	} {
		if !strings.Contains(text, change[0]) {
			t.Fatalf("the guide's configuration has no %q:\n%s", change[0], text)
		}
		text = strings.ReplaceAll(text, change[0], change[1])
	}
	return text
}

// Behind a real nginx, configured as the operator guide says, everything works as in front: pages,
// the kernel's websocket, the progress that comes as it happens, uploads.
func TestBehindNginx(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCertificate(t, dir, 1)
	port := program.FreePort()
	d := deploy(t, options{publicURL: fmt.Sprintf("https://localhost:%d/", port), extra: "trusted_proxies: [127.0.0.1/32]\nspawner:\n  kernel_check: false\n"})
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf("daemon off; pid %[1]s/pid; error_log %[1]s/error.log; user root;\nevents {}\nhttp {\naccess_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy;\n%[2]s\n}\n", dir, guideNginx(t, port, d.port, dir))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	nginx := exec.Command("nginx", "-p", dir, "-c", config)
	nginx.Stdout, nginx.Stderr = os.Stderr, os.Stderr
	if err := nginx.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nginx.Process.Signal(syscall.SIGTERM); nginx.Wait() })

	alice := d.person("alice")
	eventually(t, 20*time.Second, "nginx serves", func() bool {
		res, err := alice.http.Get(d.url + "/hub/health")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	alice.signIn()
	alice.start("")
	if out := alice.newKernel().run("print(6*7)"); out != "42" {
		t.Errorf("print(6*7) gave %q", out)
	}
	size := 8 << 20
	body := `{"type":"file","format":"text","content":"` + strings.Repeat("x", size) + `"}`
	if status, answer := alice.jupyter(http.MethodPut, "api/contents/large.txt", body); status != http.StatusCreated {
		t.Errorf("an upload of %d bytes: status %d, %.300s", size, status, answer)
	}
	if out := alice.newKernel().run("import os; print(os.path.getsize('large.txt'))"); out != strconv.Itoa(size) {
		t.Errorf("the file that was sent has %s bytes", out)
	}
	if !strings.Contains(d.output(), "client=127.0.0.1") {
		t.Error("the log does not name the client")
	}
}
