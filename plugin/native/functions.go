//go:build cgo && (linux || darwin) && (amd64 || arm64)

package native

// #include <stdint.h>
import "C"

import (
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/nativeplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// Register makes p the plugin of the library. It must be called once, in an init function of the
// program or of a package that this imports.
func Register(p *plugin.Plugin, o Options) { nativeplugin.Register(p, nativeplugin.Options(o)) }

func text(t nativeplugin.Text) *C.char { return (*C.char)(nativeplugin.TextOf(t)) }

//export plugin_get_required_api_version
func plugin_get_required_api_version() *C.char { return text(nativeplugin.RequiredAPI) }

//export plugin_get_name
func plugin_get_name() *C.char { return text(nativeplugin.Name) }

//export plugin_get_version
func plugin_get_version() *C.char { return text(nativeplugin.Version) }

//export plugin_get_description
func plugin_get_description() *C.char { return text(nativeplugin.Description) }

//export plugin_get_contact
func plugin_get_contact() *C.char { return text(nativeplugin.Contact) }

//export plugin_get_init_schema
func plugin_get_init_schema(kind *C.int32_t) *C.char {
	schema, k := nativeplugin.InitSchema()
	*kind = C.int32_t(k)
	return (*C.char)(schema)
}

//export plugin_init
func plugin_init(input unsafe.Pointer, rc *C.int32_t) C.uintptr_t {
	state, code := nativeplugin.Init(input)
	*rc = C.int32_t(code)
	return C.uintptr_t(state)
}

//export plugin_destroy
func plugin_destroy(state C.uintptr_t) { nativeplugin.Destroy(uintptr(state)) }

//export plugin_get_last_error
func plugin_get_last_error(state C.uintptr_t) *C.char {
	return (*C.char)(nativeplugin.LastError(uintptr(state)))
}

//export plugin_get_metrics
func plugin_get_metrics(state C.uintptr_t, count *C.uint32_t) unsafe.Pointer {
	list, n := nativeplugin.Metrics(uintptr(state))
	*count = C.uint32_t(n)
	return list
}
