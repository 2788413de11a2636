// Package kernelimage owns the container image that notebooks run in: its build context, its name,
// and the order of the steps that make it. It refuses to know Docker's client: what it needs of
// Docker is the five methods of [Docker].
package kernelimage

import (
	"context"
	"io"
)

// Docker is what a build needs of a container engine. Methods honour ctx. An engine that can't be
// reached is an Unavailable error; what the engine says of a failed build or run is in the error's
// message.
type Docker interface {
	// ImageLabels tells whether an image is present here, and its labels.
	ImageLabels(ctx context.Context, image string) (labels map[string]string, present bool, err error)
	// PullImage fetches an image from its registry and tells how far it is, in percent.
	PullImage(ctx context.Context, image string, progress func(percent int, message string)) error
	// ImportImage makes an image of one layer from a tar of a root file system.
	ImportImage(ctx context.Context, image string, rootfs io.Reader) error
	// BuildImage builds a context (a tar with a Dockerfile) by the classic builder, and gives the
	// new image's id. An empty tag names none. Each line of the builder's output goes to progress.
	BuildImage(ctx context.Context, tag string, buildContext io.Reader, args map[string]string, progress func(line string)) (id string, err error)
	// RunImage runs a command in a new container as a notebook is run (read-only root, no network,
	// no capability, no new privileges, tmpfs on /tmp and on /home/jovyan for uid 1000), removes
	// the container, and gives what it printed on standard output. A command that fails is an error
	// that holds the end of its standard error.
	RunImage(ctx context.Context, image string, command, env []string) (output []byte, err error)
}
