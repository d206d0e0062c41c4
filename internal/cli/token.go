package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

const tokenLong = `Make, show, renew and revoke tokens of a hub.

A token that a command is about is never an argument, because every user of the machine
can see arguments: it is the token of the request itself, is named by its accessor, or is
given on standard input. No command but "create" prints a token.`

func newToken(s *Streams) *cobra.Command {
	return newGroup("token", "Make and manage tokens", tokenLong,
		newTokenCreate(s), newTokenList(s), newTokenLookup(s), newTokenRenew(s), newTokenRevoke(s), newTokenCapabilities(s))
}

const tokenPath = "auth/token/"

var errNoToken = fmt.Errorf("%w: it has no token", vaultclient.ErrNoAnswer)

// tokenTarget is the token that a command is about.
type tokenTarget struct {
	accessor string
	value    string // from standard input
}

func (t *tokenTarget) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.accessor, "accessor", "", "`accessor` of the token, instead of the token of the request")
}

// read takes the token from standard input if the last argument says so.
func (t *tokenTarget) read(cmd *cobra.Command, s *Streams, args []string) (err error) {
	if len(args) == 0 || args[len(args)-1] != stdinToken {
		return nil
	}
	if t.accessor != "" {
		return usagef(cmd, "the token is named by --accessor and given on standard input: use one of them")
	}
	t.value, err = readToken(cmd.Context(), s)
	return err
}

// endpoint completes the path of an API that has one form for each kind of target,
// and adds the target to the body.
func (t *tokenTarget) endpoint(path string, body map[string]any) (string, map[string]any) {
	switch {
	case t.accessor != "":
		body["accessor"] = t.accessor
		return path + "-accessor", body
	case t.value != "":
		body["token"] = t.value
		return path, body
	}
	return path + "-self", body
}

// lookup asks the hub for what it knows about the token.
func (t *tokenTarget) lookup(ctx context.Context, c *connection) (*vaultclient.Answer, error) {
	path, body := t.endpoint(tokenPath+"lookup", map[string]any{})
	if len(body) == 0 {
		return c.do(ctx, http.MethodGet, path, nil, nil)
	}
	return c.do(ctx, http.MethodPost, path, nil, body)
}

// tokenData is what a lookup tells about a token.
type tokenData struct {
	Accessor         string            `json:"accessor"`
	DisplayName      string            `json:"display_name"`
	Policies         []string          `json:"policies"`
	IdentityPolicies []string          `json:"identity_policies"`
	Namespace        string            `json:"namespace_path"`
	Path             string            `json:"path"`
	EntityID         string            `json:"entity_id"`
	Meta             map[string]string `json:"meta"`
	IssueTime        string            `json:"issue_time"`
	ExpireTime       *string           `json:"expire_time"`
	TTL              json.Number       `json:"ttl"`
	Period           json.Number       `json:"period"`
	ExplicitMaxTTL   json.Number       `json:"explicit_max_ttl"`
	NumUses          json.Number       `json:"num_uses"`
	Renewable        bool              `json:"renewable"`
	Orphan           bool              `json:"orphan"`
}

// readTokenData reads the answer to a lookup.
func readTokenData(c *connection, a *vaultclient.Answer) (*tokenData, error) {
	var t tokenData
	if err := decodeJSON(a.Data, &t); err != nil {
		return nil, c.advise(err)
	}
	return &t, nil
}

// rows is what a person wants to know of a token.
func (t *tokenData) rows() []row {
	rows := []row{
		{"accessor", visible(t.Accessor)},
		{"display name", visible(t.DisplayName)},
		{"namespace", visible(t.Namespace)},
		{"policies", listed(t.Policies)},
		{"metadata", pairs(t.Meta)},
		{"entity", visible(t.EntityID)},
		{"made by", visible(t.Path)},
		{"issued", visible(t.IssueTime)},
		{"expires", "never"},
		{"period", number(t.Period, seconds)},
		{"explicit max ttl", number(t.ExplicitMaxTTL, seconds)},
		{"uses left", number(t.NumUses, func(n int64) string { return fmt.Sprint(n) })},
		{"renewable", yesNo(t.Renewable)},
		{"orphan", yesNo(t.Orphan)},
	}
	if t.ExpireTime != nil && *t.ExpireTime != "" {
		for i := range rows {
			if rows[i].name == "expires" {
				rows[i].value = visible(*t.ExpireTime)
				if left := number(t.TTL, seconds); left != "" {
					rows[i].value += " (in " + left + ")"
				}
			}
		}
	}
	return rows
}

