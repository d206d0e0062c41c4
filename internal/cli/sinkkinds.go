package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/config"
)

const sinkKindsPath = "sink-kinds"

func newSinkKinds(s *Streams) *cobra.Command {
	var format answerFlag
	cmd := sinkCommand(&cobra.Command{
		Use:   "kinds [TYPE]",
		Short: "Explain the types of sinks and their keys",
		Long: `Print the types of sinks that the hub has, or all keys of one type, with their meanings,
defaults and bounds. "common" has those that every sink has.`,
		Example: "  tocsin sink kinds\n\n  tocsin sink kinds webhook\n\n  tocsin sink kinds common",
		Args: func(cmd *cobra.Command, args []string) error {
			return exactArgs(min(len(args), 1), "")(cmd, args)
		},
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		raw, err := c.own(cmd.Context(), sinkKindsPath, nil)
		if err != nil {
			return c.advise(err)
		}
		var kinds api.SinkKinds
		if err := decodeJSON(raw, &kinds); err != nil {
			return c.advise(err)
		}
		if len(args) == 0 {
			if format == answerJSON {
				return printJSON(s.Out, json.RawMessage(raw))
			}
			return printKinds(s.Out, kinds.Kinds)
		}
		var names []string
		for _, k := range append(kinds.Kinds, config.SinkKind{Type: "common", Fields: kinds.Common}) {
			if string(k.Type) != args[0] {
				names = append(names, string(k.Type))
				continue
			}
			if format == answerJSON {
				return printJSON(s.Out, k)
			}
			return printKind(s.Out, k)
		}
		if near := config.Nearest(args[0], names); near != "" {
			return usagef(cmd, "there is no type %q of sinks; did you mean %q?", visible(args[0]), near)
		}
		return usagef(cmd, "there is no type %q of sinks; there are %s", visible(args[0]), strings.Join(names, ", "))
	})
	format.register(cmd)
	return cmd
}

func printKinds(w io.Writer, kinds []config.SinkKind) error {
	about := map[config.SinkType]string{
		config.SinkTypeFile: "lines in a file, rotated", config.SinkTypeStdout: "lines on the standard output of the hub",
		config.SinkTypeWebhook: "a URL: one event or many, signed", config.SinkTypeTemplate: "a URL, with a request that you write: Slack, PagerDuty, Alertmanager",
		config.SinkTypeKafka: "a topic, as JSON, Avro or protobuf", config.SinkTypeNATS: "a stream of JetStream",
		config.SinkTypeOTLPLogs: "an OpenTelemetry collector, as log records",
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TYPE\tSENDS TO")
	for _, k := range kinds {
		note := about[k.Type]
		if k.File {
			note += " (only in the configuration file)"
		}
		fmt.Fprintf(t, "%s\t%s\n", visible(string(k.Type)), note)
	}
	return t.Flush()
}

// kindWidth is where explanations are wrapped.
const kindWidth = 100

func printKind(w io.Writer, k config.SinkKind) error {
	var b strings.Builder
	if k.File {
		fmt.Fprintf(&b, "Sinks of type %s can only be in the configuration file of the hub.\n\n", visible(string(k.Type)))
	}
	section := ""
	if k.Type != "common" {
		section = string(k.Type) + "."
	}
	appendFields(&b, section, k.Fields)
	_, err := io.WriteString(w, b.String())
	return err
}

func appendFields(b *strings.Builder, section string, fields []config.Field) {
	for _, f := range fields {
		kind := f.Type
		switch {
		case f.Element != "":
			kind = "list of " + f.Element + "s"
			if f.Element == "text" || f.Element == "texts" {
				kind = "list of texts"
			}
		case len(f.OneOf) > 0:
			kind = strings.Join(f.OneOf, ", ")
		}
		fmt.Fprintf(b, "%s  (%s)\n", visible(section+f.Key), visible(kind))
		text := f.Doc
		for _, more := range []struct{ label, value string }{{"Default", f.Default}, {"From", f.Min}, {"To", f.Max}, {"0", f.Zero}} {
			if more.value != "" && f.Fields == nil {
				text += fmt.Sprintf(" %s: %s.", more.label, more.value)
			}
		}
		line := "   "
		for word := range strings.FieldsSeq(visible(text)) {
			if len(line)+1+len(word) > kindWidth {
				fmt.Fprintln(b, line)
				line = "   "
			}
			line += " " + word
		}
		fmt.Fprintln(b, line)
		switch f.Type {
		case "section":
			appendFields(b, section+f.Key+".", f.Fields)
		case "list":
			appendFields(b, section+f.Key+"[].", f.Fields)
		}
	}
}
