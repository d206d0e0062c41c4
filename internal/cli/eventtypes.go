package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
)

const eventTypesLong = `Print the event types that a hub knows: those of the program and of Vault's plugins
("built-in"), those that its configuration describes ("configured"), and those that were
seen in what applications and plugins publish ("learnt"). GLOB selects some of them; *
stands for any text.

What was learnt is that of the namespace of the request and of those below it in which
the token may read sys/event-types. The token needs read on sys/event-types.

EVENTS is about how many were published; what an audit log tells is not counted.`

const eventTypesExample = `  tocsin events types

  tocsin events types 'kv-v2/*'

  # What applications have published that nobody has described.
  tocsin events types --origin learnt

  # Everything about one type.
  tocsin events types show kv-v2/data-write

  # For scripts.
  tocsin events types -o json 'shop/*' | jq -r '.[].type'`

const eventTypesPath = "event-types"

// eventType is what a hub says about one.
type eventType struct {
	Type         string          `json:"type"`
	Origin       string          `json:"origin"`
	Description  string          `json:"description"`
	Since        string          `json:"since"`
	VaultSince   string          `json:"vault_since"`
	Metadata     []eventTypeKey  `json:"metadata"`
	ContentTypes []string        `json:"content_types"`
	Example      json.RawMessage `json:"example"`
	Schema       *struct {
		Mode   string          `json:"mode"`
		For    string          `json:"for"`
		Schema json.RawMessage `json:"schema"`
	} `json:"schema"`
	Seen *struct {
		Events     uint64    `json:"events"`
		First      time.Time `json:"first"`
		Last       time.Time `json:"last"`
		Source     string    `json:"source"`
		Namespaces []string  `json:"namespaces"`
		More       uint64    `json:"more"`
	} `json:"seen"`
}

type eventTypeKey struct {
	Key     string   `json:"key"`
	Meaning string   `json:"meaning"`
	Kinds   []string `json:"kinds"`
}

func newEventTypes(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
		origin string
	)
	cmd := &cobra.Command{
		Use:     "types [GLOB]",
		Short:   "Print the event types that a hub knows",
		Long:    eventTypesLong,
		Example: eventTypesExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef(cmd, "unexpected argument %q; put a GLOB with * into quotes", args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if len(args) == 1 {
				query.Set("type", args[0])
			}
			switch origin {
			case "":
			case "built-in", "configured", "learnt":
				query.Set("origin", origin)
			default:
				return usagef(cmd, "--origin must be built-in, configured or learnt, not %q", origin)
			}
			c, err := f.resolve()
			if err != nil {
				return err
			}
			types, raw, err := c.eventTypes(cmd.Context(), query)
			if err != nil {
				return err
			}
			if format == answerJSON {
				return printJSON(s.Out, raw)
			}
			return printEventTypes(s, types)
		},
	}
	f.register(cmd)
	format.register(cmd)
	cmd.Flags().StringVar(&origin, "origin", "", "only those of this `origin`: built-in, configured or learnt")
	cmd.AddCommand(newEventTypesShow(s))
	return cmd
}

func newEventTypesShow(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
	)
	cmd := &cobra.Command{
		Use:   "show TYPE",
		Short: "Print everything about an event type",
		Long: `Print everything that a hub knows about an event type: its metadata, an example, what was
seen of it, and the JSON Schema it is checked against, if there is one. The values of the
example are made up: the catalogue has none of events.

The token needs read on sys/event-types/TYPE.`,
		Example: `  tocsin events types show kv-v2/data-write

  # The JSON Schema of a type.
  tocsin events types show -o json shop/order | jq .schema.schema`,
		Args: exactArgs(1, "the event TYPE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return usagef(cmd, "the event TYPE is empty")
			}
			c, err := f.resolve()
			if err != nil {
				return err
			}
			raw, err := c.own(cmd.Context(), eventTypesPath+"/"+args[0], nil)
			if refused, ok := errors.AsType[*client.StatusError](err); ok && refused.StatusCode == http.StatusNotFound && len(refused.Messages) > 0 {
				return &adviceError{fmt.Errorf("the event type %q is not known%s", args[0], c.inNamespace()), `"tocsin events types" prints those that are.`}
			} else if err != nil {
				return needs(c.advise(err), "read on sys/event-types/"+args[0])
			}
			if format == answerJSON {
				return printJSON(s.Out, json.RawMessage(raw))
			}
			var t eventType
			if err := decodeJSON(raw, &t); err != nil {
				return c.advise(err)
			}
			return printEventType(s.Out, &t)
		},
	}
	f.register(cmd)
	format.register(cmd)
	return cmd
}