// number prints a number that is not 0.
func number(n json.Number, print func(int64) string) string {
	if v, err := n.Int64(); err == nil && v != 0 {
		return print(v)
	}
	return ""
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// authRows is what a person wants to know of a token that was made or renewed.
func authRows(auth *vaultclient.Auth) []row {
	ttl := "for ever"
	if auth.LeaseDuration > 0 {
		ttl = seconds(auth.LeaseDuration)
	}
	uses := ""
	if auth.NumUses > 0 {
		uses = fmt.Sprint(auth.NumUses)
	}
	return []row{
		{"accessor", visible(auth.Accessor)},
		{"policies", listed(auth.Policies)},
		{"metadata", pairs(auth.Metadata)},
		{"valid", ttl},
		{"uses left", uses},
		{"renewable", yesNo(auth.Renewable)},
		{"orphan", yesNo(auth.Orphan)},
	}
}

type tokenCreateFlags struct {
	connectFlags
	format         answerFlag
	field          string
	policies       []string
	ttl            durationFlag
	period         durationFlag
	explicitMaxTTL durationFlag
	useLimit       int
	orphan         bool
	noDefault      bool
	renewable      bool
	metadata       keyValues
	displayName    string
}

func newTokenCreate(s *Streams) *cobra.Command {
	var f tokenCreateFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token",
		Long: `Make a token and print it: this is the only time that it can be seen. It is a child of
the token of the request and ends with it, unless --orphan says otherwise, and has the
policies of that token unless --policy names some.

Whoever may not use sudo on auth/token/create can only give policies away that they
have.`,
		Example: `  # A token for a team, for eight hours.
  tocsin token create --policy team-a --ttl 8h --display-name team-a

  # One for a service, which renews it; the token alone, to be kept in a file.
  tocsin token create --policy exporter --period 24h --orphan --field token > exporter.token

  # For policies with templates over the metadata of a token.
  tocsin token create --policy own-team --metadata team=a --no-default-policy`,
		Args: tokenArgs(0, "", false),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.useLimit < 0 {
				return usagef(cmd, "--use-limit %d: the number of uses cannot be negative", f.useLimit)
			}
			switch f.field {
			case "", "token", "accessor":
			default:
				return usagef(cmd, "--field %s: must be token or accessor", f.field)
			}
			return f.run(cmd.Context(), s)
		},
	}
	flags := cmd.Flags()
	f.register(cmd)
	f.format.register(cmd)
	flags.StringVar(&f.field, "field", "", "print only this `field`: token or accessor")
	flags.StringArrayVar(&f.policies, "policy", nil, "`name` of a policy that the token has; repeatable")
	flags.Var(&f.ttl, "ttl", "how long it is valid, for example 8h or 30d (default: what the hub gives)")
	flags.Var(&f.period, "period", "how long it is valid after each renewal, without another limit")
	flags.Var(&f.explicitMaxTTL, "explicit-max-ttl", "how long it is valid at most, whatever renews it")
	flags.IntVar(&f.useLimit, "use-limit", 0, "how many requests it can make; 0 means any `number`")
	flags.BoolVar(&f.orphan, "orphan", false, "it does not end with the token of the request")
	flags.BoolVar(&f.noDefault, "no-default-policy", false, "it does not have the policy \"default\"")
	flags.BoolVar(&f.renewable, "renewable", true, "it can be renewed")
	flags.Var(&f.metadata, "metadata", "a `key=value` for policies with templates and for the audit; repeatable")
	flags.StringVar(&f.displayName, "display-name", "", "a `name` for people")
	return cmd
}

