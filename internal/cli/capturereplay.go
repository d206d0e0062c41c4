package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

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

The events come as fast as the hub takes them, or with --speed in the pace of their times: 1 is
that in which they happened, 10 ten times as fast. Ctrl-C ends that; behind which event is said, and
--after goes on there.

The token needs the capability create on sys/events/publish/TYPE. An event of another namespace
needs a request in that or one above.

Exit codes: 0 everything is stored; 1 the capture cannot be read, the hub cannot be reached or does
not take the token; 2 wrong usage; 3 some events were refused, or the capture is truncated or damaged:
what was before is stored; 4 all events that were refused are not allowed.`

const captureReplayExample = `  tocsin capture replay falco.scap
  tocsin capture replay --name lab --event-source 999=my_source out.scap
  tocsin capture replay --type-prefix replay/ vault.scap.gz

  # As it happened, to watch it.
  tocsin capture replay --speed 1 falco.scap`

type captureReplayFlags struct {
	publishFlags
	name    string
	prefix  string
	sources sourceFlag
	after   uint64
	speed   float64
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
			if !(f.speed >= 0) || math.IsInf(f.speed, 0) {
				return usagef(cmd, "--speed %v: it must be a positive number, such as 1 or 0.5, or 0 for as fast as possible", f.speed)
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
	flags.Uint64Var(&f.after, "after", 0, "begin behind the event with this `number`")
	flags.Float64Var(&f.speed, "speed", 0, "`times` as fast as the events happened; 0 is as fast as possible")
	flags.Var(&f.wait, "wait", "keep trying for this long while the hub cannot be reached")
	return cmd
}

func (f *captureReplayFlags) replay(ctx context.Context, s *Streams, name string) error {
	// What is read goes on only as long as this call.
	reading, stop := context.WithCancel(ctx)
	defer stop()
	r, end, err := openCapture(reading, s, name, nil)
	if err != nil {
		return err
	}
	defer end()
	f.cloudEvents, f.what, f.goOn = true, "event", "--after"
	replay := falcoevent.NewReplay(f.name, f.namespace, f.path, f.sources)
	var ended error
	done := make(chan struct{})
	close(done) // until there is a reader
	err = f.run(reading, s, func(ctx context.Context) <-chan published {
		events := make(chan published, queuedEvents)
		done = make(chan struct{})
		go func() {
			defer close(done)
			defer close(events)
			ended = f.read(ctx, r, replay, events)
		}()
		return events
	})
	stop()
	<-done
	if ctx.Err() != nil {
		return err
	}
	sayForeign(s.Err, r.Stats())
	if err == nil && ended != nil {
		return captureEnd(name, ended)
	}
	if incomplete, ok := errors.AsType[*incompleteError](err); ok && ended != nil && !errors.Is(ended, io.EOF) {
		return &incompleteError{strings.TrimSpace(incomplete.message + "\n" + captureError(name, ended).Error())}
	}
	return err
}

// queuedEvents bounds what was read and is not with the publisher, and so the memory that large events
// take.
const queuedEvents = 16

// read hands over the events of a capture and returns why it ended.
func (f *captureReplayFlags) read(ctx context.Context, r *capture.Reader, replay *falcoevent.Replay, events chan<- published) error {
	pace, notes := pace{speed: f.speed}, captureNotes{replay: replay}
	for {
		e, err := r.Next()
		if err != nil {
			return err
		}
		p := published{line: int(e.Number)}
		p.event, p.err = replay.Event(e.Event)
		if e.Number <= f.after {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		if len(e.Event) > maxCatBytes {
			p.event, p.err = nil, fmt.Errorf("it has %d bytes, and no hub takes more than %d", len(e.Event), maxCatBytes)
		}
		p.note = notes.plugin(e.PluginID())
		if p.err == nil && f.prefix != "" {
			prefixType(p.event, f.prefix)
		}
		if err := pace.wait(ctx, e.Time()); err != nil {
			return err
		}
		select {
		case events <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pace lets events wait until it is their turn.
type pace struct {
	speed float64 // of the clock; 0: nothing waits
	first time.Time
	began time.Time
}

// wait returns when an event of a time is due: so long behind the first one as their times say.
// What is older than the one before does not wait.
func (p *pace) wait(ctx context.Context, t time.Time) error {
	if p.speed == 0 {
		return nil
	}
	if p.began.IsZero() {
		p.first, p.began = t, time.Now()
	}
	due := float64(t.Sub(p.first)) / p.speed
	if due > float64(math.MaxInt64/2) {
		due = float64(math.MaxInt64 / 2)
	}
	timer := time.NewTimer(time.Until(p.began.Add(time.Duration(due))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// prefixType makes e an event of another type, which it says once more, so it has another id.
func prefixType(e *event.Event, prefix string) {
	e.ID = event.DeriveID("capture", prefix, e.Source, e.ID)
	e.Type = prefix + e.Type
}
