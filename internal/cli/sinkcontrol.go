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
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/api"
)

func newSinkRemove(s *Streams) *cobra.Command {
	var (
		yes, drop, keep bool
		format          answerFlag
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a sink",
		Long: `Remove a sink that was added while the hub ran. Its place in the journal and its dead
letters are kept: it stays on the list, as removed, and a later sink of that name goes on
there. With --drop they are removed as well, also those of a sink that is removed already.

On a terminal it asks; anywhere else --yes has to say that it is meant.`,
		Example: "  tocsin sink remove deploys\n\n  tocsin sink remove deploys --drop --yes",
		Args:    sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		name := args[0]
		if drop && keep {
			return usagef(cmd, "--keep and --drop contradict each other")
		}
		if !yes {
			var sink api.Sink
			if _, err := c.sink(cmd.Context(), http.MethodGet, name, "", nil, nil, &sink); err != nil {
				return err
			}
			question := fmt.Sprintf("Remove the sink %s?", name)
			if drop {
				question = fmt.Sprintf("Remove the sink %s with its place in the journal and %s?", name, plural(sink.Letters, "dead letter"))
			}
			if ok, err := confirm(cmd.Context(), cmd, s, question); err != nil || !ok {
				return err
			}
		}
		query := url.Values{"state": {"keep"}}
		if drop {
			query.Set("state", "drop")
		}
		var deleted api.SinkDeleted
		raw, err := c.sink(cmd.Context(), http.MethodDelete, name, "", query, nil, &deleted)
		switch {
		case err != nil:
			return err
		case format == answerJSON:
			return printJSON(s.Out, json.RawMessage(raw))
		case deleted.Kept:
			kept := "Its place in the journal is kept"
			if deleted.Letters > 0 {
				kept = fmt.Sprintf("Its place in the journal and %s are kept", plural(deleted.Letters, "dead letter"))
			}
			_, err = fmt.Fprintf(s.Out, "Sink %s is removed. %s; --drop removes that, too.\n", name, kept)
		default:
			_, err = fmt.Fprintf(s.Out, "Sink %s is removed, with its place in the journal and its dead letters.\n", name)
		}
		return err
	})
	format.register(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the place in the journal and the dead letters (the default)")
	cmd.Flags().BoolVar(&drop, "drop", false, "remove them as well")
	return cmd
}

// errNotDelivered is the outcome of a test that was printed.
var errNotDelivered = errors.New("the event was not delivered")

func newSinkTest(s *Streams) *cobra.Command {
	var (
		format    answerFlag
		eventType string
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "test NAME",
		Short: "Send an event to a sink now",
		Long: `Send a test event to a sink, whatever it selects and beside what else it has to send, and
show what came of it: one attempt is made. With --event-type it is the example of a type
that the hub knows ("tocsin events types").

Exit codes: 0 it was delivered; 1 it was not.`,
		Example: "  tocsin sink test slack\n\n  tocsin sink test slack --event-type kv-v2/data-write",
		Args:    sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		var tested api.SinkTested
		raw, err := c.sink(cmd.Context(), http.MethodPost, args[0], "/test", nil, api.SinkTest{Type: eventType}, &tested)
		if err != nil {
			return err
		}
		if format == answerJSON {
			err = printJSON(s.Out, json.RawMessage(raw))
		} else {
			err = printTest(s.Out, &tested)
		}
		if err == nil && tested.Outcome != "delivered" {
			err = errNotDelivered
		}
		return err
	})
	format.register(cmd)
	cmd.Flags().StringVar(&eventType, "event-type", "", "send the example of this `type`")
	return cmd
}

// outcomeInWords says what an outcome means for an event.
var outcomeInWords = map[string]string{
	"delivered":  "delivered",
	"retry":      "not delivered; such an event is tried again until it is",
	"doubtful":   "not delivered; such an event is tried again, and becomes a dead letter if the receiver goes on to fail with it",
	"refused":    "refused; such an event becomes a dead letter",
	"impossible": "cannot be sent; such an event becomes a dead letter",
	"gone":       "the receiver wants nothing any more; that disables the sink",
}

