//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/ebitengine/purego"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

const (
	// hardMaxEvent is what an event may have at most, whatever is configured.
	hardMaxEvent = 256 << 20
	// pendingBytes is how much is read ahead of Next, not counting what one call gives.
	pendingBytes = 1 << 20
	// enoughBytes is what Next does not wait for more than; else it does for lingerTime.
	enoughBytes = 64 << 10
	lingerTime  = time.Millisecond
	// idleTime is how long Next waits for an event.
	idleTime = 100 * time.Millisecond
	// maxBatchEvents is how many events a call may give. It is only there to notice nonsense.
	maxBatchEvents = 1 << 24
	// keepBytes is what a buffer may have to be used again.
	keepBytes = 8 << 20
)

// Pauses after calls that return at once without an event.
const (
	minPause = time.Millisecond
	maxPause = 20 * time.Millisecond
)

// Stream is an open instance of a plugin: a [sourceplugin.Stream]. A goroutine of its own
// reads it, so that Next returns when its context says so, even while the plugin waits.
type Stream struct {
	plugin   *Plugin
	state    *state
	instance uintptr
	limit    uint32
	closing  chan struct{} // closed when Close begins
	ended    chan struct{} // closed when the reader has returned
	ready    chan struct{} // there is something to take
	enough   chan struct{} // nothing is gained by waiting for more
	room     chan struct{} // something was taken
	closeErr error
	closer   sync.Once

	mu      sync.Mutex
	events  []byte
	count   int
	dropped int
	reason  string
	end     error
	isOver  bool // end is set
	asyncs  sync.Cond
	shut    bool
}

