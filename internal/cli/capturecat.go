package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// catFormat is the value of --format of "capture cat".
type catFormat string

const (
	catText        catFormat = "text"
	catJSON        catFormat = "json"
	catCloudEvents catFormat = "cloudevents"
)

func (f *catFormat) String() string { return string(*f) }
func (f *catFormat) Type() string   { return "format" }
func (f *catFormat) Set(v string) error {
	switch c := catFormat(v); c {
	case catText, catJSON, catCloudEvents:
		*f = c
		return nil
	}
	return fmt.Errorf("must be text, json or cloudevents")
}

func newCaptureCat(s *Streams) *cobra.Command {
	format := catText
	var sources sourceFlag
	name, count := "capture", 0
	cmd := &cobra.Command{
		Use:   "cat FILE",
		Short: "Print the events of a capture",
		Long: `Print the events of a capture, one per line: for people (text), as JSON with all that the file
says of them (json; a payload that is no UTF-8 is "data_base64"), or as the CloudEvents that
"replay" would publish (cloudevents). ` + captureFileHelp,
		Example: `  tocsin capture cat out.scap
  tocsin capture cat --format json --count 10 out.scap | jq .data
  tocsin capture cat --format cloudevents out.scap | tocsin events publish --cloudevents`,
		Args: exactArgs(1, "the FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 {
				return usagef(cmd, "--count %d: the number of events cannot be negative", count)
			}
			out := bufio.NewWriterSize(s.Out, 64<<10)
			// What is there is printed before more is waited for.
			r, end, err := openCapture(cmd.Context(), s, args[0], out.Flush)
			if err != nil {
				return err
			}
			defer end()
			p := &catPrinter{out: out, err: s.Err, format: format, replay: falcoevent.NewReplay(name, "", "", sources)}
			p.notes.replay = p.replay
			return p.run(cmd.Context(), args[0], r, count)
		},
	}
	flags := cmd.Flags()
	flags.Var(&format, "format", "text, json or cloudevents")
	flags.IntVarP(&count, "count", "n", 0, "stop after this many events; 0 means never")
	flags.StringVar(&name, "name", name, "`name` of the source of CloudEvents: plugin://NAME")
	flags.Var(&sources, "event-source", "event source of the plugin with an id; repeatable")
	return cmd
}

func isOrAre(n uint64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// catPrinter prints events of a capture.
type catPrinter struct {
	out    *bufio.Writer
	err    io.Writer
	format catFormat
	replay *falcoevent.Replay
	notes  captureNotes
	buf    []byte
	unread uint64
}

// run prints the events of a capture, or as many as are wanted; 0 is all.
func (p *catPrinter) run(ctx context.Context, name string, r *capture.Reader, count int) error {
	var ended error
	for n := 0; ended == nil && (count == 0 || n < count); n++ {
		e, err := r.Next()
		if err == nil {
			err = p.print(e)
		}
		if ended = err; ended == nil {
			ended = ctx.Err()
		}
	}
	if err := p.out.Flush(); err != nil {
		return err
	}
	sayForeign(p.err, r.Stats())
	if ended != nil {
		if err := captureEnd(name, ended); err != nil {
			return err
		}
	}
	if p.unread > 0 {
		return &incompleteError{fmt.Sprintf("%s of Tocsin's plugin %s no CloudEvent and left out.", eventCount(p.unread), isOrAre(p.unread))}
	}
	return nil
}

// catEvent is an event as JSON.
type catEvent struct {
	Number     uint64          `json:"number"`
	Offset     int64           `json:"offset"`
	Time       string          `json:"time"`
	Nanos      uint64          `json:"nanos"`
	PluginID   uint32          `json:"plugin_id"`
	Source     string          `json:"event_source,omitempty"`
	Async      string          `json:"async,omitempty"` // the name
	Hostname   string          `json:"hostname,omitempty"`
	Data       *string         `json:"data,omitempty"`
	DataBase64 []byte          `json:"data_base64,omitempty"`
	Event      json.RawMessage `json:"event,omitempty"` // the CloudEvent of Tocsin's plugin
}

func (p *catPrinter) print(e *capture.Record) (err error) {
	if p.format != catJSON { // which has the id
		if note := p.notes.plugin(e.PluginID()); note != "" {
			fmt.Fprintln(p.err, note)
		}
	}
	switch p.format {
	case catText:
		p.text(e)
	case catJSON:
		err = p.json(e)
	case catCloudEvents:
		ours, err := p.replay.Event(e.Event)
		if err != nil {
			p.unread++
			return nil
		}
		p.buf = event.AppendCloudEvent(p.buf[:0], ours, "")
	}
	if err != nil {
		return err
	}
	p.buf = append(p.buf, '\n')
	_, err = p.out.Write(p.buf)
	return err
}

func (p *catPrinter) json(e *capture.Record) error {
	c := catEvent{Number: e.Number, Offset: e.Offset, Time: e.Time().Format(time.RFC3339Nano), Nanos: e.Nanos(), PluginID: e.PluginID(),
		Hostname: e.Machine.Hostname}
	if source, known := p.replay.EventSource(e.PluginID()); known {
		c.Source = source
	}
	if e.Type() == scapevent.Async {
		c.Async = e.Name()
	}
	data := e.Data()
	switch {
	case e.PluginID() == falcoevent.PluginID && e.Type() == scapevent.Plugin && utf8.Valid(data) && json.Valid(data):
		c.Event = data
	case utf8.Valid(data):
		text := string(data)
		c.Data = &text
	default:
		c.DataBase64 = data
	}
	w := jsonLine{p.buf[:0]}
	encoder := json.NewEncoder(&w)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(&c)
	p.buf = w.b[:max(0, len(w.b)-1)] // without the newline
	return err
}

type jsonLine struct{ b []byte }

func (w *jsonLine) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// text prints an event for people: a payload that is text as it is, and another as its first
// bytes.
func (p *catPrinter) text(e *capture.Record) {
	source, _ := p.replay.EventSource(e.PluginID())
	source = visible(source)
	if e.Type() == scapevent.Async {
		source += "/" + visible(e.Name())
	}
	p.buf = fmt.Appendf(p.buf[:0], "%d %s %s %s", e.Number, e.Time().Format(textTime), source, shownData(e.Data()))
}
