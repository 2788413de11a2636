package docker

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"carrel/hub"
)

// A home is of the kind that it was made with, whatever the configuration says by now: a file beside
// it tells. It is written when the home is made, and at the one moment when a move to another kind counts.

var homeKinds = []string{homeLoop, homeBind, homeVolume}

func (h *homes) kindFile(id hub.UserID) string {
	return filepath.Join(h.cfg.StateDir, "homes", string(id)+".kind")
}

// recordedKind is "" where nothing is recorded.
func (h *homes) recordedKind(id hub.UserID) (string, error) {
	raw, err := os.ReadFile(h.kindFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", homeFault("tell the kind of a home", err)
	}
	switch kind := string(raw); kind {
	case homeLoop, homeBind, homeVolume:
		return kind, nil
	}
	return "", homeFault("tell the kind of a home", errors.New(h.kindFile(id)+" names none"))
}

func (h *homes) recordKind(id hub.UserID, kind string) error {
	return homeFault("record the kind of a home", writeFile(h.kindFile(id), []byte(kind)))
}

// keepKind records the kind of a home that is made, or was before kinds were recorded.
func (h *homes) keepKind(id hub.UserID, kind string) error {
	was, err := h.recordedKind(id)
	if err != nil || was == kind {
		return err
	}
	return h.recordKind(id, kind)
}

// kindOf is the kind of a person's home: as recorded, else of the one that is there, else as configured.
func (h *homes) kindOf(ctx context.Context, id hub.UserID) (string, error) {
	kind, err := h.recordedKind(id)
	if err != nil || kind != "" {
		return kind, err
	}
	for _, kind := range append([]string{h.cfg.HomeKind}, homeKinds...) {
		if is, err := h.existsAs(ctx, id, kind); err != nil || is {
			return kind, err
		}
	}
	return h.cfg.HomeKind, nil
}

// existsAs tells whether there is a home of a kind.
func (h *homes) existsAs(ctx context.Context, id hub.UserID, kind string) (bool, error) {
	switch kind {
	case homeLoop:
		_, err := os.Lstat(h.image(id))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, homeFault("find home", err)
	case homeBind:
		x, known, err := h.knownDirectory(id)
		return known && isThere(x.Base, x.Rel), err
	}
	_, err := h.api.on(ctx).VolumeInspect(ctx, h.volume(id))
	if isNotFound(err) {
		return false, nil
	}
	return err == nil, fail("find home", err)
}

// exists tells whether there is a home already, and of which kind it is or will be.
func (h *homes) exists(ctx context.Context, id hub.UserID) (kind string, is bool, err error) {
	kind, err = h.kindOf(ctx, id)
	if err == nil {
		is, err = h.existsAs(ctx, id, kind)
	}
	return kind, is, err
}
