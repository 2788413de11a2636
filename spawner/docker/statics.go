package docker

import (
	"bytes"
	"context"
	_ "embed" // the program below
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/strslice"
	"github.com/docker/docker/pkg/stdcopy"
	"golang.org/x/sys/unix"

	"carrel/hub"
	"carrel/internal/statics"
)

// Images' static files are copied once, in the background, for proxies to serve: a container of the
// image, inside walls, tells where they are; Docker hands them out as archives; package statics takes
// what it can use. Nothing of a server that somebody uses is ever asked.

//go:embed statics.py
var staticsProgram string

const (
	staticsTimeout = 10 * time.Minute
	staticsEvery   = time.Hour // between two looks for images that are gone
	staticsMemory  = 1 << 30
	maxPlaces      = 16
	maxPlacesBytes = 64 << 10
)

// place is a directory of an image, and where servers offer what is in it.
type place struct {
	Prefix    string `json:"prefix"`
	Directory string `json:"directory"`
}

// WantStatics has an image's static files kept, by its name or id. It never blocks; an image that is
// not here is kept once a server of it started.
func (d *Driver) WantStatics(ref string) {
	select {
	case d.wanted <- ref:
	default: // so many are waiting that the next start is time enough
	}
}

// keepStatics keeps what is wanted, one image after the other, until ctx ends.
func (d *Driver) keepStatics(ctx context.Context) {
	if d.cfg.Statics == "" {
		return
	}
	// Compressing can wait, starts can't: this thread comes late, and ends with this goroutine.
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 10) // the calling thread's
	tick := time.NewTicker(staticsEvery)
	defer tick.Stop()
	d.wantRunning(ctx)
	d.sweepStatics(ctx)
	failed := map[string]bool{} // lately
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			clear(failed)
			d.sweepStatics(ctx)
			d.wantRunning(ctx)
		case ref := <-d.wanted:
			f, err := d.facts(ctx, ref)
			if err != nil || failed[f.id] || d.haveStatics(f.id) {
				continue
			}
			began := time.Now()
			n, err := d.exportStatics(ctx, f.id)
			if ctx.Err() != nil {
				return
			}
			failed[f.id] = err != nil
			d.cfg.Logger.InfoContext(ctx, "static files of an image", "image", f.id, "files", n, "took", time.Since(began).Round(time.Millisecond), "error", err)
		}
	}
}

func (d *Driver) haveStatics(image string) bool {
	set, err := statics.Open(d.cfg.Statics, image)
	if err == nil {
		set.Close() // only looked at
	}
	return err == nil
}

// wantRunning wants the files of the images that servers run from: an earlier release kept none.
func (d *Driver) wantRunning(ctx context.Context) {
	servers, err := d.ours(ctx)
	if err != nil {
		return // the next start asks
	}
	for _, c := range servers {
		d.WantStatics(c.ImageID)
	}
}

// sweepStatics removes the files of images that Docker has no more: no server can run from one.
func (d *Driver) sweepStatics(ctx context.Context) {
	unlock, err := d.lockStatics(ctx)
	if err != nil {
		return
	}
	defer unlock()
	images, err := statics.Images(d.cfg.Statics)
	for _, image := range images {
		if _, ferr := d.facts(ctx, image); isNotFound(ferr) {
			err = errors.Join(err, statics.Remove(d.cfg.Statics, image))
		}
	}
	if err != nil {
		d.cfg.Logger.WarnContext(ctx, "static files of old images not removed; tried again later", "error", err)
	}
}

// lockStatics makes the directory, and keeps other hubs of this machine from changing it.
func (d *Driver) lockStatics(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(d.cfg.Statics, 0o755); err != nil { //nolint:gosec // read by the proxy's user
		return nil, err
	}
	if err := os.Chmod(d.cfg.Statics, 0o755); err != nil { //nolint:gosec // likewise, whatever the umask
		return nil, err
	}
	return lockFile(ctx, filepath.Join(d.cfg.Statics, "lock"))
}

// exportStatics keeps an image's files, and tells how many there are.
func (d *Driver) exportStatics(ctx context.Context, image string) (n int, err error) {
	ctx, done := context.WithTimeout(ctx, staticsTimeout)
	defer done()
	unlock, err := d.lockStatics(ctx)
	if err != nil {
		return 0, hub.Wrap(hub.Unavailable, "keep static files", err)
	}
	defer unlock()
	if d.haveStatics(image) { // another hub was faster
		return 0, nil
	}
	b, err := statics.NewBuilder(d.cfg.Statics, image)
	if err != nil {
		return 0, hub.Wrap(hub.Internal, "keep static files", err)
	}
	defer func() { err = errors.Join(err, b.Discard()) }()
	id, err := d.createTeller(ctx, image)
	if err != nil {
		return 0, err
	}
	defer func() {
		clean, done := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
		defer done()
		err = errors.Join(err, d.removeTeller(clean, d.tellerName(image)))
	}()
	places, err := d.askPlaces(ctx, id)
	if err != nil {
		return 0, err
	}
	for _, p := range places {
		if err := d.addPlace(ctx, b, id, p); err != nil {
			return 0, err
		}
	}
	n, err = b.Finish()
	return n, hub.Wrap(hub.Unavailable, "keep static files", err)
}

func (d *Driver) addPlace(ctx context.Context, b *statics.Builder, id string, p place) error {
	r, _, err := d.api.on(ctx).CopyFromContainer(ctx, id, p.Directory)
	if err != nil {
		return fail("read static files", err)
	}
	defer r.Close() // read to its end or abandoned
	return hub.Wrap(hub.Invalid, "read static files", b.Add(ctx, p.Prefix, r))
}

