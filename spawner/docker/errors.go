package docker

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"

	"carrel/hub"
)

// fail translates an error of Docker's; a nil one stays nil.
func fail(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return hub.Wrap(hub.Canceled, "docker: "+op, err)
	case errdefs.IsNotFound(err):
		return &hub.Error{Kind: hub.NotFound, Op: "docker: " + op, Message: "Docker knows no such thing", Err: err}
	case errdefs.IsConflict(err):
		return &hub.Error{Kind: hub.Conflict, Op: "docker: " + op, Message: "something with this name is there already", Err: err}
	case errdefs.IsInvalidArgument(err):
		return &hub.Error{Kind: hub.Invalid, Op: "docker: " + op, Field: "profile", Message: "Docker can't run this profile", Remedy: "an administrator finds the reason in the hub's log", Err: err}
	}
	return &hub.Error{Kind: hub.Unavailable, Op: "docker: " + op, Message: "Docker did not do what was asked of it", Remedy: "try again; an administrator can run carrel doctor", Err: err}
}

func isNotFound(err error) bool { return err != nil && errdefs.IsNotFound(err) }
func isConflict(err error) bool { return err != nil && errdefs.IsConflict(err) }
