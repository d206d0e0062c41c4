package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
)

const captureWriteLong = `Write a part of the journal of a hub into a capture file: what was recorded since a time, and
until another one, of the given types. The command ends behind what the journal has, or with
--follow goes on until Ctrl-C.

TYPE selects events by their type as for "tocsin events subscribe", and may be repeated. The events
of plugins have types such as falco/k8s_audit. Without a TYPE all events are written that the
token may see: it needs read on sys/events/subscribe/TYPE ("*" if there are several), and subscribe on
the paths of the events.

The file is made with the first event, is complete after each second, and what is there after a
crash can be read. If there is no event, there is no file. "-" is the standard output. A payload
is written as the plugin gave it, and the time to the nanosecond. A payload that was too large for
the journal is fetched, which takes a root token.

Exit codes: 0 everything is written, or what came before Ctrl-C is; 1 the hub cannot be reached or
refuses, or the file cannot be written; 2 wrong usage; 3 written, but retention had removed events,
some were too large, or a payload could not be fetched.`

const captureWriteExample = `  # The last hour of a plugin, for Falco and sysdig.
  tocsin capture write --since 1h k8s.scap 'falco/k8s_audit*'

  # A day of Vault's audit events, compressed.
  tocsin capture write --since 2026-11-26T00:00:00Z --until 2026-11-27T00:00:00Z --gzip vault.scap.gz 'audit/*'

  # Into another hub.
  tocsin capture write --since 1h - 'falco/*' | tocsin capture replay --address https://hub2.example:8280 -

  # From now on, until Ctrl-C.
  tocsin capture write --follow live.scap`

type captureWriteFlags struct {
	connectFlags
	format     answerFlag
	since      string
	until      string
	sources    []string
	namespaces []string
	filter     string
	gzip       bool
	force      bool
	follow     bool
	hostname   string
}

func newCaptureWrite(s *Streams) *cobra.Command {
	var f captureWriteFlags
	cmd := &cobra.Command{
		Use:     "write FILE [TYPE...]",
		Short:   "Write a part of the journal into a capture",
		Long:    captureWriteLong,
		Example: captureWriteExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "the FILE is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now()
			until, err := pointInTime(f.until, now)
			if err != nil {
				return usagef(cmd, "--until: %w", err)
			}
			if since, err := pointInTime(f.since, now); err == nil && !until.IsZero() && !since.Before(until) {
				return usagef(cmd, "--since %s is not before --until %s", f.since, f.until)
			}
			if f.since == "" && !f.follow {
				return usagef(cmd, "give --since (a duration, a time, or oldest), or --follow")
			}
			if f.until != "" && f.follow {
				return usagef(cmd, "--until ends the capture, and --follow goes on: give one of them")
			}
			return f.run(cmd.Context(), s, args[0], args[1:], until)
		},
	}
	f.register(cmd)
	f.format.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "", "begin in the past: a `time` (RFC 3339), a duration such as 1h, a position, an event id, or oldest")
	flags.StringVar(&f.until, "until", "", "end in the past: a `time` (RFC 3339) or a duration such as 10m; what was recorded then or later is left out")
	flags.StringArrayVar(&f.sources, "source", nil, "`glob` of the sources of events, such as plugin://audit; repeatable")
	flags.StringArrayVar(&f.namespaces, "namespaces", nil, "`glob` of further namespaces, relative to the request's; repeatable")
	flags.StringVar(&f.filter, "filter", "", "boolean `expression` that events must satisfy")
	flags.BoolVar(&f.gzip, "gzip", false, "compress the file (default: if its name ends in .gz)")
	flags.BoolVar(&f.force, "force", false, "replace the file if it exists")
	flags.BoolVar(&f.follow, "follow", false, "go on with what happens, until Ctrl-C")
	flags.StringVar(&f.hostname, "hostname", "", "`name` of the machine in the file (default: that of this machine)")
	return cmd
}

// pointInTime returns the time that a text names, as such or as a duration before now; of "" it is zero.
func pointInTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := config.ParseDuration(text); err == nil {
		return now.Add(-time.Duration(d)), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, fmt.Errorf("%q is neither an RFC 3339 time such as 2006-01-02T15:04:05Z nor a duration", text)
	}
	return t, nil
}

func (f *captureWriteFlags) run(ctx context.Context, s *Streams, name string, types []string, until time.Time) (err error) {
	c, err := f.resolve()
	if err != nil {
		return err
	}
	w, err := newCaptureWriter(s, name, f.force, f.gzip, f.hostname)
	if err != nil {
		return err
	}
	defer func() { err = closeCapture(w, err) }()
	subscribe, selected := newSelection(types, f.sources)
	r := &captureWriting{w: w, selected: selected, until: until, connection: c, notes: newNotes(s.Err, true), err: s.Err}
	sub, err := client.Subscribe(ctx, subscribe, client.Options{
		Address: c.address, Token: c.token, Namespace: c.namespace, Namespaces: f.namespaces, Filter: f.filter,
		Since: sinceValue(f.since), NoFollow: !f.follow, Format: client.FormatCloudEvents,
		HTTPClient: &http.Client{Transport: c.transport},
		Notify:     r.notice,
	})
	if err != nil {
		return c.advise(err)
	}
	defer sub.Close()
	if r.terminal = isTerminal(s.Err) && f.format == answerText; r.terminal && f.follow {
		r.notes.say("Writing events to %s; Ctrl-C ends it.", visible(name))
	}
	if err := r.copy(ctx, sub); err != nil {
		return c.advise(err)
	}
	if err := w.Sync(); err != nil {
		return err
	}
	if ctx.Err() != nil && !f.follow {
		r.notes.say("Stopped before the end.")
		if r.answer.Position != "" {
			r.notes.say("--since %s goes on there, into another file; captures behind each other are one.", r.answer.Position)
		}
	}
	out := s.Out
	if name == "-" {
		out = s.Err
	}
	return f.report(out, name, w.Events(), &r.answer)
}

func (f *captureWriteFlags) report(out io.Writer, name string, events uint64, answer *captureWritten) (err error) {
	if answer.Events = events; events > 0 {
		answer.File = name
	}
	_, there := os.Lstat(name)
	switch {
	case f.format == answerJSON:
		err = printJSON(out, answer)
	case events > 0 && name == "-":
		_, err = fmt.Fprintf(out, "Written: %s.\n", eventCount(events))
	case events > 0:
		_, err = fmt.Fprintf(out, "Written to %s: %s.\n", visible(name), eventCount(events))
	case name == "-":
		_, err = fmt.Fprintln(out, "There was no event, so nothing is written.")
	case there == nil:
		_, err = fmt.Fprintf(out, "There was no event, so %s is as it was.\n", visible(name))
	default:
		_, err = fmt.Fprintln(out, "There was no event, so there is no file.")
	}
	if err != nil {
		return err
	}
	var missing []string
	if answer.TooLarge > 0 {
		missing = append(missing, wasWere(answer.TooLarge)+" too large for a capture.")
	}
	if answer.Without > 0 {
		missing = append(missing, fmt.Sprintf("%s written without the payload, which is kept beside the journal and cannot be had: %s", wasWere(answer.Without), visible(answer.why)))
	}
	if answer.Gaps > 0 {
		missing = append(missing, "Events were missing: see above.")
	}
	if len(missing) > 0 {
		return &incompleteError{strings.Join(missing, "\n")}
	}
	return nil
}
