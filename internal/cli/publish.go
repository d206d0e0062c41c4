package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
)

const publishLong = `Publish an event, or with --cloudevents many, and return when they are durable in the hub.

TYPE is "<producer>/<what>", for example app/order-placed. Every KEY=VALUE becomes metadata,
which subscribers see and which must not have secrets. The key "path" says on which API
path a subscriber needs the subscribe capability; without it only root tokens see the
event. A payload goes into --data. To publish, the token needs the capability create on
sys/events/publish/TYPE.

With --cloudevents every line of standard input is a CloudEvent in JSON, as
"tocsin events subscribe --format cloudevents" prints them. They are sent while they are
read, many in one request, and stored in their order. Lines that are not understood or
that the hub refuses are reported with their number and the reason; the others are
stored. Ctrl-C ends reading and waits up to 10 seconds until what was read is stored.

An event with the same source and id as one before is recognised by the hub for a while
and not stored again, so a command that failed can be repeated if the events have ids.

When the hub cannot be reached, the command fails at once, or, with --wait, when it could
not be reached for that long. A hub that answers that it is busy or full gets 10 seconds in
any case.

Exit codes: 0 everything is stored, or what was read before Ctrl-C is; 1 the hub cannot be
reached or does not take the token, and some may not have been stored; 2 wrong usage;
3 some events were refused, the others are stored; 4 the same, and all that were refused
are not allowed by the policies of the token.`

const publishExample = `  tocsin events publish app/order-placed path=orders/4711 operation=place

  # With a payload: a file, standard input, or a text.
  tocsin events publish app/report path=reports/today --data @report.json
  df -h | tocsin events publish ops/disk path=ops/disk --data - --content-type text/plain

  # In a script: wait for a hub that is restarting, and be safe to repeat.
  tocsin events publish deploy/done path=deploy/web --id "deploy-$BUILD" --source /ci --wait 1m

  # What one hub has, into another.
  tocsin events subscribe --format cloudevents --since oldest 'app/*' |
    tocsin events publish --cloudevents --address https://hub2.example:8280`

type publishFlags struct {
	connectFlags
	format      answerFlag
	cloudEvents bool
	data        string
	contentType string
	source      string
	id          string
	path        string
	wait        durationFlag
	what        string // what the numbers of events count, instead of lines
	goOn        string // the flag that goes on behind such a number
}

func newPublish(s *Streams) *cobra.Command {
	var f publishFlags
	cmd := &cobra.Command{
		Use:     "publish TYPE [KEY=VALUE...]",
		Short:   "Publish events",
		Long:    publishLong,
		Example: publishExample,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.cloudEvents {
				if err := f.checkCloudEvents(cmd, args); err != nil {
					return err
				}
				if isTerminal(s.In) && isTerminal(s.Err) {
					fmt.Fprintln(s.Err, "Type CloudEvents, one JSON object per line. Ctrl-D ends.")
				}
				return f.run(cmd.Context(), s, readCloudEvents(s.In))
			}
			e, err := f.event(cmd, s.In, args)
			if err != nil {
				return err
			}
			return f.run(cmd.Context(), s, oneEvent(e))
		},
	}
	flags := cmd.Flags()
	f.register(cmd)
	f.format.register(cmd)
	flags.BoolVar(&f.cloudEvents, "cloudevents", false, "publish the CloudEvents on standard input, one JSON object per line")
	flags.StringVar(&f.data, "data", "", "payload: `@file`, - for standard input, or a text")
	flags.StringVar(&f.contentType, "content-type", "", "`media type` of --data (default: application/json or text/plain, as it looks)")
	flags.StringVar(&f.source, "source", "", "`URI` of who tells (default tocsin-client://HOST/tocsin)")
	flags.StringVar(&f.id, "id", "", "`id` of the event; with the same id and source it is stored once (default: random)")
	flags.StringVar(&f.path, "path", "", "API `path` on which a subscriber needs a right, if it is not in the metadata")
	flags.StringVar(&f.path, "subject", "", "`path`, as CloudEvents calls it")
	flags.Var(&f.wait, "wait", "keep trying for this long while the hub cannot be reached")
	return cmd
}

func (f *publishFlags) checkCloudEvents(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef(cmd, "unexpected argument %q: with --cloudevents the events come from standard input", args[0])
	}
	for _, name := range []string{"data", "content-type", "source", "id", "path", "subject"} {
		if cmd.Flags().Changed(name) {
			return usagef(cmd, "--%s has no meaning with --cloudevents: the events have it", name)
		}
	}
	return nil
}

