package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/policy"
)

const policyLong = `Policies say who may do what: see events, subscribe, manage tokens and policies. They are
written in Vault's form, HCL or JSON.

"fmt" and "test" work on files, without a hub, so that a policy can be tried before it is
in effect. The others work on the policies that a hub stores. A change is in effect at
once, also for subscriptions that are open.`

func newPolicy(s *Streams) *cobra.Command {
	return newGroup("policy", "Write, test and manage policies", policyLong,
		newPolicyFmt(s), newPolicyTest(s), newPolicyWrite(s), newPolicyRead(s), newPolicyList(s), newPolicyDelete(s))
}

const policiesPath = "sys/policies/acl"

// policyArgs checks that there is the NAME of a policy, and whatever else.
func policyArgs(n int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := exactArgs(n, names)(cmd, args); err != nil {
			return err
		}
		if _, err := policy.CleanName(args[0]); err != nil {
			return usagef(cmd, "%w", err)
		}
		return nil
	}
}

func newPolicyWrite(s *Streams) *cobra.Command {
	var f connectFlags
	cmd := &cobra.Command{
		Use:   "write NAME FILE",
		Short: "Store a policy in a hub",
		Long: `Store a policy in a hub, or replace it; '-' is standard input. The text is checked first,
and every error printed with its line and column; then nothing is sent.

Who has the policy is judged by the new text when the command returns, also with
subscriptions that are open: they go on with what the policy now allows, or end.`,
		Example: `  tocsin policy write team-a team-a.hcl

  # From standard input.
  sed s/TEAM/a/ team.hcl | tocsin policy write team-a -`,
		Args: policyArgs(2, "the NAME of the policy and the FILE with it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			text, err := readPolicy(s.In, args[1])
			if err != nil {
				return err
			}
			if _, _, err := policy.Parse(args[0], text); err != nil {
				return policyError(shownFile(args[1]), err)
			}
			a, err := c.do(cmd.Context(), http.MethodPut, policiesPath+"/"+args[0], nil, map[string]string{"policy": text})
			if err != nil {
				return err
			}
			warn(s.Err, a)
			_, err = fmt.Fprintf(s.Out, "Policy %s is stored.\n", visible(args[0]))
			return err
		},
	}
	f.register(cmd)
	return cmd
}

func newPolicyRead(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
	)
	cmd := &cobra.Command{
		Use:     "read NAME",
		Short:   "Print a policy of a hub",
		Long:    "Print the text of a policy that a hub stores.",
		Example: "  tocsin policy read team-a\n\n  tocsin policy read -format=json team-a | jq -r .policy",
		Args:    policyArgs(1, "the NAME of the policy"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			text, err := c.policyText(cmd.Context(), args[0])
			if _, none := errors.AsType[*noPolicyError](err); none {
				return &adviceError{err, `"tocsin policy list" shows which there are.`}
			} else if err != nil {
				return err
			}
			if format == answerJSON {
				return printJSON(s.Out, map[string]string{"policy": text})
			}
			if text = strings.TrimRight(text, "\n"); isTerminal(s.Out) {
				text = visibleLines(text)
			}
			_, err = fmt.Fprintln(s.Out, text)
			return err
		},
	}
	f.register(cmd)
	format.register(cmd)
	return cmd
}

// list returns the names below a path of the hub.
func (c *connection) list(ctx context.Context, path string) ([]string, error) {
	v, err := c.client()
	if err != nil {
		return nil, err
	}
	a, err := v.Do(ctx, http.MethodGet, path, url.Values{"list": {"true"}}, nil)
	switch {
	case nothingThere(err):
		return []string{}, nil
	case err != nil:
		return nil, c.advise(err)
	}
	var data struct{ Keys []string }
	if err := decodeJSON(a.Data, &data); err != nil {
		return nil, c.advise(err)
	}
	return data.Keys, nil
}

// nothingThere says whether an error is how Vault answers that there is nothing, in
// contrast to a path that it does not have.
func nothingThere(err error) bool {
	refused, ok := errors.AsType[*client.StatusError](err)
	return ok && refused.StatusCode == http.StatusNotFound && len(refused.Messages) == 0
}

// noPolicyError means that the hub has no such policy.
type noPolicyError struct{ name, inNamespace string }

func (e *noPolicyError) Error() string {
	return fmt.Sprintf("there is no policy %q%s", e.name, e.inNamespace)
}

// policyText returns the text of a policy that the hub stores.
func (c *connection) policyText(ctx context.Context, name string) (string, error) {
	v, err := c.client()
	if err != nil {
		return "", err
	}
	a, err := v.Do(ctx, http.MethodGet, policiesPath+"/"+name, nil, nil)
	if nothingThere(err) {
		return "", &noPolicyError{name, c.inNamespace()}
	}
	if err != nil {
		return "", c.advise(err)
	}
	var data struct{ Policy string }
	if err := decodeJSON(a.Data, &data); err != nil {
		return "", c.advise(err)
	}
	return data.Policy, nil
}

func (c *connection) inNamespace() string {
	if c.namespace == "" {
		return ""
	}
	return fmt.Sprintf(" in namespace %q", c.namespace)
}

func newPolicyList(s *Streams) *cobra.Command {
	return listCommand(s, &cobra.Command{
		Use:     "list",
		Short:   "Print the names of the policies of a hub",
		Long:    "Print the names of the policies that a hub stores, one per line.",
		Example: "  tocsin policy list\n\n  tocsin policy list --namespace ns1",
		Args:    exactArgs(0, ""),
	}, policiesPath)
}

func newPolicyDelete(s *Streams) *cobra.Command {
	var f connectFlags
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Remove a policy from a hub",
		Long: `Remove a policy from a hub. Tokens that have it stay valid and lose what it allowed, at
once. It is no error when there is none.`,
		Example: "  tocsin policy delete team-a",
		Args:    policyArgs(1, "the NAME of the policy"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			a, err := c.do(cmd.Context(), http.MethodDelete, policiesPath+"/"+args[0], nil, nil)
			if err != nil {
				return err
			}
			warn(s.Err, a)
			_, err = fmt.Fprintf(s.Out, "Policy %s is removed.\n", visible(args[0]))
			return err
		},
	}
	f.register(cmd)
	return cmd
}

// shownFile is how a file is called in messages.
func shownFile(name string) string {
	if name == "-" {
		return "standard input"
	}
	return name
}

// readPolicy returns the text of a file, or of standard input for "-".
func readPolicy(in io.Reader, name string) (string, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("read policy: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, policy.MaxBytes+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read policy: %w", err)
	case len(b) > policy.MaxBytes:
		return "", fmt.Errorf("read policy: %s is larger than %d KiB", shownFile(name), policy.MaxBytes>>10)
	}
	return string(b), nil
}

// policyError puts the file before each line of the errors of a policy's text.
func policyError(file string, err error) error {
	problems, ok := errors.AsType[policy.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", file, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s is no valid policy:", file)
	for _, p := range problems {
		b.WriteString("\n" + problemLine(file, p))
	}
	return errors.New(b.String())
}

// problemLine is one problem in the form that editors understand.
func problemLine(file string, p policy.Problem) string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", file, visible(p.Message))
	}
	return fmt.Sprintf("%s:%d:%d: %s", file, p.Line, p.Column, visible(p.Message))
}

// visibleLines is visible for a text of several lines.
func visibleLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = visible(strings.ReplaceAll(line, "\t", "  "))
	}
	return strings.Join(lines, "\n")
}
