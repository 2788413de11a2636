package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func downCommand(f *flags) *cobra.Command {
	volumes := false
	cmd := &cobra.Command{
		Use: "down", Short: "Remove everything that this deployment made: servers, networks, the private Redis", Args: cobra.NoArgs,
		Example: "  carrel down             people's homes stay\n  carrel down --volumes   homes are removed too",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := openDeployment(f)
			if err != nil {
				return err
			}
			release, err := d.state.hold(unix.LOCK_EX)
			if err != nil {
				return err
			}
			defer release()
			driver, err := d.driver()
			if err != nil {
				return err
			}
			errs := []error{driver.Down(cmd.Context(), volumes), os.RemoveAll(d.state.statics())}
			if d.cfg.Redis.URL == "" {
				s, err := d.redisServer()
				if err != nil {
					return err
				}
				if err := s.Stop(); err != nil {
					return errors.Join(append(errs, err)...)
				}
				errs = append(errs, os.RemoveAll(d.state.redis()))
			} else {
				errs = append(errs, d.forget(cmd.Context()))
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			homes := "people's homes stay in " + d.cfg.StateDir + " (carrel down --volumes removes them)"
			if volumes {
				homes = "and so are people's homes"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The servers, networks and Redis of %s are gone; %s.\n", d.cfg.Deployment, homes)
			return nil
		},
	}
	cmd.Flags().BoolVar(&volumes, "volumes", false, "remove people's homes too")
	return cmd
}

// forget removes the deployment's keys from a Redis that is not ours to end.
func (d *deployment) forget(ctx context.Context) error {
	store, err := d.store(d.cfg.Redis.URL)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the process ends with it
	return store.Forget(ctx)
}
