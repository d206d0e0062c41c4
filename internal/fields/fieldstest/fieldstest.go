// Package fieldstest has a plugin for tests of those who have fields extracted.
package fieldstest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// ID and EventSource are those of the events of a Plugin.
const (
	ID          = 999
	EventSource = "fakes"
)

// Plugin extracts fields of events whose payload is a JSON object: fake.NAME is the member NAME,
// and fake.value[NAME] the same as a text. With an event that has a member "fail" it fails.
type Plugin struct {
	About sourceplugin.Description
	// Before, if not nil, is called first by Extract, which returns its error, if it has one.
	Before func(ctx context.Context, events []sourceplugin.Event) error
	// Say, if not nil, is Strings.
	Say func(events []sourceplugin.Event) ([]string, error)
	// Wrong, if not nil, changes an answer.
	Wrong func(*sourceplugin.Values)

	mu    sync.Mutex
	calls []Call
}

// Call is what a call of Extract asked for.
type Call struct {
	Events int
	Fields []string // names
}

// New returns a plugin.
func New() *Plugin {
	field := func(name string, t sourceplugin.FieldType) sourceplugin.Field {
		return sourceplugin.Field{Name: "fake." + name, Type: t}
	}
	list := field("list", sourceplugin.String)
	list.List = true
	value := field("value", sourceplugin.String)
	value.Arg = sourceplugin.ArgRule{Required: true, Key: true}
	return &Plugin{About: sourceplugin.Description{
		Name: "fake", Version: "1.2.3", ID: ID, EventSource: EventSource,
		Capabilities: sourceplugin.Capabilities{Source: true, Extract: true},
		Fields: []sourceplugin.Field{
			field("text", sourceplugin.String), list, value, field("number", sourceplugin.Uint64), field("ok", sourceplugin.Bool),
			field("time", sourceplugin.AbsTime), field("took", sourceplugin.RelTime), field("addr", sourceplugin.IPAddr), field("net", sourceplugin.IPNet),
		},
	}}
}

// Calls returns what Extract was asked so far.
func (p *Plugin) Calls() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

// Describe implements [sourceplugin.Plugin].
func (p *Plugin) Describe() *sourceplugin.Description { return &p.About }

// Extract implements [sourceplugin.Plugin].
func (p *Plugin) Extract(ctx context.Context, events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (v sourceplugin.Values, err error) {
	c := Call{Events: len(events)}
	for _, f := range fields {
		c.Fields = append(c.Fields, p.About.Fields[f.Index].Name)
	}
	p.mu.Lock()
	p.calls = append(p.calls, c)
	p.mu.Unlock()
	if p.Before != nil {
		if err := p.Before(ctx, events); err != nil {
			return v, err
		}
	}
	for i := range events {
		if _, _, err := scapevent.Next(events[i].Event); err != nil {
			return v, err
		}
		var members map[string]any
		_ = json.Unmarshal(events[i].Data(), &members)
		if members["fail"] != nil {
			return v, errors.New("this event is too\nmuch")
		}
		for _, f := range fields {
			about := &p.About.Fields[f.Index]
			name := about.Name[len("fake."):]
			if f.ArgPresent {
				name = f.Arg
			}
			elements, _ := members[name].([]any)
			if m := members[name]; m != nil && elements == nil {
				elements = []any{m}
			}
			v.Counts = append(v.Counts, uint32(len(elements)))
			for _, e := range elements {
				b := encode(about.Type, e)
				v.Lengths, v.Bytes = append(v.Lengths, uint32(len(b))), append(v.Bytes, b...)
			}
		}
	}
	if p.Wrong != nil {
		p.Wrong(&v)
	}
	return v, nil
}

func encode(t sourceplugin.FieldType, v any) []byte {
	text, _ := v.(string)
	number, _ := v.(float64)
	switch t {
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		return binary.LittleEndian.AppendUint64(nil, uint64(number))
	case sourceplugin.Bool:
		if v == true {
			return []byte{1}
		}
		return []byte{0}
	case sourceplugin.IPAddr:
		return netip.MustParseAddr(text).AsSlice()
	}
	return []byte(text)
}

// OpenParams implements [sourceplugin.Plugin].
func (p *Plugin) OpenParams(context.Context) ([]sourceplugin.OpenParam, error) {
	return nil, sourceplugin.ErrNotSupported
}

// Open implements [sourceplugin.Plugin].
func (p *Plugin) Open(context.Context, sourceplugin.Open) (sourceplugin.Stream, error) {
	return nil, sourceplugin.ErrNotSupported
}

// Strings implements [sourceplugin.Plugin].
func (p *Plugin) Strings(_ context.Context, events []sourceplugin.Event) ([]string, error) {
	if p.Say == nil {
		return nil, sourceplugin.ErrNotSupported
	}
	return p.Say(events)
}

// Metrics implements [sourceplugin.Plugin].
func (p *Plugin) Metrics(context.Context) ([]sourceplugin.Metric, error) { return nil, nil }

// SetConfig implements [sourceplugin.Plugin].
func (p *Plugin) SetConfig(context.Context, string) error { return sourceplugin.ErrNotSupported }

// Close implements [sourceplugin.Plugin].
func (p *Plugin) Close(context.Context) error { return nil }

// Source is a source whose plugin runs, or does not.
type Source struct {
	name string
	mu   sync.Mutex
	runs sourceplugin.Plugin
}

// NewSource returns a source of a name with a plugin that runs; nil: none does.
func NewSource(name string, p sourceplugin.Plugin) *Source {
	s := &Source{name: name}
	s.Set(p)
	return s
}

// Set sets the plugin that runs; nil: none does.
func (s *Source) Set(p sourceplugin.Plugin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs = p
}

// Name returns the name of the source.
func (s *Source) Name() string { return s.name }

// Plugin returns the plugin that runs.
func (s *Source) Plugin() (sourceplugin.Plugin, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs, s.runs != nil
}

var counted struct {
	sync.Mutex
	n int
}

// Event returns an event of the plugin, from the source "fake", with a payload.
func Event(payload string) *event.Event {
	counted.Lock()
	counted.n++
	n := counted.n
	counted.Unlock()
	e := new(event.Event)
	origin.Set(e, "fake-"+strconv.Itoa(n), scapevent.Append(nil, ID, uint64(time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC).UnixNano()), []byte(payload)))
	return e
}

var origin = falcoevent.NewOrigin("fake", "", "", &New().About)
