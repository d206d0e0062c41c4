//go:build cgo && (linux || darwin) && (amd64 || arm64)

package nativeplugin

// #include "abi.h"
import "C"

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// waitTime is how long NextBatch waits for an event: hosts do nothing else meanwhile, not even end.
const waitTime = 30 * time.Millisecond

// stream is what plugin_open makes.
type stream struct {
	state  *state
	source sourceplugin.Stream

	mu      sync.Mutex // a call of next_batch, or close
	closed  bool
	batch   sourceplugin.Batch
	size    int    // of the events of the batch, in memory
	at      int    // what of them was handed over
	outcome error  // what follows them
	events  memory // a copy of the batch's
	list    memory // addresses of events

	telling  sync.Mutex // a call of get_progress
	progress memory
}

// Open is plugin_open.
func Open(stateNumber uintptr, params unsafe.Pointer) (number uintptr, rc int32) {
	s := states.get(stateNumber)
	if s == nil || s.plugin == nil {
		return 0, Failure
	}
	o := sourceplugin.Open{Params: textOf((*C.char)(params))}
	in := &stream{state: s}
	err := guard("open", func() (err error) { in.source, err = s.plugin.Open(context.Background(), o); return err })
	if err != nil {
		return 0, s.outcome(err)
	}
	return streams.add(in), Success
}

// Close is plugin_close.
func Close(_, number uintptr) {
	in := streams.take(number)
	if in == nil {
		return
	}
	err := guard("close", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		return in.source.Close(ctx)
	})
	if err != nil && !errors.Is(err, io.EOF) {
		logger().Error("The stream was not closed in good order.", "error", err)
	}
	in.mu.Lock()
	in.closed = true
	in.events.free()
	in.list.free()
	in.mu.Unlock()
	in.telling.Lock()
	defer in.telling.Unlock()
	in.progress.free()
}

// NextBatch is plugin_next_batch.
func NextBatch(stateNumber, number uintptr) (list unsafe.Pointer, count uint32, rc int32) {
	s, in := states.get(stateNumber), streams.get(number)
	switch {
	case s == nil:
		return nil, 0, Failure
	case in == nil:
		return nil, 0, s.outcome(errors.New("the stream is closed"))
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	err := guard("next_batch", func() error {
		if in.closed {
			return errors.New("the stream is closed")
		}
		if in.at == in.size {
			in.fetch()
		}
		count = in.handOver()
		if in.at < in.size {
			return nil // asynchronous events come next
		}
		return in.outcome
	})
	if count > 0 {
		list = in.list.addr
	}
	switch {
	case err == nil && count == 0:
		return list, count, Timeout
	case err == nil:
		return list, count, Success
	case err == io.EOF:
		return list, count, EOF
	}
	return list, count, s.outcome(err)
}

// fetch asks the plugin for a batch, and copies its events.
func (in *stream) fetch() {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	err := in.source.Next(ctx, &in.batch)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	if in.batch.Dropped > 0 {
		logger().Warn("Events were left out.", "events", in.batch.Dropped, "reason", in.batch.DroppedReason)
	}
	in.outcome, in.at, in.size = err, 0, len(in.batch.Events)
	if in.size > 0 {
		in.events.need(in.size)
		copy(in.events.bytes(), in.batch.Events)
		in.list.need(8 * in.batch.Count)
	}
	if cap(in.batch.Events) > keepBytes && in.size < keepBytes/4 {
		in.batch.Events = nil
	}
}

// handOver lists the events up to the next asynchronous one, and returns how many they are.
// Those that come first are given to the host now.
func (in *stream) handOver() (count uint32) {
	if in.at == in.size {
		return 0
	}
	all := in.events.bytes()[:in.size]
	list := unsafe.Slice((*unsafe.Pointer)(in.list.addr), in.batch.Count)
	for in.at < in.size {
		e := all[in.at:]
		length := int(binary.LittleEndian.Uint32(e[16:]))
		if binary.LittleEndian.Uint16(e[20:]) == scapevent.Async {
			if count > 0 {
				return count
			}
			in.state.async.give(unsafe.Pointer(&e[0]))
		} else {
			list[count] = unsafe.Pointer(&e[0])
			count++
		}
		in.at += length
	}
	return count
}

// Progress is plugin_get_progress: hundredths of a percent, and a text.
func Progress(_, number uintptr) (text unsafe.Pointer, percent uint32) {
	in := streams.get(number)
	if in == nil {
		return nil, 0
	}
	var p sourceplugin.Progress
	if guard("get_progress", func() (err error) { p, err = in.source.Progress(context.Background()); return err }) != nil {
		return nil, 0
	}
	in.telling.Lock()
	defer in.telling.Unlock()
	return in.progress.setText(p.Text), uint32(math.Round(10000 * min(max(p.Fraction, 0), 1)))
}

// asyncTarget is where asynchronous events of a state go.
type asyncTarget struct {
	mu      sync.Mutex // a call of the handler
	owner   C.uintptr_t
	handler C.async_function
	errors  memory
	lost    uint64
}

// SetAsyncHandler is plugin_set_async_event_handler.
func SetAsyncHandler(number, owner uintptr, handler unsafe.Pointer) int32 {
	s := states.get(number)
	if s == nil || s.plugin == nil {
		return Failure
	}
	s.async.set(C.uintptr_t(owner), C.async_function(handler))
	return Success
}

// set sets the handler, none if it is nil. No call of the old one runs afterwards.
func (t *asyncTarget) set(owner C.uintptr_t, handler C.async_function) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.owner, t.handler = owner, handler; handler == nil {
		t.errors.free()
		return
	}
	t.errors.need(maxErrorText)
}

// give hands over an event. One that the host does not take is lost, which is logged.
func (t *asyncTarget) give(event unsafe.Pointer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	why := "the host has given no handler"
	if t.handler != nil {
		t.errors.bytes()[0] = 0
		rc := C.call_async(t.handler, t.owner, event, (*C.char)(t.errors.addr))
		if int32(rc) == Success {
			return
		}
		t.errors.bytes()[maxErrorText-1] = 0
		why = fmt.Sprintf("%s (code %d)", textOf((*C.char)(t.errors.addr)), int32(rc))
	}
	if t.lost++; t.lost&(t.lost-1) == 0 { // now and then
		logger().Warn("An asynchronous event was not taken by the host.", "reason", why, "so far", t.lost)
	}
}
