package hubplugin

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/eventfields"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// known are the hub's own fields that hosts do not have themselves: evt.* are Falco's, json.* and
// jevt.* those of its json plugin.
var known = sync.OnceValue(func() (own []field.Field) {
	for _, f := range eventfields.Fields(falcoevent.EventSource) {
		if strings.HasPrefix(f.Name, "event.") || strings.HasPrefix(f.Name, "audit.") {
			own = append(own, f)
		}
	}
	return own
})

// fields are the same, as the plugin declares them.
func fields() (list []plugin.Field) {
	for _, f := range known() {
		list = append(list, plugin.Field{
			Name: f.Name, Description: f.Description, Display: f.Display, Type: plugin.FieldType(f.Type), List: f.List,
			Arg: plugin.Arg{Index: f.Arg.Index, Key: f.Arg.Key, Required: f.Arg.Required},
		})
	}
	return list
}

// extractor gives the values of fields. Hosts ask for one field after the other of an event, so it
// remembers the last one.
type extractor struct {
	mu       sync.Mutex
	requests *field.Requests
	reader   *eventfields.Reader // for the requests
	has      int                 // how many of the requests the reader knows
	data     []byte              // the event that the reader looks at
	valid    bool                // it is one
	numbers  map[request]int
}

// request is a field with its argument.
type request struct {
	name, arg  string
	argPresent bool
}

// maxRequests is how many requests are remembered. Those of rules are always the same.
const maxRequests = 10_000

// Extract implements [plugin.Extractor].
func (p *hubPlugin) Extract(ctx context.Context, e *plugin.Event, list []plugin.Request) error {
	x := &p.extract
	x.mu.Lock()
	defer x.mu.Unlock()
	x.room(len(list))
	var few [16]int
	numbers := few[:0]
	for i := range list {
		n, err := x.want(list[i].Name, list[i].Arg, list[i].HasArg)
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	if ok, err := x.look(ctx, e.Data); !ok {
		return err
	}
	for i := range list {
		set(&list[i], x.requests.List()[numbers[i]].Field, x.reader.Values(numbers[i]))
	}
	return nil
}

// room makes room for some requests.
func (x *extractor) room(n int) {
	if x.numbers == nil || len(x.numbers)+n > maxRequests {
		x.requests, x.numbers, x.has = field.NewRequests(known()), make(map[request]int), 0
	}
}

// want returns the number of a request, for which there is room.
func (x *extractor) want(name, arg string, present bool) (int, error) {
	r := request{name, arg, present}
	if n, ok := x.numbers[r]; ok {
		return n, nil
	}
	n, err := x.requests.Add(name, arg, present)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	x.numbers[r] = n
	return n, nil
}

// look has the reader look at an event. It returns false for what is no event of a hub: it has no
// fields.
func (x *extractor) look(ctx context.Context, data []byte) (bool, error) {
	if all := x.requests.List(); x.reader == nil || x.has != len(all) {
		reader, err := eventfields.NewReader(falcoevent.EventSource, all, eventfields.Options{})
		if err != nil {
			return false, err
		}
		if x.reader != nil {
			x.reader.Close()
		}
		x.reader, x.has, x.data = reader, len(all), nil
	}
	if x.data != nil && bytes.Equal(x.data, data) {
		return x.valid, nil
	}
	const keep = 1 << 20
	if cap(x.data) > keep {
		x.data = nil
	}
	x.data = append(x.data[:0], data...)
	e, err := event.ParseCloudEvent(x.data)
	if x.valid = err == nil; x.valid {
		x.reader.Event(ctx, e)
	}
	return x.valid, nil
}

// set sets the value of a request.
func set(r *plugin.Request, f *field.Field, values []field.Element) {
	for i := range values {
		v := &values[i]
		switch f.Type {
		case sourceplugin.String:
			r.SetText(v.Text)
		case sourceplugin.Uint64:
			r.SetUint64(v.Number)
		case sourceplugin.RelTime:
			r.SetDuration(time.Duration(v.Number))
		case sourceplugin.AbsTime:
			r.SetTime(time.Unix(0, int64(v.Number)))
		case sourceplugin.Bool:
			r.SetBool(v.Number != 0)
		case sourceplugin.IPAddr:
			if a, ok := netip.AddrFromSlice([]byte(v.Text)); ok {
				r.SetAddr(a)
			}
		case sourceplugin.IPNet:
			if p, err := netip.ParsePrefix(v.Text); err == nil {
				r.SetPrefix(p)
			}
		}
	}
}

// summaryFields are those that a line about an event is made of.
var summaryFields = [...]string{
	"event.type", "event.namespace", "event.path", "audit.request.operation", "audit.auth.display_name", "audit.remote_address", "audit.outcome", "audit.error",
}

// maxSummary is how long such a line is at most.
const maxSummary = 512

// String implements [plugin.Stringer].
func (p *hubPlugin) String(e *plugin.Event) (string, error) {
	own, err := event.ParseCloudEvent(e.Data)
	if err != nil {
		return fmt.Sprintf("%d bytes that are no event of a hub", len(e.Data)), nil
	}
	x := &p.extract
	x.mu.Lock()
	defer x.mu.Unlock()
	x.room(len(summaryFields))
	var numbers [len(summaryFields)]int
	for i, name := range summaryFields {
		if numbers[i], err = x.want(name, "", false); err != nil {
			return "", err
		}
	}
	if ok, err := x.look(context.Background(), e.Data); !ok {
		return "", err
	}
	text := func(i int) string {
		values := x.reader.Values(numbers[i])
		if len(values) == 0 {
			return ""
		}
		if summaryFields[i] == "audit.remote_address" {
			a, _ := netip.AddrFromSlice([]byte(values[0].Text))
			return a.String()
		}
		return values[0].Text
	}
	var b strings.Builder
	b.WriteString(own.Type)
	audit := text(3) != ""
	if audit {
		b.WriteString(" " + text(3))
	}
	if path := text(1) + text(2); path != "" {
		b.WriteString(" " + path)
	}
	if !audit {
		for _, f := range own.Metadata {
			if f.Key != event.MetadataPath && b.Len() < maxSummary {
				b.WriteString(" " + f.Key + "=" + f.Value)
			}
		}
		return line(b.String()), nil
	}
	for i, before := range []string{" by ", " from ", ": ", ": "} {
		if t := text(4 + i); t != "" {
			b.WriteString(before + t)
		}
	}
	return line(b.String()), nil
}

// line makes a text one short line.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) && r != ' ' {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxSummary {
		s = strings.ToValidUTF8(s[:maxSummary-3], "") + "..."
	}
	return s
}
