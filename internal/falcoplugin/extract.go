//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ebitengine/purego"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Sizes and offsets of what plugin_extract_fields takes.
const (
	fieldSize       = 64
	fieldResult     = 0
	fieldCount      = 8
	fieldID         = 16
	fieldName       = 24
	fieldKey        = 32
	fieldIndex      = 40
	fieldPresent    = 48
	fieldType       = 52
	fieldList       = 56
	inputSize       = 80
	inputNumFields  = 16
	inputFields     = 24
	inputOffsets    = 72
	eventInputSize  = 24
	maxElements     = 1 << 16 // of a list
	maxElementBytes = 32 << 20
	maxAnswerBytes  = 60 << 20 // of all values, or texts, of a call: what a message can have
	maxEventTypes   = 1 << 12
)

// scratch is memory that is used for one call after the other.
type scratch struct {
	event, call, strings memory
}

func (c *scratch) free() {
	c.event.free()
	c.call.free()
	c.strings.free()
}

// eventInput is where the event_input is, and the extract input, the value offsets and the
// fields behind it.
func (c *scratch) eventInput() uintptr { return c.call.addr }
func (c *scratch) extractInput() uintptr {
	return c.call.addr + eventInputSize
}
func (c *scratch) offsets() uintptr { return c.extractInput() + inputSize }
func (c *scratch) fields() uintptr  { return c.offsets() + 16 }

// prepare makes room for the structs and puts all texts down: those of names and keys, and of
// event sources, whose addresses it returns.
func (c *scratch) prepare(s *state, events []sourceplugin.Event, requests []sourceplugin.FieldRequest) map[string]uintptr {
	fields := s.plugin.library.description.Fields
	sources := map[string]uintptr{}
	size := 0
	for i := range events {
		if _, ok := sources[events[i].Source]; !ok {
			sources[events[i].Source] = 0
			size += len(events[i].Source) + 1
		}
	}
	for _, r := range requests {
		size += len(fields[r.Index].Name) + 1 + len(r.Arg) + 1
	}
	c.strings.grow(uintptr(size))
	at := c.strings.addr
	put := func(text string) uintptr {
		start := at
		to := view(at, uintptr(len(text)+1))
		to[copy(to, text)] = 0
		at += uintptr(len(to))
		return start
	}
	for source := range sources {
		sources[source] = put(source)
	}
	structs := uintptr(eventInputSize + inputSize + 16 + fieldSize*len(requests))
	c.call.grow(structs)
	clear(view(c.call.addr, structs))
	for i, r := range requests {
		f := fields[r.Index]
		to := c.fields() + uintptr(i)*fieldSize
		put32(to+fieldID, uint32(r.Index))
		putWord(to+fieldName, put(f.Name))
		if r.ArgPresent && f.Arg.Key {
			putWord(to+fieldKey, put(r.Arg))
		}
		if r.ArgPresent && f.Arg.Index {
			put64(to+fieldIndex, r.ArgIndex)
		}
		if r.ArgPresent {
			put32(to+fieldPresent, 1)
		}
		put32(to+fieldType, uint32(f.Type))
		if f.List {
			put32(to+fieldList, 1)
		}
	}
	in := c.extractInput()
	putWord(in, s.owner)
	putWord(in+8, callbacks.lastError)
	for i, fn := range []uintptr{callbacks.null, callbacks.null, callbacks.null, callbacks.failure} {
		putWord(in+32+uintptr(i)*8, fn)
	}
	putWord(in+64, callbacks.readerExt.addr)
	return sources
}

// setEvent puts an event where the plugin finds it.
func (c *scratch) setEvent(e *sourceplugin.Event, source uintptr) {
	c.event.grow(uintptr(len(e.Event)))
	copy(view(c.event.addr, uintptr(len(e.Event))), e.Event)
	in := c.eventInput()
	putWord(in, c.event.addr)
	put64(in+8, e.Number)
	putWord(in+16, source)
}

// trim frees what a large event has left behind.
func (c *scratch) trim() {
	if c.event.size > keepBytes {
		c.event.free()
	}
}

