package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

type loginFlags struct {
	connectFlags
	method string
}

func newLogin(s *Streams) *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Check a token and keep it for later commands",
		Long: `Check a token and keep it for later commands at the same address. The token is typed
(it is not shown), or comes from standard input or --token-file; it is never an argument,
because every user of the machine can see arguments.

The token is kept in a file that only this user can read, one for each address, below
$XDG_CONFIG_HOME/tocsin or ~/.config/tocsin. $TOCSIN_TOKEN and --token-file go before it.

A token of a Vault or OpenBao server, or a JWT, is taken as well if the hub is configured
to accept it. With --method a JWT is exchanged for a token of the hub, which ends when the
JWT does, and can be looked up and revoked.`,
		Example: `  tocsin login
  tocsin login --address https://hub.example:8280 < token

  # With the token of a Vault server that the hub asks (auth.upstream).
  vault print token | tocsin login

  # With a JWT of the issuer that the hub calls "ci" (auth.jwt).
  tocsin login --method ci < id-token`,
		Args: tokenArgs(0, "", true),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if strings.ContainsFunc(f.method, func(r rune) bool {
				return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
			}) {
				return usagef(cmd, "--method %q: names of issuers have lower-case letters, digits, - and _", f.method)
			}
			return f.run(cmd.Context(), s)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.method, "method", "", "`name` of the issuer whose JWT is given, to exchange it for a token")
	return cmd
}

func (f *loginFlags) run(ctx context.Context, s *Streams) error {
	c, err := f.withoutToken()
	if err != nil {
		return err
	}
	if f.tokenFile != "" {
		err = c.findToken(f.tokenFile)
	} else {
		c.source = "standard input"
		c.token, err = readToken(ctx, s)
	}
	if err != nil {
		return err
	}
	if f.method != "" {
		if err := c.exchange(ctx, s, f.method); err != nil {
			return err
		}
	}
	a, err := (&tokenTarget{}).lookup(ctx, c)
	if err != nil {
		return err
	}
	t, err := readTokenData(c, a)
	if err != nil {
		return err
	}
	file, err := storeToken(c.url, c.token)
	if err != nil {
		return err
	}
	if os.Getenv(tokenEnv) != "" {
		fmt.Fprintf(s.Err, "Warning: %s is set and goes before the token that is now stored.\n", tokenEnv)
	}
	fmt.Fprintf(s.Out, "Logged in at %s.\n\n", c.address)
	if err := printRows(s.Out, t.rows()...); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "\nThe token is stored in %s; \"tocsin logout\" removes it.\n", file)
	return err
}

// exchange makes a token of the hub the one of the connection, for the JWT that is.
func (c *connection) exchange(ctx context.Context, s *Streams, method string) error {
	v, err := vaultclient.New(vaultclient.Options{Address: c.address, Namespace: c.namespace, Transport: c.transport})
	if err != nil {
		return err
	}
	a, err := v.Do(ctx, http.MethodPost, "auth/"+method+"/login", nil, map[string]string{"jwt": c.token})
	switch {
	case errors.Is(err, client.ErrNotFound):
		return &adviceError{err, fmt.Sprintf("Does the hub at %s have an issuer of the name %s in auth.jwt?", c.address, method)}
	case err != nil:
		return c.advise(err)
	}
	if a.Auth == nil || a.Auth.ClientToken == "" {
		return c.advise(errNoToken)
	}
	warn(s.Err, a)
	c.token, c.source = a.Auth.ClientToken, "the hub"
	return nil
}

func newLogout(s *Streams) *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Remove the token of an earlier login",
		Long: `Remove the token that "tocsin login" has stored for an address. The token itself stays
valid; "tocsin token revoke --self" ends it, and removes it here as well.`,
		Example: "  tocsin logout\n  tocsin logout --address https://hub.example:8280",
		Args:    tokenArgs(0, "", false),
		RunE: func(*cobra.Command, []string) error {
			c, err := (&connectFlags{address: address}).hub()
			if err != nil {
				return err
			}
			found, err := forgetToken(c.url)
			switch {
			case err != nil:
				return fmt.Errorf("remove token: %w", err)
			case !found:
				_, err = fmt.Fprintf(s.Out, "No token is stored for %s.\n", c.address)
			default:
				_, err = fmt.Fprintf(s.Out, "The token for %s is removed here. It stays valid until it expires or is revoked.\n", c.address)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&address, "address", "", "`URL` of the hub (default $"+addressEnv+" or "+defaultAddress+")")
	return cmd
}