// own gets a page of the hub's own API. What to do about an error is not said yet.
func (c *connection) own(ctx context.Context, path string, query url.Values) ([]byte, error) {
	v, err := c.client()
	if err != nil {
		return nil, err
	}
	return v.Own(ctx, http.MethodGet, path, query, nil)
}

// eventTypes returns all types that a query selects, decoded and as they were sent.
func (c *connection) eventTypes(ctx context.Context, query url.Values) (types []eventType, raw []json.RawMessage, err error) {
	raw = []json.RawMessage{} // [] rather than null
	for {
		text, err := c.own(ctx, eventTypesPath, query)
		if err != nil {
			return nil, nil, needs(c.advise(err), "read on sys/event-types")
		}
		var page struct {
			Types []json.RawMessage `json:"types"`
			More  bool              `json:"more"`
		}
		if err := decodeJSON(text, &page); err != nil {
			return nil, nil, c.advise(err)
		}
		for _, one := range page.Types {
			var t eventType
			if err := decodeJSON(one, &t); err != nil {
				return nil, nil, c.advise(err)
			}
			types, raw = append(types, t), append(raw, one)
		}
		if !page.More || len(page.Types) == 0 {
			return types, raw, nil
		}
		query.Set("after", types[len(types)-1].Type)
	}
}

func printEventTypes(s *Streams, types []eventType) error {
	if len(types) == 0 {
		fmt.Fprintln(s.Err, "No event type that the hub knows fits.")
		return nil
	}
	t := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TYPE\tORIGIN\tEVENTS\tSCHEMA\tDESCRIPTION")
	for i := range types {
		one := &types[i]
		events, schema := "-", "-"
		if one.Seen != nil {
			events = strconv.FormatUint(one.Seen.Events, 10)
		}
		if one.Schema != nil {
			schema = visible(one.Schema.Mode)
		}
		description := one.Description
		if description == "" {
			description = "metadata: " + cmp.Or(keyNames(one.Metadata), "none")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", visible(one.Type), visible(one.Origin), events, schema, visible(description))
	}
	return t.Flush()
}

func keyNames(keys []eventTypeKey) string {
	const most = 6
	var names []string
	for i, k := range keys {
		if i == most {
			names = append(names, "...")
			break
		}
		names = append(names, k.Key)
	}
	return strings.Join(names, ", ")
}

func printEventType(w io.Writer, t *eventType) error {
	since := t.Since
	if t.VaultSince != "" {
		since += " (Vault " + t.VaultSince + ")"
	}
	rows := []row{
		{"type", visible(t.Type)},
		{"origin", visible(t.Origin)},
		{"description", visible(t.Description)},
		{"since", visible(since)},
		{"content types", listed(t.ContentTypes)},
	}
	if s := t.Seen; s != nil {
		rows = append(rows,
			row{"events", fmt.Sprintf("about %d, from %s to %s", s.Events, s.First.Local().Format(time.DateTime), s.Last.Local().Format(time.DateTime))},
			row{"first source", visible(s.Source)},
			row{"namespaces", namespacesShown(s.Namespaces)},
		)
		if s.More > 0 {
			rows = append(rows, row{"more metadata", fmt.Sprintf("in %d events, not kept", s.More)})
		}
	}
	if t.Schema != nil {
		rows = append(rows, row{"schema", fmt.Sprintf("for %s; events that do not adhere: %s", visible(t.Schema.For), visible(t.Schema.Mode))})
	}
	if err := printRows(w, rows...); err != nil {
		return err
	}
	if len(t.Metadata) > 0 {
		fmt.Fprint(w, "\nMetadata:\n")
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, k := range t.Metadata {
			fmt.Fprintf(table, "  %s\t%s", visible(k.Key), listed(k.Kinds))
			if k.Meaning != "" {
				fmt.Fprintf(table, "\t%s", visible(k.Meaning))
			}
			fmt.Fprintln(table)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	if err := printPart(w, "Example, with values that are made up", t.Example); err != nil {
		return err
	}
	if t.Schema != nil {
		return printPart(w, "Schema", t.Schema.Schema)
	}
	return nil
}

// printPart prints a JSON text below a heading.
func printPart(w io.Writer, heading string, text json.RawMessage) error {
	if len(text) == 0 {
		return nil
	}
	var b bytes.Buffer
	if err := json.Indent(&b, text, "  ", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s:\n  %s\n", heading, visibleLines(b.String()))
	return err
}

// namespacesShown prints namespaces, of which that of root has no name.
func namespacesShown(namespaces []string) string {
	shown := make([]string, len(namespaces))
	for i, n := range namespaces {
		shown[i] = cmp.Or(n, "root")
	}
	return listed(shown)
}