// Extract implements [sourceplugin.Plugin]. Offsets are told if one field is asked for: the API
// does not say whose they are among several.
func (p *Plugin) Extract(ctx context.Context, events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
	d := &p.library.description
	if !d.Capabilities.Extract {
		return sourceplugin.Values{}, sourceplugin.ErrNotSupported
	}
	for _, r := range fields {
		if err := checkRequest(d.Fields, r); err != nil {
			return sourceplugin.Values{}, p.errorf("%w", err)
		}
	}
	if len(events) == 0 || len(fields) == 0 {
		return sourceplugin.Values{}, nil
	}
	s, err := p.readerState(ctx)
	if err != nil {
		return sourceplugin.Values{}, err
	}
	x := &extraction{state: s, requests: fields, fields: d.Fields}
	if err := s.call(ctx, "plugin_extract_fields", func() { x.run(ctx, events) }); err != nil {
		return sourceplugin.Values{}, err
	}
	return x.values, x.err
}

func checkRequest(fields []sourceplugin.Field, r sourceplugin.FieldRequest) error {
	if r.Index < 0 || r.Index >= len(fields) {
		return fmt.Errorf("there is no field %d: it has %d", r.Index, len(fields))
	}
	f := &fields[r.Index]
	switch {
	case f.Arg.Required && !r.ArgPresent:
		return fmt.Errorf("field %s needs an argument in brackets", f.Name)
	case r.ArgPresent && !f.Arg.Index && !f.Arg.Key:
		return fmt.Errorf("field %s takes no argument", f.Name)
	case strings.IndexByte(r.Arg, 0) >= 0:
		return fmt.Errorf("the argument of field %s has a NUL byte", f.Name)
	}
	return nil
}

// extraction is one call of Extract.
type extraction struct {
	state    *state
	requests []sourceplugin.FieldRequest
	fields   []sourceplugin.Field
	values   sourceplugin.Values
	err      error
	// oneByOne asks for one field at a time: after an error of one the plugin need not have the
	// others, and some plugins use the memory of one for the next.
	oneByOne    bool
	failedInRow int
	hasOffsets  bool
	args        []uintptr // of the function, made once
	results     []uintptr // of all, used again
}

// manyFailures in a row make it ask for one field at a time.
const manyFailures = 4

func (x *extraction) run(ctx context.Context, events []sourceplugin.Event) {
	c := &x.state.scratch
	sources := c.prepare(x.state, events, x.requests)
	defer c.trim()
	x.values.Counts = make([]uint32, 0, len(events)*len(x.requests))
	x.values.Lengths = make([]uint32, 0, len(events)*len(x.requests))
	x.oneByOne = len(x.requests) == 1
	x.args = []uintptr{x.state.handle, c.eventInput(), c.extractInput()}
	types, err := x.state.eventTypes()
	if err != nil {
		x.err = err
		return
	}
	for i := range events {
		switch {
		case i%64 == 63 && ctx.Err() != nil:
			x.err = ctx.Err()
			return
		case len(x.values.Bytes) > maxAnswerBytes:
			x.err = x.state.plugin.errorf("plugin_extract_fields: the values of %d events have more than %d MiB; ask about fewer events, or for fewer fields", i, maxAnswerBytes>>20)
			return
		case !slices.Contains(types, events[i].Type()):
			for range x.requests {
				x.values.Counts = append(x.values.Counts, 0)
			}
			continue
		}
		c.setEvent(&events[i], sources[events[i].Source])
		if !x.oneByOne && x.all() {
			continue
		}
		for f := range x.requests {
			x.one(f)
		}
	}
	if !x.hasOffsets {
		x.values.Offsets = nil
	}
}

// call asks for count fields from the first on.
func (x *extraction) call(first, count int, offsets uintptr) (rc int32) {
	c := &x.state.scratch
	at := c.fields() + uintptr(first)*fieldSize
	for i := range uintptr(count) {
		putWord(at+i*fieldSize+fieldResult, 0)
		put64(at+i*fieldSize+fieldCount, 0)
	}
	in := c.extractInput()
	put32(in+inputNumFields, uint32(count))
	putWord(in+inputFields, at)
	putWord(in+inputOffsets, offsets)
	r, _, _ := purego.SyscallN(x.state.plugin.library.fn.extract, x.args...)
	return int32(r)
}

