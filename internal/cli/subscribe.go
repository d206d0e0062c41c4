package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
)

const subscribeLong = `Subscribe to events and print one per line until Ctrl-C.

TYPE selects events by their type; * stands for any text: 'kv-v2/*', '*/delete', '*'.
Types are listed in docs/event-types.md.

The lines are Vault's event envelopes, so what reads "vault events subscribe" reads them
too. Vault's flags work with one dash and with two.

When the connection ends, for example because the hub restarts, the command connects
again and goes on behind the last event, so each event is printed once. If the hub has
removed events in the meantime, that is said on standard error.

Filters are go-bexpr expressions over event_type, operation, source_plugin_mount,
data_path, namespace and source_plugin_is_local. Values with a dash need quotes.

The token is taken from --token-file, $TOCSIN_TOKEN or "tocsin login". For a "tocsin dev" of
the same user on this machine nothing has to be set.

When the token is revoked, expires, or loses the right to subscribe, the hub ends the
subscription at once; the command then says why and does not try again.

Exit codes: 0 ended by Ctrl-C, --count or a closed pipe; 1 the hub cannot be reached,
refuses, or has ended the subscription; 2 wrong usage.`

const subscribeExample = `  tocsin events subscribe 'kv-v2/*'

  # Vault's flags.
  tocsin events subscribe -namespaces='*' -filter='operation == "data-write"' 'kv*'

  # Everything of the last hour, then live; stop after 100 events.
  tocsin events subscribe --since 1h --count 100 '*'

  # Go on where another run ended: its last "sequence".
  tocsin events subscribe --sequence --since "$POSITION" '*' >> events.jsonl

  # CloudEvents, with the audit entries that the notifications come from.
  tocsin events subscribe --format cloudevents 'audit/*'

  # For people.
  tocsin events subscribe --output pretty '*'`

type subscribeFlags struct {
	connectFlags
	namespaces []string
	filter     string
	since      string
	format     formatFlag
	output     outputFlag
	sequence   bool
	count      int
}

func newSubscribe(s *Streams) *cobra.Command {
	f := subscribeFlags{format: formatFlag(client.FormatVault), output: outputJSON}
	cmd := &cobra.Command{
		Use:     "subscribe TYPE",
		Short:   "Print events as they happen",
		Long:    subscribeLong,
		Example: subscribeExample,
		Args:    exactArgs(1, "the event TYPE (\"*\" for all)"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return usagef(cmd, "the event TYPE is empty; '*' means all")
			}
			if f.count < 0 {
				return usagef(cmd, "--count %d: the number of events cannot be negative", f.count)
			}
			return f.run(cmd.Context(), s, args[0])
		},
	}
	flags := cmd.Flags()
	f.register(cmd)
	flags.StringArrayVar(&f.namespaces, "namespaces", nil, "`glob` of further namespaces, relative to the request's; repeatable")
	flags.StringVar(&f.filter, "filter", "", "boolean `expression` that events must satisfy")
	flags.StringVar(&f.since, "since", "", "begin in the past: a `position`, an event id, an RFC 3339 time, a duration such as 1h, or oldest")
	flags.Var(&f.format, "format", "encoding of the events: vault or cloudevents")
	flags.VarP(&f.output, "output", "o", "json (one event per line) or pretty (for people)")
	flags.BoolVar(&f.sequence, "sequence", false, "keep the attribute \"sequence\", the position for --since")
	flags.IntVarP(&f.count, "count", "n", 0, "stop after this many events; 0 means never")
	return cmd
}

func (f *subscribeFlags) run(ctx context.Context, s *Streams, eventType string) error {
	c, err := f.resolve()
	if err != nil {
		return err
	}
	sub, err := client.Subscribe(ctx, eventType, client.Options{
		Address:    c.address,
		Token:      c.token,
		Namespace:  c.namespace,
		Namespaces: f.namespaces,
		Filter:     f.filter,
		Since:      sinceValue(f.since),
		Format:     client.Format(f.format),
		HTTPClient: &http.Client{Transport: c.transport},
		Notify:     func(n client.Notice) { reportNotice(s.Err, n) },
	})
	if err != nil {
		return c.advise(err)
	}
	defer sub.Close()
	if isTerminal(s.Out) && isTerminal(s.Err) {
		fmt.Fprintf(s.Err, "Subscribed to %s at %s. Waiting for events; Ctrl-C ends it.\n", eventType, c.address)
	}
	p := newPrinter(s.Out, f.output)
	for n := 0; f.count == 0 || n < f.count; n++ {
		m, err := sub.Next(ctx)
		if err != nil {
			return c.advise(err)
		}
		if err := p.message(m, f.sequence); err != nil {
			return err
		}
	}
	return nil
}

// sinceValue allows days in durations, "7d", which the server does not.
func sinceValue(v string) string {
	if d, err := config.ParseDuration(v); err == nil {
		return time.Duration(d).String()
	}
	return v
}

// reportNotice tells a person what happens to the connection.
func reportNotice(w io.Writer, n client.Notice) {
	switch n.Kind {
	case client.Disconnected:
		fmt.Fprintf(w, "Connection lost: %v. Connecting again in %v.\n", n.Err, n.Retry.Round(100*time.Millisecond))
	case client.Reconnected:
		fmt.Fprintln(w, "Connected again.")
	case client.Gap:
		fmt.Fprintf(w, "Warning: events are missing: %v\n", n.Err)
	}
}

// formatFlag is the value of --format.
type formatFlag client.Format

func (f *formatFlag) String() string { return string(*f) }
func (f *formatFlag) Type() string   { return "format" }
func (f *formatFlag) Set(v string) error {
	switch client.Format(v) {
	case client.FormatVault, client.FormatCloudEvents:
		*f = formatFlag(v)
		return nil
	}
	return errors.New("must be vault or cloudevents")
}

// outputFlag is the value of --output.
type outputFlag string

const (
	outputJSON   outputFlag = "json"
	outputPretty outputFlag = "pretty"
)

func (f *outputFlag) String() string { return string(*f) }
func (f *outputFlag) Type() string   { return "output" }
func (f *outputFlag) Set(v string) error {
	switch o := outputFlag(v); o {
	case outputJSON, outputPretty:
		*f = o
		return nil
	}
	return errors.New("must be json or pretty")
}
