package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

// answerFlag is the value of --output of commands that print what a hub answered.
type answerFlag string

const (
	answerText answerFlag = "text"
	answerJSON answerFlag = "json"
)

// register adds the flag. It may also be called --format, as in Vault's commands.
func (f *answerFlag) register(cmd *cobra.Command) {
	*f = answerText
	flags := cmd.Flags()
	flags.VarP(f, "output", "o", "text (for people) or json (for scripts)")
	flags.Var(f, "format", "the same as --output")
	flags.Lookup("format").Hidden = true
}

func (f *answerFlag) String() string { return string(*f) }
func (f *answerFlag) Type() string   { return "format" }
func (f *answerFlag) Set(v string) error {
	switch a := answerFlag(v); a {
	case answerText, answerJSON:
		*f = a
		return nil
	case "table": // as Vault's commands call it
		*f = answerText
		return nil
	}
	return errors.New("must be text or json")
}

// printJSON prints a value, indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// decodeJSON reads a JSON text; numbers stay as they are written.
func decodeJSON(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", vaultclient.ErrNoAnswer, err)
	}
	return nil
}

// printEnvelope prints a whole answer as "vault -format=json" does, without the
// members of data or auth that are named.
func printEnvelope(w io.Writer, a *vaultclient.Answer, without ...string) error {
	var envelope map[string]any
	if err := decodeJSON(a.Body, &envelope); err != nil {
		return err
	}
	for _, part := range []string{"data", "auth"} {
		if members, ok := envelope[part].(map[string]any); ok {
			for _, name := range without {
				delete(members, name)
			}
		}
	}
	return printJSON(w, envelope)
}

// warn prints the warnings of an answer.
func warn(w io.Writer, a *vaultclient.Answer) {
	for _, warning := range a.Warnings {
		fmt.Fprintf(w, "Warning: %s\n", warning)
	}
}

// printNames prints names, one per line or as an array.
func printNames(w io.Writer, format answerFlag, names []string) error {
	if format == answerJSON {
		return printJSON(w, names)
	}
	for _, name := range names {
		if _, err := fmt.Fprintln(w, visible(name)); err != nil {
			return err
		}
	}
	return nil
}

// listCommand completes a command that prints what a hub lists at a path.
func listCommand(s *Streams, cmd *cobra.Command, path string) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
	)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := f.resolve()
		if err != nil {
			return err
		}
		names, err := c.list(cmd.Context(), path)
		if err != nil {
			return err
		}
		return printNames(s.Out, format, names)
	}
	f.register(cmd)
	format.register(cmd)
	return cmd
}

// row is one line of a table of names and values.
type row struct{ name, value string }

// printRows prints rows as columns, those without a value not.
func printRows(w io.Writer, rows ...row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if r.value != "" {
			fmt.Fprintf(t, "%s\t%s\n", r.name, r.value)
		}
	}
	return t.Flush()
}

// listed joins values from a hub for a terminal.
func listed(values []string) string {
	shown := make([]string, len(values))
	for i, v := range values {
		shown[i] = visible(v)
	}
	return strings.Join(shown, ", ")
}

// pairs prints a map for a terminal.
func pairs(m map[string]string) string {
	var all []string
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return listed(all)
}

// seconds prints a number of seconds as a duration, "" for 0.
func seconds(n int64) string {
	if n == 0 {
		return ""
	}
	return config.Duration(time.Duration(n) * time.Second).String()
}

// keyValues is a repeatable flag KEY=VALUE.
type keyValues map[string]string

func (m *keyValues) String() string { return "" }
func (m *keyValues) Type() string   { return "key=value" }
func (m *keyValues) Set(v string) error {
	key, value, ok := strings.Cut(v, "=")
	if !ok || key == "" {
		return errors.New("must be KEY=VALUE")
	}
	if *m == nil {
		*m = make(keyValues)
	}
	(*m)[key] = value
	return nil
}

// list returns KEY=VALUE texts, sorted.
func (m keyValues) list() []string {
	list := make([]string, 0, len(m))
	for key, value := range m {
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return list
}

// durationFlag is a duration of at least a second, in which days are allowed. Zero
// means that none is given.
type durationFlag config.Duration

func (f *durationFlag) String() string {
	if *f == 0 {
		return ""
	}
	return config.Duration(*f).String()
}
func (f *durationFlag) Type() string { return "duration" }
func (f *durationFlag) Set(v string) error {
	d, err := config.ParseDuration(v)
	if err == nil && d != 0 && time.Duration(d) < time.Second {
		err = fmt.Errorf("%q is less than a second", v)
	}
	*f = durationFlag(d)
	return err
}

// forVault returns the duration as Vault's API takes it.
func (f durationFlag) forVault() string {
	return fmt.Sprintf("%ds", int64(time.Duration(f)/time.Second))
}
