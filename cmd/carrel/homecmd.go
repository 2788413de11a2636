package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"carrel/hub"
	"carrel/internal/config"
	"carrel/spawner/docker"
)

func homeCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{Use: "home", Short: "List, export, import, grow and move people's homes"}
	cmd.AddCommand(homeListCommand(f), homeExportCommand(f), homeImportCommand(f), homeGrowCommand(f), homeMoveCommand(f))
	return cmd
}

// withHomes opens a deployment for work on homes, whether it runs or not; nobody takes it down meanwhile.
func withHomes(f *flags, work func(d *deployment, driver *docker.Driver) error) error {
	d, err := openDeployment(f)
	if err != nil {
		return err
	}
	release, err := d.state.hold(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer release()
	driver, err := d.driver()
	if err != nil {
		return err
	}
	defer driver.Close() //nolint:errcheck // the process ends with it
	return work(d, driver)
}

func homeListCommand(f *flags) *cobra.Command {
	asJSON, names := false, false
	cmd := &cobra.Command{
		Use: "list", Short: "List homes: whose, of which kind, how large and full, used by which server", Args: cobra.NoArgs,
		Long: "A home of nobody's is one that a name was taken from (carrel user rebind --new-home).\n" +
			"When somebody was last seen is known while Redis answers.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHomes(f, func(_ *deployment, driver *docker.Driver) error {
				homes, err := driver.Homes(cmd.Context())
				if err != nil {
					return err
				}
				switch out := cmd.OutOrStdout(); {
				case names:
					for _, h := range homes {
						if !h.User.IsZero() && !h.Former {
							fmt.Fprintln(out, h.User)
						}
					}
					return nil
				case asJSON:
					return json.NewEncoder(out).Encode(homes)
				default:
					return printHomes(out, homes, lastSeen(cmd.Context(), f))
				}
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&names, "names", false, "print the names of people with a home, and nothing else")
	return cmd
}

// lastSeen tells when people were here last; nothing is known where the store does not answer.
func lastSeen(ctx context.Context, f *flags) map[hub.UserName]time.Time {
	seen := map[hub.UserName]time.Time{}
	ctx, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	_, store, err := openStore(ctx, f)
	if err != nil {
		return seen
	}
	defer store.Close() //nolint:errcheck // the process ends with it
	for u, err := range store.Users(ctx) {
		if err != nil {
			return seen
		}
		seen[u.Name] = u.LastSeen
	}
	return seen
}

func printHomes(out io.Writer, homes []docker.Home, seen map[hub.UserName]time.Time) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tHOME\tKIND\tSIZE\tUSED\tFILES\tLAST USE\tSERVERS")
	for _, h := range homes {
		var servers []string
		for _, s := range h.Servers {
			servers = append(servers, s.Server+" ("+s.State+")")
		}
		if h.Former {
			servers = append(servers, "none: an earlier one, of another kind")
		}
		if h.Work != "" {
			servers = append(servers, "being "+h.Work)
		}
		last := h.Written
		if at := seen[h.User]; !h.User.IsZero() && at.After(last) {
			last = at
		}
		when := "-"
		if !last.IsZero() {
			when = last.Local().Format("2006-01-02 15:04")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(h.User.String(), "-"), h.ID, h.Kind, size(h.Size), size(h.Used), number(h.InodesUsed), when, cmp.Or(strings.Join(servers, ", "), "-"))
	}
	return w.Flush()
}