// event makes the event of the command line.
func (f *publishFlags) event(cmd *cobra.Command, in io.Reader, args []string) (*event.Event, error) {
	if len(args) == 0 {
		return nil, usagef(cmd, "the event TYPE is missing (or --cloudevents)")
	}
	var pairs []string
	for _, a := range args[1:] {
		key, value, ok := strings.Cut(a, "=")
		if !ok || key == "" {
			return nil, usagef(cmd, "%q is not KEY=VALUE", a)
		}
		pairs = append(pairs, key, value)
	}
	e := event.NewNotification(args[0], pairs...)
	if f.id != "" {
		e.ID = f.id
	}
	e.Source = f.source
	if f.path != "" {
		if e.Path != "" && e.Path != f.path {
			return nil, usagef(cmd, "--path is %q and the metadata say path=%s", f.path, e.Path)
		}
		e.Path = f.path
	}
	switch {
	case cmd.Flags().Changed("data"):
		data, err := readData(f.data, in)
		if err != nil {
			return nil, err
		}
		e.Data, e.DataContentType = data, f.contentType
		if e.DataContentType == "" {
			e.DataContentType = guessType(data)
		}
		if len(pairs) == 0 {
			e.Metadata = nil
		}
	case f.contentType != "":
		return nil, usagef(cmd, "--content-type needs --data")
	}
	return e, nil
}

// maxDataBytes is more than a hub can be configured to take.
const maxDataBytes = 16 << 20

// readData returns what --data names.
func readData(data string, in io.Reader) ([]byte, error) {
	what := "standard input"
	switch name, isFile := strings.CutPrefix(data, "@"); {
	case isFile:
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("--data: %w", err)
		}
		defer file.Close()
		in, what = file, name
	case data != "-":
		return []byte(data), nil
	}
	content, err := io.ReadAll(io.LimitReader(in, maxDataBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("--data: %w", readError(what, err))
	case len(content) > maxDataBytes:
		return nil, fmt.Errorf("--data: %s has more than %d bytes", what, maxDataBytes)
	}
	return content, nil
}

// readError names what could not be read, if the error does not.
func readError(what string, err error) error {
	if _, named := errors.AsType[*fs.PathError](err); named {
		return err
	}
	return fmt.Errorf("read %s: %w", what, err)
}

func guessType(data []byte) string {
	switch {
	case json.Valid(data):
		return "application/json"
	case utf8.Valid(data):
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

// busyPatience is how long a hub may be busy, whatever --wait says.
const busyPatience = 10 * time.Second

// stopPatience is how long Ctrl-C waits for what was read.
const stopPatience = 10 * time.Second

var errInterrupted = errors.New("interrupted while events waited")

// run publishes the events of a source.
func (f *publishFlags) run(ctx context.Context, s *Streams, read func(context.Context) <-chan published) error {
	c, err := f.resolve()
	if err != nil {
		return err
	}
	r := &publication{patience: time.Duration(f.wait), what: f.lineName(), notes: newNotes(s.Err, f.format == answerText)}
	// Work goes on behind the user's wish to stop, but not for long.
	work, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	r.giveUp = giveUp
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(stopPatience, func() { giveUp(errInterrupted) })
	})()
	r.publisher, err = client.NewPublisher(client.PublisherOptions{
		Address: c.address, Token: c.token, Namespace: c.namespace,
		MaxQueueBytes: 16 << 20,
		HTTPClient:    &http.Client{Transport: c.transport},
		Notify:        r.notify,
	})
	if err != nil {
		return err
	}
	stopProgress := r.notes.progress(r.publisher, f.cloudEvents && isTerminal(s.Err))
	r.publishAll(ctx, work, read(ctx))
	ended, cancel := context.WithCancel(work)
	cancel() // everything was waited for
	_ = r.publisher.Close(ended)
	stopProgress()
	return r.report(ctx, s, c, f)
}

// lineName is what stands before the number of an event.
func (f *publishFlags) lineName() string {
	if f.what == "" {
		return "line"
	}
	return f.what
}

// publishAll publishes what comes until the source ends, the user wants to stop, or it
// has no sense any more.
func (r *publication) publishAll(ctx, work context.Context, events <-chan published) {
	for {
		select {
		case <-ctx.Done():
		case <-work.Done():
		case e, more := <-events:
			if !more {
				break
			}
			r.last = e.line
			if e.note != "" {
				r.notes.say("%s", e.note)
			}
			if e.err == nil {
				r.note(e.line)
				e.err = r.publisher.Queue(work, e.event)
				if e.err == nil {
					r.queued++
					r.id, r.hidden = e.event.ID, e.event.Path == ""
					continue
				}
				if work.Err() != nil {
					r.unsent = true
					break
				}
			}
			if e.fatal {
				r.failed = e.err
				break
			}
			r.refuse(refusedEvent{Line: e.line, Code: "invalid", Message: strings.TrimPrefix(e.err.Error(), "event 0: ")})
			continue
		}
		break
	}
	if err := r.publisher.Flush(work); err != nil && r.failed == nil {
		r.failed = context.Cause(work)
	}
}

