package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/eventfields"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

const rulesFieldsLong = `Print the fields of events that rules may ask for, with their types: those that the hub itself
knows, and with --plugin or --hub those that plugins extract.

SOURCE is the event source whose events have the field: "tocsin" for the audit log of Vault
and OpenBao, notifications and what applications publish, that of a source plugin for its
events. "all" stands for all of them. An argument in brackets is a key or an index; with "?"
it can be left out.

--hub asks a running hub for the fields of its plugins; the token needs read on
sys/rule-fields. Everything else needs no hub.`

const rulesFieldsExample = `  tocsin rules fields

  # What do audit entries tell about tokens?
  tocsin rules fields --source tocsin | grep auth

  # The fields for events of a plugin, with its own.
  tocsin rules fields --source k8s_audit --plugin /usr/share/falco/plugins/libk8saudit.so

  # Those of the plugins of a hub, for scripts.
  tocsin rules fields --hub -o json | jq -r '.[].usage'`

func newRulesFields(s *Streams) *cobra.Command {
	var (
		f       connectFlags
		source  string
		plugins []string
		hub     bool
		level   = defaultPluginLevel
	)
	format := answerText
	cmd := &cobra.Command{
		Use:     "fields",
		Short:   "Print the fields that rules may ask for",
		Long:    rulesFieldsLong,
		Example: rulesFieldsExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if hub && len(plugins) > 0 {
				return usagef(cmd, "--hub and --plugin cannot be used together: a hub has plugins of its own")
			}
			var list api.RuleFields
			if hub {
				var err error
				if list, err = hubFields(cmd.Context(), &f, source); err != nil {
					return err
				}
			} else {
				var known []*sourceplugin.Description
				for _, file := range plugins {
					d, err := describePlugin(cmd.Context(), s, file, level)
					if err != nil {
						return err
					}
					known = append(known, d)
				}
				list.Fields, list.Problems = eventfields.List(source, known...)
				if source != "" && !slices.Contains(rule.NewCompiler(known, false).Sources(), source) {
					list.Problems = append(list.Problems, fmt.Sprintf("no plugin that is known here has the event source %q, so these are the fields that all events have; name it with --plugin", source))
				}
			}
			for _, problem := range list.Problems {
				fmt.Fprintf(s.Err, "Note: %s.\n", visible(problem))
			}
			for _, name := range list.NotStarted {
				fmt.Fprintf(s.Err, "Note: the plugin of the source %s has not been started yet, so its fields are not known.\n", visible(name))
			}
			if format == answerJSON {
				return printJSON(s.Out, list.Fields)
			}
			return printRuleFields(s, list.Fields)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&source, "source", "", "only fields of events of this event source")
	flags.StringArrayVar(&plugins, "plugin", nil, "library (.so) or executable of a plugin whose fields are printed as well; repeatable")
	flags.BoolVar(&hub, "hub", false, "ask the hub for the fields of its plugins")
	flags.VarP(&format, "output", "o", "text (for people) or json (for scripts)")
	flags.Var(&level, "plugin-log-level", "least important messages of plugins on standard error: debug, info, warn or error")
	f.register(cmd)
	return cmd
}

// hubFields asks a hub.
func hubFields(ctx context.Context, f *connectFlags, source string) (list api.RuleFields, err error) {
	c, err := f.resolve()
	if err != nil {
		return list, err
	}
	v, err := c.client()
	if err != nil {
		return list, err
	}
	var query url.Values
	if source != "" {
		query = url.Values{"source": {source}}
	}
	raw, err := v.Own(ctx, http.MethodGet, "rule-fields", query, nil)
	if err != nil {
		return list, needs(c.advise(err), "read on sys/rule-fields")
	}
	if err := decodeJSON(raw, &list); err != nil {
		return list, c.advise(err)
	}
	return list, nil
}

// describePlugin starts a plugin, without a config, to have it say which fields it has.
func describePlugin(ctx context.Context, s *Streams, file string, level logLevelFlag) (_ *sourceplugin.Description, err error) {
	found, err := findPlugin(file)
	if err != nil {
		return nil, err
	}
	l := &pluginLaunch{file: found, log: newLogger(s.Err, config.Log{Level: config.LogLevel(level), Format: "text"})}
	program, err := l.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		err = errors.Join(err, program.Close(ending))
	}()
	return program.Describe(), nil
}

func printRuleFields(s *Streams, list []eventfields.Listed) error {
	t := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FIELD\tTYPE\tSOURCE\tDESCRIPTION")
	for _, f := range list {
		kind := f.Type
		if f.List {
			kind = "list of " + kind
		}
		sources := strings.Join(f.Sources, ",")
		if sources == "" {
			sources = "all"
		}
		about := f.Description
		if f.Plugin != "" {
			about = "(" + f.Plugin + ") " + about
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", visible(f.Usage), visible(kind), visible(sources), visible(about))
	}
	return t.Flush()
}
