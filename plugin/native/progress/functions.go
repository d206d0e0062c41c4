//go:build cgo && (linux || darwin) && (amd64 || arm64)

package progress

// #include <stdint.h>
import "C"

import "github.com/tocsin-events/tocsin/internal/nativeplugin"

var _ = nativeplugin.Has(nativeplugin.Progressing)

//export plugin_get_progress
func plugin_get_progress(state, stream C.uintptr_t, percent *C.uint32_t) *C.char {
	text, p := nativeplugin.Progress(uintptr(state), uintptr(stream))
	*percent = C.uint32_t(p)
	return (*C.char)(text)
}
