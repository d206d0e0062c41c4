package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/config"
)

const sinkLong = `Sinks send events on: to a file, a webhook, Slack, Kafka. Each remembers how far it is, so
that a receiver that was away gets everything when it is back.

"add" and "set" define sinks while the hub runs; they survive restarts. Those of the hub's
configuration file are changed there, and are otherwise managed like the others.

What the receiver refuses becomes a dead letter ("dlq"), which can be sent once more. What
was sent can be sent again ("replay").

Looking needs read on sys/sinks/NAME; everything else, and dead letters, sudo as well.`

func newSink(s *Streams) *cobra.Command {
	return newGroup("sink", "Send events to files, webhooks, Slack, Kafka and others", sinkLong,
		newSinkList(s), newSinkShow(s), newSinkAdd(s), newSinkSet(s), newSinkRemove(s), newSinkTest(s),
		newSinkPause(s), newSinkDisable(s), newSinkResume(s), newSinkAttempts(s),
		newSinkLetters(s), newSinkRedrive(s), newSinkReplay(s), newSinkReplays(s), newSinkCancel(s),
		newSinkKinds(s), newSinkKeygen(s), newSinkVerify(s))
}

// sinkArgs checks that there is the NAME of a sink, and whatever else.
func sinkArgs(n int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := exactArgs(n, names)(cmd, args); err != nil {
			return err
		}
		return checkSinkName(cmd, args[0])
	}
}

func checkSinkName(cmd *cobra.Command, name string) error {
	if !config.IsSinkName(name) {
		return usagef(cmd, "%q is no name of a sink: it has 1 to 63 lower-case letters, digits, - and _, and begins with a letter or digit", visible(name))
	}
	return nil
}

// sinkCommand completes a command that makes requests about sinks.
func sinkCommand(cmd *cobra.Command, run func(cmd *cobra.Command, c *connection, args []string) error) *cobra.Command {
	f := new(connectFlags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := f.resolve()
		if err != nil {
			return err
		}
		return run(cmd, c, args)
	}
	f.register(cmd)
	return cmd
}

// noSinkError means that the hub has no such sink.
type noSinkError struct{ error }

// sink makes a request about a sink: path is what stands behind its name. The error says
// what to do.
func (c *connection) sink(ctx context.Context, method, name, path string, query url.Values, body, answer any) (raw []byte, err error) {
	v, err := c.client()
	if err != nil {
		return nil, err
	}
	page := "sinks"
	if name != "" {
		page += "/" + name
	}
	raw, err = v.Own(ctx, method, page+path, query, body)
	refused, ok := errors.AsType[*client.StatusError](err)
	switch {
	case err == nil && answer == nil:
		return raw, nil
	case err == nil:
		if err := decodeJSON(raw, answer); err != nil {
			return nil, c.advise(err)
		}
		return raw, nil
	case ok && refused.StatusCode == http.StatusNotFound && len(refused.Messages) > 0:
		what := errors.New(strings.Join(refused.Messages, "; "))
		if strings.HasPrefix(refused.Messages[0], "no such sink") {
			return nil, &adviceError{&noSinkError{what}, `"tocsin sink list" shows which there are.`}
		}
		return nil, what
	case ok && refused.StatusCode == http.StatusConflict:
		return nil, errors.New(strings.Join(refused.Messages, "; "))
	}
	return nil, needs(c.advise(err), sinkRight(method, name, path))
}

// sinkRight is what a request takes.
func sinkRight(method, name, path string) string {
	of := " on sys/sinks/" + name
	switch {
	case name == "":
		return "list" + of
	case method == http.MethodGet && strings.HasPrefix(path, "/dead-letters"):
		return "read and sudo" + of
	case method == http.MethodGet:
		return "read" + of
	case method == http.MethodDelete && !strings.HasPrefix(path, "/replays"):
		return "delete and sudo" + of
	case method == http.MethodPut:
		return "update and sudo, or create and sudo for a new sink," + of
	}
	return "update and sudo" + of
}

func newSinkList(s *Streams) *cobra.Command {
	var format answerFlag
	cmd := sinkCommand(&cobra.Command{
		Use:   "list",
		Short: "List the sinks of a hub and how they are",
		Long: `List the sinks of a hub. LAG is how many events of the journal a sink has not decided yet,
also those that are not for it, and how old the oldest of them is. DELIVERED counts since
the hub was started. DEAD is how many dead letters there are.`,
		Example: "  tocsin sink list\n\n  # Those that have a problem.\n  tocsin sink list -o json | jq -r '.[] | select(.health) | .name'",
		Args:    exactArgs(0, ""),
	}, func(cmd *cobra.Command, c *connection, _ []string) error {
		var list struct{ Sinks []json.RawMessage }
		if _, err := c.sink(cmd.Context(), http.MethodGet, "", "", nil, nil, &list); err != nil {
			return err
		}
		if format == answerJSON {
			if list.Sinks == nil {
				list.Sinks = []json.RawMessage{} // [] rather than null
			}
			return printJSON(s.Out, list.Sinks)
		}
		sinks := make([]api.Sink, len(list.Sinks))
		for i, one := range list.Sinks {
			if err := decodeJSON(one, &sinks[i]); err != nil {
				return c.advise(err)
			}
		}
		return printSinks(s, sinks)
	})
	format.register(cmd)
	return cmd
}

