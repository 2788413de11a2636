package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"carrel/hub"
)

// storedBinding is a binding with its MAC: the file decides whose home a name opens.
type storedBinding struct {
	hub.Binding
	MAC string `json:"mac"`
}

func (d *Driver) bindingPath(name hub.UserName) string {
	return filepath.Join(d.cfg.StateDir, "bindings", name.Label()+".json")
}

func bindingParts(b hub.Binding) []string {
	return []string{"binding", b.Name.String(), string(b.UserID), b.Identity.Issuer, b.Identity.Subject}
}

// Binding implements [hub.Bindings].
func (d *Driver) Binding(_ context.Context, name hub.UserName) (hub.Binding, error) {
	raw, err := os.ReadFile(d.bindingPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return hub.Binding{}, &hub.Error{Kind: hub.NotFound, Op: "read binding", Message: "nobody has this name yet"}
	}
	if err != nil {
		return hub.Binding{}, hub.Wrap(hub.Unavailable, "read binding", err)
	}
	var b storedBinding
	if err := json.Unmarshal(raw, &b); err != nil || b.Name != name || !d.cfg.Keyring.CheckLabelMAC(b.MAC, bindingParts(b.Binding)...) {
		return hub.Binding{}, hub.Errorf(hub.Internal, "read binding", "the binding of %s was changed by something else than Carrel", name)
	}
	return b.Binding, nil
}

// Bind implements [hub.Bindings].
func (d *Driver) Bind(_ context.Context, b hub.Binding) error {
	raw, err := json.MarshalIndent(storedBinding{b, d.cfg.Keyring.LabelMAC(bindingParts(b)...)}, "", "  ")
	if err == nil {
		err = writeFile(d.bindingPath(b.Name), raw)
	}
	return hub.Wrap(hub.Unavailable, "write binding", err)
}

// writeFile replaces a host-only file in one step and makes it durable, directory and all.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone once renamed
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncPath(dir)
}

// writeNew is writeFile for a file that must not be there yet; fs.ErrExist where it is.
func writeNew(ctx context.Context, path string, data []byte) error {
	whole := path + ".new"
	unlock, err := lockFile(ctx, filepath.Join(filepath.Dir(path), "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := writeFile(whole, data); err != nil {
		return err
	}
	defer os.Remove(whole) // it has another name, or is not wanted
	if err := os.Link(whole, path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}
