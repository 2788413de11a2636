//go:build integration

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrel/internal/program"
)

// Where all notebooks are taken, a visitor is led to a sibling with room, and gets one there; when both are
// full, nobody is led to and fro.
func TestSiblingHasRoom(t *testing.T) {
	t.Parallel()
	ports := [2]int{program.FreePort(), program.FreePort()}
	deployOne := func(i, most int) *deployment {
		return deploy(t, options{port: ports[i], extra: fmt.Sprintf(`
tmp: {enabled: true, max: %d, per_address: 0, arrivals_per_address: 0, siblings: ["http://localhost:%d/"]}
`, most, ports[1-i])})
	}
	full, roomy := deployOne(0, 0), deployOne(1, 1)
	p := roomy.person("")
	at := p.visit(full.url + "/hub/tmp?path=a.ipynb")
	if at.status != http.StatusOK || at.url.Port() != strconv.Itoa(ports[1]) || at.url.Query().Get("path") != "a.ipynb" || !strings.Contains(at.body, `name="hop" value="1"`) {
		t.Fatalf("the link led to %s with status %d:\n%.1000s", at.url, at.status, at.body)
	}
	var called struct {
		URL, Token string
	}
	var res *http.Response
	var next string
	eventually(t, 20*time.Second, "a program is led on, too", func() bool { // not before the browser's place is counted anew
		res = nobodysCall(t, full.url+"/hub/api/tmp")
		next = res.Header.Get("Location")
		return next != ""
	})
	if res.StatusCode != http.StatusServiceUnavailable || next != roomy.url+"/hub/api/tmp?hop=1" {
		t.Fatalf("a program was answered %d, and led to %q", res.StatusCode, next)
	}
	res = nobodysCall(t, next)
	if err := json.NewDecoder(res.Body).Decode(&called); err != nil || res.StatusCode != http.StatusCreated || called.Token == "" {
		t.Fatalf("the sibling answered %d, %v", res.StatusCode, err)
	}
	eventually(t, 20*time.Second, "the first knows that the second is full", func() bool {
		return nobodysCall(t, full.url+"/hub/api/tmp").Header.Get("Location") == ""
	})
	if at := p.visit(full.url + "/hub/tmp"); at.status != http.StatusOK || at.url.Port() != strconv.Itoa(ports[0]) {
		t.Errorf("with both full, the link led to %s with status %d", at.url, at.status)
	}
	if at := p.post("/hub/tmp", url.Values{}); at.status != http.StatusOK || at.url.Port() != strconv.Itoa(ports[1]) || at.url.Path != "/hub/tmp/wait" {
		t.Errorf("with both full, the click led to %s with status %d", at.url, at.status)
	}
}

// nobodysCall is a call of a program without credentials.
func nobodysCall(t *testing.T, address string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}
