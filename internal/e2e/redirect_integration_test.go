//go:build integration

package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"carrel/internal/program"
)

// The configuration's own words for it lead from HTTP to HTTPS, and take the PROXY protocol where it
// is told to: from the trusted alone, whose word on the client's address is in the log.
func TestRedirectAndPROXY(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCertificate(t, dir, 1)
	redirect := program.FreePort()
	d := deploy(t, options{notReady: true, publicURL: "https://localhost:PORT/", extra: fmt.Sprintf(
		"tls: {cert_file: %[1]s/cert.pem, key_file: %[1]s/key.pem}\nlisten_redirect: [\"127.0.0.1:%[2]d\"]\nproxy_protocol: [\"127.0.0.1:%[2]d\"]\ntrusted_proxies: [127.0.0.1/32]\nlog: {level: debug}\n", dir, redirect)})
	eventually(t, time.Minute, "Carrel is ready", func() bool { return strings.Contains(d.output(), "Carrel is ready") })
	ask := func(text string) string {
		t.Helper()
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", redirect))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, text)
		answer, _ := io.ReadAll(c)
		return string(answer)
	}
	const header = "PROXY TCP4 203.0.113.7 192.0.2.1 1000 80\r\n"
	const request = "GET /hub/home HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	if answer := ask(header + request); !strings.HasPrefix(answer, "HTTP/1.1 301 ") || !strings.Contains(answer, fmt.Sprintf("\r\nLocation: https://localhost:%d/hub/home\r\n", d.port)) {
		t.Errorf("%q", answer)
	}
	eventually(t, 20*time.Second, "the log names the client", func() bool { return strings.Contains(d.output(), "client=203.0.113.7") })
	if answer := ask(request); answer != "" {
		t.Errorf("without the PROXY protocol: %q", answer)
	}
	if answer := ask(header + strings.Replace(request, "localhost", "evil.test", 1)); !strings.HasPrefix(answer, "HTTP/1.1 421 ") {
		t.Errorf("another's name: %q", answer)
	}
}
