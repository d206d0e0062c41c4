//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"log/slog"
	"strings"
	"sync"

	"github.com/ebitengine/purego"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// callbacks are what a library may call. They are made once, since they are never freed, and
// they tell plugins apart by the owner, a number that the plugin gives back.
var callbacks struct {
	once sync.Once
	// null and failure do nothing but return 0 and 1, whatever they are called with.
	null, failure, success uintptr
	listNone               uintptr
	log, async, lastError  uintptr
	// fieldsExt, readerExt and writerExt are tables of functions of a host without tables.
	fieldsExt, readerExt, writerExt memory
	noTables, noList                memory
}

func makeCallbacks() {
	callbacks.once.Do(func() {
		c := &callbacks
		c.null = purego.NewCallback(func(_, _, _, _, _ uintptr) uintptr { return 0 })
		c.success = purego.NewCallback(func(_, _ uintptr) uintptr { return uintptr(rcSuccess) })
		c.failure = purego.NewCallback(func(_, _, _, _, _ uintptr) uintptr { return uintptr(rcFailure) })
		c.listNone = purego.NewCallback(func(_, count uintptr) uintptr {
			if isAddress(count) {
				put32(count, 0)
			}
			return c.noList.addr
		})
		c.log = purego.NewCallback(logMessage)
		c.async = purego.NewCallback(takeAsync)
		c.noTables = newString("this host has no tables")
		c.noList = newMemory(64)
		c.lastError = purego.NewCallback(func(_ uintptr) uintptr { return c.noTables.addr })
		c.fieldsExt = newTable(c.listNone, c.null, c.null)
		c.readerExt = newTable(c.null, c.null, c.null, c.failure, c.null, c.null)
		c.writerExt = newTable(c.failure, c.failure, c.null, c.null, c.null, c.failure)
	})
}

func newTable(functions ...uintptr) memory {
	m := newMemory(uintptr(len(functions)) * 8)
	for i, fn := range functions {
		putWord(m.addr+uintptr(i)*8, fn)
	}
	return m
}

// newInitInput returns what plugin_init is given. Tables of the plugin's own are taken and
// never asked for anything; there are none of others.
func newInitInput(config memory, owner uintptr) memory {
	c := &callbacks
	const tables = 40
	m := newMemory(tables + 72)
	for i, v := range []uintptr{
		config.addr, owner, c.lastError, m.addr + tables, c.log,
		// The tables.
		c.listNone, c.null, c.success,
		c.listNone, c.null, c.null,
		c.fieldsExt.addr, c.readerExt.addr, c.writerExt.addr,
	} {
		putWord(m.addr+uintptr(i)*8, v)
	}
	return m
}

// owners are the states that callbacks are about, by their number.
var owners struct {
	sync.RWMutex
	last   uintptr
	states map[uintptr]*state
}

func addOwner(s *state) uintptr {
	owners.Lock()
	defer owners.Unlock()
	if owners.states == nil {
		owners.states = map[uintptr]*state{}
		owners.last = pageSize // what looks like an address is none of the first page
	}
	owners.last += 16
	owners.states[owners.last] = s
	return owners.last
}

func removeOwner(owner uintptr) {
	owners.Lock()
	defer owners.Unlock()
	delete(owners.states, owner)
}

func ownerState(owner uintptr) *state {
	owners.RLock()
	defer owners.RUnlock()
	return owners.states[owner]
}

// maxLogText is the longest message of a plugin.
const maxLogText = 16 << 10

// logMessage is the log function: any thread may call it. It takes the severity as 32 bits.
func logMessage(owner, component, message, severity uintptr) uintptr {
	s := ownerState(owner)
	if s == nil {
		return 0
	}
	msg, err := text(message, maxLogText)
	if err != nil {
		msg = view(message, maxLogText)
	}
	var attrs []any
	if from, err := text(component, maxWord); err == nil && len(from) > 0 {
		attrs = append(attrs, "component", strings.ToValidUTF8(string(from), "\uFFFD"))
	}
	s.plugin.log.Log(s.plugin.logContext, logLevel(uint32(severity)), strings.TrimSpace(strings.ToValidUTF8(string(msg), "\uFFFD")), attrs...)
	return 0
}

func logLevel(severity uint32) slog.Level {
	switch {
	case severity <= 3: // fatal, critical, error
		return slog.LevelError
	case severity == 4:
		return slog.LevelWarn
	case severity <= 6: // notice, info
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// maxErrorText is what a caller of a callback has for an error, NUL included.
const maxErrorText = 1024

// takeAsync is the handler of asynchronous events: any thread may call it, until it is
// taken away.
func takeAsync(owner, event, errorText uintptr) uintptr {
	problem := "the plugin is not open"
	if s := ownerState(owner); s != nil {
		problem = s.takeAsync(event)
	}
	if problem == "" {
		return uintptr(rcSuccess)
	}
	if isAddress(errorText) {
		to := view(errorText, maxErrorText)
		to[copy(to[:maxErrorText-1], problem)] = 0
	}
	return uintptr(rcFailure)
}

// takeAsync copies an event into the stream of s and returns what is wrong with it.
func (s *state) takeAsync(addr uintptr) string {
	if !isAddress(addr) {
		return "the event is NULL"
	}
	length := uintptr(get32(addr + 16))
	if length < scapevent.HeaderSize {
		return "the length of the event is smaller than its header"
	}
	if length > hardMaxEvent {
		return "the event is too large"
	}
	event, _, err := scapevent.Next(view(addr, length))
	if err != nil {
		return err.Error()
	}
	if event.Type() != scapevent.Async {
		return "the type of the event is not that of asynchronous ones, 402"
	}
	if name := event.Name(); !s.plugin.library.asyncNames[name] {
		return "the name of the event is not among those of plugin_get_async_events"
	}
	stream := s.stream.Load()
	if stream == nil {
		return "no stream of events is open"
	}
	return stream.addAsync(event)
}
