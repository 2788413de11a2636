//go:build integration

package docker

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"carrel/hub"
	"carrel/internal/statics"
)

func withStatics(t *testing.T) func(*Config) {
	dir := t.TempDir()
	return func(c *Config) { c.Statics = filepath.Join(dir, "static") }
}

// running has the driver work until the test ends.
func running(t *testing.T, d *Driver) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func kept(t *testing.T, d *Driver, image string) *statics.Set {
	t.Helper()
	set, err := statics.Open(d.cfg.Statics, image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	return set
}

// fewFiles leaves the small files of JupyterLab in an image: all of them take a minute to compress under
// the race detector.
const fewFiles = "RUN find /usr/local/share/jupyter/lab/static -type f -size +12k -delete"

// An image's own files are kept, as they are in the image, once a server of it started; two images
// keep theirs apart, and what an image puts in the way of others' files gets nowhere.
func TestStaticsOfImages(t *testing.T) {
	t.Parallel()
	d := newDriver(t, withStatics(t))
	const dir, name = "/usr/local/share/jupyter/lab/static/", "extra.0123456789abcdef0123.js"
	plain := buildImage(t, d, "USER 0", fewFiles, "USER 1000")
	hostile := buildImage(t, d, "USER 0", fewFiles, "RUN printf '// of the second\\n' > "+dir+name+
		" && ln -s /etc/passwd "+dir+"link.0123456789abcdef0123.js && ln -s / "+dir+"root"+
		" && mkfifo "+dir+"pipe.0123456789abcdef0123.js && printf x > "+dir+"plain.js", "USER 1000")
	first, second := factsOf(t, d, plain).id, factsOf(t, d, hostile).id
	running(t, d)
	spec := testSpec(t, "static")
	spec.Image, spec.Command = hostile, []string{"sleep", "1000"}
	h, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := d.Inspect(t.Context(), h); err != nil || st.Image != second {
		t.Errorf("the server runs from %s, not %s (%v)", st.Image, second, err)
	}
	d.WantStatics(plain)
	for _, image := range []string{first, second} {
		// It is done at the lowest priority, beside whatever else runs on this machine.
		for end := time.Now().Add(4 * time.Minute); !d.haveStatics(image); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the files of %s are not kept", image)
			}
		}
	}
	if _, found := kept(t, d, first).Find("static/lab/" + name); found {
		t.Error("the first image has a file of the second's")
	}
	set := kept(t, d, second)
	f, found := set.Find("static/lab/" + name)
	if !found {
		t.Fatal("the second image's own file is not kept")
	}
	file, _, err := set.Open(f, statics.Identity)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if text, err := io.ReadAll(file); err != nil || string(text) != "// of the second\n" {
		t.Errorf("it reads %q, %v", text, err)
	}
	for _, bad := range []string{"link.0123456789abcdef0123.js", "pipe.0123456789abcdef0123.js", "plain.js", "root/etc/passwd", "index.html"} {
		if _, found := set.Find("static/lab/" + bad); found {
			t.Errorf("%s was taken", bad)
		}
	}
	widgets := false
	out, err := d.RunImage(t.Context(), hostile, []string{"sh", "-c", "cd /usr/local/share/jupyter/labextensions && find . -name 'remoteEntry.*.js'"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		f, found := set.Find("lab/extensions/" + strings.TrimPrefix(path, "./"))
		widgets = widgets || found && f.Has(statics.Brotli)
	}
	if !widgets {
		t.Errorf("of the extensions none is kept: %s", out)
	}
}

func factsOf(t *testing.T, d *Driver, ref string) imageFacts {
	t.Helper()
	f, err := d.facts(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// What a killed hub left is taken up or removed; files of images that are gone go; an image without
// JupyterLab, or that lies, has none, and hinders nobody.
func TestStaticsAreTidy(t *testing.T) {
	t.Parallel()
	d := newDriver(t, withStatics(t))
	lying := factsOf(t, d, buildImage(t, d, "USER 0", `RUN printf '#!/bin/sh\necho "[{\\"prefix\\": \\"api/\\", \\"directory\\": \\"/etc\\"}]"\n' > /usr/local/bin/python3 && chmod 755 /usr/local/bin/python3`)).id
	if n, err := d.exportStatics(t.Context(), lying); n != 0 || hub.KindOf(err) != hub.Invalid {
		t.Errorf("an image that lies: %d files, %v", n, err)
	}
	image := factsOf(t, d, buildImage(t, d, "USER 0", fewFiles, "USER 1000")).id
	if _, err := d.createTeller(t.Context(), image); err != nil { // as if killed then
		t.Fatal(err)
	}
	gone := "sha256:" + strings.Repeat("0", 64)
	b, err := statics.NewBuilder(d.cfg.Statics, gone)
	if err == nil {
		_, err = b.Finish()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := statics.NewBuilder(d.cfg.Statics, image); err != nil { // likewise
		t.Fatal(err)
	}
	began := time.Now()
	n, err := d.exportStatics(t.Context(), image)
	if err != nil || n < 100 {
		t.Fatalf("%d files are kept, %v", n, err)
	}
	t.Logf("%d files kept in %v", n, time.Since(began))
	if n, err := d.exportStatics(t.Context(), image); n != 0 || err != nil {
		t.Errorf("done again: %d, %v", n, err)
	}
	d.sweepStatics(t.Context())
	if !d.haveStatics(image) || d.haveStatics(gone) {
		t.Errorf("after a sweep the image's files are kept: %v, those of one that is gone: %v", d.haveStatics(image), d.haveStatics(gone))
	}
	if _, err := os.Stat(filepath.Join(d.cfg.Statics, ".new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was not finished is left: %v", err)
	}
	if _, err := d.api.on(t.Context()).ContainerInspect(t.Context(), d.tellerName(image)); !isNotFound(err) {
		t.Errorf("the container is left: %v", err)
	}
	if _, err := d.createTeller(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), d.tellerName(image))
	if err != nil {
		t.Fatal(err)
	}
	if hc := c.HostConfig; string(hc.NetworkMode) != "none" || !hc.ReadonlyRootfs || len(hc.CapDrop) != 1 || len(hc.Mounts)+len(hc.Binds) > 0 || c.Config.User != "65534:65534" || c.State.Status != container.StateCreated {
		t.Errorf("the container has %+v, %+v", c.Config, hc)
	}
	if err := d.Down(t.Context(), false); err != nil {
		t.Error(err)
	}
	checkNothingLeft(t, d)
}
