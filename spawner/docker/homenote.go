package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/mount"

	"carrel/hub"
)

// Work on a home that takes long is noted in a host-only file before it begins: others learn from it
// why they can't have the home, and whoever holds it next brings to an end what was cut off.

// homeNote is what is being done to a home.
type homeNote struct {
	Doing  string   `json:"doing"` // as "exported", for people
	Step   string   `json:"step"`
	How    string   `json:"how,omitempty"` // to settle: replace or merge
	Image  string   `json:"image"`         // the worker's
	UID    int      `json:"uid"`
	GID    int      `json:"gid"`
	Paused []string `json:"paused,omitempty"` // containers frozen for it
	Still  []string `json:"still,omitempty"`  // and those that were before, and stay so

	// Of a move:
	From string     `json:"from,omitempty"`
	To   string     `json:"to,omitempty"`
	Keep bool       `json:"keep,omitempty"` // the old home stays
	Into *directory `json:"into,omitempty"` // the operator's, from the first file that is copied there
}

// The steps. What is cut off in the first three leaves the home as it was; an import that is to settle is
// brought to its end, and a move by which of the homes counts by then.
const (
	stepRead   = "read"   // nothing is changed
	stepFresh  = "fresh"  // a new image is filled beside the old one
	stepUnpack = "unpack" // an archive is unpacked in a corner of the home
	stepSettle = "settle" // and put in its place
	stepMove   = "move"   // a home of another kind is filled beside this one, or has taken its place
)

func (h *homes) notePath(id hub.UserID) string {
	return filepath.Join(h.cfg.StateDir, "homes", string(id)+".work")
}

// readNote gives fs.ErrNotExist where nothing is done.
func (h *homes) readNote(id hub.UserID) (n homeNote, err error) {
	raw, err := os.ReadFile(h.notePath(id))
	if err == nil {
		err = json.Unmarshal(raw, &n)
	}
	return n, err
}

func (h *homes) writeNote(id hub.UserID, n homeNote) error {
	raw, err := json.Marshal(n)
	if err == nil {
		err = writeFile(h.notePath(id), raw)
	}
	return hub.Wrap(hub.Unavailable, "docker: note work on home", err)
}

// noted lists the homes that something was, or is, done to.
func (h *homes) noted() (ids []hub.UserID) {
	paths, _ := filepath.Glob(h.notePath("*"))
	for _, p := range paths {
		if id := hub.UserID(strings.TrimSuffix(filepath.Base(p), ".work")); wellFormed(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// mend ends what a process that is no more was doing to a home; the caller holds it.
func (h *homes) mend(ctx context.Context, id hub.UserID, image string) error {
	n, err := h.readNote(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && image != "" {
		if _, ierr := h.api.on(ctx).ImageInspect(ctx, n.Image); isNotFound(ierr) {
			n.Image = image
		}
	}
	if err == nil {
		err = h.undo(ctx, id, n)
	}
	if err == nil {
		err = os.Remove(h.notePath(id))
	}
	if err != nil {
		return &hub.Error{
			Kind: hub.Internal, Op: "docker: mend home", Message: "work on this home was cut off, and could not be brought to an end",
			Remedy: "an administrator finds the reason in the hub's log, or by carrel home list", Err: err,
		}
	}
	h.cfg.Logger.WarnContext(ctx, "work on a home was cut off", "user_id", id, "doing", n.Doing, "completed", n.Step == stepSettle)
	return nil
}

// undo is told by the note what to do; it can be cut off and begun again.
func (h *homes) undo(ctx context.Context, id hub.UserID, n homeNote) error {
	if err := errors.Join(h.removeWorker(ctx, h.workerName(id, false)), h.removeWorker(ctx, h.workerName(id, true))); err != nil {
		return err
	}
	switch n.Step {
	case stepRead:
		return h.thaw(ctx, n.Paused)
	case stepFresh:
		return h.dropFresh(ctx, id)
	case stepMove:
		return h.endMove(ctx, id, n)
	case stepUnpack, stepSettle:
		spec := hub.Spec{UserID: id, Image: n.Image, UID: n.UID, GID: n.GID, Home: "/" + keeperMount, Limits: hub.Limits{Disk: 1}} // as large as it is
		m, err := h.reach(ctx, spec, false)
		if err != nil {
			return err
		}
		if n.Step == stepSettle {
			return h.tidyCorner(ctx, id, n, m, "settle", n.How)
		}
		return h.tidyCorner(ctx, id, n, m, "drop")
	}
	return hub.Errorf(hub.Internal, "mend home", "its note is of another version")
}

// tidyCorner puts what was unpacked in its place, or removes it. What is somebody else's there stays, and keeps nobody
// from the home.
func (h *homes) tidyCorner(ctx context.Context, id hub.UserID, n homeNote, m mount.Mount, how ...string) error {
	said := &head{most: 64}
	if err := h.work(ctx, id, homework{image: n.Image, args: how, home: m, user: owner(n.UID, n.GID), out: said}); err != nil {
		return err
	}
	if said.Len() > 0 {
		h.cfg.Logger.WarnContext(ctx, "files that are not the home's owner's could not be removed; they are in .carrel-import", "user_id", id)
	}
	return nil
}

// frozenFor tells whether a container stands still for an export that is at work.
func (h *homes) frozenFor(container string) bool {
	for _, id := range h.noted() {
		n, err := h.readNote(id)
		if err != nil || !slices.Contains(n.Paused, container) && !slices.Contains(n.Still, container) {
			continue
		}
		if release, err := tryLockFile(h.image(id) + ".lock"); release != nil { // nobody is at work
			release()
			return false
		} else if err == nil {
			return true
		}
	}
	return false
}