func printTest(w io.Writer, t *api.SinkTested) error {
	status := ""
	if t.Status != 0 {
		status = fmt.Sprint(t.Status)
	}
	return printRows(w,
		row{"outcome", cmp.Or(outcomeInWords[t.Outcome], visible(t.Outcome))},
		row{"status", status},
		row{"reason", visible(t.Reason)},
		row{"event", visible(t.Type) + " " + visible(t.EventID)},
		row{"took", took(t.Took)})
}

func took(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Microsecond).String()
}

func newSinkPause(s *Streams) *cobra.Command {
	return holdCommand(s, "pause", "Send nothing to a sink for a while", `Send nothing to a sink until "tocsin sink resume", also after a restart. Its events are kept for
as long as the journal keeps events; how long that is, is journal.max_age and
journal.max_bytes of the configuration.`, "paused")
}

func newSinkDisable(s *Streams) *cobra.Command {
	return holdCommand(s, "disable", "Send nothing to a sink for long", `Send nothing to a sink until "tocsin sink resume", like "tocsin sink pause"; to be disabled is meant to
last. A sink also gets there by itself when its receiver says that it wants no more
events (HTTP 410).`, "disabled")
}

func holdCommand(s *Streams, name, short, long, done string) *cobra.Command {
	var (
		format answerFlag
		reason string
	)
	cmd := sinkCommand(&cobra.Command{
		Use: name + " NAME", Short: short, Long: long,
		Example: fmt.Sprintf("  tocsin sink %s deploys --reason 'the receiver is rebuilt'", name),
		Args:    sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		return c.control(cmd.Context(), s, format, args[0], "/"+name, api.SinkReason{Reason: reason},
			fmt.Sprintf("Sink %s is %s; its events are kept. \"tocsin sink resume %s\" goes on.", args[0], done, args[0]))
	})
	format.register(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for those who see it")
	return cmd
}

func newSinkResume(s *Streams) *cobra.Command {
	var format answerFlag
	cmd := sinkCommand(&cobra.Command{
		Use:   "resume NAME",
		Short: "Send to a sink again",
		Long: `Send to a sink again that was paused or disabled: it goes on where it was. Of one that is
failing the next attempt is made at once.`,
		Example: "  tocsin sink resume deploys",
		Args:    sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		return c.control(cmd.Context(), s, format, args[0], "/resume", struct{}{}, fmt.Sprintf("Sink %s is sent events again.", args[0]))
	})
	format.register(cmd)
	return cmd
}

// control makes a request that is answered by the sink as it is then.
func (c *connection) control(ctx context.Context, s *Streams, format answerFlag, name, path string, body any, done string) error {
	raw, err := c.sink(ctx, http.MethodPost, name, path, nil, body, nil)
	switch {
	case err != nil:
		return err
	case format == answerJSON:
		return printJSON(s.Out, json.RawMessage(raw))
	}
	_, err = fmt.Fprintln(s.Out, done)
	return err
}

func newSinkAttempts(s *Streams) *cobra.Command {
	var (
		format answerFlag
		follow bool
		limit  int
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "attempts NAME",
		Short: "Show the last requests of a sink and what came of them",
		Long: `Show the last attempts of a sink to deliver something, the newest last. The hub remembers
delivery.attempts of its configuration, 100 if nothing is said there, until it is
restarted.

With --follow those that come are printed until Ctrl-C, as JSON one per line.`,
		Example: "  tocsin sink attempts deploys\n\n  tocsin sink attempts deploys --follow",
		Args:    sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		if limit < 0 {
			return usagef(cmd, "--limit %d: the number of attempts cannot be negative", limit)
		}
		p := attemptPrinter{s: s, format: format, follow: follow}
		list, err := c.attempts(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if limit > 0 && len(list) > limit {
			list = list[len(list)-limit:]
		}
		if err := p.print(list); err != nil || !follow {
			return err
		}
		return p.followed(cmd.Context(), c, args[0], list)
	})
	format.register(cmd)
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with those that come")
	cmd.Flags().IntVarP(&limit, "limit", "n", 0, "at most this `number` of those that were; 0 means all")
	return cmd
}

// rawAttempt is an attempt, and as it was sent.
type rawAttempt struct {
	api.SinkAttempt
	raw json.RawMessage
}

// attempts returns the last ones, the newest last.
func (c *connection) attempts(ctx context.Context, name string) ([]rawAttempt, error) {
	var answer struct{ Attempts []json.RawMessage }
	if _, err := c.sink(ctx, http.MethodGet, name, "/attempts", nil, nil, &answer); err != nil {
		return nil, err
	}
	list := make([]rawAttempt, 0, len(answer.Attempts))
	for _, raw := range slices.Backward(answer.Attempts) {
		one := rawAttempt{raw: raw}
		if err := decodeJSON(raw, &one.SinkAttempt); err != nil {
			return nil, c.advise(err)
		}
		list = append(list, one)
	}
	return list, nil
}

type attemptPrinter struct {
	s      *Streams
	format answerFlag
	follow bool
	begun  bool
}

// columns of a list that goes on, which cannot know what comes.
const attemptColumns = "%-19s  %9s  %6s  %-10s  %6s  %-24s  %s\n"

func (p *attemptPrinter) print(list []rawAttempt) error {
	w := io.Writer(p.s.Out)
	switch {
	case p.format == answerJSON && p.follow:
		for _, one := range list {
			if _, err := fmt.Fprintf(w, "%s\n", one.raw); err != nil {
				return err
			}
		}
		return nil
	case p.format == answerJSON:
		raw := make([]json.RawMessage, len(list))
		for i, one := range list {
			raw[i] = one.raw
		}
		return printJSON(w, raw)
	case len(list) == 0 && !p.follow:
		fmt.Fprintln(p.s.Err, "Nothing was sent since the hub was started.")
		return nil
	}
	line := func(columns ...any) error {
		_, err := fmt.Fprintf(w, attemptColumns, columns...)
		return err
	}
	if !p.follow {
		t := tabwriter.NewWriter(p.s.Out, 0, 0, 2, ' ', 0)
		defer t.Flush()
		line = func(columns ...any) error {
			_, err := fmt.Fprintf(t, "%v\t%v\t%v\t%v\t%v\t%v\t%v\n", columns...)
			return err
		}
	}
	if !p.begun {
		p.begun = true
		if err := line("TIME", "TOOK", "EVENTS", "OUTCOME", "STATUS", "FIRST EVENT", "REASON"); err != nil {
			return err
		}
	}
	for _, a := range list {
		status := "-"
		if a.Status != 0 {
			status = fmt.Sprint(a.Status)
		}
		reason := visible(a.Reason)
		for _, note := range []struct {
			is   bool
			text string
		}{{a.Test, "test"}, {a.Redriven, "redriven"}, {a.Replay != "", "replay"}, {a.Number > 1, fmt.Sprintf("attempt %d", a.Number)}} {
			if note.is && reason == "" {
				reason = note.text
			} else if note.is {
				reason = note.text + ": " + reason
			}
		}
		if err := line(moment(a.At), took(a.Took), a.Events, visible(a.Outcome), status, visible(a.Type), reason); err != nil {
			return err
		}
	}
	return nil
}

// followInterval is how often the hub is asked for what is new.
const followInterval = 500 * time.Millisecond

// followed prints the attempts that come after those that were seen.
func (p *attemptPrinter) followed(ctx context.Context, c *connection, name string, seen []rawAttempt) error {
	known := make(map[string]bool)
	remember := func(list []rawAttempt) {
		clear(known)
		for _, one := range list {
			known[string(one.raw)] = true
		}
	}
	list, err := c.attempts(ctx, name)
	if err != nil {
		return err
	}
	// Those that --limit has left out are not new.
	var last time.Time
	if len(seen) > 0 {
		last = seen[len(seen)-1].At
	}
	remember(slices.DeleteFunc(slices.Clone(list), func(a rawAttempt) bool { return a.At.After(last) }))
	for {
		var fresh []rawAttempt
		for _, one := range list {
			if !known[string(one.raw)] {
				fresh = append(fresh, one)
			}
		}
		if err := p.print(fresh); err != nil {
			return err
		}
		remember(list)
		if err := pause(ctx, followInterval); err != nil {
			return err
		}
		if list, err = c.attempts(ctx, name); err != nil {
			return err
		}
	}
}

// pause waits, or returns why ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