func (f *tokenCreateFlags) run(ctx context.Context, s *Streams) error {
	c, err := f.resolve()
	if err != nil {
		return err
	}
	body := map[string]any{
		"ttl": f.ttl.forVault(), "explicit_max_ttl": f.explicitMaxTTL.forVault(), "period": f.period.forVault(),
		"num_uses": f.useLimit, "no_default_policy": f.noDefault, "renewable": f.renewable,
		"display_name": f.displayName, "type": "service",
	}
	if len(f.policies) > 0 {
		body["policies"] = f.policies
	}
	if len(f.metadata) > 0 {
		body["meta"] = f.metadata
	}
	path := tokenPath + "create"
	if f.orphan {
		path += "-orphan"
	}
	a, err := c.do(ctx, http.MethodPost, path, nil, body)
	if err != nil {
		return err
	}
	if a.Auth == nil || a.Auth.ClientToken == "" {
		return c.advise(errNoToken)
	}
	warn(s.Err, a)
	switch {
	case f.field == "token":
		_, err = fmt.Fprintln(s.Out, a.Auth.ClientToken)
	case f.field == "accessor":
		_, err = fmt.Fprintln(s.Out, a.Auth.Accessor)
	case f.format == answerJSON:
		err = printEnvelope(s.Out, a)
	default:
		err = printRows(s.Out, append([]row{{"token", visible(a.Auth.ClientToken)}}, authRows(a.Auth)...)...)
	}
	return err
}

func newTokenLookup(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
		target tokenTarget
	)
	cmd := &cobra.Command{
		Use:   "lookup [-]",
		Short: "Show what a token may be and until when",
		Long: `Show a token, without the token itself: the token of the request, the one with an
--accessor, or, for '-', one from standard input.`,
		Example: `  tocsin token lookup
  tocsin token lookup --accessor 8W3PvyEYn1bVgbA0kE6eVnNA
  tocsin token lookup - < found.token`,
		Args: tokenArgs(0, "", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			if err := target.read(cmd, s, args); err != nil {
				return err
			}
			a, err := target.lookup(cmd.Context(), c)
			if err != nil {
				return err
			}
			warn(s.Err, a)
			t, err := readTokenData(c, a)
			switch {
			case err != nil:
				return err
			case format == answerJSON:
				return printEnvelope(s.Out, a, "id") // which is the token
			}
			return printRows(s.Out, t.rows()...)
		},
	}
	f.register(cmd)
	format.register(cmd)
	target.register(cmd)
	return cmd
}

func newTokenList(s *Streams) *cobra.Command {
	return listCommand(s, &cobra.Command{
		Use:   "list",
		Short: "Print the accessors of all tokens",
		Long: `Print the accessors of all tokens of the namespace, one per line. Accessors are no
secrets: with them tokens can be looked up, renewed and revoked by those who may.`,
		Example: `  tocsin token list

  # Who has which token?
  for a in $(tocsin token list); do tocsin token lookup --accessor "$a"; echo; done`,
		Args: tokenArgs(0, "", false),
	}, tokenPath+"accessors")
}

func newTokenRenew(s *Streams) *cobra.Command {
	var (
		f         connectFlags
		format    answerFlag
		target    tokenTarget
		increment durationFlag
	)
	cmd := &cobra.Command{
		Use:   "renew [-]",
		Short: "Make a token valid for longer",
		Long: `Renew a token: the token of the request, the one with an --accessor, or, for '-', one from
standard input. It is then valid for --increment from now, within its limits.`,
		Example: `  tocsin token renew
  tocsin token renew --increment 12h --accessor 8W3PvyEYn1bVgbA0kE6eVnNA`,
		Args: tokenArgs(0, "", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			if err := target.read(cmd, s, args); err != nil {
				return err
			}
			body := map[string]any{}
			if increment != 0 {
				body["increment"] = increment.forVault()
			}
			path, body := target.endpoint(tokenPath+"renew", body)
			a, err := c.do(cmd.Context(), http.MethodPut, path, nil, body)
			if err != nil {
				return err
			}
			warn(s.Err, a)
			if format == answerJSON {
				return printEnvelope(s.Out, a, "client_token")
			}
			if a.Auth == nil {
				return c.advise(errNoToken)
			}
			return printRows(s.Out, authRows(a.Auth)...)
		},
	}
	f.register(cmd)
	format.register(cmd)
	target.register(cmd)
	cmd.Flags().Var(&increment, "increment", "how long it is to be valid from now (default: as long as when it was made)")
	return cmd
}

