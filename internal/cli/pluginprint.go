package cli

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// streamPrinter prints the events of a stream, one per line.
type streamPrinter struct {
	run      *streamRun
	fields   []*sourceplugin.Field // of the requests
	names    []string              // of the requests
	strings  bool                  // the plugin says what people read
	buf      []byte
	value    []byte
	elements [][]byte
}

func newStreamPrinter(r *streamRun) *streamPrinter {
	p := &streamPrinter{run: r, strings: !r.json}
	for _, request := range r.requests {
		p.fields = append(p.fields, &r.description.Fields[request.Index])
		p.names = append(p.names, fieldtext.Format(request, r.description.Fields))
	}
	return p
}

// chunk prints events, of which it keeps nothing.
func (p *streamPrinter) chunk(ctx context.Context, events []sourceplugin.Event) error {
	values, err := p.extract(ctx, events)
	if err != nil {
		return err
	}
	texts, err := p.texts(ctx, events)
	if err != nil {
		return err
	}
	p.buf = p.buf[:0]
	for i := range events {
		if p.run.json {
			p.json(&events[i], values)
		} else {
			p.text(&events[i], texts, i, values)
		}
	}
	err = p.run.write(p.buf)
	if cap(p.buf) > 4*chunkBytes {
		p.buf = nil
	}
	return err
}

// extract asks for the fields; nil if none are wanted.
func (p *streamPrinter) extract(ctx context.Context, events []sourceplugin.Event) (*fieldtext.Reader, error) {
	if len(p.fields) == 0 {
		return nil, nil
	}
	values, err := p.run.plugin.Extract(ctx, events, p.run.requests)
	if err != nil {
		return nil, fmt.Errorf("extract fields: %w", err)
	}
	r, err := fieldtext.NewReader(values, len(events), len(p.fields))
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", visible(p.run.name), err)
	}
	return r, nil
}

// texts asks the plugin what people read of events; nil if it does not tell.
func (p *streamPrinter) texts(ctx context.Context, events []sourceplugin.Event) ([]string, error) {
	if !p.strings {
		return nil, nil
	}
	texts, err := p.run.plugin.Strings(ctx, events)
	switch {
	case errors.Is(err, sourceplugin.ErrNotSupported):
		p.strings = false
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("print events: %w", err)
	case len(texts) != len(events):
		return nil, fmt.Errorf("plugin %s: it has %d texts for %d events", visible(p.run.name), len(texts), len(events))
	}
	return texts, nil
}

const textTime = "2006-01-02T15:04:05.000000000Z"

// text appends an event for people.
func (p *streamPrinter) text(e *sourceplugin.Event, texts []string, i int, values *fieldtext.Reader) {
	b := strconv.AppendUint(p.buf, e.Number, 10)
	b = append(b, ' ')
	b = e.Time().AppendFormat(b, textTime)
	b = append(b, ' ')
	b = append(b, visible(e.Source)...)
	if e.Type() == scapevent.Async {
		b = append(append(b, '/'), visible(e.Name())...)
	}
	b = append(b, ' ')
	if texts != nil {
		b = append(b, visible(texts[i])...)
	} else {
		b = append(b, shownData(e.Data())...)
	}
	for i, f := range p.fields {
		b = append(append(append(b, ' ', ' '), visible(p.names[i])...), '=')
		p.elements = values.Next(p.elements)
		p.value = fieldtext.AppendText(p.value[:0], f, p.elements)
		b = append(b, visible(string(p.value))...)
	}
	p.buf = append(b, '\n')
}

// shownData is a payload for people: text as it is, else its first bytes.
func shownData(data []byte) string {
	const most = 32
	switch {
	case utf8.Valid(data):
		return visible(string(data))
	case len(data) > most:
		return fmt.Sprintf("%s... (%d bytes)", hex.EncodeToString(data[:most]), len(data))
	}
	return hex.EncodeToString(data)
}

// json appends an event as JSON, with the names of "capture cat".
func (p *streamPrinter) json(e *sourceplugin.Event, values *fieldtext.Reader) {
	b := append(p.buf, `{"number":`...)
	b = strconv.AppendUint(b, e.Number, 10)
	b = append(b, `,"time":"`...)
	b = e.Time().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","plugin":`...)
	b = jsontext.AppendString(b, p.run.name)
	b = append(b, `,"plugin_id":`...)
	b = strconv.AppendUint(b, uint64(e.PluginID()), 10)
	b = append(b, `,"event_source":`...)
	b = jsontext.AppendString(b, e.Source)
	if e.Type() == scapevent.Async {
		b = append(b, `,"async":`...)
		b = jsontext.AppendString(b, e.Name())
	}
	if data := e.Data(); utf8.Valid(data) {
		b = append(b, `,"data":`...)
		b = jsontext.AppendString(b, string(data))
	} else {
		b = append(b, `,"data_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, data)
		b = append(b, '"')
	}
	for i, f := range p.fields {
		if i == 0 {
			b = append(b, `,"fields":{`...)
		} else {
			b = append(b, ',')
		}
		b = jsontext.AppendString(b, p.names[i])
		b = append(b, ':')
		p.elements = values.Next(p.elements)
		b = fieldtext.AppendJSON(b, f, p.elements)
	}
	if len(p.fields) > 0 {
		b = append(b, '}')
	}
	p.buf = append(b, '}', '\n')
}
