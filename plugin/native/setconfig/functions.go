//go:build cgo && (linux || darwin) && (amd64 || arm64)

package setconfig

// #include <stdint.h>
import "C"

import (
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/nativeplugin"
)

var _ = nativeplugin.Has(nativeplugin.SetConfig)

//export plugin_set_config
func plugin_set_config(state C.uintptr_t, input unsafe.Pointer) C.int32_t {
	return C.int32_t(nativeplugin.Configure(uintptr(state), input))
}