func newTokenRevoke(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		target tokenTarget
		self   bool
		mode   string
	)
	cmd := &cobra.Command{
		Use:   "revoke --self | --accessor ACCESSOR | -",
		Short: "End a token and the tokens made with it",
		Long: `Revoke a token and all that were made with it: the token of the request (--self), the one
with an --accessor, or, for '-', one from standard input. With --mode orphan the tokens
made with it stay.

It is in effect when the command returns: no request is accepted any more, and
subscriptions have ended.`,
		Example: `  tocsin token revoke --accessor 8W3PvyEYn1bVgbA0kE6eVnNA
  tocsin token revoke - < leaked.token

  # The token of this login, which is removed from this machine, too.
  tocsin token revoke --self`,
		Args: tokenArgs(0, "", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			ways := 0
			for _, given := range []bool{self, target.accessor != "", len(args) > 0} {
				if given {
					ways++
				}
			}
			switch {
			case ways != 1:
				return usagef(cmd, "say which token ends: --self, --accessor, or '-' for one on standard input")
			case mode != "" && mode != "orphan":
				return usagef(cmd, "--mode %s: the only mode is orphan", mode)
			case mode == "orphan" && len(args) == 0:
				return usagef(cmd, "--mode orphan needs the token itself, on standard input: '-'")
			}
			c, err := f.resolve()
			if err != nil {
				return err
			}
			if err := target.read(cmd, s, args); err != nil {
				return err
			}
			path, body := target.endpoint(tokenPath+"revoke", map[string]any{})
			if mode == "orphan" {
				path += "-orphan"
			}
			a, err := c.do(cmd.Context(), http.MethodPut, path, nil, body)
			if err != nil {
				return err
			}
			warn(s.Err, a)
			if self && c.stored || target.value != "" && target.value == c.token && c.stored {
				if _, err := forgetToken(c.url); err != nil {
					return fmt.Errorf("the token is revoked, but its copy on this machine stays: %w", err)
				}
			}
			_, err = fmt.Fprintln(s.Out, "The token is revoked.")
			return err
		},
	}
	f.register(cmd)
	target.register(cmd)
	cmd.Flags().BoolVar(&self, "self", false, "the token of the request")
	cmd.Flags().StringVar(&mode, "mode", "", "orphan: the tokens made with it stay")
	return cmd
}

func newTokenCapabilities(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
		target tokenTarget
	)
	cmd := &cobra.Command{
		Use:   "capabilities PATH [-]",
		Short: "Show what a token may do on a path",
		Long: `Show the capabilities of a token on a path: of the token of the request, of the one with
an --accessor, or, for '-', of one from standard input. Which types of events it may see
there is said by "tocsin policy test".`,
		Example: `  tocsin token capabilities 'sys/events/subscribe/kv-v2/*'
  tocsin token capabilities --accessor 8W3PvyEYn1bVgbA0kE6eVnNA secret/data/app`,
		Args: tokenArgs(1, "the PATH", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			if err := target.read(cmd, s, args[1:]); err != nil {
				return err
			}
			path, body := target.endpoint("sys/capabilities", map[string]any{"paths": args[:1]})
			a, err := c.do(cmd.Context(), http.MethodPost, path, nil, body)
			if err != nil {
				return err
			}
			warn(s.Err, a)
			var data struct{ Capabilities []string }
			if err := decodeJSON(a.Data, &data); err != nil {
				return c.advise(err)
			}
			if format == answerJSON {
				return printJSON(s.Out, data.Capabilities)
			}
			_, err = fmt.Fprintln(s.Out, listed(data.Capabilities))
			return err
		},
	}
	f.register(cmd)
	format.register(cmd)
	target.register(cmd)
	return cmd
}
