package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"carrel/internal/config"
)

func configCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check, show or print a configuration"}
	cmd.AddCommand(
		&cobra.Command{Use: "check", Short: "List every fault of the configuration", Args: cobra.NoArgs, Example: "  carrel config check --config carrel.yaml", RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := f.load(); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "The configuration is sound.")
			return nil
		}},
		&cobra.Command{Use: "show", Short: "Print the configuration in force, without secrets", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(cfg.Show())
			return err
		}},
		&cobra.Command{Use: "example", Short: "Print a commented configuration that equals the defaults", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Example())
			return err
		}},
	)
	return cmd
}