// all asks for all fields of an event. It returns false if that did not tell all of them.
func (x *extraction) all() bool {
	if rc := x.call(0, len(x.requests), 0); rc != rcSuccess {
		if x.failedInRow++; x.failedInRow >= manyFailures {
			x.oneByOne = true
		}
		return false
	}
	x.failedInRow = 0
	x.results = x.results[:0]
	for i := range x.requests {
		at := x.state.scratch.fields() + uintptr(i)*fieldSize
		result, count := word(at+fieldResult), get64(at+fieldCount)
		if count == 0 || !isAddress(result) {
			continue
		}
		shared := x.note(result)
		switch x.fields[x.requests[i].Index].Type { // their bytes are elsewhere
		case sourceplugin.String:
			shared = x.note(word(result)) || shared
		case sourceplugin.IPAddr, sourceplugin.IPNet:
			shared = x.note(word(result+8)) || shared
		}
		if shared {
			x.oneByOne = true
			return false
		}
	}
	for i := range x.requests {
		x.add(i)
	}
	return true
}

// note adds an address to those of the results, and says whether it was there.
func (x *extraction) note(addr uintptr) (known bool) {
	if !isAddress(addr) {
		return false
	}
	known = slices.Contains(x.results, addr)
	x.results = append(x.results, addr)
	return known
}

// eventTypes returns the types of events that the plugin extracts from; s must be in use.
func (s *state) eventTypes() ([]uint16, error) {
	if s.types != nil {
		return s.types, nil
	}
	types := []uint16{scapevent.Plugin}
	if fn := s.plugin.library.fn.extractTypes; fn != 0 {
		count := newMemory(8)
		defer count.free()
		addr, _, _ := purego.SyscallN(fn, count.addr, s.handle)
		switch n := get32(count.addr); {
		case n == 0 || addr == 0:
		case n > maxEventTypes || !isAddress(addr):
			return nil, s.plugin.errorf("plugin_get_extract_event_types: it says that there are %d types, at %#x", n, addr)
		default:
			types = make([]uint16, n)
			for i := range types {
				types[i] = get16(addr + uintptr(i)*2)
			}
		}
	}
	s.types = types
	return types, nil
}

// one asks for one field.
func (x *extraction) one(i int) {
	offsets := uintptr(0)
	if len(x.requests) == 1 {
		offsets = x.state.scratch.offsets()
		putWord(offsets, 0)
		putWord(offsets+8, 0)
	}
	if rc := x.call(i, 1, offsets); rc != rcSuccess {
		x.values.Counts = append(x.values.Counts, 0)
		return
	}
	n := x.add(i)
	if offsets == 0 {
		return
	}
	starts, lengths := word(offsets), word(offsets+8)
	if !isAddress(starts) || !isAddress(lengths) {
		x.values.Offsets = append(x.values.Offsets, make([]uint32, 2*n)...)
		return
	}
	for e := range uintptr(n) {
		x.hasOffsets = true
		x.values.Offsets = append(x.values.Offsets, get32(starts+e*4), get32(lengths+e*4))
	}
}

