// Package chromiumtest is what tests in a real browser have in common.
//
// It owns how Chromium is started here, and that nothing of it is left. It refuses to drive it: that
// is for the tests themselves.
package chromiumtest

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// flags have it run without a screen, as root, and ask nothing of the network by itself.
var flags = []string{
	"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
	"disable-component-update", "disable-sync", "disable-dev-shm-usage",
}

// Options start a Chromium with a window of so many pixels, a profile and a network namespace of its own,
// in which it reaches the machine's 127.0.0.1. Whatever it leaves is removed when the test is over and has
// ended it, by a cleanup that it registers later or by a deferred call. It needs to be root.
func Options(t testing.TB, width, height int) []chromedp.ExecAllocatorOption {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not installed; `make test` installs it")
	}
	n := newNamespace(t)
	opts := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(profile(t)), chromedp.WindowSize(width, height),
		chromedp.WSURLReadTimeout(60 * time.Second), chromedp.ModifyCmdFunc(n.enter),
		chromedp.Flag("remote-debugging-port", strconv.Itoa(n.control)),
	}
	for _, flag := range flags {
		opts = append(opts, chromedp.Flag(flag, true))
	}
	return opts
}

func profile(t testing.TB) string {
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
