//go:build integration

package docker

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// testImage is Carrel's kernel image; `make test` builds it before these tests.
const testImage = "carrel/kernel:dev"

// newDriver makes a driver with a deployment and directory of the test's own, and takes everything
// down at its end.
func newDriver(t *testing.T) *Driver {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "crl-docker-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	deployment := "t" + strings.ToLower(rand.Text()[:8])
	keys, err := hub.NewKeyring(deployment, []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Deployment: deployment, Keyring: keys, StateDir: dir, Quarantine: 10 * time.Minute, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Down(context.Background(), true); err != nil {
			t.Errorf("down: %v", err)
		}
		d.Close()
		os.RemoveAll(dir)
	})
	return d
}

func testSpec(t *testing.T, user string) hub.Spec {
	t.Helper()
	key, err := hub.ParseServerKey(user, "")
	if err != nil {
		t.Fatal(err)
	}
	return hub.Spec{
		Key: key, Generation: 1, UserID: hub.UserID("u" + user), Profile: "small", Image: testImage, Network: hub.NetworkNone,
		Limits: hub.Limits{CPUs: 1, Memory: 512 << 20, Disk: 32 << 20, PIDs: 128, Files: 1024, Tmp: 16 << 20},
		UID:    1000, GID: 1000, Home: "/home/jovyan", BasePath: key.Path(), Token: hub.NewSecret("sesame-" + user), DefaultURL: "/lab",
		Progress: func(hub.Progress) {},
	}
}

func start(t *testing.T, d *Driver, spec hub.Spec) (hub.Handle, hub.Status) {
	t.Helper()
	h, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	st, err := d.Inspect(t.Context(), h)
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	return h, st
}

// A server's life: started twice it is one; it answers, is listed, metered, stopped twice, and gone.
func TestLife(t *testing.T) {
	d := newDriver(t)
	spec := testSpec(t, "alice")
	h, st := start(t, d, spec)
	if st.Phase != hub.Ready || st.Key != spec.Key || st.UserID != spec.UserID || st.Endpoint.IsZero() {
		t.Fatalf("status %+v", st)
	}
	if again, err := d.Start(t.Context(), spec); err != nil || string(again.Data) != string(h.Data) {
		t.Errorf("a second start: %v, %v", again, err)
	}
	answered := false
	for range 200 {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", st.Endpoint.String()+spec.BasePath+"api", nil)
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
			answered = res.StatusCode == http.StatusOK
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !answered {
		lines, _ := d.Logs(t.Context(), h, 30)
		t.Fatalf("the server does not answer; its log:\n%s", strings.Join(lines, "\n"))
	}
	n := 0
	for st, err := range d.List(t.Context()) {
		if err != nil || st.Key != spec.Key {
			t.Errorf("listed %+v, %v", st, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d servers are listed", n)
	}
	if u, err := d.Usage(t.Context(), h); err != nil || u.Memory < 10<<20 || u.CPUSeconds <= 0 || u.PIDs < 1 {
		t.Errorf("usage %+v, %v", u, err)
	}
	for range 2 {
		if err := d.Stop(t.Context(), h, 5*time.Second); err != nil {
			t.Fatalf("stop: %v", err)
		}
	}
	if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Absent {
		t.Errorf("after the stop: %+v, %v", st, err)
	}
	if mounted(d.homes.mountPoint(spec.UserID)) {
		t.Error("the home is mounted after the stop")
	}
}
