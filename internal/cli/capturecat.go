package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/jsontext"
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
	large  uint64
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
	if ctx.Err() == nil && !(count > 0 && ended == nil) {
		sayForeign(p.err, r.Stats())
	}
	if ended != nil {
		if err := captureEnd(name, ended); err != nil {
			return err
		}
	}
	if p.large > 0 {
		return &incompleteError{fmt.Sprintf("%s larger than any hub takes, %d bytes, and left out.", wasWere(p.large), maxCatBytes)}
	}
	if p.unread > 0 {
		return &incompleteError{fmt.Sprintf("%s of Tocsin's plugin %s no CloudEvent and left out.", eventCount(p.unread), isOrAre(p.unread))}
	}
	return nil
}

// maxCatBytes bounds the payload of an event that is printed as a CloudEvent or published: more
// than a hub can be configured to take.
const maxCatBytes = maxDataBytes

func (p *catPrinter) print(e *capture.Record) (err error) {
	if p.format != catJSON { // which has the id
		if note := p.notes.plugin(e.PluginID()); note != "" {
			fmt.Fprintln(p.err, note)
		}
	}
	switch p.format {
	case catText:
		err = p.text(e)
	case catJSON:
		err = p.json(e)
	case catCloudEvents:
		ours, unread := p.replay.Event(e.Event)
		switch {
		case unread != nil:
			p.unread++
			return nil
		case len(e.Event) > maxCatBytes:
			p.large++
			return nil
		}
		p.buf = event.AppendCloudEvent(p.buf[:0], ours, "")
		_, err = p.out.Write(p.buf)
	}
	if cap(p.buf) > 16*pieceBytes {
		p.buf = nil // a large event was there
	}
	if err != nil {
		return err
	}
	return p.out.WriteByte('\n')
}

// json prints an event as JSON, in pieces.
func (p *catPrinter) json(e *capture.Record) error {
	b := append(p.buf[:0], `{"number":`...)
	b = strconv.AppendUint(b, e.Number, 10)
	b = append(b, `,"offset":`...)
	b = strconv.AppendInt(b, e.Offset, 10)
	b = append(b, `,"time":"`...)
	b = e.Time().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","nanos":`...)
	b = strconv.AppendUint(b, e.Nanos(), 10)
	b = append(b, `,"plugin_id":`...)
	b = strconv.AppendUint(b, uint64(e.PluginID()), 10)
	if source, known := p.replay.EventSource(e.PluginID()); known {
		b = append(b, `,"event_source":`...)
		b = jsontext.AppendString(b, source)
	}
	if host := e.Machine.Hostname; host != "" {
		b = append(b, `,"hostname":`...)
		b = jsontext.AppendString(b, host)
	}
	p.buf = b
	_, err := p.out.Write(b)
	if err == nil && e.Type() == scapevent.Async {
		err = p.member(`,"async":`, []byte(e.Name()))
	}
	if err != nil {
		return err
	}
	switch data := e.Data(); {
	case e.PluginID() == falcoevent.PluginID && e.Type() == scapevent.Plugin && utf8.Valid(data) && json.Valid(data):
		err = p.event(data)
	case utf8.Valid(data):
		err = p.member(`,"data":`, data)
	default:
		if _, err := p.out.WriteString(`,"data_base64":"`); err != nil {
			return err
		}
		encoder := base64.NewEncoder(base64.StdEncoding, p.out)
		if _, err := encoder.Write(data); err != nil {
			return err
		}
		if err := encoder.Close(); err != nil {
			return err
		}
		err = p.out.WriteByte('"')
	}
	if err != nil {
		return err
	}
	return p.out.WriteByte('}')
}

// event prints the CloudEvent of Tocsin's plugin, on one line.
func (p *catPrinter) event(data []byte) error {
	if bytes.ContainsAny(data, "\r\n") {
		var line bytes.Buffer
		if err := json.Compact(&line, data); err != nil {
			return err
		}
		data = line.Bytes()
	}
	if _, err := p.out.WriteString(`,"event":`); err != nil {
		return err
	}
	_, err := p.out.Write(data)
	return err
}

// member prints a text as JSON, behind its name.
func (p *catPrinter) member(name string, text []byte) error {
	if _, err := p.out.WriteString(name + `"`); err != nil {
		return err
	}
	err := inPieces(text, func(piece []byte) error {
		p.buf = jsontext.AppendString(p.buf[:0], string(piece))
		_, err := p.out.Write(p.buf[1 : len(p.buf)-1])
		return err
	})
	if err != nil {
		return err
	}
	return p.out.WriteByte('"')
}

// text prints an event for people: a payload that is text as it is, and another as its first
// bytes.
func (p *catPrinter) text(e *capture.Record) error {
	source, _ := p.replay.EventSource(e.PluginID())
	fmt.Fprintf(p.out, "%d %s %s", e.Number, e.Time().Format(textTime), visible(source))
	if e.Type() == scapevent.Async {
		p.out.WriteByte('/')
		if err := p.visible([]byte(e.Name())); err != nil {
			return err
		}
	}
	p.out.WriteByte(' ') // its error is that of what follows
	data := e.Data()
	if !utf8.Valid(data) {
		data = []byte(shownData(data))
	}
	return p.visible(data)
}

func (p *catPrinter) visible(text []byte) error {
	return inPieces(text, func(piece []byte) error {
		_, err := p.out.WriteString(visible(string(piece)))
		return err
	})
}

// pieceBytes is how much of a text is dealt with at once.
const pieceBytes = 64 << 10

// inPieces calls f with the pieces of a text, which do not end within a character.
func inPieces(text []byte, f func([]byte) error) error {
	for len(text) > 0 {
		n := min(len(text), pieceBytes)
		for cut := n; cut < len(text) && cut > n-utf8.UTFMax; cut-- {
			if utf8.RuneStart(text[cut]) {
				n = cut
				break
			}
		}
		if err := f(text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}
