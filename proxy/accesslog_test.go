package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

func TestWhichRequestsAreLogged(t *testing.T) {
	for _, c := range []struct {
		name, requests string
		class          class
		status         int
		level          slog.Level
		none           bool
	}{
		{"a page, by default", "", classNotebook, 200, slog.LevelDebug, false},
		{"a failure, by default", "", classNotebook, 503, slog.LevelWarn, false},
		{"a refusal", "errors", classHub, 403, slog.LevelInfo, false},
		{"who went away", "errors", classHub, statusClosed, slog.LevelDebug, false},
		{"a page", "all", classNotebook, 200, slog.LevelInfo, false},
		{"a poll that succeeds", "all", classPoll, 200, slog.LevelDebug, false},
		{"a poll that is refused", "all", classPoll, 401, slog.LevelInfo, false},
		{"nothing", "off", classNotebook, 500, 0, true},
	} {
		level, ok := AccessLog{Requests: c.requests}.level(&recorder{class: c.class, status: c.status})
		if level != c.level || ok == c.none {
			t.Errorf("%s: %v %v", c.name, level, ok)
		}
	}
}

func logged(t testing.TB, a AccessLog, r *http.Request) {
	t.Helper()
	p := &Proxy{cfg: Config{Access: a, Logger: slog.New(slog.DiscardHandler)}}
	p.log(r, &recorder{class: classNotebook, status: 200, bytes: 42}, time.Millisecond, nil)
}

func TestCombinedLines(t *testing.T) {
	r := httptest.NewRequest("GET", "/user/alice/lab?token=s3cret", nil)
	r.Header.Set("Referer", "https://alice.hub.test/login?ticket=s3cret#s3cret")
	r.Header.Set("User-Agent", "evil\" \r\n1.2.3.4 - - [now] \\ \xff"+strings.Repeat("x", 10_000))
	var b bytes.Buffer
	logged(t, AccessLog{Requests: "all", Combined: &b}, r)
	line := b.String()
	form := regexp.MustCompile(`^192\.0\.2\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /user/alice/lab HTTP/1\.1" 200 42 "https://alice\.hub\.test/login" "evil\\x22 \\x0d\\x0a1\.2\.3\.4 - - \[now\] \\x5c \\xffx+"\n$`)
	if !form.MatchString(line) || strings.Contains(line, "s3cret") || len(line) > 1000 {
		t.Errorf("%q", line)
	}
}

func TestEventsHoldNoQuery(t *testing.T) {
	var b bytes.Buffer
	logged(t, AccessLog{Requests: "all", Logger: slog.New(slog.NewJSONHandler(&b, nil))}, httptest.NewRequest("GET", "/user/alice/lab?token=s3cret", nil))
	if line := b.String(); strings.Contains(line, "s3cret") || !strings.Contains(line, `"path":"/user/alice/lab"`) || strings.Count(line, "\n") != 1 {
		t.Errorf("%q", line)
	}
}

// BenchmarkAccessLog tells what a line costs, unbuffered to a file as slog's handlers write, and not.
func BenchmarkAccessLog(b *testing.B) {
	file, err := os.Create(filepath.Join(b.TempDir(), "log"))
	must(b, err)
	defer file.Close()
	nowhere := io.MultiWriter() // the lines are made all the same
	r := httptest.NewRequest("GET", "/user/alice/api/contents/some/where.ipynb", nil)
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36")
	for name, a := range map[string]AccessLog{
		"errors only":         {},
		"text, each written":  {Requests: "all", Logger: slog.New(slog.NewTextHandler(file, nil))},
		"text, no write":      {Requests: "all", Logger: slog.New(slog.NewTextHandler(nowhere, nil))},
		"combined, no write":  {Requests: "all", Combined: io.Discard},
		"combined, each kept": {Requests: "all", Combined: file},
	} {
		b.Run(name, func(b *testing.B) {
			origins, err := hub.NewOrigins(hub.Subdomains, "https://hub.test/", "")
			must(b, err)
			p := &Proxy{cfg: Config{Access: a, Origins: origins, Logger: slog.New(slog.DiscardHandler)}}
			rec := &recorder{class: classNotebook, status: 200, bytes: 42}
			b.ReportAllocs()
			for b.Loop() {
				p.log(r, rec, time.Millisecond, nil)
			}
		})
	}
}
