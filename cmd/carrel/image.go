package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"carrel/hub"
	"carrel/kernelimage"
	"carrel/spawner/docker"
)

func imageCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Build the kernel image"}
	rebuild := false
	build := &cobra.Command{
		Use: "build", Short: "Build the kernel image, and print its name", Args: cobra.NoArgs, Example: "  carrel image build",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := openDeployment(f)
			if err != nil {
				return err
			}
			driver, err := d.driver()
			if err != nil {
				return err
			}
			opts, err := d.imageOptions()
			if err != nil {
				return err
			}
			opts.Rebuild = rebuild
			name, err := kernelimage.Build(cmd.Context(), driver, opts, tellBuild())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), name)
			return nil
		},
	}
	build.Flags().BoolVar(&rebuild, "rebuild", false, "build although the image is there")
	cmd.AddCommand(build)
	return cmd
}

// kernelImage is the image of profiles that name none; it is built when it is missing.
func (d *deployment) kernelImage(ctx context.Context, driver *docker.Driver) (string, error) {
	if d.cfg.Image.Name != "" {
		return d.cfg.Image.Name, nil
	}
	opts, err := d.imageOptions()
	if err != nil {
		return "", err
	}
	needed := false
	for _, p := range d.cfg.Profiles {
		needed = needed || p.Image == ""
	}
	if !needed {
		return opts.Name(), nil
	}
	return kernelimage.Build(ctx, driver, opts, tellBuild())
}

func (d *deployment) imageOptions() (kernelimage.Options, error) {
	opts := kernelimage.HostOptions(os.Getenv)
	opts.Base = d.cfg.Image.Base
	if path := d.cfg.Image.ExtraCAFile; path != "" {
		ca, err := os.ReadFile(path)
		if err != nil {
			return opts, &hub.Error{Kind: hub.Invalid, Op: "read extra CA", Field: "image.extra_ca_file", Message: "the file can't be read", Remedy: "check the path", Err: err}
		}
		opts.ExtraCA = ca
	}
	return opts, nil
}

// tellBuild prints a build's steps, each once, with its percent now and then.
func tellBuild() func(step string, percent int, message string) {
	last, at := "", time.Time{}
	return func(step string, percent int, message string) {
		if step == kernelimage.StepDone && last == "" {
			return // it was there
		}
		if step != last || time.Since(at) > 3*time.Second {
			fmt.Printf("carrel: kernel image: %3d%% %s\n", percent, message)
			last, at = step, time.Now()
		}
	}
}