func number(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// size is bytes in the largest unit of which there is one at least.
func size(n int64) string {
	if n < 1<<10 {
		return number(n)
	}
	units, value := []string{"KiB", "MiB", "GiB", "TiB"}, float64(n)/(1<<10)
	for len(units) > 1 && value >= 1<<10 {
		units, value = units[1:], value/(1<<10)
	}
	return fmt.Sprintf("%.1f%s", value, units[0])
}

// homeOf finds the home that a name opens.
func homeOf(ctx context.Context, driver *docker.Driver, name string) (hub.Binding, error) {
	user, err := hub.ParseUserName(name)
	if err != nil {
		return hub.Binding{}, err
	}
	b, err := driver.Binding(ctx, user)
	if hub.KindOf(err) == hub.NotFound {
		return b, &hub.Error{Kind: hub.NotFound, Op: "find home", Message: "nobody has signed in as " + user.String() + " here", Remedy: "they sign in first, or restore docker/bindings from the backup", Err: err}
	}
	return b, err
}

// workerImage is where homes are packed and unpacked.
func (d *deployment) workerImage() (string, error) {
	opts, err := d.imageOptions()
	return cmp.Or(d.cfg.Image.Name, opts.Name()), err
}

func homeExportCommand(f *flags) *cobra.Command {
	pause, compress := false, ""
	cmd := &cobra.Command{
		Use: "export NAME FILE", Short: "Write a home as a tar archive", Args: cobra.ExactArgs(2),
		Long: "Writes the home of a person as a tar archive that GNU tar, bsdtar and Python read, to a file or, with -, to standard\n" +
			"output. A file that is there is replaced once the archive is whole. A home that a server has is refused, as files\n" +
			"that change while they are read make no archive, unless the server is frozen meanwhile.",
		Example: "  carrel home export alice alice.tar.zst\n  carrel home export alice - --pause --compress gzip | ssh backup 'cat > alice.tar.gz'",
		RunE: func(cmd *cobra.Command, args []string) error {
			packing, err := packingOf(compress, args[1])
			if err != nil {
				return err
			}
			return withHomes(f, func(d *deployment, driver *docker.Driver) error {
				b, err := homeOf(cmd.Context(), driver, args[0])
				if err != nil {
					return err
				}
				image, err := d.workerImage()
				if err != nil {
					return err
				}
				return writeArchive(args[1], packing, cmd.OutOrStdout(), func(w io.Writer) error {
					return driver.ExportHome(cmd.Context(), b.UserID, image, w, pause)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&pause, "pause", false, "freeze the home's servers until the archive is whole")
	cmd.Flags().StringVar(&compress, "compress", "", "none, gzip or zstd; else the file's name tells: .tar, .tar.gz, .tar.zst")
	return cmd
}

func homeImportCommand(f *flags) *cobra.Command {
	replace, merge, profile := false, false, ""
	cmd := &cobra.Command{
		Use: "import NAME FILE", Short: "Unpack a tar archive into a home", Args: cobra.ExactArgs(2),
		Long: "Unpacks a tar archive (plain, or compressed by gzip or zstd) from a file or, with -, from standard input into the\n" +
			"home of a person who has signed in once. It is done in a container without network or rights, as the home's owner.\n" +
			"All of it succeeds, or the home is as it was. A home that a server has is refused.",
		Example: "  carrel home import alice alice.tar.zst\n  carrel home import alice alice.tar.zst --replace",
		RunE: func(cmd *cobra.Command, args []string) error {
			how := docker.ImportNew
			switch {
			case replace:
				how = docker.ImportReplace
			case merge:
				how = docker.ImportMerge
			}
			return withHomes(f, func(d *deployment, driver *docker.Driver) error {
				b, err := homeOf(cmd.Context(), driver, args[0])
				if err != nil {
					return err
				}
				spec, err := d.homeSpec(b, profile)
				if err != nil {
					return err
				}
				in, done, err := openArchive(args[1], cmd.InOrStdin())
				if err != nil {
					return err
				}
				defer done()
				if err := driver.ImportHome(cmd.Context(), spec, in, how); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "The archive is in %s's home.\n", b.Name)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "put the archive in the place of what is there")
	cmd.Flags().BoolVar(&merge, "merge", false, "add the archive to what is there; of two files of one name the archive's counts")
	cmd.Flags().StringVar(&profile, "profile", "", "the profile whose uid, gid and size a new home gets; else the default one")
	cmd.MarkFlagsMutuallyExclusive("replace", "merge")
	return cmd
}

func homeGrowCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "grow NAME SIZE", Short: "Make a home hold more", Args: cobra.ExactArgs(2),
		Long: "Makes a home of the kind loop hold more bytes, and files in proportion, whether its servers run or not. It keeps that\n" +
			"size: a profile's disk makes homes larger, never smaller.",
		Example: "  carrel home grow alice 20GiB",
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := config.ParseSize(args[1])
			if err != nil {
				return &hub.Error{Kind: hub.Invalid, Op: "grow home", Field: "SIZE", Message: "this is no size", Remedy: "write something like 20GiB"}
			}
			return withHomes(f, func(_ *deployment, driver *docker.Driver) error {
				b, err := homeOf(cmd.Context(), driver, args[0])
				if err != nil {
					return err
				}
				now, err := driver.GrowHome(cmd.Context(), b.UserID, int64(n))
				if err != nil {
					return err
				}
				when := "."
				if !now {
					when = " from the next start of a server on."
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s's home holds %s%s\n", b.Name, size(int64(n)), when)
				return nil
			})
		},
	}
}

func homeMoveCommand(f *flags) *cobra.Command {
	all, keep := false, false
	cmd := &cobra.Command{
		Use: "move [NAME]", Short: "Move homes to the kind that spawner.docker.home_kind says", Args: cobra.MaximumNArgs(1),
		Long: "A home keeps the kind that it was made with when home_kind is changed. This copies it into one of the new kind, compares\n" +
			"the two, and has the new one count from then on. The old one is removed then, unless it is to be kept or is a\n" +
			"directory of yours. Homes that a server has are refused.",
		Example: "  carrel home move alice\n  carrel home move --all --keep",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return &hub.Error{Kind: hub.Invalid, Op: "move home", Field: "NAME", Message: "it is not said whose home is to be moved", Remedy: "give a name, or --all"}
			}
			return withHomes(f, func(d *deployment, driver *docker.Driver) error {
				if !all {
					return d.moveHome(cmd, driver, args[0], keep)
				}
				homes, err := driver.Homes(cmd.Context())
				if err != nil {
					return err
				}
				for _, h := range homes {
					if h.Former || h.User.IsZero() {
						continue
					}
					if merr := d.moveHome(cmd, driver, h.User.String(), keep); merr != nil {
						explain(fmt.Errorf("%s: %w", h.User, merr))
						err = errTold
					}
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "move everybody's, and go on after one that can't be moved")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the old homes")
	return cmd
}

func (d *deployment) moveHome(cmd *cobra.Command, driver *docker.Driver, name string, keep bool) error {
	b, err := homeOf(cmd.Context(), driver, name)
	if err != nil {
		return err
	}
	spec, err := d.homeSpec(b, "")
	if err != nil {
		return err
	}
	moved, err := driver.MoveHome(cmd.Context(), spec, keep)
	switch {
	case err != nil:
		return err
	case moved:
		fmt.Fprintf(cmd.OutOrStdout(), "%s's home is moved.\n", b.Name)
	default:
		fmt.Fprintf(cmd.OutOrStdout(), "%s's home is of the configured kind already.\n", b.Name)
	}
	return nil
}

// homeSpec is what a home is opened with outside a server: by a profile's owner and size, in the worker's image.
func (d *deployment) homeSpec(b hub.Binding, profile string) (hub.Spec, error) {
	image, err := d.workerImage()
	if err != nil {
		return hub.Spec{}, err
	}
	kept := func(p config.Profile) bool { return p.Home != "none" && p.HomeKind == "" }
	at := slices.IndexFunc(d.cfg.Profiles, func(p config.Profile) bool { return kept(p) && (p.Name == profile || profile == "" && p.Default) })
	if at < 0 && profile == "" {
		at = slices.IndexFunc(d.cfg.Profiles, kept)
	}
	if at < 0 {
		return hub.Spec{}, &hub.Error{Kind: hub.Invalid, Op: "choose profile", Field: "--profile", Message: "there is no such profile with homes that are kept", Remedy: "name one of the configuration's"}
	}
	p := d.cfg.Profiles[at]
	return hub.Spec{
		Key: hub.ServerKey{User: b.Name}, UserID: b.UserID, Profile: p.Name, Image: image, UID: p.UID, GID: p.GID,
		Limits: hub.Limits{Disk: int64(p.Disk), Inodes: int64(p.Inodes)},
	}, nil
}
