//go:build cgo && (linux || darwin) && (amd64 || arm64)

package extract

// #include <stdint.h>
import "C"

import (
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/nativeplugin"
)

var _ = nativeplugin.Has(nativeplugin.Extract)

//export plugin_get_fields
func plugin_get_fields() *C.char { return (*C.char)(nativeplugin.TextOf(nativeplugin.Fields)) }

//export plugin_get_extract_event_sources
func plugin_get_extract_event_sources() *C.char {
	return (*C.char)(nativeplugin.TextOf(nativeplugin.ExtractSources))
}

//export plugin_get_extract_event_types
func plugin_get_extract_event_types(count *C.uint32_t, _ C.uintptr_t) *C.uint16_t {
	types, n := nativeplugin.ExtractTypes()
	*count = C.uint32_t(n)
	return (*C.uint16_t)(types)
}

//export plugin_extract_fields
func plugin_extract_fields(state C.uintptr_t, event, input unsafe.Pointer) C.int32_t {
	return C.int32_t(nativeplugin.ExtractFields(uintptr(state), event, input))
}
