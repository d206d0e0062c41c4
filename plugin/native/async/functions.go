//go:build cgo && (linux || darwin) && (amd64 || arm64)

package async

// #include <stdint.h>
import "C"

import (
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/nativeplugin"
)

var _ = nativeplugin.Has(nativeplugin.Async)

//export plugin_get_async_events
func plugin_get_async_events() *C.char {
	return (*C.char)(nativeplugin.TextOf(nativeplugin.AsyncNames))
}

//export plugin_set_async_event_handler
func plugin_set_async_event_handler(state, owner C.uintptr_t, handler unsafe.Pointer) C.int32_t {
	return C.int32_t(nativeplugin.SetAsyncHandler(uintptr(state), uintptr(owner), handler))
}
