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
	"golang.org/x/sync/errgroup"

	"carrel/hub"
)

// Down removes everything that the deployment made: containers, networks and the packet filter; with
// homes, people's homes too. It goes on after an error and returns all of them.
func (d *Driver) Down(ctx context.Context, withHomes bool) error {
	d.homes.tidy(ctx) // with what work on a home left that was cut off
	servers, err := d.ours(ctx)
	errs := []error{err}
	var stops errgroup.Group
	stops.SetLimit(inspectAtOnce)
	stopped := make([]error, len(servers))
	for i, c := range servers {
		stops.Go(func() error { stopped[i] = d.Stop(ctx, d.handle(c.name), 10*time.Second); return nil })
	}
	_ = stops.Wait() // each keeps its own
	errs = append(errs, stopped...)
	errs = append(errs, d.removeTellers(ctx))
	errs = append(errs, d.removeRuns(ctx))
	errs = append(errs, d.dropAllSlots(ctx))
	for _, mode := range []hub.NetworkMode{hub.NetworkNone, hub.NetworkOpen} {
		name := d.networks.name(mode)
		got, err := d.api.on(ctx).NetworkInspect(ctx, name, network.InspectOptions{})
		if err == nil && d.cfg.Keyring.CheckLabelMAC(got.Labels[labelMAC], "network", name) {
			err = d.api.on(ctx).NetworkRemove(ctx, name)
		}
		if err != nil && !isNotFound(err) {
			errs = append(errs, fail("remove network", err))
		}
	}
	if os.Geteuid() == 0 { // nobody else could have set it
		errs = append(errs, d.networks.remove(ctx))
	}
	if withHomes {
		errs = append(errs, d.removeHomes(ctx))
	}
	return errors.Join(errs...)
}

// removeHomes removes volumes, and images but for those that can't be unmounted. Directories of the
// operator's stay, and are nobody's again.
func (d *Driver) removeHomes(ctx context.Context) error {
	vols, err := d.api.on(ctx).VolumeList(ctx, volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelDeployment+"="+d.cfg.Deployment))})
	errs := []error{fail("list homes", err)}
	for _, v := range vols.Volumes {
		if d.cfg.Keyring.CheckLabelMAC(v.Labels[labelMAC], "volume", v.Labels[labelUserID]) {
			errs = append(errs, d.homes.removeKeeper(ctx, v.Name)) // else it keeps the volume
			errs = append(errs, fail("remove home", d.api.on(ctx).VolumeRemove(ctx, v.Name, false)))
		}
	}
	points, err := os.ReadDir(d.homes.mountPoints())
	if err != nil && !os.IsNotExist(err) {
		errs = append(errs, err)
	}
	stuck := false
	for _, p := range points {
		path := filepath.Join(d.homes.mountPoints(), p.Name())
		err := error(nil)
		if mounted(path) {
			err = unmountHome(ctx, path)
		}
		if err == nil {
			err = os.Remove(path)
		}
		stuck = stuck || err != nil
		errs = append(errs, err)
	}
	if !stuck { // else the image of a home that is mounted would be torn from under it
		for _, dir := range []string{"homes", "bindings", "directories"} {
			errs = append(errs, os.RemoveAll(filepath.Join(d.cfg.StateDir, dir)))
		}
	}
	return errors.Join(errs...)
}
