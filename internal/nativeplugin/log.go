//go:build cgo && (linux || darwin) && (amd64 || arm64)

package nativeplugin

// #include "abi.h"
import "C"

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// logTarget is the log of a host, for as long as a state of it lives.
type logTarget struct {
	owner C.uintptr_t
	log   C.log_function
}

// logs are the targets. What is logged goes to the last: all are those of one host, and what an
// author logs does not say to which it belongs.
var logs struct {
	sync.RWMutex
	targets []*logTarget
}

// set sets where the target is, nowhere if log is nil. No call to the old one runs afterwards.
func (t *logTarget) set(owner C.uintptr_t, log C.log_function) {
	logs.Lock()
	defer logs.Unlock()
	kept := logs.targets[:0]
	for _, other := range logs.targets {
		if other != t {
			kept = append(kept, other)
		}
	}
	logs.targets = kept
	if t.owner, t.log = owner, log; log != nil {
		logs.targets = append(logs.targets, t)
	}
}

// logTo makes the default of log/slog one that the host gets, if all hosts have a log, unless the
// author has set one.
func logTo() {
	if fmt.Sprintf("%T", slog.Default().Handler()) == "*slog.defaultHandler" {
		slog.SetDefault(slog.New(newHostHandler()))
	}
}

func logger() *slog.Logger { return slog.Default() }

// hostHandler gives records to the log of the host. While there is none it writes to standard
// error.
type hostHandler struct {
	text slog.Handler
	into *lockedBuffer
}

type lockedBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func newHostHandler() *hostHandler {
	into := new(lockedBuffer)
	// The host adds the time, and has the severity.
	text := slog.NewTextHandler(&into.Buffer, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return a
	}})
	return &hostHandler{text: text, into: into}
}

// Enabled implements [slog.Handler].
func (h *hostHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// maxMessages is how many messages there can be in a second: code that panics does so with each
// event, and the logs of hosts have no bounds.
const maxMessages = 100

// rate counts the messages of a second.
var rate struct {
	sync.Mutex
	second  int64
	count   int
	skipped int
}

// allow says whether a message may be written, and how many were not before it.
func allow(now time.Time) (skipped int, ok bool) {
	rate.Lock()
	defer rate.Unlock()
	if s := now.Unix(); s != rate.second {
		rate.second, rate.count = s, 0
	}
	if rate.count++; rate.count > maxMessages {
		rate.skipped++
		return 0, false
	}
	skipped, rate.skipped = rate.skipped, 0
	return skipped, true
}

// Handle implements [slog.Handler].
func (h *hostHandler) Handle(ctx context.Context, r slog.Record) error {
	skipped, ok := allow(time.Now())
	if !ok {
		return nil
	}
	if skipped > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("messages left out before", skipped))
	}
	h.into.Lock()
	h.into.Reset()
	err := h.text.Handle(ctx, r)
	attrs := bytes.TrimSpace(bytes.Clone(h.into.Bytes()))
	h.into.Unlock()
	message := r.Message
	if len(attrs) > 0 {
		message += " " + string(attrs)
	}
	logs.RLock()
	defer logs.RUnlock()
	if len(logs.targets) == 0 {
		_, err := fmt.Fprintf(os.Stderr, "%s: %s: %s\n", library.about.Name, strings.ToLower(r.Level.String()), strings.ReplaceAll(message, "\n", "\\n"))
		return err
	}
	t := logs.targets[len(logs.targets)-1]
	text := (*C.char)(forever(message))
	defer C.free(unsafe.Pointer(text))
	C.call_log(t.log, t.owner, text, severity(r.Level))
	return err
}

// WithAttrs implements [slog.Handler].
func (h *hostHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &hostHandler{h.text.WithAttrs(attrs), h.into}
}

// WithGroup implements [slog.Handler].
func (h *hostHandler) WithGroup(name string) slog.Handler {
	return &hostHandler{h.text.WithGroup(name), h.into}
}

func severity(l slog.Level) C.uint32_t {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}