// note says on which line the event stands that is queued next.
func (r *publication) note(line int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines.note(r.queued, line)
}

// report prints the summary and returns what the command has to say by its exit code.
func (r *publication) report(ctx context.Context, s *Streams, c *connection, f *publishFlags) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	stats := r.publisher.Stats()
	summary := publishSummary{
		Accepted: stats.Acknowledged - stats.Duplicates, Duplicates: stats.Duplicates,
		Refused: r.refused, Unknown: stats.Waiting, Refusals: r.refusals,
	}
	if r.failed != nil {
		summary.Error = r.failed.Error()
	}
	switch {
	case f.format == answerJSON:
		if err := printJSON(s.Out, summary); err != nil {
			return err
		}
	case !f.cloudEvents && summary.Accepted == 1:
		fmt.Fprintf(s.Out, "Event %s is stored.\n", visible(r.id))
		if r.hidden {
			r.notes.say("Only root tokens see it, because it has no path: path=PATH or --path.")
		}
	case !f.cloudEvents && summary.Duplicates == 1:
		fmt.Fprintf(s.Out, "Event %s was stored before.\n", visible(r.id))
	case f.cloudEvents:
		fmt.Fprintf(s.Out, "%s.\n", summary.text())
	}
	if ctx.Err() != nil && r.failed == nil {
		r.notes.say("Stopped behind %s %d; what was read is stored unless refused.", r.what, r.last)
		if f.goOn != "" {
			r.notes.say("%s %d goes on there.", f.goOn, r.last)
		}
	}
	switch {
	case r.failed != nil && (stats.Waiting > 0 || r.unsent):
		return c.advise(fmt.Errorf("%s may not have been stored: %w", eventCount(uint64(max(stats.Waiting, 1))), r.failed))
	case r.failed != nil:
		return c.advise(r.failed)
	case r.refused > 0 && r.refused == r.denied:
		return errNotAllowed
	case r.refused > 0 && !f.cloudEvents && f.format == answerText:
		return &incompleteError{} // of one event everything was said
	case r.refused > 0:
		return &incompleteError{fmt.Sprintf("%d of %s refused.", r.refused, eventCount(uint64(r.refused)+stats.Acknowledged))}
	}
	return nil
}

// publishSummary is the answer in JSON.
type publishSummary struct {
	Accepted   uint64         `json:"accepted"`   // stored now
	Duplicates uint64         `json:"duplicates"` // stored before
	Refused    int            `json:"refused"`
	Unknown    int            `json:"unknown"`            // may be stored or not
	Refusals   []refusedEvent `json:"refusals,omitempty"` // the first maxRefusals
	Error      string         `json:"error,omitempty"`
}

func (s *publishSummary) text() string {
	text := "Stored: " + eventCount(s.Accepted+s.Duplicates)
	if s.Duplicates > 0 {
		were := "were"
		if s.Duplicates == 1 {
			were = "was"
		}
		text += fmt.Sprintf(", of which %d %s there before", s.Duplicates, were)
	}
	if s.Refused > 0 {
		text += fmt.Sprintf("; refused: %d", s.Refused)
	}
	return text
}

func eventCount(n uint64) string {
	if n == 1 {
		return "1 event"
	}
	return fmt.Sprintf("%d events", n)
}

// lineNumbers tells on which line an event stood. Most follow the one before, so only where
// that is not so it remembers something.
type lineNumbers []lineNumber

type lineNumber struct{ index, line int }

// note says on which line the event with an index, counted from 0, stands.
func (l *lineNumbers) note(index, line int) {
	switch n := len(*l); {
	case n > 0 && (*l)[n-1].index == index: // the one before was not queued
		(*l)[n-1].line = line
		return
	case n > 0 && (*l)[n-1].line-(*l)[n-1].index == line-index:
		return
	}
	*l = append(*l, lineNumber{index, line})
}

func (l lineNumbers) of(index int) int {
	i, found := slices.BinarySearchFunc(l, index, func(n lineNumber, index int) int { return n.index - index })
	if !found {
		i--
	}
	if i < 0 {
		return 0
	}
	return l[i].line + index - l[i].index
}
