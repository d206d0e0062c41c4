//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebitengine/purego"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Plugin is an initialised plugin of a library. It is a [sourceplugin.Plugin].
//
// A plugin may not be asked two things at once with one state, and a stream that waits for
// events is such a thing. So the plugin is initialised once for each open stream and, when
// fields are asked for while streams are open, once for that, as Falco does for each of its
// event sources.
type Plugin struct {
	library    *Library
	log        *slog.Logger
	logContext context.Context

	mu     sync.Mutex
	config string
	idle   []*state // not used by a stream
	reader *state   // extracts and makes strings; may be nil
	// making has an element while the reader is made.
	making  chan struct{}
	streams map[*Stream]bool
	closed  bool
}

// state is what plugin_init returned.
type state struct {
	plugin *Plugin
	handle uintptr
	owner  uintptr
	// inUse has an element while the library is in a call with this state.
	inUse chan struct{}
	// gone is set, while in use, when it is destroyed.
	gone          bool
	stream        atomic.Pointer[Stream]
	config, input memory
	scratch       scratch
	types         []uint16 // of events that fields are extracted from; nil: not asked yet
}

// closeTime is how long a call that ends something may take if the context allows more.
const closeTime = 10 * time.Second

// Init initialises the plugin with a config, which is checked against its schema before.
// The logger gets what the plugin says.
func (l *Library) Init(ctx context.Context, config string, log *slog.Logger) (sourceplugin.Plugin, error) {
	config, err := l.schema.check(config)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", l.description.Name, err)
	}
	makeCallbacks()
	p := &Plugin{library: l, log: log, logContext: context.WithoutCancel(ctx), config: config, making: make(chan struct{}, 1), streams: map[*Stream]bool{}}
	first, err := p.newState(ctx, config)
	if err != nil {
		return nil, err
	}
	p.idle = append(p.idle, first)
	return p, nil
}

func (p *Plugin) errorf(format string, args ...any) error {
	return fmt.Errorf("plugin %s: "+format, append([]any{p.library.description.Name}, args...)...)
}

// newState initialises the plugin once more.
func (p *Plugin) newState(ctx context.Context, config string) (*state, error) {
	s := &state{plugin: p, inUse: make(chan struct{}, 1), config: newString(config)}
	s.owner = addOwner(s)
	s.input = newInitInput(s.config, s.owner)
	var (
		rc      int32
		problem string
	)
	err := s.call(ctx, "plugin_init", func() {
		code := newMemory(8)
		defer code.free()
		s.handle, _, _ = purego.SyscallN(p.library.fn.init, s.input.addr, code.addr)
		rc = int32(get32(code.addr))
		if rc != rcSuccess && s.handle != 0 {
			problem = s.lastError()
		}
	})
	switch {
	case err != nil:
		return nil, err
	case rc == rcSuccess && s.handle != 0:
		return s, nil
	case rc == rcSuccess:
		problem = "it says that it worked, but it returned NULL"
	case problem == "":
		problem = fmt.Sprintf("it returned %s and does not say why", rcText(rc))
	}
	err = p.errorf("cannot be initialised: %s", problem)
	if s.handle == 0 {
		s.forget()
		return nil, err
	}
	return nil, errors.Join(err, s.destroy(ctx))
}

// call runs f, which calls the library with s, and waits for it as long as ctx allows. When it
// does not return, the state can never be used again, and an error says so.
func (s *state) call(ctx context.Context, what string, f func()) error {
	select {
	case s.inUse <- struct{}{}:
	case <-ctx.Done():
		return s.plugin.errorf("%s: another call has not returned: %w", what, ctx.Err())
	}
	if s.gone {
		<-s.inUse
		return errClosed
	}
	if ctx.Done() == nil {
		f()
		<-s.inUse
		return nil
	}
	done := make(chan struct{})
	go func() {
		f()
		<-s.inUse
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return s.plugin.errorf("%s has not returned: %w", what, ctx.Err())
	}
}

// lastError asks for the text of the last error; s must be in use.
func (s *state) lastError() string {
	addr, _, _ := purego.SyscallN(s.plugin.library.fn.lastError, s.handle)
	msg, err := text(addr, maxErrorText)
	if errors.Is(err, errTooLong) {
		msg = view(addr, maxErrorText)
	}
	return strings.ToValidUTF8(string(msg), "\uFFFD")
}

