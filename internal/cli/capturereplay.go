package cli

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
)

const captureReplayLong = `Publish the events of a capture to a hub, with their payloads and times, and return when they are
durable. "-" is the standard input.

An event of a plugin becomes an event of the type falco/EVENT_SOURCE, whose data are the payload. A
capture says the id of the plugin only; the event sources of Falco's own plugins are known, others
are given with --event-source. The same capture gives events with the same ids, so it can
be replayed again, after an error for example: the hub stores what it does not have.

The other events, those of Tocsin, are what they were, with their ids. The types audit/... and
tocsin/... are for what a hub itself says, and are refused as they are; with --type-prefix replay/
they become events of the types replay/audit/..., with ids of their own.

The token needs the capability create on sys/events/publish/TYPE. An event of another namespace
needs a request in that or one above.

Exit codes: 0 everything is stored; 1 the capture cannot be read, the hub cannot be reached or does
not take the token; 2 wrong usage; 3 some events were refused, or the capture is truncated or damaged:
what was before is stored; 4 all events that were refused are not allowed.`

const captureReplayExample = `  tocsin capture replay falco.scap
  tocsin capture replay --name lab --event-source 999=my_source out.scap
  tocsin capture replay --type-prefix replay/ vault.scap.gz`

type captureReplayFlags struct {
	publishFlags
	name    string
	prefix  string
	sources sourceFlag
}

func newCaptureReplay(s *Streams) *cobra.Command {
	var f captureReplayFlags
	cmd := &cobra.Command{
		Use:     "replay FILE",
		Short:   "Publish the events of a capture",
		Long:    captureReplayLong,
		Example: captureReplayExample,
		Args:    exactArgs(1, "the FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.prefix != "" {
				if err := event.CheckType(f.prefix); err != nil {
					return usagef(cmd, "--type-prefix: %w", err)
				}
			}
			return f.replay(cmd.Context(), s, args[0])
		},
	}
	f.register(cmd)
	f.format.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "capture", "`name` of the source of events of plugins: plugin://NAME")
	flags.StringVar(&f.path, "path", "", "API `path` on which a subscriber needs a right (default falco/EVENT_SOURCE/NAME), of events of plugins")
	flags.StringVar(&f.prefix, "type-prefix", "", "`text` before the types of events; gives those of Tocsin other ids")
	flags.Var(&f.sources, "event-source", "event source of the plugin with an id; repeatable")
	flags.Var(&f.wait, "wait", "keep trying for this long while the hub cannot be reached")
	return cmd
}

func (f *captureReplayFlags) replay(ctx context.Context, s *Streams, name string) error {
	r, end, err := openCapture(s, name)
	if err != nil {
		return err
	}
	defer end()
	f.cloudEvents, f.what = true, "event"
	// What is read goes on only as long as this call.
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var ended error
	done := make(chan struct{})
	err = f.run(reading, s, func(ctx context.Context) <-chan published {
		events := make(chan published, 256)
		go func() {
			defer close(done)
			defer close(events)
			ended = f.read(ctx, r, events)
		}()
		return events
	})
	stop()
	select {
	case <-done:
	default:
		if name != "-" { // a read of the standard input may hang
			<-done
		} else {
			return err
		}
	}
	if err == nil && ended != nil && ctx.Err() == nil {
		return captureEnd(name, ended)
	}
	if incomplete, ok := errors.AsType[*incompleteError](err); ok && !errors.Is(ended, io.EOF) && ended != nil && ctx.Err() == nil {
		return &incompleteError{strings.TrimSpace(incomplete.message + "\n" + captureError(name, ended).Error())}
	}
	return err
}

// read hands over the events of a capture and returns why it ended.
func (f *captureReplayFlags) read(ctx context.Context, r *capture.Reader, events chan<- published) error {
	replay := falcoevent.NewReplay(f.name, f.namespace, f.path, f.sources)
	for {
		e, err := r.Next()
		if err != nil {
			return err
		}
		p := published{line: int(e.Number)}
		if p.event, p.err = replay.Event(e.Event); p.err == nil && f.prefix != "" {
			prefixType(p.event, f.prefix)
		}
		select {
		case events <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// prefixType makes e an event of another type, which it says once more, so it has another id.
func prefixType(e *event.Event, prefix string) {
	e.ID = event.DeriveID("capture", prefix, e.Source, e.ID)
	e.Type = prefix + e.Type
}
