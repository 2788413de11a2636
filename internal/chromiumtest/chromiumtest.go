// Package chromiumtest is what tests in a real browser have in common.
//
// It owns how Chromium is started here, and that nothing of it is left. It refuses to drive it: that
// library is for the tests themselves.
package chromiumtest

import (
	"os"
	"testing"
	"time"
)

// Flags have it run without a screen, as root, and ask nothing of the network by itself.
var Flags = []string{
	"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
	"disable-component-update", "disable-sync", "disable-dev-shm-usage",
}

// Profile is a directory for a browser's profile. It is removed when the test is over and has ended the
// browser, by a cleanup that it registers later or by a deferred call.
func Profile(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "crl-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) { // its children write until they are gone
			err := os.RemoveAll(dir)
			if err == nil {
				return
			}
			if time.Now().After(end) {
				t.Errorf("the browser's profile is left: %v", err)
				return
			}
		}
	})
	return dir
}
