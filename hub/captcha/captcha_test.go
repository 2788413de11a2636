package captcha

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
)

// TestVerify is what the three services document: https://docs.hcaptcha.com/#verify-the-user-response-server-side,
// https://developers.cloudflare.com/turnstile/get-started/server-side-validation/,
// https://developers.google.com/recaptcha/docs/verify.
func TestVerify(t *testing.T) {
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the secret was sent on to another address: %s", r.URL)
		fmt.Fprint(w, `{"success": true}`)
	}))
	defer elsewhere.Close()
	answers := map[string]func(http.ResponseWriter, *http.Request){
		"right":           says(`{"success": true, "challenge_ts": "2026-01-01T00:00:00Z", "hostname": "hub.example"}`),
		"without a host":  says(`{"success": true}`),
		"of another site": says(`{"success": true, "hostname": "evil.example"}`),
		"wrong":           says(`{"success": false, "error-codes": ["invalid-input-response"]}`),
		"used":            says(`{"success": false, "error-codes": ["timeout-or-duplicate"]}`),
		"bad secret":      says(`{"success": false, "error-codes": ["invalid-input-secret"]}`),
		"nothing":         says(``),
		"no JSON":         says(`<html>yes</html>`),
		"no truth":        says(`{"success": "true"}`),
		"endless":         says(`{"x": "` + strings.Repeat("x", 1<<20) + `", "success": true}`),
		"broken": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"success": true}`)
		},
		"leads on": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.PostFormValue("secret") != "s3cret" || r.PostFormValue("remoteip") != "192.0.2.1" || r.URL.RawQuery != "" {
			t.Errorf("asked %s %s with %v", r.Method, r.URL, r.PostForm)
		}
		answers[r.PostFormValue("response")](w, r)
	}))
	defer server.Close()
	s, err := New(Config{VerifyURL: server.URL + "/siteverify", Secret: hub.NewSecret("s3cret"), Host: "hub.example", Transport: server.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	for answer := range answers {
		err := s.Verify(t.Context(), answer, netip.MustParseAddr("::ffff:192.0.2.1"))
		want, right := hub.Unavailable, false
		switch answer {
		case "right", "without a host":
			right = true
		case "of another site", "wrong", "used":
			want = hub.Forbidden
		}
		if (err == nil) != right || err != nil && hub.KindOf(err) != want {
			t.Errorf("%s: %v", answer, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the secret is in the error: %v", answer, err)
		}
	}
	server.Close()
	if err := s.Verify(t.Context(), "right", netip.Addr{}); hub.KindOf(err) != hub.Unavailable || err == nil {
		t.Errorf("with the service away: %v", err)
	}
}

func says(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

// TestManyAnswers: so many are checked at once, and no more.
func TestManyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := slowly{}
		s, err := New(Config{VerifyURL: "https://captcha.example/siteverify", Secret: hub.NewSecret("s"), Host: "hub.example", Transport: &slow})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		var right, away atomic.Int32
		for range 3 * atOnce {
			all.Go(func() {
				switch err := s.Verify(t.Context(), "right", netip.Addr{}); {
				case err == nil:
					right.Add(1)
				case hub.KindOf(err) == hub.Unavailable:
					away.Add(1)
				}
			})
		}
		all.Wait()
		if n := slow.asked.Load(); n != atOnce || right.Load() != atOnce || away.Load() != 2*atOnce {
			t.Errorf("asked %d times at once, %d were right, %d are to come again", n, right.Load(), away.Load())
		}
		if err := s.Verify(t.Context(), "right", netip.Addr{}); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}

// slowly says yes after a second.
type slowly struct{ asked atomic.Int32 }

// RoundTrip implements [http.RoundTripper].
func (s *slowly) RoundTrip(*http.Request) (*http.Response, error) {
	s.asked.Add(1)
	time.Sleep(time.Second)
	w := httptest.NewRecorder()
	says(`{"success": true}`)(w, nil)
	return w.Result(), nil
}

func TestPlainHTTPIsRefused(t *testing.T) {
	for _, c := range []Config{
		{VerifyURL: "http://captcha.example/siteverify", Secret: hub.NewSecret("s"), Host: "h"},
		{VerifyURL: "https://captcha.example/siteverify", Host: "h"},
		{VerifyURL: "https://captcha.example/siteverify", Secret: hub.NewSecret("s")},
	} {
		if _, err := New(c); hub.KindOf(err) != hub.Invalid || err == nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
