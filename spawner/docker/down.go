package docker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"

	"carrel/hub"
)

// Down removes everything that the deployment made: containers, networks and the packet filter; with
// homes, people's homes too. It goes on after an error and returns all of them.
func (d *Driver) Down(ctx context.Context, withHomes bool) error {
	own, err := d.ours(ctx)
	errs := []error{err}
	for _, c := range own {
		errs = append(errs, d.Stop(ctx, d.handle(c.Names[0][1:]), 10*time.Second))
	}
	for _, mode := range []hub.NetworkMode{hub.NetworkNone, hub.NetworkOpen} {
		name := d.networks.name(mode)
		got, err := d.api.NetworkInspect(ctx, name, network.InspectOptions{})
		if err == nil && d.cfg.Keyring.CheckLabelMAC(got.Labels[labelMAC], "network", name) {
			err = d.api.NetworkRemove(ctx, name)
		}
		if err != nil && !isNotFound(err) {
			errs = append(errs, fail("remove network", err))
		}
	}
	errs = append(errs, d.networks.remove(ctx))
	if withHomes {
		errs = append(errs, d.removeHomes(ctx))
	}
	return errors.Join(errs...)
}

// removeHomes removes volumes, and images with whatever is still mounted of them.
func (d *Driver) removeHomes(ctx context.Context) error {
	vols, err := d.api.VolumeList(ctx, volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelDeployment+"="+d.cfg.Deployment))})
	errs := []error{fail("list homes", err)}
	for _, v := range vols.Volumes {
		if d.cfg.Keyring.CheckLabelMAC(v.Labels[labelMAC], "volume", v.Labels[labelUserID]) {
			errs = append(errs, fail("remove home", d.api.VolumeRemove(ctx, v.Name, false)))
		}
	}
	points, err := os.ReadDir(filepath.Join(d.cfg.StateDir, "mnt"))
	if err != nil && !os.IsNotExist(err) {
		errs = append(errs, err)
	}
	for _, p := range points {
		path := filepath.Join(d.cfg.StateDir, "mnt", p.Name())
		if mounted(path) {
			if err := run(ctx, "umount", path); err != nil {
				errs = append(errs, err)
				continue // what is mounted is not removed
			}
		}
		errs = append(errs, os.Remove(path))
	}
	for _, dir := range []string{"homes", "bindings"} {
		errs = append(errs, os.RemoveAll(filepath.Join(d.cfg.StateDir, dir)))
	}
	return errors.Join(errs...)
}