// failure is the error for a code that a function returned; s must be in use.
func (s *state) failure(what string, rc int32) error {
	if why := s.lastError(); why != "" {
		return s.plugin.errorf("%s: %s", what, why)
	}
	return s.plugin.errorf("%s returned %s and does not say why", what, rcText(rc))
}

func rcText(rc int32) string {
	switch rc {
	case rcSuccess:
		return "success"
	case rcFailure:
		return "failure"
	case rcTimeout:
		return "timeout"
	case rcEOF:
		return "the end"
	case rcNotSupported:
		return "not supported"
	}
	return fmt.Sprintf("the unknown code %d", rc)
}

// destroy ends a state that no stream uses.
func (s *state) destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	err := s.call(ctx, "plugin_destroy", func() {
		s.gone = true
		purego.SyscallN(s.plugin.library.fn.destroy, s.handle)
	})
	if err == nil {
		s.forget()
	}
	return err
}

// forget frees what is ours.
func (s *state) forget() {
	removeOwner(s.owner)
	s.input.free()
	s.config.free()
	s.scratch.free()
}

// Describe implements [sourceplugin.Plugin].
func (p *Plugin) Describe() *sourceplugin.Description { return &p.library.description }

var errClosed = errors.New("the plugin is closed")

// takeState returns a state for a stream.
func (p *Plugin) takeState(ctx context.Context) (*state, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed
	}
	if n := len(p.idle); n > 0 {
		s := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return s, nil
	}
	config := p.config
	p.mu.Unlock()
	return p.newState(ctx, config)
}