func (d *Driver) tellerName(image string) string {
	return d.namePrefix() + "static-" + strings.TrimPrefix(image, "sha256:")[:12]
}

// createTeller makes the container that tells where its image has its files. It has no network and no
// mount of ours, can write to its /tmp only, runs as nobody, and yields to everything else.
func (d *Driver) createTeller(ctx context.Context, image string) (id string, err error) {
	profile, err := seccompProfile()
	if err != nil {
		return "", err
	}
	name := d.tellerName(image)
	if err := d.removeTeller(ctx, name); err != nil { // an earlier process's, which ended between
		return "", err
	}
	pids, initProcess := int64(128), true
	made, err := d.api.on(ctx).ContainerCreate(ctx, &container.Config{
		Image: image, Entrypoint: strslice.StrSlice{}, Cmd: strslice.StrSlice{"python3", "-I", "-c", staticsProgram}, User: "65534:65534", WorkingDir: "/",
		Env: []string{"HOME=/tmp", "JUPYTER_NO_CONFIG=1"}, Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
		Labels: map[string]string{labelDeployment: d.cfg.Deployment, labelMAC: d.cfg.Keyring.LabelMAC("statics", name)},
	}, &container.HostConfig{
		NetworkMode: "none", CapDrop: strslice.StrSlice{"ALL"}, SecurityOpt: []string{"no-new-privileges", "seccomp=" + profile}, ReadonlyRootfs: true, Init: &initProcess,
		IpcMode: container.IPCModePrivate, CgroupnsMode: container.CgroupnsModePrivate, OomScoreAdj: 1000,
		Tmpfs:     map[string]string{"/tmp": "rw,nosuid,nodev,noexec,size=64m,mode=1777"},
		LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m", "max-file": "1"}},
		Resources: container.Resources{PidsLimit: &pids, Memory: staticsMemory, MemorySwap: staticsMemory, CPUShares: 256},
	}, nil, nil, name)
	return made.ID, fail("ask image for its static files", err)
}

// removeTeller removes that container, if it is there and ours.
func (d *Driver) removeTeller(ctx context.Context, name string) error {
	c, err := d.api.on(ctx).ContainerInspect(ctx, name)
	if err == nil && !d.cfg.Keyring.CheckLabelMAC(c.Config.Labels[labelMAC], "statics", name) {
		return &hub.Error{Kind: hub.Conflict, Op: "docker: ask image for its static files", Message: "a name that is Carrel's is taken by something else", Remedy: "an administrator must remove the container " + name}
	}
	if err == nil {
		err = d.api.on(ctx).ContainerRemove(ctx, c.ID, container.RemoveOptions{RemoveVolumes: true, Force: true})
	}
	if isNotFound(err) || isConflict(err) {
		return nil
	}
	return fail("remove container", err)
}

// removeTellers removes those that a killed hub left.
func (d *Driver) removeTellers(ctx context.Context) error {
	all, err := d.labelled(ctx)
	errs := []error{err}
	for _, c := range all {
		if len(c.Names) == 1 && d.cfg.Keyring.CheckLabelMAC(c.Labels[labelMAC], "statics", strings.TrimPrefix(c.Names[0], "/")) {
			errs = append(errs, d.removeTeller(ctx, strings.TrimPrefix(c.Names[0], "/")))
		}
	}
	return errors.Join(errs...)
}

// askPlaces runs the container to its end, and reads what it printed.
func (d *Driver) askPlaces(ctx context.Context, id string) ([]place, error) {
	const op = "ask image for its static files"
	ended, errs := d.api.on(ctx).ContainerWait(ctx, id, container.WaitConditionNextExit)
	if err := d.api.on(ctx).ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return nil, fail(op, err)
	}
	select {
	case r := <-ended:
		if r.StatusCode != 0 {
			return nil, hub.Errorf(hub.Invalid, op, "the program ended with exit code %d", r.StatusCode)
		}
	case err := <-errs:
		return nil, fail(op, err)
	}
	logs, err := d.api.on(ctx).ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true})
	if err != nil {
		return nil, fail(op, err)
	}
	defer logs.Close() // read to its end or abandoned
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, io.LimitReader(logs, maxPlacesBytes)); err != nil {
		return nil, fail(op, err)
	}
	return readPlaces(out.Bytes())
}

// offered are the addresses below a server's at which static files can be.
var offered = regexp.MustCompile(`^(static|lab/extensions)/([a-z0-9_-]{1,64}/){0,4}$`)

// readPlaces reads what the program printed; the image may have made it print anything.
func readPlaces(text []byte) ([]place, error) {
	bad := func(why string) ([]place, error) {
		return nil, hub.Errorf(hub.Invalid, "ask image for its static files", "the image's answer %s", why)
	}
	var places []place
	if json.Unmarshal(text, &places) != nil {
		return bad("can't be read")
	}
	if len(places) > maxPlaces {
		return bad("names too many directories")
	}
	for _, p := range places {
		if !offered.MatchString(p.Prefix) {
			return bad("names an address that is none of static files")
		}
		if !path.IsAbs(p.Directory) || path.Clean(p.Directory) != p.Directory || len(p.Directory) > 4096 || strings.ContainsFunc(p.Directory, func(r rune) bool { return r < ' ' }) {
			return bad("names no directory")
		}
	}
	return places, nil
}
