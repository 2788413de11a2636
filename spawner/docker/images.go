package docker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/strslice"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"carrel/hub"
)

// kernelLabel marks Carrel's own kernel image, whose command reads our environment.
const kernelLabel = "dev.carrel.kernel"

// slotLabel tells which protocol an image's carrel-slot speaks.
const (
	slotLabel    = "dev.carrel.slot"
	slotProtocol = "1"
)

// imageFacts are what a start needs to know of an image.
type imageFacts struct {
	id      string
	kernel  bool
	slots   bool     // it has carrel-slot, of the protocol that we speak
	volumes []string // that its VOLUME lines declare, in order
}

// pulls has each image pulled once at a time, whoever waits for it. One whose callers have all gone
// goes on: the image will be wanted again.
type pulls struct {
	mu     sync.Mutex
	now    map[string]*pull
	closed chan struct{}
	stop   func() // ends them all
}

type pull struct {
	done chan struct{}
	err  error // once done
	mu   sync.Mutex
	tell map[int]func(hub.Progress)
	next int
}

const pullTimeout = 30 * time.Minute

func newPulls() *pulls {
	p := &pulls{now: map[string]*pull{}, closed: make(chan struct{})}
	p.stop = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (d *Driver) facts(ctx context.Context, ref string) (imageFacts, error) {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	img, err := d.api.on(ctx).ImageInspect(ctx, ref)
	if err != nil {
		return imageFacts{}, err
	}
	f := imageFacts{id: img.ID}
	if img.Config != nil {
		f.kernel = img.Config.Labels[kernelLabel] != ""
		f.slots = f.kernel && img.Config.Labels[slotLabel] == slotProtocol
		f.volumes = slices.Sorted(maps.Keys(img.Config.Volumes))
	}
	return f, nil
}

// ensureImage finds an image here, or pulls it.
func (d *Driver) ensureImage(ctx context.Context, ref string, tell func(hub.Progress)) (imageFacts, error) {
	f, err := d.facts(ctx, ref)
	if err == nil {
		return f, nil
	}
	if errdefs.IsInvalidArgument(err) {
		return imageFacts{}, imageFault(ref, err)
	}
	if !isNotFound(err) {
		return imageFacts{}, fail("look for image", err)
	}
	if err := d.sharedPull(ctx, ref, tell); err != nil {
		return imageFacts{}, err
	}
	f, err = d.facts(ctx, ref)
	return f, fail("look for image", err)
}

// sharedPull joins a pull of the same image that is under way, or begins one.
func (d *Driver) sharedPull(ctx context.Context, ref string, tell func(hub.Progress)) error {
	d.pulls.mu.Lock()
	p := d.pulls.now[ref]
	if p == nil {
		p = &pull{done: make(chan struct{}), tell: map[int]func(hub.Progress){}}
		d.pulls.now[ref] = p
		go d.pull(context.WithoutCancel(ctx), ref, p) // ends with Close at the latest
	}
	d.pulls.mu.Unlock()
	leave := p.join(tell)
	defer leave()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fail("pull image", ctx.Err())
	}
}

// join has progress told until leave is called.
func (p *pull) join(tell func(hub.Progress)) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	place := p.next
	p.next++
	p.tell[place] = tell
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.tell, place)
	}
}

