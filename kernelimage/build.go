package kernelimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"carrel/hub"
)

// The steps that a build tells of, in their order.
const (
	StepBase  = "base"  // the image to start from is found, fetched or made
	StepBuild = "build" // packages are fetched and installed
	StepTest  = "test"  // a notebook is executed in the result
	StepDone  = "done"
)

// pullPatience is how long a registry may say nothing before another way is taken.
const pullPatience = 20 * time.Second

// Build makes the kernel image unless it is present, and gives its name. The name is given to the
// image last, once it has executed a notebook: an image of that name works.
func Build(ctx context.Context, d Docker, opts Options, progress func(step string, percent int, message string)) (tag string, err error) {
	tag = opts.Name()
	labels, present, err := d.ImageLabels(ctx, tag)
	if err != nil {
		return "", err
	}
	if present && !opts.Rebuild && labels[EnvironmentLabel] != "" {
		progress(StepDone, 100, "The kernel image "+tag+" is there")
		return tag, nil
	}
	base, err := findBase(ctx, d, opts, func(percent int, message string) { progress(StepBase, percent*30/100, message) })
	if err != nil {
		return "", err
	}
	id, err := buildFrom(ctx, d, base, opts, func(percent int, message string) { progress(StepBuild, 30+percent*60/100, message) })
	if err != nil {
		return "", err
	}
	progress(StepTest, 91, "Executing a notebook in the new image")
	if err := finish(ctx, d, id, tag); err != nil {
		return "", err
	}
	progress(StepDone, 100, "The kernel image "+tag+" is built")
	return tag, nil
}

// finish tests an image, records what is in it, and names it.
func finish(ctx context.Context, d Docker, id, tag string) error {
	output, err := d.RunImage(ctx, id, SmokeCommand(), nil)
	if err != nil {
		return hub.Wrap(hub.Invalid, "test the image", err)
	}
	if _, err := CheckSmoke(output); err != nil {
		return err
	}
	output, err = d.RunImage(ctx, id, EnvironmentCommand(), nil)
	if err != nil {
		return hub.Wrap(hub.Invalid, "read image environment", err)
	}
	environment, err := ParseEnvironment(output)
	if err != nil {
		return err
	}
	dockerfile, err := labelContext(id, environment)
	if err != nil {
		return err
	}
	archive, err := tarOf(map[string][]byte{"Dockerfile": []byte(dockerfile)})
	if err != nil {
		return err
	}
	_, err = d.BuildImage(ctx, tag, archive, nil, func(string) {})
	return err
}

// EnvironmentOf reads the record of an image that is present; NotFound when it is not, or has none.
func EnvironmentOf(ctx context.Context, d Docker, image string) (Environment, error) {
	labels, present, err := d.ImageLabels(ctx, image)
	if err != nil {
		return Environment{}, err
	}
	if !present || labels[EnvironmentLabel] == "" {
		return Environment{}, hub.Errorf(hub.NotFound, "read image environment", "the image %s has no record of what is in it", image)
	}
	return ParseEnvironment([]byte(labels[EnvironmentLabel]))
}

// findBase gives the name of an image to build from. One that the operator named is fetched or
// fails; only the default has a second way.
func findBase(ctx context.Context, d Docker, opts Options, progress func(int, string)) (string, error) {
	base := opts.base()
	if _, present, err := d.ImageLabels(ctx, base); err != nil || present {
		return base, err
	}
	if opts.Base == "" && !opts.Rebuild {
		if _, present, err := d.ImageLabels(ctx, bootstrapTag()); err != nil || present {
			return bootstrapTag(), err
		}
	}
	progress(0, "Asking the registry for "+base)
	pulled := pull(ctx, d, base, progress)
	if pulled == nil {
		return base, nil
	}
	if ctx.Err() != nil || opts.Base != "" {
		return "", pulled
	}
	made, err := bootstrap(ctx, d, opts.Dir, progress)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w (and the registry: %w)", err, pulled)
	}
	return made, err
}

// pull fetches an image, and gives up on a registry that says nothing for a while: where packets to
// it are dropped, an answer would take minutes not to come.
func pull(ctx context.Context, d Docker, image string, progress func(int, string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(pullPatience, func() {
		cancel(hub.Errorf(hub.Unavailable, "pull "+image, "the registry says nothing"))
	})
	defer silent.Stop()
	err := d.PullImage(ctx, image, func(percent int, message string) {
		silent.Reset(pullPatience)
		progress(percent, message)
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return hub.Wrap(hub.Canceled, "pull "+image, cause)
	}
	return err
}

// bootstrap makes the base from Debian's packages.
func bootstrap(ctx context.Context, d Docker, dir string, progress func(int, string)) (tag string, err error) {
	progress(0, "No registry answers; making a base from Debian's packages")
	path, err := BaseFromMmdebstrap(ctx, dir, func(percent int, message string) { progress(percent*90/100, message) })
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Dir(path))) }()
	progress(90, "Handing the base to Docker")
	f, err := os.Open(path)
	if err != nil {
		return "", hub.Wrap(hub.Internal, "import base image", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	return bootstrapTag(), d.ImportImage(ctx, bootstrapTag(), f)
}

func buildFrom(ctx context.Context, d Docker, base string, opts Options, progress func(int, string)) (id string, err error) {
	archive, err := Context(opts)
	if err != nil {
		return "", err
	}
	args := opts.BuildArgs()
	args["BASE_IMAGE"] = base
	p := newBuildLog(progress)
	id, err = d.BuildImage(ctx, "", archive, args, p.line)
	if err != nil {
		return "", hub.Wrap(hub.Invalid, "build kernel image", err)
	}
	return id, nil
}

// buildLog makes progress of a builder's output. Nearly all of the time goes into the packages, so
// that these get most of the percents.
type buildLog struct {
	progress func(int, string)
	expected int // packages
	seen     int
	percent  int
	message  string
}

func newBuildLog(progress func(int, string)) *buildLog {
	lock, err := files.ReadFile("requirements.lock")
	if err != nil {
		panic(err) // what is compiled in can be read
	}
	return &buildLog{progress: progress, expected: strings.Count(string(lock), "==")}
}

// buildPhases are the phases of a build by how their lines begin, and where they begin in percent.
var buildPhases = []struct {
	prefix, contains, message string
	percent                   int
}{
	{"Step ", "command -v tini", "Preparing the base", 1},
	{"Step ", "requirements.lock;", "Fetching Python packages", 6},
	{"Installing collected packages", "", "Installing Python packages", 45},
	{"Step ", "site=$(python3", "Compiling Python packages", 62},
	{"Step ", "COPY --from=packages /usr/local", "Putting the image together", 85},
	{"Step ", "ENTRYPOINT", "Putting the image together", 98},
}

func (p *buildLog) line(line string) {
	line = strings.TrimSpace(line)
	percent, message := p.percent, p.message
	if name, fetching := strings.CutPrefix(line, "Collecting "); fetching {
		p.seen++
		name, _, _ = strings.Cut(name, "==")
		percent, message = 6+min(p.seen, p.expected)*38/max(p.expected, 1), "Fetching Python packages: "+name
	}
	for _, phase := range buildPhases {
		if strings.HasPrefix(line, phase.prefix) && strings.Contains(line, phase.contains) {
			percent, message = phase.percent, phase.message
		}
	}
	if percent < p.percent || percent == p.percent && message == p.message {
		return
	}
	p.percent, p.message = percent, message
	p.progress(percent, message)
}
