package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/strslice"
	"github.com/docker/docker/api/types/volume"

	"carrel/hub"
)

// A home belongs to the user id that it was made for: its top directory says whose, and no container
// can give that away. A profile that runs as another is refused. Giving the home to another would
// mean walking a tree that guests write, with root's rights, and would take it from under the
// person's other servers, whose profiles may run as the first.

// sameOwner refuses a profile that runs as another user than the home's. The group does not matter:
// what is the owner's can be written.
func sameOwner(spec hub.Spec, owner int) error {
	if owner == spec.UID {
		return nil
	}
	return &hub.Error{
		Kind: hub.Invalid, Op: "docker: open home", Field: "profiles." + spec.Profile + ".uid",
		Message: fmt.Sprintf("your home belongs to user id %d, and this profile runs as %d, which could not write there", owner, spec.UID),
		Remedy:  fmt.Sprintf("choose another profile; or an administrator sets the profile's uid to %d, or gives the home to %d while none of your servers runs", owner, spec.UID),
	}
}

// keeperMount is where a home's keeper has it.
const (
	keeperMount   = "carrel-home"
	keeperTimeout = 30 * time.Second
)

// openVolume makes a person's volume where there is none, and gives it to them; nothing of the image
// is copied into it, as nothing is into a home of the other kind. It is held meanwhile.
func (h *homes) openVolume(ctx context.Context, spec hub.Spec) (mount.Mount, error) {
	name := h.volume(spec.UserID)
	if _, err := h.api.on(ctx).VolumeCreate(ctx, volume.CreateOptions{Name: name, Labels: map[string]string{
		labelDeployment: h.cfg.Deployment, labelUserID: string(spec.UserID), labelMAC: h.cfg.Keyring.LabelMAC("volume", string(spec.UserID)),
	}}); err != nil {
		return mount.Mount{}, fail("make home", err)
	}
	if err := h.giveVolume(ctx, name, spec); err != nil {
		return mount.Mount{}, err
	}
	return mount.Mount{Type: mount.TypeVolume, Source: name, Target: spec.Home, VolumeOptions: &mount.VolumeOptions{NoCopy: true}}, nil
}

// giveVolume gives a volume that is still root's to the person: its top directory, and nothing in it.
// Docker does it, by way of a container that never runs, the home's keeper: so no program of the
// image is trusted, and this works wherever Docker has its volumes and whatever it makes of user ids.
func (h *homes) giveVolume(ctx context.Context, name string, spec hub.Spec) error {
	if err := h.removeKeeper(ctx, name); err != nil { // an earlier process's, which ended between
		return err
	}
	_, err := h.api.on(ctx).ContainerCreate(ctx, &container.Config{
		Image: spec.Image, Entrypoint: strslice.StrSlice{}, Cmd: strslice.StrSlice{"never"}, User: "65534:65534",
		Labels: map[string]string{labelDeployment: h.cfg.Deployment, labelMAC: h.cfg.Keyring.LabelMAC("keeper", name)},
	}, &container.HostConfig{
		NetworkMode: "none", CapDrop: strslice.StrSlice{"ALL"}, SecurityOpt: []string{"no-new-privileges"},
		Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: name, Target: "/" + keeperMount, VolumeOptions: &mount.VolumeOptions{NoCopy: true}}},
	}, nil, nil, name)
	if err != nil {
		return fail("open home", err)
	}
	defer func() {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), keeperTimeout)
		defer done()
		if err := h.removeKeeper(ctx, name); err != nil {
			h.cfg.Logger.WarnContext(ctx, "a home's keeper is left; the next start removes it", "container", name, "error", err)
		}
	}()
	owner, err := h.volumeOwner(ctx, name)
	if err != nil {
		return err
	}
	if owner != 0 {
		return sameOwner(spec, owner)
	}
	return h.setVolumeOwner(ctx, name, spec)
}

// volumeOwner reads the owner in the head of the directory's archive, and nothing further.
func (h *homes) volumeOwner(ctx context.Context, keeper string) (int, error) {
	r, _, err := h.api.on(ctx).CopyFromContainer(ctx, keeper, "/"+keeperMount)
	if err != nil {
		return 0, fail("look whose home it is", err)
	}
	defer r.Close() // left unread
	head, err := tar.NewReader(io.LimitReader(r, maxLogBytes)).Next()
	if err != nil {
		return 0, fail("look whose home it is", err)
	}
	return head.Uid, nil
}

// setVolumeOwner has Docker unpack the directory over itself with its new owner.
func (h *homes) setVolumeOwner(ctx context.Context, keeper string, spec hub.Spec) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: keeperMount + "/", Mode: 0o755, Uid: spec.UID, Gid: spec.GID, ModTime: time.Now()})
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return hub.Wrap(hub.Internal, "docker: pack home's owner", err)
	}
	return fail("give home to its owner", h.api.on(ctx).CopyToContainer(ctx, keeper, "/", &archive, container.CopyToContainerOptions{}))
}

// removeKeeper removes a home's keeper, if it is there and ours.
func (h *homes) removeKeeper(ctx context.Context, name string) error {
	c, err := h.api.on(ctx).ContainerInspect(ctx, name)
	if err == nil && !h.cfg.Keyring.CheckLabelMAC(c.Config.Labels[labelMAC], "keeper", name) {
		return &hub.Error{Kind: hub.Conflict, Op: "docker: open home", Message: "a name that is Carrel's is taken by something else", Remedy: "an administrator must remove the container " + name}
	}
	if err == nil {
		err = h.api.on(ctx).ContainerRemove(ctx, c.ID, container.RemoveOptions{RemoveVolumes: true, Force: true})
	}
	if isNotFound(err) || isConflict(err) {
		return nil
	}
	return fail("remove home's keeper", err)
}
