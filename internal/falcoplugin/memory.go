//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// What the library reads and writes is memory of C, of malloc; what it returns is copied at
// once. Addresses and handles are numbers here, so that the garbage collector never takes one
// for a pointer: handles of plugins in Go are small numbers, which it would not survive.

var libc struct {
	once         sync.Once
	malloc, free uintptr
	err          error
}

func loadLibc() error {
	libc.once.Do(func() {
		if libc.malloc, libc.err = purego.Dlsym(purego.RTLD_DEFAULT, "malloc"); libc.err != nil {
			return
		}
		libc.free, libc.err = purego.Dlsym(purego.RTLD_DEFAULT, "free")
	})
	return libc.err
}

// memory is a block of C. The zero value is an empty one.
type memory struct{ addr, size uintptr }

// grow makes m at least size bytes large; what is in it may be lost.
func (m *memory) grow(size uintptr) {
	if size <= m.size {
		return
	}
	m.free()
	m.addr, _, _ = purego.SyscallN(libc.malloc, size)
	if m.addr == 0 {
		panic(fmt.Sprintf("out of memory: no %d bytes", size))
	}
	m.size = size
}

func (m *memory) free() {
	if m.addr != 0 {
		purego.SyscallN(libc.free, m.addr)
	}
	*m = memory{}
}

// newMemory returns a block full of zeros.
func newMemory(size uintptr) memory {
	var m memory
	m.grow(size)
	clear(view(m.addr, size))
	return m
}

// newString returns text with a NUL behind it.
func newString(text string) memory {
	m := newMemory(uintptr(len(text)) + 1)
	copy(view(m.addr, m.size), text)
	return m
}

// pointer is what an address of C points at. vet cannot know that it is none of Go's.
func pointer(addr uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }

// view is memory of C as bytes, for as long as C leaves it alone.
func view(addr, size uintptr) []byte { return unsafe.Slice((*byte)(pointer(addr)), size) }

func putWord(addr, value uintptr)   { *(*uintptr)(pointer(addr)) = value }
func put64(addr uintptr, v uint64)  { *(*uint64)(pointer(addr)) = v }
func put32(addr uintptr, v uint32)  { *(*uint32)(pointer(addr)) = v }
func word(addr uintptr) uintptr     { return *(*uintptr)(pointer(addr)) }
func get64(addr uintptr) uint64     { return *(*uint64)(pointer(addr)) }
func get16(addr uintptr) uint16     { return *(*uint16)(pointer(addr)) }
func get32(addr uintptr) uint32     { return *(*uint32)(pointer(addr)) }
func isAddress(addr uintptr) bool   { return addr >= pageSize }
func pageRest(addr uintptr) uintptr { return pageSize - addr%pageSize }

// pageSize is the smallest page that there is. Nothing is mapped in the first one.
const pageSize = 4096

var errTooLong = errors.New("the text is too long")

// text returns the bytes of C up to a NUL, which belong to C. It reads page by page, since what
// is behind the page of the NUL may not be there. A null pointer is no text and no error.
func text(addr uintptr, limit int) ([]byte, error) {
	if !isAddress(addr) {
		return nil, nil
	}
	for length := uintptr(0); ; {
		page := pageRest(addr + length)
		if at := bytes.IndexByte(view(addr+length, page), 0); at >= 0 {
			length += uintptr(at)
			if length > uintptr(limit) {
				return nil, fmt.Errorf("%w: %d bytes, and %d are allowed", errTooLong, length, limit)
			}
			return view(addr, length), nil
		}
		if length += page; length > uintptr(limit) {
			return nil, fmt.Errorf("%w: more than %d bytes are allowed", errTooLong, limit)
		}
	}
}
