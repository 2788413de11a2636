// Command carrel is a multi-user notebook hub: it signs people in through OpenID Connect, starts an
// isolated Jupyter server for each, and carries their traffic.
//
// It owns the command line and, in wire.go, the place where every concrete type meets. It refuses
// to hold any logic of the hub's: that is package hub's and its adapters'.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // schedules name time zones, which a small system may not have

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"carrel/hub"
	"carrel/internal/config"
	"carrel/internal/redisserver"
)

func main() {
	redisserver.Quiet()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cmd := root()
	cmd.SetArgs(arguments(os.Args))
	err := cmd.ExecuteContext(ctx)
	stop()
	if status, ok := errors.AsType[exitStatus](err); ok {
		os.Exit(int(status))
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		explain(err)
		os.Exit(1)
	}
}

// errTold is an error that was printed already.
var errTold = errors.New("")

// explain prints an error with what to do about it.
func explain(err error) {
	if errors.Is(err, errTold) {
		return
	}
	message, remedy := hub.Public(err)
	if message == "" {
		fmt.Fprintln(os.Stderr, "carrel:", err)
		return
	}
	if field := hub.FieldOf(err); field != "" {
		message = field + ": " + message
	}
	fmt.Fprintln(os.Stderr, "carrel:", message)
	if remedy != "" {
		fmt.Fprintln(os.Stderr, "  what to do:", remedy)
	}
	var e *hub.Error
	if errors.As(err, &e) && e.Err != nil && e.Err.Error() != message {
		fmt.Fprintln(os.Stderr, "  cause:", e.Err)
	}
}

// flags are those of every command.
type flags struct{ config string }

func root() *cobra.Command {
	f := &flags{}
	cmd := &cobra.Command{
		Use:   "carrel",
		Short: "A notebook of their own for everyone, in a browser",
		Long:  "Carrel signs people in through OpenID Connect and gives each an isolated JupyterLab in a container of their own.",
		Example: "  carrel serve                        everything on this machine, with a demo provider\n" +
			"  carrel serve --config carrel.yaml   the same, configured\n  carrel doctor                       says what is missing, and what to do",
		SilenceUsage: true, SilenceErrors: true,
	}
	cmd.PersistentFlags().StringVar(&f.config, "config", os.Getenv("CARREL_CONFIG"), "configuration file (carrel config example prints one)")
	cmd.AddCommand(serveCommand(f), hubCommand(f), proxyCommand(f), childCommandOf(), chpCommand(), downCommand(f), imageCommand(f), userCommand(f), homeCommand(f), topCommand(f), runCommand(f), doctorCommand(f), configCommand(f), versionCommand())
	return cmd
}

// load reads the configuration; faults are printed, all of them.
func (f *flags) load() (*config.Config, error) {
	cfg, faults := config.Load(f.config, os.Environ(), machine())
	if len(faults) == 0 {
		return cfg, nil
	}
	fmt.Fprintln(os.Stderr, "carrel: the configuration has faults:")
	for _, fault := range faults {
		fmt.Fprintln(os.Stderr, "  "+fault.String())
	}
	return nil, errTold
}

// machine is this one.
func machine() config.Machine {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return config.Machine{}
	}
	return config.Machine{Memory: int64(info.Totalram) * int64(info.Unit), CPUs: runtime.NumCPU()}
}

func newLogger(level, format string) *slog.Logger { return loggerTo(os.Stderr, level, format) }

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Run: func(cmd *cobra.Command, _ []string) {
		fmt.Fprintln(cmd.OutOrStdout(), "carrel", version())
	}}
}

// version is the module's, or the commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}
