package docker

import (
	"bytes"
	"context"
	_ "embed" // the program below
	"errors"
	"io"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/strslice"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/docker/go-units"

	"carrel/hub"
)

// What has to be done inside a home is done by a program in a container of the kernel image, the home's
// worker, which has that home and nothing else: no network, no file of the host, a root that can't be
// written, and no capability but, where it packs, the one to read what its owner can't.

//go:embed homework.py
var homeworkProgram string

const (
	homeworkMemory = 512 << 20
	homeworkPIDs   = 64
	homeworkFiles  = 4096 // two for each of the deepest directories
	maxComplaint   = 8 << 10
)

// homework is one run of the worker.
type homework struct {
	image string // its name or id; with Python and GNU tar
	args  []string
	home  mount.Mount
	user  string   // "uid:gid"
	caps  []string // that it has
	in    io.Reader
	out   io.Writer // nil: what it prints is dropped

	second bool // beside another of the same home
}

// The worker's users: it packs as one who may read everything, and does all else as the home's owner.
const packingUser = "0:0"

var packingCaps = []string{"DAC_READ_SEARCH"}

func (h *homes) workerName(id hub.UserID, second bool) string {
	name := "carrel-" + h.cfg.Deployment + "-homework-" + string(id)
	if second {
		name += "-2"
	}
	return name
}

// work runs the worker to its end. The home is held meanwhile, and noted (see note).
func (h *homes) work(ctx context.Context, id hub.UserID, w homework) (err error) {
	name := h.workerName(id, w.second)
	if err := h.removeWorker(ctx, name); err != nil { // of a process that ended
		return err
	}
	made, err := h.makeWorker(ctx, name, w)
	if err != nil {
		return err
	}
	defer func() {
		clean, done := context.WithTimeout(context.WithoutCancel(ctx), keeperTimeout)
		defer done()
		err = errors.Join(err, h.removeWorker(clean, name))
	}()
	talk, err := h.api.on(ctx).ContainerAttach(ctx, made, container.AttachOptions{Stream: true, Stdin: w.in != nil, Stdout: true, Stderr: true})
	if err != nil {
		return fail("work on home", err)
	}
	defer talk.Close()
	unheard := context.AfterFunc(ctx, talk.Close)
	defer unheard()
	ended, errs := h.api.on(ctx).ContainerWait(ctx, made, container.WaitConditionNextExit)
	if err := h.api.on(ctx).ContainerStart(ctx, made, container.StartOptions{}); err != nil {
		return fail("work on home", err)
	}
	fed := make(chan error, 1)
	if w.in != nil {
		go func() { // ends with what it reads, or with the connection; waited for where the worker took all
			_, err := io.Copy(struct{ io.Writer }{talk.Conn}, w.in)
			if cerr := talk.CloseWrite(); err == nil {
				err = cerr
			}
			fed <- err
		}()
	} else {
		fed <- nil
	}
	out := w.out
	if out == nil {
		out = io.Discard
	}
	complaint := &head{most: maxComplaint}
	if _, err := stdcopy.StdCopy(out, complaint, talk.Reader); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return hub.Wrap(hub.Unavailable, "docker: work on home", err)
	}
	select {
	case r := <-ended:
		if r.StatusCode != 0 {
			return complaint.fault(r.StatusCode)
		}
	case err := <-errs:
		return fail("work on home", err)
	}
	select {
	case err = <-fed:
		return hub.Wrap(hub.Invalid, "docker: read archive", err)
	case <-ctx.Done():
		return fail("work on home", ctx.Err())
	}
}

