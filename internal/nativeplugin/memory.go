//go:build cgo && (linux || darwin) && (amd64 || arm64)

package nativeplugin

// #include "abi.h"
import "C"

import (
	"strings"
	"unsafe"
)

// What the host reads after a call has returned is memory of C, of malloc. It is used again and
// again, so that there is no malloc for each event or value.

// memory is a block of C. The zero value is an empty one.
type memory struct {
	addr unsafe.Pointer
	size int
}

// keepBytes is what a block may have to be kept when less is needed.
const keepBytes = 8 << 20

// need makes m at least size bytes large; what is in it may be lost. One that is much too large is
// given back.
func (m *memory) need(size int) {
	if size <= m.size && (m.size <= keepBytes || size > m.size/4) {
		return
	}
	m.free()
	// Some more, because the next one may be a little larger. It ends the process if there is none.
	m.size = max(size+size/4, 256)
	m.addr = C.malloc(C.size_t(m.size))
}

func (m *memory) free() {
	C.free(m.addr)
	*m = memory{}
}

// bytes is the block, as long as it is not made larger.
func (m *memory) bytes() []byte { return unsafe.Slice((*byte)(m.addr), m.size) }

// setText puts a text into m with a NUL behind it, and returns where it is. A NUL within it is
// replaced, since it would end it.
func (m *memory) setText(text string) unsafe.Pointer {
	text = withoutNUL(text)
	m.need(len(text) + 1)
	b := m.bytes()
	b[copy(b, text)] = 0
	return m.addr
}

func withoutNUL(text string) string {
	if strings.IndexByte(text, 0) < 0 {
		return text
	}
	return strings.ReplaceAll(text, "\x00", "\uFFFD")
}

// forever returns a text of C that is never freed.
func forever(text string) unsafe.Pointer { return new(memory).setText(text) }

// textOf copies a text of C. NULL is "".
func textOf(at *C.char) string {
	if at == nil {
		return ""
	}
	return C.GoString(at)
}