// add appends the value that the plugin has put to a field, and returns how many elements it
// has. One that cannot be is no value.
func (x *extraction) add(i int) (count int) {
	at := x.state.scratch.fields() + uintptr(i)*fieldSize
	result, n := word(at+fieldResult), get64(at+fieldCount)
	f := &x.fields[x.requests[i].Index]
	v := &x.values
	if n == 0 || n > maxElements || !isAddress(result) {
		v.Counts = append(v.Counts, 0)
		return 0
	}
	if !f.List {
		n = 1
	}
	lengths, bytes := len(v.Lengths), len(v.Bytes)
	for e := range uintptr(n) {
		before := len(v.Bytes)
		ok := true
		switch f.Type {
		case sourceplugin.String:
			var b []byte
			addr := word(result + e*8)
			b, err := text(addr, maxElementBytes)
			ok = err == nil && isAddress(addr)
			v.Bytes = append(v.Bytes, b...)
		case sourceplugin.Bool:
			b := byte(0)
			if get32(result+e*4) != 0 {
				b = 1
			}
			v.Bytes = append(v.Bytes, b)
		case sourceplugin.IPAddr, sourceplugin.IPNet:
			size, addr := get32(result+e*16), word(result+e*16+8)
			if ok = isAddress(addr) && size > 0 && size <= 64; !ok {
				break
			}
			b := view(addr, uintptr(size))
			if f.Type == sourceplugin.IPNet {
				v.Bytes, ok = appendNet(v.Bytes, b)
			} else if ok = size == 4 || size == 16; ok {
				v.Bytes = append(v.Bytes, b...)
			}
		default:
			v.Bytes = binary.LittleEndian.AppendUint64(v.Bytes, get64(result+e*8))
		}
		if !ok || len(v.Bytes)-bytes > maxElementBytes {
			v.Lengths, v.Bytes = v.Lengths[:lengths], v.Bytes[:bytes]
			v.Counts = append(v.Counts, 0)
			return 0
		}
		v.Lengths = append(v.Lengths, uint32(len(v.Bytes)-before))
	}
	v.Counts = append(v.Counts, uint32(n))
	return int(n)
}

// Strings implements [sourceplugin.Plugin]. Without a function for it the bytes are shown, and so
// are those of asynchronous events, which such functions do not expect.
func (p *Plugin) Strings(ctx context.Context, events []sourceplugin.Event) ([]string, error) {
	texts := make([]string, len(events))
	if p.library.fn.eventToString == 0 {
		for i := range events {
			texts[i] = plainText(events[i].Data())
		}
		return texts, nil
	}
	s, err := p.readerState(ctx)
	if err != nil {
		return nil, err
	}
	var failed error
	err = s.call(ctx, "plugin_event_to_string", func() {
		c := &s.scratch
		sources := c.prepare(s, events, nil)
		defer c.trim()
		size := 0
		for i := range events {
			if events[i].Type() != scapevent.Plugin {
				texts[i] = plainText(events[i].Data())
				continue
			}
			if size > maxAnswerBytes {
				failed = p.errorf("plugin_event_to_string: the texts of %d events have more than %d MiB; ask about fewer events", i, maxAnswerBytes>>20)
				return
			}
			c.setEvent(&events[i], sources[events[i].Source])
			addr, _, _ := purego.SyscallN(p.library.fn.eventToString, s.handle, c.eventInput())
			got, err := text(addr, maxElementBytes)
			switch {
			case err != nil || !isAddress(addr):
				texts[i] = plainText(events[i].Data())
			default:
				texts[i] = strings.ToValidUTF8(string(got), "\uFFFD")
			}
			size += len(texts[i])
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	return texts, nil
}

// appendNet appends a network as text: from an address (then all its bits count), an address
// and a mask, or a text.
func appendNet(dst, b []byte) ([]byte, bool) {
	var prefix netip.Prefix
	switch len(b) {
	case 4, 16:
		addr, _ := netip.AddrFromSlice(b)
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	case 8, 32:
		addr, _ := netip.AddrFromSlice(b[:len(b)/2])
		bits, ok := maskBits(b[len(b)/2:])
		if !ok {
			return dst, false
		}
		prefix = netip.PrefixFrom(addr, bits)
	default:
		var err error
		if prefix, err = netip.ParsePrefix(strings.TrimRight(string(b), "\x00")); err != nil {
			return dst, false
		}
	}
	return prefix.AppendTo(dst), true
}

// maskBits returns how many ones a mask begins with; behind them there must be none.
func maskBits(mask []byte) (bits int, ok bool) {
	for i, b := range mask {
		for bit := range 8 {
			one := b&(0x80>>bit) != 0
			if one && bits < i*8+bit {
				return 0, false
			}
			if one {
				bits++
			}
		}
	}
	return bits, true
}
