package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/docker/docker/api/types/mount"

	"carrel/hub"
)

// A home of the kind bind is a directory of the operator's: one for each person below a directory such as an NFS
// mount. It is opened from there downwards, following no link, and what was opened is mounted at a place
// of ours, so that nobody who can change what is on the way can have another directory mounted.

// directory is whose home a directory is: a name can be given to another account, its files can't.
type directory struct {
	Base string     `json:"base"` // the operator's, with no word in it
	Rel  string     `json:"rel"`  // the person's, below it
	ID   hub.UserID `json:"id"`
}

type storedDirectory struct {
	directory

	MAC string `json:"mac"`
}

func (x directory) path() string { return filepath.Join(x.Base, x.Rel) }

func directoryParts(x directory) []string {
	return []string{"home directory", x.Base, x.Rel, string(x.ID)}
}

// directoryOf is where a person's home is to be.
func (h *homes) directoryOf(user hub.UserName, id hub.UserID) directory {
	return directory{h.cfg.HomePath.Base(), h.cfg.HomePath.For(user, id), id}
}

func (h *homes) directoriesDir() string { return filepath.Join(h.cfg.StateDir, "directories") }

func (h *homes) directoryFile(x directory) string {
	sum := sha256.Sum256([]byte(x.path()))
	return filepath.Join(h.directoriesDir(), hex.EncodeToString(sum[:16])+".json")
}

// readDirectory gives fs.ErrNotExist for one that is nobody's yet.
func (h *homes) readDirectory(file string) (directory, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return directory{}, err
	}
	var x storedDirectory
	if json.Unmarshal(raw, &x) != nil || h.directoryFile(x.directory) != file || !h.cfg.Keyring.CheckLabelMAC(x.MAC, directoryParts(x.directory)...) {
		return directory{}, errors.New(file + " was changed by something else than Carrel")
	}
	return x.directory, nil
}

// directories lists those that are somebody's home.
func (h *homes) directories() ([]directory, error) {
	files, _ := filepath.Glob(filepath.Join(h.directoriesDir(), "*.json"))
	var list []directory
	for _, f := range files {
		x, err := h.readDirectory(f)
		if err != nil {
			return nil, hub.Wrap(hub.Internal, "docker: read whose a directory is", err)
		}
		list = append(list, x)
	}
	return list, nil
}

// knownDirectory finds the one that is a person's home already: that of the present template first.
func (h *homes) knownDirectory(id hub.UserID) (found directory, ok bool, err error) {
	list, err := h.directories()
	base := h.cfg.HomePath.Base()
	for _, x := range list {
		if x.ID == id && (!ok || x.Base == base) {
			found, ok = x, true
		}
	}
	return found, ok, err
}

// ownDirectory makes a directory a person's, if it is nobody else's.
func (h *homes) ownDirectory(ctx context.Context, x directory) error {
	file := h.directoryFile(x)
	was, err := h.readDirectory(file)
	if errors.Is(err, fs.ErrNotExist) {
		var raw []byte
		if raw, err = json.Marshal(storedDirectory{x, h.cfg.Keyring.LabelMAC(directoryParts(x)...)}); err == nil {
			err = writeNew(ctx, file, raw)
		}
		if err == nil || errors.Is(err, fs.ErrExist) {
			was, err = h.readDirectory(file)
		}
	}
	if err != nil {
		return homeFault("tell whose a directory is", err)
	}
	if was.ID != x.ID {
		return &hub.Error{
			Kind: hub.Conflict, Op: "docker: open home", Field: "spawner.docker.home_path", Message: "the directory of this name is another account's home",
			Remedy: "an administrator moves " + x.path() + " away and removes " + file + ", or has {id} in spawner.docker.home_path",
		}
	}
	return nil
}

// openBind mounts a person's directory at a place of ours, making it at the first start. One that was their home and is
// missing is made only anew: its file system may not be mounted.
func (h *homes) openBind(ctx context.Context, spec hub.Spec, anew bool) (mount.Mount, error) {
	known, ok, err := h.knownDirectory(spec.UserID)
	if err != nil {
		return mount.Mount{}, err
	}
	was, err := h.recordedKind(spec.UserID)
	if err != nil {
		return mount.Mount{}, err
	}
	x := h.directoryOf(spec.Key.User, spec.UserID)
	if spec.Key.User.IsZero() || h.cfg.HomePath.IsZero() { // it is a directory yet, though new homes are of another kind
		if !ok {
			return mount.Mount{}, orNoHome(nil)
		}
		x = known
	}
	whose := &owners{spec.UID, spec.GID}
	if !anew && was == homeBind && ok && !isThere(known.Base, known.Rel) {
		whose = nil
	}
	point := h.mountPoint(spec.UserID)
	if !mounted(point) {
		if err := h.ownDirectory(ctx, x); err != nil {
			return mount.Mount{}, err
		}
		if err := makeMountPoint(point); err != nil {
			return mount.Mount{}, err
		}
		if err := mountDirectory(x.Base, x.Rel, point, whose); err != nil {
			return mount.Mount{}, err
		}
	}
	return h.ownMount(ctx, spec)
}

// lookBind mounts the directory that is a person's home, whosever it is.
func (h *homes) lookBind(id hub.UserID) (mount.Mount, error) {
	point := h.mountPoint(id)
	if !mounted(point) {
		x, known, err := h.knownDirectory(id)
		if err != nil || !known {
			return mount.Mount{}, orNoHome(err)
		}
		if err := makeMountPoint(point); err != nil {
			return mount.Mount{}, err
		}
		if err := mountDirectory(x.Base, x.Rel, point, nil); err != nil {
			return mount.Mount{}, err
		}
	}
	return bindMount(point, ""), nil
}

// packer has a home read by one who may read everything; but by its owner where it is on a server that may not
// let this machine's root do so (NFS: root_squash).
func (h *homes) packer(id hub.UserID, kind string, w homework) homework {
	w.user, w.caps = packingUser, packingCaps
	for _, point := range []string{h.mountPoint(id), h.freshPoint(id)} {
		if kind == homeBind && w.home.Source == point && !isLocal(point) {
			if uid, gid, err := ownersOf(point); err == nil {
				w.user, w.caps = owner(uid, gid), nil
			}
		}
	}
	return w
}
