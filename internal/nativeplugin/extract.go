//go:build cgo && (linux || darwin) && (amd64 || arm64)

package nativeplugin

// #include "abi.h"
import "C"

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// extraction is what is used again for all fields that are extracted with a state.
type extraction struct {
	mu       sync.Mutex
	event    [1]sourceplugin.Event
	requests []sourceplugin.FieldRequest
	args     map[string]string
	source   string
	results  memory
	offsets  memory
}

// maxArgs is how many arguments of fields are remembered, so that they need not be copied again.
const maxArgs = 4096

func (x *extraction) free() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.results.free()
	x.offsets.free()
}

// eventOf makes a view of an event of the host.
func eventOf(in *C.struct_event_input, source string) (sourceplugin.Event, error) {
	if in == nil || in.event == nil {
		return sourceplugin.Event{}, errors.New("the host has given no event")
	}
	header := unsafe.Slice((*byte)(unsafe.Pointer(in.event)), scapevent.HeaderSize)
	length := binary.LittleEndian.Uint32(header[16:])
	e, _, err := scapevent.Next(unsafe.Slice(&header[0], length))
	if err != nil {
		return sourceplugin.Event{}, err
	}
	return sourceplugin.Event{Event: e, Number: uint64(in.number), Source: source}, nil
}

// ExtractFields is plugin_extract_fields.
func ExtractFields(number uintptr, event, input unsafe.Pointer) int32 {
	s := states.get(number)
	if s == nil || s.plugin == nil {
		return Failure
	}
	in := (*C.struct_extract_input)(input)
	x := &s.extraction
	x.mu.Lock()
	defer x.mu.Unlock()
	return s.outcome(guard("extract_fields", func() error {
		fields := unsafe.Slice(in.fields, int(in.count))
		for i := range fields {
			fields[i].result, fields[i].count = nil, 0
		}
		if speaks(11) && in.offsets != nil {
			in.offsets.starts, in.offsets.lengths = nil, nil
		}
		var err error
		ours := (*C.struct_event_input)(event)
		if ours != nil {
			x.source = x.textOf(ours.source)
		}
		if x.event[0], err = eventOf(ours, x.source); err != nil {
			return err
		}
		x.requests = x.requests[:0]
		for i := range fields {
			r, err := x.request(&fields[i])
			if err != nil {
				return err
			}
			x.requests = append(x.requests, r)
		}
		values, err := s.plugin.Extract(context.Background(), x.event[:], x.requests)
		if err != nil {
			return err
		}
		x.put(fields, &values)
		if speaks(11) && in.offsets != nil && len(fields) == 1 {
			x.putOffsets(in.offsets, &values)
		}
		return nil
	}))
}

// textOf is textOf without a copy for a text that was there before.
func (x *extraction) textOf(at *C.char) string {
	if at == nil {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(at), n)) != 0 {
		n++
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(at)), n)
	if text, ok := x.args[string(b)]; ok {
		return text
	}
	if x.args == nil || len(x.args) >= maxArgs {
		x.args = make(map[string]string)
	}
	text := string(b)
	x.args[text] = text
	return text
}

// request is what the host asks for.
func (x *extraction) request(f *C.struct_extract_field) (r sourceplugin.FieldRequest, err error) {
	if int64(f.id) >= int64(len(library.about.Fields)) {
		return r, fmt.Errorf("there is no field number %d: the plugin has %d", f.id, len(library.about.Fields))
	}
	about := &library.about.Fields[f.id]
	r = sourceplugin.FieldRequest{Index: int(f.id), ArgPresent: f.present != 0}
	if !r.ArgPresent {
		return r, nil
	}
	if about.Arg.Index {
		r.ArgIndex = uint64(f.index)
	}
	switch {
	case about.Arg.Key:
		r.Arg = x.textOf(f.key)
	case about.Arg.Index:
		r.Arg = strconv.FormatUint(r.ArgIndex, 10)
	}
	return r, nil
}