// makeWorker creates the worker's container.
func (h *homes) makeWorker(ctx context.Context, name string, w homework) (id string, err error) {
	profile, err := seccompProfile()
	if err != nil {
		return "", err
	}
	pids, initProcess := int64(homeworkPIDs), true
	w.home.Target = "/" + keeperMount
	made, err := h.api.on(ctx).ContainerCreate(ctx, &container.Config{
		Image: w.image, Entrypoint: strslice.StrSlice{}, Cmd: append(strslice.StrSlice{"python3", "-I", "-c", homeworkProgram}, w.args...), User: w.user, WorkingDir: "/",
		Env: []string{"HOME=/tmp", "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
		OpenStdin: w.in != nil, StdinOnce: w.in != nil,
		Labels: map[string]string{labelDeployment: h.cfg.Deployment, labelMAC: h.cfg.Keyring.LabelMAC("homework", name)},
	}, &container.HostConfig{
		NetworkMode: "none", CapDrop: strslice.StrSlice{"ALL"}, CapAdd: w.caps, SecurityOpt: []string{"no-new-privileges", "seccomp=" + profile}, ReadonlyRootfs: true, Init: &initProcess,
		IpcMode: container.IPCModePrivate, CgroupnsMode: container.CgroupnsModePrivate, OomScoreAdj: 1000,
		Tmpfs:     map[string]string{"/tmp": "rw,nosuid,nodev,noexec,size=16m,mode=1777"},
		Mounts:    []mount.Mount{w.home},
		LogConfig: container.LogConfig{Type: "none"}, // an archive is no log
		Resources: container.Resources{
			PidsLimit: &pids, Memory: homeworkMemory, MemorySwap: homeworkMemory, CPUShares: 256,
			Ulimits: []*units.Ulimit{{Name: "nofile", Soft: homeworkFiles, Hard: homeworkFiles}, {Name: "core"}},
		},
	}, nil, nil, name)
	switch {
	case isNotFound(err):
		return "", &hub.Error{Kind: hub.Invalid, Op: "docker: work on home", Message: "the image " + w.image + " is not there, in which homes are packed and unpacked", Remedy: "make it by carrel image build", Err: err}
	case isConflict(err):
		return "", &hub.Error{Kind: hub.Conflict, Op: "docker: work on home", Message: "a name that is Carrel's is taken by something else", Remedy: "an administrator must remove the container " + name, Err: err}
	}
	return made.ID, fail("work on home", err)
}

// removeWorker removes a home's worker, if it is there and ours, and waits until it has let the home go.
func (h *homes) removeWorker(ctx context.Context, name string) error {
	c, err := h.api.on(ctx).ContainerInspect(ctx, name)
	if isNotFound(err) || err == nil && !h.cfg.Keyring.CheckLabelMAC(c.Config.Labels[labelMAC], "homework", name) {
		return nil
	}
	if err == nil {
		err = h.api.on(ctx).ContainerRemove(ctx, c.ID, container.RemoveOptions{RemoveVolumes: true, Force: true})
	}
	if isNotFound(err) || isConflict(err) {
		return nil
	}
	return fail("remove home's worker", err)
}

// head keeps the beginning of what is written to it.
type head struct {
	bytes.Buffer
	most int
}

func (b *head) Write(p []byte) (int, error) {
	if room := b.most - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// fault tells why the worker failed, in its own words where it has any: the first lines, of which
// hostile names are a part, as plain text.
func (b *head) fault(code int64) error {
	text := b.String()
	remedy := "nothing was changed; look at the archive"
	switch {
	case strings.Contains(text, "No space left on device"), strings.Contains(text, "Disk quota exceeded"):
		remedy = "nothing was changed; give the home more room (carrel home grow), or import less"
	case code == killedCode:
		text = "it took too much memory"
	}
	var lines []string
	for line := range strings.Lines(text) {
		if len(lines) == 3 {
			lines = append(lines, "and so on")
			break
		}
		if line = strings.TrimSpace(line); len(line) > 300 {
			line = line[:100] + "..." + line[len(line)-190:] // a long name, and what is wrong with it
		}
		lines = append(lines, strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '?'
			}
			return r
		}, strings.ToValidUTF8(line, "?")))
	}
	return &hub.Error{Kind: hub.Invalid, Op: "docker: work on home", Message: "it failed: " + strings.Join(lines, "; "), Remedy: remedy}
}