func printSinks(s *Streams, sinks []api.Sink) error {
	if len(sinks) == 0 {
		fmt.Fprintln(s.Err, `There are no sinks. "tocsin sink add --help" shows how to add one.`)
		return nil
	}
	coloured := colours(s.Out)
	t := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "NAME\tTYPE\t%s\tLAG\tDELIVERED\tDEAD\tPROBLEM\n", colour(coloured, plain, "STATE"))
	for i := range sinks {
		one := &sinks[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", visible(one.Name), cmp.Or(visible(one.Type), "-"), colour(coloured, stateColour(one.State), visible(one.State)),
			shortLag(one), one.Counts.Delivered, one.Letters, visible(problemOf(one)))
	}
	return t.Flush()
}

// The colours of a terminal, which are equally long so that columns stay columns.
const (
	plain  = "\x1b[39m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
)

func colour(coloured bool, of, text string) string {
	if !coloured {
		return text
	}
	return of + text + plain
}

func stateColour(state string) string {
	switch state {
	case "running":
		return green
	case "failing", "broken", "ended":
		return red
	}
	return yellow
}

func shortLag(s *api.Sink) string {
	if s.LagEvents == 0 {
		return "-"
	}
	if s.LagSeconds == 0 {
		return fmt.Sprint(s.LagEvents) // of what nobody reads, the age is not known
	}
	return fmt.Sprintf("%d (%s)", s.LagEvents, age(s.LagSeconds))
}

// age prints seconds as exactly as somebody wants to know.
func age(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		d = d.Round(100 * time.Millisecond)
	case d < time.Hour:
		d = d.Round(time.Second)
	default:
		d = d.Round(time.Minute)
	}
	text := d.String()
	if d >= time.Hour {
		text = strings.TrimSuffix(text, "0s")
	}
	return text
}

// problemOf is why events are not delivered, "" if they are.
func problemOf(s *api.Sink) string {
	switch {
	case s.Health != "":
		return s.Health
	case s.Held != nil:
		return s.Held.Reason
	case s.Outage != nil:
		return s.Outage.Reason
	}
	return ""
}

func newSinkShow(s *Streams) *cobra.Command {
	var (
		format     answerFlag
		all        bool
		definition bool
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "show NAME",
		Short: "Show how a sink is, and its definition",
		Long: `Show how a sink is, and its definition: what is not the default of the program, or
everything with --all. Secrets are not shown; "<secret>" stands in their place, and keeps
them when the definition is written back with "tocsin sink set".`,
		Example: `  tocsin sink show slack

  # Change the definition in an editor.
  tocsin sink show slack --definition > slack.yaml
  $EDITOR slack.yaml && tocsin sink set slack -f slack.yaml`,
		Args: sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		var sink api.Sink
		raw, err := c.sink(cmd.Context(), http.MethodGet, args[0], "", nil, nil, &sink)
		if err != nil {
			return err
		}
		if definition && len(sink.Definition) == 0 {
			return fmt.Errorf("the sink %s was removed; what is left has no definition", args[0])
		}
		switch {
		case format == answerJSON && definition:
			return printJSON(s.Out, sink.Definition)
		case format == answerJSON:
			return printJSON(s.Out, json.RawMessage(raw))
		}
		text, err := definitionYAML(sink.Definition, all)
		if err != nil {
			return c.advise(err)
		}
		if definition {
			_, err = io.WriteString(s.Out, text)
			return err
		}
		if err := printSink(s.Out, &sink); err != nil || text == "" {
			return err
		}
		_, err = fmt.Fprintf(s.Out, "\nDefinition:\n  %s\n", visibleLines(strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")))
		return err
	})
	format.register(cmd)
	cmd.Flags().BoolVar(&definition, "definition", false, "print the definition alone")
	cmd.Flags().BoolVar(&all, "all", false, "also the fields that have their defaults")
	return cmd
}

// definitionYAML returns a definition, without what has its default unless all is wanted.
func definitionYAML(definition json.RawMessage, all bool) (string, error) {
	if len(definition) == 0 {
		return "", nil
	}
	var document yaml.Node // JSON is YAML; its order is kept
	if err := yaml.Unmarshal(definition, &document); err != nil || len(document.Content) != 1 {
		return "", fmt.Errorf("the definition of the sink cannot be read: %w", err)
	}
	n := document.Content[0]
	if !all {
		withoutDefaults(n, sinkFields())
	}
	inBlocks(n)
	var b strings.Builder
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	err := e.Encode(n)
	return b.String(), err
}

// withoutDefaults takes out what has its default.
func withoutDefaults(n *yaml.Node, fields []config.Field) {
	if n.Kind == yaml.SequenceNode {
		for _, inner := range n.Content {
			withoutDefaults(inner, fields)
		}
		return
	}
	var kept []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := fieldOf(fields, key.Value)
		if field != nil && (field.Type == "section" || field.Type == "list" && field.Fields != nil) {
			withoutDefaults(value, field.Fields)
		}
		unset := value.Kind != yaml.ScalarNode && len(value.Content) == 0 || value.Kind == yaml.ScalarNode && (value.Value == "" || value.Value == "false" || value.Value == "0")
		if field == nil || value.Kind == yaml.ScalarNode && value.Value != field.Default && !(field.Default == "" && unset) || value.Kind != yaml.ScalarNode && !unset {
			kept = append(kept, key, value)
		}
	}
	n.Content = kept
}