// put puts values where the host finds them: first the results of all fields, then the texts and
// addresses that they point at.
func (x *extraction) put(fields []C.struct_extract_field, v *sourceplugin.Values) {
	if len(v.Lengths) == 0 {
		return
	}
	// 16 bytes are the largest result, 16 an address, and a NUL is behind a text. Where something must
	// stand for a NUL there are up to two more for each byte.
	size := len(v.Lengths)*(16+16+1) + len(v.Bytes)
	if bytes.IndexByte(v.Bytes, 0) >= 0 {
		size += 2 * len(v.Bytes)
	}
	x.results.need(size)
	results, texts := x.results.addr, x.results.bytes()[len(v.Lengths)*16:]
	lengths, b := v.Lengths, v.Bytes
	for i := range fields {
		n := int(v.Counts[i])
		if n == 0 {
			continue
		}
		fields[i].result, fields[i].count = results, C.uint64_t(n)
		kind := library.about.Fields[fields[i].id].Type
		for e, length := range lengths[:n] {
			value := b[:length]
			b = b[length:]
			switch kind {
			case sourceplugin.String:
				if bytes.IndexByte(value, 0) >= 0 {
					value = bytes.ReplaceAll(value, []byte{0}, []byte("\uFFFD"))
				}
				n := copy(texts, value)
				texts[n] = 0
				*(*unsafe.Pointer)(unsafe.Add(results, e*8)) = unsafe.Pointer(&texts[0])
				texts = texts[n+1:]
			case sourceplugin.Bool:
				*(*uint32)(unsafe.Add(results, e*4)) = uint32(value[0])
			case sourceplugin.IPAddr, sourceplugin.IPNet:
				if kind == sourceplugin.IPNet {
					value = network(value)
				}
				*(*C.struct_bytes)(unsafe.Add(results, e*C.sizeof_struct_bytes)) = C.struct_bytes{length: C.uint32_t(len(value)), start: unsafe.Pointer(&texts[0])}
				texts = texts[copy(texts, value):]
			default:
				*(*uint64)(unsafe.Add(results, e*8)) = binary.LittleEndian.Uint64(value)
			}
		}
		lengths = lengths[n:]
		results = unsafe.Add(results, n*16)
	}
}

// network returns the address of a network, which is all that hosts understand.
func network(text []byte) []byte {
	p, err := netip.ParsePrefix(string(text))
	if err != nil { // the SDK has made it
		panic(err)
	}
	return p.Addr().AsSlice()
}

// putOffsets tells where the values of the only field are in the event.
func (x *extraction) putOffsets(to *C.struct_offsets, v *sourceplugin.Values) {
	if len(v.Offsets) == 0 {
		return
	}
	n := len(v.Lengths)
	// Results stay where they are, so these have a place of their own.
	x.offsets.need(8 * n)
	all := unsafe.Slice((*uint32)(x.offsets.addr), 2*n)
	for i := range n {
		all[i], all[n+i] = v.Offsets[2*i], v.Offsets[2*i+1]
	}
	to.starts, to.lengths = (*C.uint32_t)(unsafe.Pointer(&all[0])), (*C.uint32_t)(unsafe.Pointer(&all[n]))
}

// EventToString is plugin_event_to_string. What the plugin cannot tell is told as hosts do it.
func EventToString(number uintptr, event unsafe.Pointer) unsafe.Pointer {
	s := states.get(number)
	if s == nil || s.plugin == nil {
		return nil
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	text := ""
	err := guard("event_to_string", func() error {
		in := (*C.struct_event_input)(event)
		source := ""
		if in != nil {
			source = textOf(in.source)
		}
		e, err := eventOf(in, source)
		if err != nil {
			return err
		}
		text = plainText(e.Data())
		list, err := s.plugin.Strings(context.Background(), []sourceplugin.Event{e})
		if len(list) == 1 {
			text = list[0]
		}
		if errors.Is(err, sourceplugin.ErrNotSupported) {
			return nil
		}
		return err
	})
	s.outcome(err)
	return s.readText.setText(text)
}
