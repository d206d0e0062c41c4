//go:build cgo && (linux || darwin) && (amd64 || arm64)

package source

// #include <stdint.h>
import "C"

import (
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/nativeplugin"
)

var _ = nativeplugin.Has(nativeplugin.Source)

//export plugin_get_id
func plugin_get_id() C.uint32_t { return C.uint32_t(nativeplugin.ID()) }

//export plugin_get_event_source
func plugin_get_event_source() *C.char {
	return (*C.char)(nativeplugin.TextOf(nativeplugin.EventSource))
}

//export plugin_open
func plugin_open(state C.uintptr_t, params *C.char, rc *C.int32_t) C.uintptr_t {
	stream, code := nativeplugin.Open(uintptr(state), unsafe.Pointer(params))
	*rc = C.int32_t(code)
	return C.uintptr_t(stream)
}

//export plugin_close
func plugin_close(state, stream C.uintptr_t) { nativeplugin.Close(uintptr(state), uintptr(stream)) }

//export plugin_next_batch
func plugin_next_batch(state, stream C.uintptr_t, count *C.uint32_t, events *unsafe.Pointer) C.int32_t {
	list, n, rc := nativeplugin.NextBatch(uintptr(state), uintptr(stream))
	*count, *events = C.uint32_t(n), list
	return C.int32_t(rc)
}

//export plugin_list_open_params
func plugin_list_open_params(state C.uintptr_t, rc *C.int32_t) *C.char {
	list, code := nativeplugin.OpenParams(uintptr(state))
	*rc = C.int32_t(code)
	return (*C.char)(list)
}

//export plugin_event_to_string
func plugin_event_to_string(state C.uintptr_t, event unsafe.Pointer) *C.char {
	return (*C.char)(nativeplugin.EventToString(uintptr(state), event))
}