// giveBack takes the state of a stream that has ended. One is kept, for the next stream.
func (p *Plugin) giveBack(ctx context.Context, s *state) error {
	p.mu.Lock()
	if len(p.idle) == 0 && !p.closed {
		p.idle = append(p.idle, s)
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	return s.destroy(ctx)
}

// readerState returns the state that events are read with.
func (p *Plugin) readerState(ctx context.Context) (*state, error) {
	select {
	case p.making <- struct{}{}:
		defer func() { <-p.making }()
	case <-ctx.Done():
		return nil, p.errorf("plugin_init has not returned: %w", ctx.Err())
	}
	p.mu.Lock()
	if p.reader == nil && !p.closed && !p.library.description.Capabilities.Source && len(p.idle) > 0 {
		p.reader, p.idle = p.idle[0], p.idle[1:]
	}
	have, closed, config := p.reader, p.closed, p.config
	p.mu.Unlock()
	switch {
	case closed:
		return nil, errClosed
	case have != nil:
		return have, nil
	}
	s, err := p.newState(ctx, config)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if closed = p.closed; !closed {
		p.reader = s
	}
	p.mu.Unlock()
	if closed {
		return nil, errors.Join(errClosed, s.destroy(ctx))
	}
	return s, nil
}

// states returns those there are: of streams first.
func (p *Plugin) states() []*state {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*state
	for s := range p.streams {
		all = append(all, s.state)
	}
	all = append(all, p.idle...)
	if p.reader != nil {
		all = append(all, p.reader)
	}
	return all
}

// ask runs f, which calls the library, with any state there is. One that a stream has may be
// destroyed just now.
func (p *Plugin) ask(ctx context.Context, what string, f func(*state)) error {
	for {
		var s *state
		if all := p.states(); len(all) > 0 {
			s = all[0]
		} else {
			var err error
			if s, err = p.readerState(ctx); err != nil {
				return err
			}
		}
		if err := s.call(ctx, what, func() { f(s) }); err != errClosed || p.isClosed() {
			return err
		}
		runtime.Gosched() // who destroys it is about to forget it
	}
}

func (p *Plugin) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// OpenParams implements [sourceplugin.Plugin].
func (p *Plugin) OpenParams(ctx context.Context) ([]sourceplugin.OpenParam, error) {
	if p.library.fn.openParams == 0 {
		return nil, sourceplugin.ErrNotSupported
	}
	var (
		params []sourceplugin.OpenParam
		failed error
	)
	err := p.ask(ctx, "plugin_list_open_params", func(s *state) {
		code := newMemory(8)
		defer code.free()
		addr, _, _ := purego.SyscallN(p.library.fn.openParams, s.handle, code.addr)
		if rc := int32(get32(code.addr)); rc != rcSuccess {
			failed = s.failure("plugin_list_open_params", rc)
			return
		}
		list, err := text(addr, maxJSON)
		if err == nil {
			params, err = parseOpenParams(list)
		}
		if err != nil {
			failed = p.errorf("plugin_list_open_params: %w", err)
		}
	})
	if err != nil {
		return nil, err
	}
	return params, failed
}

// maxMetrics is the most numbers that a plugin may tell.
const maxMetrics = 1 << 12

// Metrics implements [sourceplugin.Plugin]. They are those of the stream that is open, or of
// the plugin without one.
func (p *Plugin) Metrics(ctx context.Context) ([]sourceplugin.Metric, error) {
	if p.library.fn.metrics == 0 {
		return nil, nil
	}
	var (
		metrics []sourceplugin.Metric
		failed  error
	)
	err := p.ask(ctx, "plugin_get_metrics", func(s *state) {
		count := newMemory(8)
		defer count.free()
		addr, _, _ := purego.SyscallN(p.library.fn.metrics, s.handle, count.addr)
		n := get32(count.addr)
		switch {
		case n == 0:
			return
		case n > maxMetrics:
			failed = p.errorf("plugin_get_metrics: %d metrics are more than %d", n, maxMetrics)
			return
		case !isAddress(addr):
			failed = p.errorf("plugin_get_metrics returned NULL and says that there are %d", n)
			return
		}
		for i := range uintptr(n) {
			name, err := text(word(addr+i*32), maxWord)
			if err != nil || len(name) == 0 {
				failed = p.errorf("plugin_get_metrics: metric %d has no name", i)
				return
			}
			at := addr + i*32
			metrics = append(metrics, sourceplugin.Metric{
				Name:      strings.ToValidUTF8(string(name), "\uFFFD"),
				Monotonic: get32(at+8) == 0,
				Value:     metricValue(get32(at+24), get64(at+16)),
			})
		}
	})
	if err != nil {
		return nil, err
	}
	return metrics, failed
}

// metricValue decodes the union of a metric.
func metricValue(kind uint32, bits uint64) float64 {
	switch kind {
	case 0:
		return float64(uint32(bits))
	case 1, 6:
		return float64(int32(bits))
	case 2:
		return float64(bits)
	case 3:
		return float64(int64(bits))
	case 4:
		return math.Float64frombits(bits)
	case 5:
		return float64(math.Float32frombits(uint32(bits)))
	}
	return math.NaN()
}

// SetConfig implements [sourceplugin.Plugin]. All states get the config; when one refuses it,
// those before it get the old one again.
func (p *Plugin) SetConfig(ctx context.Context, config string) error {
	if p.library.fn.setConfig == 0 {
		return sourceplugin.ErrNotSupported
	}
	config, err := p.library.schema.check(config)
	if err != nil {
		return p.errorf("%w", err)
	}
	p.mu.Lock()
	old := p.config
	p.mu.Unlock()
	states := p.states()
	for i, s := range states {
		err := s.setConfig(ctx, config)
		if err == errClosed && !p.isClosed() {
			continue // its stream has ended meanwhile
		}
		if err != nil {
			for _, changed := range states[:i] {
				err = errors.Join(err, changed.setConfig(ctx, old))
			}
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	p.config = config
	return nil
}

func (s *state) setConfig(ctx context.Context, config string) error {
	var failed error
	err := s.call(ctx, "plugin_set_config", func() {
		value := newString(config)
		defer value.free()
		input := newTable(value.addr)
		defer input.free()
		r, _, _ := purego.SyscallN(s.plugin.library.fn.setConfig, s.handle, input.addr)
		if rc := int32(r); rc != rcSuccess {
			failed = s.failure("the config is refused: plugin_set_config", rc)
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// Close closes the streams and destroys what was initialised. An error means that the library
// is still in a call, and that only the end of the process ends it.
func (p *Plugin) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	var streams []*Stream
	for s := range p.streams {
		streams = append(streams, s)
	}
	p.mu.Unlock()
	var all error
	for _, s := range streams {
		all = errors.Join(all, s.Close(ctx))
	}
	p.mu.Lock()
	left := p.idle
	if p.reader != nil {
		left = append(left, p.reader)
	}
	p.idle, p.reader = nil, nil
	p.mu.Unlock()
	for _, s := range left {
		all = errors.Join(all, s.destroy(ctx))
	}
	return all
}
