package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What reaches a backend by mistake is refused, and told: it is how a proxy's mistake is seen that no
// client notices.
func TestBackendTellsWhatIsNotForIt(t *testing.T) {
	for _, c := range []struct {
		name, path, user, token, cookie string
		fault                           string
	}{
		{"its own", "/user/alice/lab", "alice", "token T", "theme=dark", ""},
		{"path", "/user/bob/lab", "alice", "token T", "", "a path of another's"},
		{"longer name", "/user/alice2/lab", "alice", "token T", "", "a path of another's"},
		{"user", "/user/alice/lab", "bob", "token T", "", "a request of bob"},
		{"token", "/user/alice/lab", "alice", "token S", "", "another server's token"},
		{"our cookie", "/user/alice/lab", "alice", "token T", "theme=dark; carrel-notebook=x", "a cookie of ours"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log strings.Builder
			b := &backend{"alice", "/user/alice/", "T", &log}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, c.path, nil)
			r.Header.Set("X-Carrel-User", c.user)
			r.Header.Set("Authorization", c.token)
			r.Header.Set("Cookie", c.cookie)
			w := httptest.NewRecorder()
			b.ServeHTTP(w, r)
			if served := w.Code == http.StatusOK; served != (c.fault == "") || !strings.Contains(log.String(), c.fault) || served != (log.Len() == 0) {
				t.Errorf("status %d, log %q", w.Code, log.String())
			}
		})
	}
}
