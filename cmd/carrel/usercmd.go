package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"carrel/hub"
	"carrel/hub/redisstore"
)

func userCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "List people, or give a name to another account"}
	cmd.AddCommand(userListCommand(f), userRebindCommand(f))
	return cmd
}

func userListCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List everyone who signed in, with the account that their name is bound to", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, store, err := openStore(cmd.Context(), f)
			if err != nil {
				return err
			}
			defer store.Close() //nolint:errcheck // the process ends with it
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tHOME\tISSUER\tSUBJECT\tLAST SEEN")
			for u, err := range store.Users(cmd.Context()) {
				if err != nil {
					return err
				}
				fmt.Fprintf(w, "%s\t%s\t%q\t%q\t%s\n", u.Name, u.ID, u.Identity.Issuer, u.Identity.Subject, u.LastSeen.Format("2006-01-02 15:04"))
			}
			return w.Flush()
		},
	}
}

func userRebindCommand(f *flags) *cobra.Command {
	var to hub.Identity
	newHome := false
	cmd := &cobra.Command{
		Use: "rebind NAME", Short: "Give a name to another account, with the home or with a new one", Args: cobra.ExactArgs(1),
		Long: "A name belongs to the account that first signed in with it. After a change of provider, give it to the same\n" +
			"person's new account, with the home; when somebody else is to have it, give them a new home: the old one stays on\n" +
			"disk under its id. Whoever is signed in under the name is signed out.",
		Example: "  carrel user rebind alice --issuer https://login.example.org --subject 8f2c\n" +
			"  carrel user rebind alice --issuer https://login.example.org --subject 8f2c --new-home",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := hub.ParseUserName(args[0])
			if err != nil {
				return err
			}
			return rebind(cmd, f, name, to, newHome)
		},
	}
	cmd.Flags().StringVar(&to.Issuer, "issuer", "", "issuer of the new account, as in the provider's tokens")
	cmd.Flags().StringVar(&to.Subject, "subject", "", "the account's subject there")
	cmd.Flags().BoolVar(&newHome, "new-home", false, "the account is another person's: it gets a home of its own")
	_ = cmd.MarkFlagRequired("issuer")  // it is defined above
	_ = cmd.MarkFlagRequired("subject") // likewise
	return cmd
}

// openStore opens the store of a deployment that runs.
func openStore(ctx context.Context, f *flags) (*deployment, *redisstore.Store, error) {
	d, err := openDeployment(f)
	if err != nil {
		return nil, nil, err
	}
	address := d.cfg.Redis.URL
	if address == "" {
		s, err := d.redisServer()
		if err != nil {
			return nil, nil, err
		}
		address = s.HubURL()
	}
	store, err := d.store(address)
	if err != nil {
		return nil, nil, err
	}
	if err := store.Ping(ctx); err != nil {
		store.Close() //nolint:errcheck // unused
		return nil, nil, &hub.Error{Kind: hub.Unavailable, Op: "open store", Message: "Redis does not answer", Remedy: "start carrel, which brings its own, or check redis.url", Err: err}
	}
	return d, store, nil
}

// rebind writes the note beside the home first, as sign-in does: it outlives a wiped store.
func rebind(cmd *cobra.Command, f *flags, name hub.UserName, to hub.Identity, newHome bool) error {
	ctx := cmd.Context()
	d, store, err := openStore(ctx, f)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // the process ends with it
	driver, err := d.driver()
	if err != nil {
		return err
	}
	defer driver.Close() //nolint:errcheck // likewise
	for s, err := range store.Servers(ctx) {
		if err != nil {
			return err
		}
		if s.Key.User == name && s.Phase.Active() {
			return &hub.Error{Kind: hub.Conflict, Op: "rebind", Message: name.String() + " runs a server", Remedy: "stop it on the admin page first"}
		}
	}
	was, err := driver.Binding(ctx, name)
	if err != nil {
		return err
	}
	u, err := store.User(ctx, name)
	if hub.KindOf(err) == hub.NotFound { // the store was wiped; the note was not
		u = hub.User{Name: name}
	} else if err != nil {
		return err
	}
	u.ID, u.Identity, u.Admin, u.Groups = was.UserID, to, false, nil // the provider says at the next sign-in
	if newHome {
		u.ID = d.keys.UserID(to)
	}
	if err := driver.Bind(ctx, hub.Binding{Name: name, UserID: u.ID, Identity: to}); err != nil {
		return err
	}
	if err := store.Rebind(ctx, u); err != nil {
		return err
	}
	if _, err := store.EndSessions(ctx, hub.SessionQuery{User: name}); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is now subject %q at %s, with home %s.\n", name, to.Subject, to.Issuer, u.ID)
	return nil
}
