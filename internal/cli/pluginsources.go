package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/api"
)

func newPluginSources(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
	)
	cmd := &cobra.Command{
		Use:   "sources [NAME]",
		Short: "Show the source plugins of a hub and how they are",
		Long: `Show the plugins that are sources of events, those of plugins.sources in the configuration.
EVENTS are those that are durable since the hub was started, LAST is how old the newest of
them is, PROGRESS is what the plugin tells about its stream. PROBLEM is why it does not run
well; with NAME, the last one is shown also when it is over.`,
		Example: "  tocsin plugin sources\n\n  # Those that have a problem.\n  tocsin plugin sources -o json | jq -r '.[] | select(.failures > 0) | .name'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			v, err := c.client()
			if err != nil {
				return err
			}
			page, right := "plugin-sources", "list on sys/plugin-sources/"
			if len(args) == 1 {
				page, right = page+"/"+url.PathEscape(args[0]), "read on sys/plugin-sources/"+args[0]
			}
			raw, err := v.Own(cmd.Context(), http.MethodGet, page, nil, nil)
			if refused, ok := errors.AsType[*client.StatusError](err); ok && refused.StatusCode == http.StatusNotFound && len(refused.Messages) > 0 {
				return errors.New(strings.Join(refused.Messages, "; ") + `; "tocsin plugin sources" shows which there are`)
			}
			if err != nil {
				return needs(c.advise(err), right)
			}
			if len(args) == 1 {
				return printPluginSource(s, raw, format)
			}
			return printPluginSources(s, c, raw, format)
		},
	}
	f.register(cmd)
	format.register(cmd)
	return cmd
}

func printPluginSources(s *Streams, c *connection, raw []byte, format answerFlag) error {
	var list struct{ Sources []json.RawMessage }
	if err := decodeJSON(raw, &list); err != nil {
		return c.advise(err)
	}
	if format == answerJSON {
		if list.Sources == nil {
			list.Sources = []json.RawMessage{}
		}
		return printJSON(s.Out, list.Sources)
	}
	if len(list.Sources) == 0 {
		fmt.Fprintln(s.Err, "There are no source plugins. They are listed in the configuration, under plugins.sources.")
		return nil
	}
	coloured := colours(s.Out)
	t := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "NAME\tPLUGIN\t%s\tEVENTS\tLAST\tPROGRESS\tPROBLEM\n", colour(coloured, plain, "STATE"))
	for _, one := range list.Sources {
		var p api.PluginSource
		if err := decodeJSON(one, &p); err != nil {
			return c.advise(err)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", visible(p.Name), cmp.Or(visible(strings.TrimSpace(p.Plugin+" "+p.Version)), "-"),
			colour(coloured, pluginStateColour(p.State), visible(p.State)), p.Events, ago(p.LastEvent), visible(progressText(p.Progress)), visible(pluginProblem(&p)))
	}
	return t.Flush()
}

func printPluginSource(s *Streams, raw []byte, format answerFlag) error {
	if format == answerJSON {
		return printJSON(s.Out, json.RawMessage(raw))
	}
	var p api.PluginSource
	if err := decodeJSON(raw, &p); err != nil {
		return err
	}
	t := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", key, visible(value))
		}
	}
	row("name", p.Name)
	row("state", p.State+", for "+age(time.Since(p.Since).Seconds()))
	row("plugin", strings.TrimSpace(p.Plugin+" "+p.Version))
	if p.ID != 0 {
		row("plugin id", fmt.Sprint(p.ID))
	}
	row("event source", p.EventSource)
	row("events", fmt.Sprint(p.Events))
	row("dropped", fmt.Sprint(p.Dropped))
	row("last event", ago(p.LastEvent))
	if p.Resumable {
		row("position saved", ago(p.Saved))
	} else if !p.ExtractOnly {
		row("position saved", "the plugin cannot resume")
	}
	if p.Progress != nil {
		row("progress", progressText(p.Progress))
	}
	row("starts", fmt.Sprint(p.Starts))
	row("failures", fmt.Sprint(p.Failures))
	if p.LastError != nil {
		row("last error", p.LastError.Time.Local().Format(time.DateTime)+", "+p.LastError.Kind+": "+p.LastError.Reason)
	}
	if p.NextStart != nil {
		row("next start", "in "+age(max(0, time.Until(*p.NextStart).Seconds())))
	}
	return t.Flush()
}

func pluginStateColour(state string) string {
	switch state {
	case "running":
		return green
	case "waiting", "failed", "stuck":
		return red
	}
	return yellow
}

func ago(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return age(max(0, time.Since(*t).Seconds())) + " ago"
}

func progressText(p *api.PluginSourceProgress) string {
	if p == nil {
		return "-"
	}
	return strings.TrimSpace(fmt.Sprintf("%.1f%% %s", 100*p.Fraction, p.Text))
}

// pluginProblem is why it does not run well, "" if it does.
func pluginProblem(p *api.PluginSource) string {
	if p.LastError == nil || p.Failures == 0 && p.State != "stuck" {
		return ""
	}
	return p.LastError.Reason
}
