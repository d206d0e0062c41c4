package fields

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Missing says why a field has no value that can be relied on.
type Missing struct {
	Field  string
	Reason string
	// Final says that the plugin works and refuses this event: asking again is in vain.
	Final bool
	// Payload says that it is no plugin that is missing, but a payload that is kept outside of its
	// event.
	Payload bool
}

func (m *Missing) Error() string { return fmt.Sprintf("field %s: %s", m.Field, m.Reason) }

// View looks at the fields of the events of one record, for one goroutine. It is a [filter.Row].
type View struct {
	use     *Use
	ctx     context.Context
	rec     Record
	columns []*column // of the fields of use; nil before somebody has asked
	event   int
	missing *Missing
	told    uint64 // of the first 64 fields, those that a plugin has answered about
}

// View returns a view of a record. Plugins are asked when the first value is, until ctx ends.
func (u *Use) View(ctx context.Context, rec Record) *View {
	return &View{use: u, ctx: ctx, rec: rec}
}

// At has the view look at an event, and forget what was missing of others. It returns the view.
func (v *View) At(event int) *View {
	v.event, v.missing = event, nil
	return v
}

// Told returns the fields that were asked for, since the view was made, and that a plugin has
// answered about, at least for one event.
func (v *View) Told() (names []string) {
	for i, name := range v.use.names {
		if v.told&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// Missing returns why a value that was asked for since At could not be extracted; nil: none.
func (v *View) Missing() *Missing { return v.missing }

// Texts implements [filter.Row], with the numbers of [Use.Names].
func (v *View) Texts(field int) (texts []string, list bool) {
	c := v.cell(field)
	if c.count == 0 {
		return nil, false
	}
	return c.part.texts[c.begin : c.begin+c.count], c.part.field.List
}

// Value returns a field of the event, with its number in [Use.Names]: the zero Value if the event
// does not have it. The error is a [*Missing].
func (v *View) Value(field int) (Value, error) {
	c := v.cell(field)
	switch {
	case c.part != nil && c.part.missing != nil:
		return Value{}, c.part.missing
	case c.count == 0:
		return Value{}, nil
	}
	return Value(c), nil
}

func (v *View) cell(field int) cell {
	if !isPlugins(v.rec.Event(v.event).Type) {
		return cell{}
	}
	if v.columns == nil {
		v.columns = v.use.registry.columns(v.ctx, v.rec, v.use.names)
	}
	c := v.columns[field].cells[v.event]
	switch {
	case c.part == nil:
	case c.part.missing == nil:
		v.told |= 1 << field
	case v.missing == nil:
		v.missing = c.part.missing
	}
	return c
}

// Value is what a field has in an event. It is immutable.
type Value struct {
	part         *part
	begin, count uint32
}

// Field returns what the plugin says of the field; nil for the zero Value.
func (v Value) Field() *sourceplugin.Field {
	if v.part == nil {
		return nil
	}
	return v.part.field
}

// Type returns the type of the elements; 0 for the zero Value.
func (v Value) Type() sourceplugin.FieldType {
	if v.part == nil {
		return 0
	}
	return v.part.field.Type
}

// List says whether the field is a list.
func (v Value) List() bool { return v.part != nil && v.part.field.List }

// Len returns the number of elements: that of a list; otherwise 1, or 0 for no value.
func (v Value) Len() int { return int(v.count) }

// Text returns an element as people write it: times by RFC 3339, durations as 1.5s.
func (v Value) Text(i int) string { return v.part.texts[v.index(i)] }

// Raw returns an element as the plugin encodes it: a text or a network as such, an address as its
// 4 or 16 bytes, a number or a time as 8 bytes, a bool as one.
func (v Value) Raw(i int) string { return v.part.raw[v.index(i)] }

// Number returns an element that is a number or a time; ok says that it is one.
func (v Value) Number(i int) (n uint64, ok bool) {
	raw := v.part.raw[v.index(i)]
	switch v.part.field.Type {
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		if len(raw) == 8 {
			return binary.LittleEndian.Uint64([]byte(raw)), true
		}
	}
	return 0, false
}

// Bool returns an element that is a bool.
func (v Value) Bool(i int) (b, ok bool) {
	raw := v.part.raw[v.index(i)]
	if v.part.field.Type != sourceplugin.Bool || len(raw) != 1 {
		return false, false
	}
	return raw[0] != 0, true
}

// Addr returns an element that is an address.
func (v Value) Addr(i int) (netip.Addr, bool) {
	if v.part.field.Type != sourceplugin.IPAddr {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice([]byte(v.part.raw[v.index(i)]))
}

// Prefix returns an element that is a network.
func (v Value) Prefix(i int) (netip.Prefix, bool) {
	if v.part.field.Type != sourceplugin.IPNet {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(v.part.raw[v.index(i)])
	return p, err == nil
}

// Time returns an element that is a point in time.
func (v Value) Time(i int) (time.Time, bool) {
	n, ok := v.Number(i)
	if !ok || v.part.field.Type != sourceplugin.AbsTime || n > 1<<63-1 {
		return time.Time{}, false
	}
	return time.Unix(0, int64(n)).UTC(), true
}

// Duration returns an element that is a length of time.
func (v Value) Duration(i int) (time.Duration, bool) {
	n, ok := v.Number(i)
	if !ok || v.part.field.Type != sourceplugin.RelTime || n > 1<<63-1 {
		return 0, false
	}
	return time.Duration(n), true
}

// index returns where an element is. It panics if there is none, as a slice does.
func (v Value) index(i int) uint32 {
	if i < 0 || i >= int(v.count) {
		panic(fmt.Sprintf("fields: element %d of %d", i, v.count))
	}
	return v.begin + uint32(i)
}
