//go:build integration

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// Each deployment copies the static files of its image once, which takes the machine a while. Those of
// one that ended are lent to those that come after it.
var sharing sync.Mutex // tests run side by side

func (d *deployment) statics() string { return filepath.Join(d.dir, "state", "static") }

func sharedStatics() string { return filepath.Join(shared, "static") }

// borrowStatics gives a new deployment what an earlier one kept.
func (d *deployment) borrowStatics() {
	sharing.Lock()
	defer sharing.Unlock()
	if _, err := os.Stat(sharedStatics()); err != nil {
		return // it is the first
	}
	if err := os.MkdirAll(filepath.Dir(d.statics()), 0o711); err != nil {
		d.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", sharedStatics(), d.statics()).CombinedOutput(); err != nil {
		d.t.Fatalf("borrow static files: %v: %s", err, out)
	}
}

// lendStatics keeps what a deployment made, if it came to its end: a directory is whole once it has its name.
func (d *deployment) lendStatics() {
	sharing.Lock()
	defer sharing.Unlock()
	made, err := filepath.Glob(filepath.Join(d.statics(), "*", "index.json"))
	if _, have := os.Stat(sharedStatics()); err != nil || len(made) == 0 || have == nil {
		return
	}
	if out, err := exec.Command("cp", "-a", d.statics(), sharedStatics()).CombinedOutput(); err != nil {
		d.t.Errorf("lend static files: %v: %s", err, out)
	}
}