// Open implements [sourceplugin.Plugin].
func (p *Plugin) Open(ctx context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	if !p.library.description.Capabilities.Source {
		return nil, sourceplugin.ErrNotSupported
	}
	if strings.IndexByte(o.Params, 0) >= 0 {
		return nil, p.errorf("the open params have a NUL byte, which a plugin cannot be given")
	}
	st, err := p.takeState(ctx)
	if err != nil {
		return nil, err
	}
	s := &Stream{
		plugin: p, state: st, limit: hardMaxEvent,
		closing: make(chan struct{}), ended: make(chan struct{}),
		ready: make(chan struct{}, 1), enough: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	s.asyncs.L = &s.mu
	if o.MaxEventBytes > 0 {
		s.limit = uint32(min(o.MaxEventBytes, hardMaxEvent))
	}
	var failed error
	err = st.call(ctx, "plugin_open", func() {
		params := newString(o.Params)
		defer params.free()
		code := newMemory(8)
		defer code.free()
		s.instance, _, _ = purego.SyscallN(p.library.fn.open, st.handle, params.addr, code.addr)
		if rc := int32(get32(code.addr)); rc != rcSuccess {
			failed = st.failure("cannot be opened: plugin_open", rc)
			if s.instance != 0 {
				purego.SyscallN(p.library.fn.close, st.handle, s.instance)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, errors.Join(failed, p.giveBack(ctx, st))
	}
	st.stream.Store(s)
	if p.library.description.Capabilities.Async {
		if err := st.setHandler(ctx, callbacks.async); err != nil {
			close(s.ended)
			return nil, errors.Join(err, s.Close(ctx))
		}
	}
	p.mu.Lock()
	closed := p.closed
	p.streams[s] = true
	p.mu.Unlock()
	go s.read()
	if closed {
		return nil, errors.Join(errClosed, s.Close(ctx))
	}
	return s, nil
}

// setHandler gives the plugin a handler of asynchronous events, or takes it away with 0.
func (s *state) setHandler(ctx context.Context, handler uintptr) error {
	var failed error
	err := s.call(ctx, "plugin_set_async_event_handler", func() {
		r, _, _ := purego.SyscallN(s.plugin.library.fn.setAsyncHandler, s.handle, s.owner, handler)
		if rc := int32(r); rc != rcSuccess {
			failed = s.failure("plugin_set_async_event_handler", rc)
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// read calls the plugin for batches until it ends, fails or the stream is closed.
func (s *Stream) read() {
	defer close(s.ended)
	results := newMemory(16) // the count, and the address of the events
	defer results.free()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	pause := minPause
	// What is made once need not be made for each call.
	args := []uintptr{s.state.handle, s.instance, results.addr, results.addr + 8}
	for {
		select {
		case s.state.inUse <- struct{}{}:
		case <-s.closing:
			return
		}
		select {
		case <-s.closing:
			<-s.state.inUse
			return
		default:
		}
		put64(results.addr, 0)
		putWord(results.addr+8, 0)
		start := time.Now()
		r, _, _ := purego.SyscallN(s.plugin.library.fn.nextBatch, args...)
		rc := int32(r)
		count, list := get32(results.addr), word(results.addr+8)
		err := s.take(count, list)
		if err == nil {
			err = s.outcome(rc, count)
		}
		<-s.state.inUse
		if err != nil {
			s.finish(err)
			return
		}
		// With nothing to do for the library, it can be asked other things meanwhile.
		if !s.waitForRoom() {
			return
		}
		if count > 0 || time.Since(start) >= minPause {
			pause = minPause
			continue
		}
		timer.Reset(pause)
		pause = min(2*pause, maxPause)
		select {
		case <-timer.C:
		case <-s.closing:
			return
		}
	}
}

// outcome is what a code of next_batch means after its events: nil goes on. The state must be
// in use.
func (s *Stream) outcome(rc int32, count uint32) error {
	switch rc {
	case rcSuccess:
		if count == 0 {
			return s.plugin.errorf("plugin_next_batch: it says that it worked, but gave no event")
		}
		return nil
	case rcTimeout:
		return nil
	case rcEOF:
		return io.EOF
	}
	return s.state.failure("plugin_next_batch", rc)
}

// take copies the events of a batch, which may be larger than what is read ahead: then it waits
// in between. It returns errClosed if the stream is closed meanwhile.
func (s *Stream) take(count uint32, list uintptr) error {
	if count == 0 {
		return nil
	}
	if count > maxBatchEvents {
		return s.plugin.errorf("plugin_next_batch: %d events in a batch are more than %d", count, maxBatchEvents)
	}
	if !isAddress(list) {
		return s.plugin.errorf("plugin_next_batch says that there are %d events, but gave NULL", count)
	}
	now := uint64(time.Now().Truncate(time.Microsecond).UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.signal()
	for i := range uintptr(count) {
		if len(s.events) >= pendingBytes {
			s.signal()
			s.mu.Unlock()
			room := s.waitForRoom()
			s.mu.Lock()
			if !room {
				return errClosed
			}
		}
		if err := s.takeEvent(word(list+i*8), now); err != nil {
			return s.plugin.errorf("plugin_next_batch: event %d of %d: %w", i+1, count, err)
		}
	}
	return nil
}

// signal wakes Next up; s.mu must be held.
func (s *Stream) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
	if s.isOver || len(s.events) >= enoughBytes {
		select {
		case s.enough <- struct{}{}:
		default:
		}
	}
}

// takeEvent copies an event of next_batch; s.mu must be held.
func (s *Stream) takeEvent(addr uintptr, now uint64) error {
	if !isAddress(addr) {
		return errors.New("it is NULL")
	}
	length := get32(addr + 16)
	if length > s.limit {
		if err := checkEvent(view(addr, scapevent.PayloadOffset), length); err != nil {
			return err
		}
		s.dropped++
		s.reason = fmt.Sprintf("an event of %d bytes is larger than %d", length, s.limit)
		return nil
	}
	if length < scapevent.PayloadOffset {
		return fmt.Errorf("%w: %d bytes are no event of a plugin", scapevent.ErrMalformed, length)
	}
	at := len(s.events)
	s.events = append(s.events, view(addr, uintptr(length))...)
	e := s.events[at:]
	if err := checkEvent(e, length); err != nil {
		s.events = s.events[:at]
		return err
	}
	own := s.plugin.library.description.ID
	switch id := binary.LittleEndian.Uint32(e[34:]); id {
	case own:
	case 0:
		binary.LittleEndian.PutUint32(e[34:], own)
	default:
		s.events = s.events[:at]
		return fmt.Errorf("it has the plugin id %d instead of %d", id, own)
	}
	if binary.LittleEndian.Uint64(e) == scapevent.NoTime {
		binary.LittleEndian.PutUint64(e, now)
	}
	binary.LittleEndian.PutUint64(e[8:], scapevent.NoThread)
	s.count++
	return nil
}

// checkEvent checks the beginning of an event of a plugin: what [scapevent.Next] does, but for
// one kind only, and without the payload.
func checkEvent(e []byte, length uint32) error {
	if kind, params := binary.LittleEndian.Uint16(e[20:]), binary.LittleEndian.Uint32(e[22:]); kind != scapevent.Plugin || params != 2 {
		return fmt.Errorf("%w: type %d with %d parameters is not type %d with 2", scapevent.ErrMalformed, kind, params, scapevent.Plugin)
	}
	id, payload := binary.LittleEndian.Uint32(e[26:]), binary.LittleEndian.Uint32(e[30:])
	if id != 4 || uint64(payload)+scapevent.PayloadOffset != uint64(length) {
		return fmt.Errorf("%w: parameters of %d and %d bytes do not make %d bytes", scapevent.ErrMalformed, id, payload, length)
	}
	return nil
}

// addAsync adds an asynchronous event and waits for room, as long as the stream is open.
func (s *Stream) addAsync(e scapevent.Event) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.events) >= pendingBytes && !s.shut && !s.isOver {
		s.asyncs.Wait()
	}
	if s.shut || s.isOver {
		return "the stream is closed"
	}
	if len(e) > int(s.limit) {
		s.dropped++
		s.reason = fmt.Sprintf("an asynchronous event of %d bytes is larger than %d", len(e), s.limit)
		s.signal()
		return ""
	}
	at := len(s.events)
	s.events = append(s.events, e...)
	own := scapevent.Event(s.events[at:])
	own.SetPluginID(s.plugin.library.description.ID)
	if own.Nanos() == scapevent.NoTime {
		own.SetNanos(uint64(time.Now().Truncate(time.Microsecond).UnixNano()))
	}
	own.SetThread(scapevent.NoThread)
	s.count++
	s.signal()
	return ""
}

// waitForRoom waits until Next has taken what there is. It returns false if the stream is
// closed before.
func (s *Stream) waitForRoom() bool {
	for {
		s.mu.Lock()
		full := len(s.events) >= pendingBytes
		s.mu.Unlock()
		if !full {
			return true
		}
		select {
		case <-s.room:
		case <-s.closing:
			return false
		}
	}
}

// finish sets how the stream has ended.
func (s *Stream) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end, s.isOver = err, true
	s.asyncs.Broadcast()
	s.signal()
}

// Next implements [sourceplugin.Stream].
func (s *Stream) Next(ctx context.Context, b *sourceplugin.Batch) error {
	b.Reset()
	var timer *time.Timer
	lingered := false
	for {
		s.mu.Lock()
		has := s.count > 0 || s.dropped > 0
		switch {
		case s.shut:
			s.mu.Unlock()
			return errClosed
		case s.isOver, has && (lingered || len(s.events) >= enoughBytes):
			err := s.fill(b)
			s.mu.Unlock()
			return err
		}
		s.mu.Unlock()
		wait := idleTime
		if has {
			wait = lingerTime
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		} else if has {
			timer.Reset(wait)
		}
		// While it lingers, every call of the plugin wakes it up; that is not worth waking up for.
		ready := s.ready
		if has {
			ready = nil
		}
		select {
		case <-ready:
		case <-s.enough:
		case <-timer.C:
			if !has {
				return nil
			}
			lingered = true
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return errClosed
		}
	}
}

// fill swaps buffers with b; s.mu must be held.
func (s *Stream) fill(b *sourceplugin.Batch) error {
	spare := b.Events[:0]
	if cap(spare) > keepBytes {
		spare = nil
	}
	b.Events, s.events = s.events, spare
	b.Count, s.count = s.count, 0
	b.Dropped, s.dropped = s.dropped, 0
	b.DroppedReason, s.reason = s.reason, ""
	select {
	case s.room <- struct{}{}:
	default:
	}
	s.asyncs.Broadcast()
	return s.end
}

// Acknowledge implements [sourceplugin.Stream]; the API of native plugins knows none.
func (s *Stream) Acknowledge(context.Context, []byte) error { return nil }

// Progress implements [sourceplugin.Stream].
func (s *Stream) Progress(ctx context.Context) (sourceplugin.Progress, error) {
	if s.plugin.library.fn.progress == 0 {
		return sourceplugin.Progress{}, sourceplugin.ErrNotSupported
	}
	var progress sourceplugin.Progress
	var failed error
	err := s.state.call(ctx, "plugin_get_progress", func() {
		select {
		case <-s.closing: // the instance may be gone
			failed = errClosed
			return
		default:
		}
		percent := newMemory(8)
		defer percent.free()
		addr, _, _ := purego.SyscallN(s.plugin.library.fn.progress, s.state.handle, s.instance, percent.addr)
		progress.Fraction = float64(min(get32(percent.addr), 10000)) / 10000
		if msg, err := text(addr, maxLogText); err == nil {
			progress.Text = strings.ToValidUTF8(string(msg), "\uFFFD")
		}
	})
	if err == nil {
		err = failed
	}
	return progress, err
}

// Close implements [sourceplugin.Stream]. An error means that the library has not returned
// from a call: the instance and its state are left to it.
func (s *Stream) Close(ctx context.Context) error {
	s.closer.Do(func() { s.closeErr = s.close(ctx) })
	return s.closeErr
}

func (s *Stream) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	s.mu.Lock()
	s.shut = true
	s.asyncs.Broadcast()
	s.mu.Unlock()
	close(s.closing)
	defer func() {
		s.plugin.mu.Lock()
		delete(s.plugin.streams, s)
		s.plugin.mu.Unlock()
	}()
	select {
	case <-s.ended:
	case <-ctx.Done():
		return s.plugin.errorf("plugin_next_batch has not returned: %w", ctx.Err())
	}
	var noHandler error
	if s.plugin.library.description.Capabilities.Async {
		noHandler = s.state.setHandler(ctx, 0)
	}
	s.state.stream.Store(nil)
	err := s.state.call(ctx, "plugin_close", func() {
		purego.SyscallN(s.plugin.library.fn.close, s.state.handle, s.instance)
	})
	if err == nil {
		err = s.plugin.giveBack(ctx, s.state)
	}
	return errors.Join(noHandler, err)
}
