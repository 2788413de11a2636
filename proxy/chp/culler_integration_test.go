//go:build integration

package chp

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// TestRealCullerGoesByOurActivity: JupyterHub's own culler stops who is idle and nobody else, also
// after the hub was restarted behind the running proxy.
func TestRealCullerGoesByOurActivity(t *testing.T) {
	h := newJupyterHub(t, "no")
	h.startProxy(t)
	h.env = append(h.env, "CHP_CULL=8")
	h.startHub(t)
	t.Cleanup(func() { // what is left goes while the hub is there to stop it
		for _, user := range []string{"alice", "bob", "carol"} {
			h.rest(t, "DELETE", "/hub/api/users/"+user+"/server", "")
		}
		slow(t, "the servers' end", func() bool {
			all := h.routes(t)
			return all["/user/alice"] == nil && all["/user/bob"] == nil && all["/user/carol"] == nil
		})
	})

	h.spawn(t, "alice")
	shell, _ := h.terminal(t, "alice")
	typing := repeat(t, func() error { return shell.WriteJSON([]string{"stdin", " "}) })
	go func() { // what the shell says is read, or it stops
		for {
			if _, _, err := shell.ReadMessage(); err != nil {
				return
			}
		}
	}()
	h.spawn(t, "bob")
	polling := repeat(t, func() error {
		if status, _ := h.rest(t, "GET", "/user/bob/api/status", ""); status != http.StatusOK {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
	h.spawn(t, "carol")
	begun := time.Now()
	slow(t, "carol is culled", func() bool { return h.routes(t)["/user/carol"] == nil })
	if after := time.Since(begun); after < 4*time.Second {
		t.Errorf("carol was culled after %v", after)
	}
	if err := polling(); err != nil {
		t.Errorf("bob's requests: %v", err)
	}
	if all := h.routes(t); all["/user/alice"] == nil || all["/user/bob"] == nil {
		t.Fatalf("who was active was culled: %v", all)
	}

	// From here bob is idle, and the hub has to learn that from the proxy. It is away for less than
	// the limit, or it would go by what it knew before.
	h.stopHub(t)
	h.env = append(h.env, "CHP_CULL=25")
	h.startHub(t)
	slow(t, "bob is culled", func() bool { return h.routes(t)["/user/bob"] == nil })
	if h.routes(t)["/user/alice"] == nil {
		t.Error("alice was culled while she typed")
	}
	if status, _ := h.rest(t, "GET", "/user/alice/api/status", ""); status != http.StatusOK {
		t.Errorf("alice's server answers %d", status)
	}
	if err := typing(); err != nil {
		t.Errorf("alice's websocket: %v", err)
	}
}

// repeat does something twice a second until it fails or its end is called, which tells the failure.
func repeat(t *testing.T, do func() error) (end func() error) {
	t.Helper()
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			if err := do(); err != nil {
				ended <- err
				return
			}
			select {
			case <-stop:
				ended <- nil
				return
			case <-time.After(500 * time.Millisecond):
			}
		}
	}()
	end = sync.OnceValue(func() error {
		close(stop)
		select {
		case err := <-ended:
			return err
		case <-time.After(2 * patient):
			return errors.New("it does not end")
		}
	})
	t.Cleanup(func() { _ = end() })
	return end
}