// inBlocks lays a definition out as people write it.
func inBlocks(n *yaml.Node) {
	n.Style = 0
	if strings.Contains(n.Value, "\n") {
		n.Style = yaml.LiteralStyle
	}
	for _, inner := range n.Content {
		inBlocks(inner)
	}
}

// printSink says how a sink is.
func printSink(w io.Writer, s *api.Sink) error {
	origin := map[string]string{"api": "added while the hub ran", "file": "the configuration file of the hub", removedSink: "removed; its place in the journal and its dead letters are kept"}[s.Origin]
	at := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return moment(*t)
	}
	changed := at(s.Updated)
	if changed == at(s.Created) {
		changed = ""
	}
	rows := []row{
		{"name", visible(s.Name)},
		{"type", visible(s.Type)},
		{"defined in", cmp.Or(origin, visible(s.Origin))},
		{"added", at(s.Created)},
		{"changed", changed},
		{"state", stateInWords(s)},
		{"problem", visible(s.Health)},
		{"storage", visible(s.Problem)},
		{"filter", visible(s.Filter)},
		{"lag", lagInWords(s)},
		{"position", visible(s.Position)},
	}
	if s.Origin != removedSink {
		rows = append(rows, row{"delivered", fmt.Sprintf("%d since the hub was started%s", s.Counts.Delivered, also(
			count{s.Counts.Retried, "sent once more"}, count{s.Counts.Filtered, "not for this sink"}, count{s.Counts.Missed, "missed, because the journal had removed them"}))})
	}
	if s.InFlight > 0 {
		rows = append(rows, row{"on their way", fmt.Sprintf("%d in %s", s.InFlight, plural(s.Requests, "request"))})
	}
	letters := "none"
	if s.Letters > 0 {
		letters = fmt.Sprintf("%d, %s (\"tocsin sink dlq list %s\")", s.Letters, bytesInWords(s.Bytes), visible(s.Name))
	}
	rows = append(rows, row{"dead letters", letters})
	for _, r := range s.Replays {
		rows = append(rows, row{"replay", replayInWords(r)})
	}
	for _, r := range s.Redrives {
		rows = append(rows, row{"redrive", redriveInWords(r)})
	}
	return printRows(w, rows...)
}

// plural says how many of something there are.
func plural[N int | uint64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func moment(t time.Time) string { return t.Local().Format(time.DateTime) }

type count struct {
	n    uint64
	what string
}

// also lists what there is more of.
func also(counts ...count) string {
	var all []string
	for _, c := range counts {
		if c.n > 0 {
			all = append(all, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, ", ") + ")"
}

func bytesInWords(n uint64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

func lagInWords(s *api.Sink) string {
	if s.LagEvents == 0 {
		return "none"
	}
	if s.LagSeconds == 0 {
		return plural(s.LagEvents, "event") + " of the journal after its place"
	}
	return fmt.Sprintf("%s of the journal after its place, the oldest %s old", plural(s.LagEvents, "event"), age(s.LagSeconds))
}

func stateInWords(s *api.Sink) string {
	text := visible(s.State)
	if h := s.Held; h != nil {
		text = visible(h.By) + " since " + moment(h.Since)
		if h.ByEndpoint {
			text += " by its receiver"
		}
		if h.Reason != "" {
			text += ": " + visible(h.Reason)
		}
		var definition struct{ Disabled bool }
		if err := json.Unmarshal(s.Definition, &definition); err == nil && definition.Disabled {
			text += "; set it to false there"
		} else {
			text += fmt.Sprintf(" (\"tocsin sink resume %s\")", visible(s.Name))
		}
	}
	if o := s.Outage; o != nil {
		text += fmt.Sprintf("; nothing is delivered since %s, after %s", moment(o.Since), plural(o.Attempts, "failed attempt"))
		if o.Reason != "" {
			text += ": " + visible(o.Reason)
		}
		if o.Next != nil && s.Held == nil {
			if in := time.Until(*o.Next); in > 0 {
				text += fmt.Sprintf("; the next is in %s", age(in.Seconds()))
			}
		}
	}
	return text
}
