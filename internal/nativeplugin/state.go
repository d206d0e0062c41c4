//go:build cgo && (linux || darwin) && (amd64 || arm64)

package nativeplugin

// #include "abi.h"
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// numbered are things by the numbers that the host knows them by.
type numbered[T any] struct {
	sync.RWMutex
	last uintptr
	all  map[uintptr]*T
}

func (n *numbered[T]) add(v *T) uintptr {
	n.Lock()
	defer n.Unlock()
	if n.all == nil {
		n.all = make(map[uintptr]*T)
	}
	n.last++
	n.all[n.last] = v
	return n.last
}

// get returns nil for a number that nothing has, or has any more.
func (n *numbered[T]) get(number uintptr) *T {
	n.RLock()
	defer n.RUnlock()
	return n.all[number]
}

func (n *numbered[T]) take(number uintptr) *T {
	n.Lock()
	defer n.Unlock()
	v := n.all[number]
	delete(n.all, number)
	return v
}

var (
	states  numbered[state]
	streams numbered[stream]
)

// state is what plugin_init makes.
type state struct {
	plugin sourceplugin.Plugin // nil: it could not be initialised
	log    logTarget
	async  asyncTarget

	mu        sync.Mutex
	failure   string
	errorText memory

	extraction extraction
	reading    sync.Mutex // a call of event_to_string
	readText   memory
	// Of list_open_params and get_metrics.
	asking     sync.Mutex
	paramsText memory
	metrics    memory
}

// closeTime is how long what closes something waits for the author's code.
const closeTime = 10 * time.Second

// Init is plugin_init. It always returns a state, so that the host can ask what was wrong.
func Init(input unsafe.Pointer) (number uintptr, rc int32) {
	loading.Do(load)
	in := (*C.struct_init_input)(input)
	s := new(state)
	number = states.add(s)
	err := guard("init", func() (err error) {
		if library.err != nil {
			return library.err
		}
		if speaks(3) {
			s.log.set(in.owner, in.log)
		}
		s.plugin, err = library.start(context.Background(), textOf(in.config))
		return err
	})
	return number, s.outcome(err)
}

// outcome notes an error, if there is one, and returns the code for it.
func (s *state) outcome(err error) int32 {
	if err == nil {
		return Success
	}
	s.mu.Lock()
	s.failure = err.Error()
	s.mu.Unlock()
	return Failure
}

// maxErrorText is what a host has for the text of an error, with the NUL.
const maxErrorText = 1024

var unknownState = sync.OnceValue(func() unsafe.Pointer {
	return forever("there is no plugin with this state: it was destroyed, or never initialised")
})

// LastError is plugin_get_last_error.
func LastError(number uintptr) unsafe.Pointer {
	s := states.get(number)
	if s == nil {
		return unknownState()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text := withoutNUL(s.failure)
	if len(text) >= maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText-1], "") // not half a character
	}
	return s.errorText.setText(text)
}

// Destroy is plugin_destroy.
func Destroy(number uintptr) {
	s := states.take(number)
	if s == nil {
		return
	}
	if s.plugin != nil {
		err := guard("destroy", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), closeTime)
			defer cancel()
			return s.plugin.Close(ctx)
		})
		if err != nil {
			logger().Error("The plugin was not closed in good order.", "error", err)
		}
	}
	s.log.set(0, nil)
	s.async.set(0, nil)
	s.extraction.free()
	for _, m := range []*memory{&s.errorText, &s.readText, &s.paramsText, &s.metrics} {
		m.free()
	}
}

// OpenParams is plugin_list_open_params.
func OpenParams(number uintptr) (list unsafe.Pointer, rc int32) {
	s := states.get(number)
	if s == nil || s.plugin == nil {
		return nil, Failure
	}
	type param struct {
		Value     string `json:"value"`
		Desc      string `json:"desc,omitempty"`
		Separator string `json:"separator,omitempty"`
	}
	params := []param{}
	rc = s.outcome(guard("list_open_params", func() error {
		all, err := s.plugin.OpenParams(context.Background())
		if errors.Is(err, sourceplugin.ErrNotSupported) {
			return nil
		}
		for _, p := range all {
			if p.Value != "" { // which hosts refuse
				params = append(params, param{p.Value, p.Description, p.Separator})
			}
		}
		return err
	}))
	if rc != Success {
		return nil, rc
	}
	b, err := json.Marshal(params)
	if err != nil {
		return nil, s.outcome(err)
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	return s.paramsText.setText(string(b)), Success
}

// Metrics is plugin_get_metrics.
func Metrics(number uintptr) (list unsafe.Pointer, count uint32) {
	s := states.get(number)
	if s == nil || s.plugin == nil || !library.about.Capabilities.Metrics {
		return nil, 0
	}
	var all []sourceplugin.Metric
	if s.outcome(guard("get_metrics", func() (err error) { all, err = s.plugin.Metrics(context.Background()); return err })) != Success || len(all) == 0 {
		return nil, 0
	}
	size := len(all) * C.sizeof_struct_metric
	for _, m := range all {
		size += len(withoutNUL(m.Name)) + 1
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	s.metrics.need(size)
	texts := s.metrics.bytes()[len(all)*C.sizeof_struct_metric:]
	to := unsafe.Slice((*C.struct_metric)(s.metrics.addr), len(all))
	const double = 4
	for i, m := range all {
		n := copy(texts, withoutNUL(m.Name))
		texts[n] = 0
		to[i] = C.struct_metric{name: (*C.char)(unsafe.Pointer(&texts[0])), kind: 1, value: C.double(m.Value), value_type: double}
		if m.Monotonic {
			to[i].kind = 0
		}
		texts = texts[n+1:]
	}
	return s.metrics.addr, uint32(len(all))
}

// Configure is plugin_set_config.
func Configure(number uintptr, input unsafe.Pointer) int32 {
	s := states.get(number)
	if s == nil || s.plugin == nil {
		return Failure
	}
	err := guard("set_config", func() error {
		return s.plugin.SetConfig(context.Background(), textOf((*C.struct_config_input)(input).config))
	})
	if errors.Is(err, sourceplugin.ErrNotSupported) {
		s.outcome(err)
		return NotSupported
	}
	return s.outcome(err)
}

func plainText(data []byte) string {
	const most = 50
	shown := data[:min(len(data), most)]
	for _, b := range shown {
		if b < ' ' || b > '~' {
			return fmt.Sprintf("datalen=%d data=<binary>", len(data))
		}
	}
	more := ""
	if len(data) > most {
		more = "..."
	}
	return fmt.Sprintf("datalen=%d data=%s%s", len(data), shown, more)
}
