package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/api"
)

func newRulesList(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
	)
	cmd := &cobra.Command{
		Use:   "list [SLUG]",
		Short: "Show the rules of a hub, and how many alerts they have raised",
		Long: `Show the rules that judge the events of a hub, in the order in which they do, and what is
wrong with the files if they could not be loaded. ALERTS are those since the hub was started,
LAST is how old the newest of them is. A rule is active, disabled, or waiting for a plugin
that has not been started yet. With the SLUG of a rule, all of it is shown.`,
		Example: "  tocsin rules list\n\n  tocsin rules list vault-root-token-used\n\n  # Rules that have never raised an alert.\n  tocsin rules list -o json | jq -r '.rules[] | select(.alerts == 0) | .rule'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			page, right := "rules", "list on sys/rules/"
			if len(args) == 1 {
				page, right = page+"/"+url.PathEscape(args[0]), "read on sys/rules/"+args[0]
			}
			raw, err := c.rulesRequest(cmd, http.MethodGet, page, right, `"tocsin rules list" shows which there are`)
			switch {
			case err != nil:
				return err
			case format == answerJSON:
				return printJSON(s.Out, json.RawMessage(raw))
			case len(args) == 1:
				return printRule(s, raw)
			}
			return printRules(s, c, raw)
		},
	}
	f.register(cmd)
	format.register(cmd)
	return cmd
}

func newRulesReload(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
	)
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have a hub load its files of rules",
		Long: `Have a hub read its files of rules now. It does so by itself when they change, after a few
seconds. If there are mistakes in them they are printed, and the rules from before go on.`,
		Example: "  tocsin rules reload",
		Args:    exactArgs(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			raw, err := c.rulesRequest(cmd, http.MethodPost, "rules/reload", "update on sys/rules/reload", "")
			if refused, ok := errors.AsType[*client.StatusError](err); ok && refused.StatusCode == http.StatusBadRequest {
				return fmt.Errorf("the rules are not loaded, those from before judge:\n  %s", visible(strings.Join(refused.Messages, "\n  ")))
			}
			if err != nil {
				return err
			}
			if format == answerJSON {
				return printJSON(s.Out, json.RawMessage(raw))
			}
			var r api.RulesReloaded
			if err := decodeJSON(raw, &r); err != nil {
				return c.advise(err)
			}
			text := plural(r.Rules, "rule") + " from " + plural(r.Files, "file")
			if r.Unchanged {
				text += ", as before"
			}
			if r.Waiting > 0 {
				text += fmt.Sprintf("; %d more wait for a plugin", r.Waiting)
			}
			if r.Warnings > 0 {
				text += "; " + plural(r.Warnings, "warning") + ", see \"tocsin rules check\""
			}
			_, err = fmt.Fprintf(s.Out, "Loaded: %s.\n", text)
			return err
		},
	}
	f.register(cmd)
	format.register(cmd)
	return cmd
}

// rulesRequest makes a request about rules. advice is what to do when there is no such thing.
func (c *connection) rulesRequest(cmd *cobra.Command, method, page, right, advice string) ([]byte, error) {
	v, err := c.client()
	if err != nil {
		return nil, err
	}
	raw, err := v.Own(cmd.Context(), method, page, nil, nil)
	refused, ok := errors.AsType[*client.StatusError](err)
	switch {
	case ok && refused.StatusCode == http.StatusNotFound && len(refused.Messages) > 0:
		text := strings.Join(refused.Messages, "; ")
		if advice != "" {
			text += "; " + advice
		}
		return nil, errors.New(text)
	case ok && refused.StatusCode == http.StatusBadRequest:
		return nil, err
	case err != nil:
		return nil, needs(c.advise(err), right)
	}
	return raw, nil
}

func printRules(s *Streams, c *connection, raw []byte) error {
	var list api.RuleList
	if err := decodeJSON(raw, &list); err != nil {
		return c.advise(err)
	}
	if list.State == "off" {
		fmt.Fprintln(s.Err, "The hub has no rules. They are listed in the configuration, under rules.")
		return nil
	}
	coloured := colours(s.Out)
	t := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "SLUG\tPRIORITY\tSOURCE\t%s\tALERTS\tLAST\tFILE\n", colour(coloured, plain, "STATE"))
	for _, r := range list.Rules {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s:%d\n", visible(r.Slug), visible(r.Priority), visible(r.Source),
			colour(coloured, ruleStateColour(r.State), visible(r.State)), r.Alerts, ago(r.LastAlert), visible(r.File), r.Line)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if list.Problem != "" {
		fmt.Fprintf(s.Err, "Problem: %s\n", visible(list.Problem))
	}
	if list.Lag > 0 {
		fmt.Fprintf(s.Err, "%s not judged yet.\n", plural(int(list.Lag), "event"))
	}
	return nil
}

func ruleStateColour(state string) string {
	switch state {
	case "active":
		return green
	case "waiting":
		return red
	}
	return yellow
}

func printRule(s *Streams, raw []byte) error {
	var r api.Rule
	if err := decodeJSON(raw, &r); err != nil {
		return err
	}
	t := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", key, visible(strings.Join(strings.Fields(value), " ")))
		}
	}
	row("rule", r.Name)
	row("description", r.Description)
	row("type of alerts", "alert/"+r.Slug)
	row("source", r.Source)
	row("priority", r.Priority)
	row("tags", strings.Join(r.Tags, ", "))
	row("state", r.State)
	row("alerts", fmt.Sprint(r.Alerts))
	if r.Suppressed > 0 {
		row("held back", fmt.Sprint(r.Suppressed))
	}
	row("last alert", ago(r.LastAlert))
	row("file", fmt.Sprintf("%s:%d", r.File, r.Line))
	row("condition", r.Condition)
	row("output", r.Output)
	if w := r.Window; w != nil {
		text := fmt.Sprintf("%d conditions that follow", w.Then)
		switch {
		case w.Distinct != "":
			text = fmt.Sprintf("%d different %s", w.Count, w.Distinct)
		case w.Count > 0:
			text = fmt.Sprintf("%d events", w.Count)
		case len(w.New) > 0:
			text = "new " + strings.Join(w.New, ", ")
		}
		row("window", text+" within "+w.Within+by(w.By))
	}
	if h := r.Throttle; h != nil {
		row("throttle", "one alert in "+h.Every+by(h.By))
	}
	return t.Flush()
}

func by(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return " for each " + strings.Join(fields, ", ")
}