func (d *Driver) pull(ctx context.Context, ref string, p *pull) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	go func() { // ends with the pull
		select {
		case <-d.pulls.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	p.err = d.PullImage(ctx, ref, func(percent int, message string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, t := range p.tell {
			t(hub.Progress{Step: "image", Message: "Fetching the image", Detail: message, Percent: percent / 5})
		}
	})
	d.pulls.mu.Lock()
	delete(d.pulls.now, ref)
	d.pulls.mu.Unlock()
	close(p.done)
}

// event is a line of Docker's progress streams.
type event struct {
	ID       string `json:"id"`
	Status   string `json:"status"`
	Stream   string `json:"stream"`
	Error    string `json:"error"`
	Progress struct {
		Current int64 `json:"current"`
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
	Aux struct {
		ID string `json:"ID"`
	} `json:"aux"`
}

// eachEvent reads a progress stream to its end; an error that it tells of is returned.
func eachEvent(r io.Reader, do func(event)) error {
	dec := json.NewDecoder(bufio.NewReader(r))
	for {
		var e event
		if err := dec.Decode(&e); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if e.Error != "" {
			return fmt.Errorf("%s", printable(e.Error))
		}
		do(e)
	}
}

// imageFault says that it is the image that is not to be had.
func imageFault(ref string, err error) error {
	return &hub.Error{
		Kind: hub.Invalid, Op: "docker: get image", Field: "image", Message: "the image " + ref + " can't be fetched",
		Remedy: "check its name, and that its registry can be reached and lets you in; or choose another profile", Err: err,
	}
}

// PullImage fetches an image and tells how far it is, in percent over all layers. It never tells of
// less than before, though layers turn up that it did not know of.
func (d *Driver) PullImage(ctx context.Context, ref string, progress func(percent int, message string)) error {
	bad := func(err error) error {
		if ctx.Err() != nil || client.IsErrConnectionFailed(err) {
			return fail("pull image", errors.Join(ctx.Err(), err))
		}
		return imageFault(ref, err)
	}
	r, err := d.api.on(ctx).ImagePull(ctx, ref, image.PullOptions{})
	if err != nil {
		return bad(err)
	}
	defer r.Close() // read to its end
	layers := map[string]event{}
	finished := map[string]bool{}
	percent := 0
	err = eachEvent(r, func(e event) {
		switch e.Status {
		case "Downloading", "Extracting":
			layers[e.ID] = e
		case "Pull complete", "Already exists":
			finished[e.ID] = true
			layers[e.ID] = e
		case "Pulling fs layer":
			if _, known := layers[e.ID]; !known {
				layers[e.ID] = e
			}
		default:
			return
		}
		percent = max(percent, pullPercent(layers, finished))
		progress(percent, fmt.Sprintf("layer %d of %d", len(finished), len(layers)))
	})
	if err != nil {
		return bad(err)
	}
	return nil
}

// pullPercent weighs every layer alike: the sizes of those to come are not known.
func pullPercent(layers map[string]event, finished map[string]bool) int {
	if len(layers) == 0 {
		return 0
	}
	sum := 0.0
	for id, e := range layers {
		switch {
		case finished[id]:
			sum++
		case e.Progress.Total > 0 && e.Status == "Downloading":
			sum += 0.7 * float64(e.Progress.Current) / float64(e.Progress.Total)
		case e.Progress.Total > 0:
			sum += 0.7 + 0.3*float64(e.Progress.Current)/float64(e.Progress.Total)
		}
	}
	return int(100 * sum / float64(len(layers)))
}

// ImageLabels tells whether an image is here, and its labels.
func (d *Driver) ImageLabels(ctx context.Context, ref string) (labels map[string]string, present bool, err error) {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	img, err := d.api.on(ctx).ImageInspect(ctx, ref)
	if isNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fail("look for image", err)
	}
	if img.Config == nil {
		return nil, true, nil
	}
	return img.Config.Labels, true, nil
}

// ImportImage makes an image of one layer from a tar of a root file system.
func (d *Driver) ImportImage(ctx context.Context, ref string, rootfs io.Reader) error {
	r, err := d.api.on(ctx).ImageImport(ctx, image.ImportSource{Source: rootfs, SourceName: "-"}, ref, image.ImportOptions{})
	if err != nil {
		return fail("import image", err)
	}
	defer r.Close() // read to its end
	return fail("import image", eachEvent(r, func(event) {}))
}

// BuildImage builds a context by the classic builder, and gives the image's id.
func (d *Driver) BuildImage(ctx context.Context, tag string, buildContext io.Reader, args map[string]string, progress func(line string)) (string, error) {
	opts := build.ImageBuildOptions{Remove: true, ForceRemove: true, Version: build.BuilderV1, BuildArgs: map[string]*string{}}
	if tag != "" {
		opts.Tags = []string{tag}
	}
	for k, v := range args {
		opts.BuildArgs[k] = &v
	}
	res, err := d.api.on(ctx).ImageBuild(ctx, buildContext, opts)
	if err != nil {
		return "", fail("build image", err)
	}
	defer res.Body.Close() // read to its end
	id := ""
	var last []string
	err = eachEvent(res.Body, func(e event) {
		if e.Aux.ID != "" {
			id = e.Aux.ID
		}
		for line := range strings.Lines(e.Stream) {
			if line = strings.TrimSpace(printable(line)); line != "" {
				progress(line)
				if last = append(last, line); len(last) > 15 {
					last = last[1:]
				}
			}
		}
	})
	if err != nil {
		return "", &hub.Error{Kind: hub.Unavailable, Op: "docker: build image", Message: "the image did not build: " + err.Error() + "\n" + strings.Join(last, "\n"), Remedy: "read the lines above; behind a proxy of your site set image.extra_ca_file", Err: err}
	}
	return id, nil
}

// RunImage runs a command in a new container inside the walls, without a network, and gives what it
// printed on standard output.
func (d *Driver) RunImage(ctx context.Context, ref string, command, env []string) ([]byte, error) {
	pids, initProcess := int64(256), true
	made, err := d.api.on(ctx).ContainerCreate(ctx, &container.Config{
		Image: ref, Cmd: command, Env: env, User: "1000:1000", Entrypoint: strslice.StrSlice{}, Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}, &container.HostConfig{
		NetworkMode: "none", CapDrop: strslice.StrSlice{"ALL"}, SecurityOpt: []string{"no-new-privileges"}, ReadonlyRootfs: true, Init: &initProcess,
		Tmpfs:     map[string]string{"/tmp": "rw,nosuid,nodev,mode=1777", "/home/jovyan": "rw,nosuid,nodev,uid=1000,gid=1000,mode=0755"},
		Resources: container.Resources{PidsLimit: &pids, Memory: 2 << 30, MemorySwap: 2 << 30},
	}, nil, nil, "")
	if err != nil {
		return nil, fail("run image", err)
	}
	defer func() {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer done()
		_ = d.api.on(ctx).ContainerRemove(ctx, made.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}) // told by doctor if it stays
	}()
	ended, errs := d.api.on(ctx).ContainerWait(ctx, made.ID, container.WaitConditionNextExit)
	if err := d.api.on(ctx).ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		return nil, fail("run image", err)
	}
	var status int64
	select {
	case r := <-ended:
		status = r.StatusCode
	case err := <-errs:
		return nil, fail("run image", err)
	}
	logs, err := d.api.on(ctx).ContainerLogs(ctx, made.ID, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return nil, fail("run image", err)
	}
	defer logs.Close() // read to its end
	var out, errOut bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errOut, io.LimitReader(logs, 16<<20)); err != nil {
		return nil, fail("run image", err)
	}
	if status != 0 {
		tail := errOut.String()
		return out.Bytes(), hub.Errorf(hub.Unavailable, "docker: run image", "the command ended with exit code %d: %s", status, tail[max(0, len(tail)-2000):])
	}
	return out.Bytes(), nil
}
