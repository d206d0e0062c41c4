// Command goplugin is a Falco plugin in Go for tests, built as a shared library, without any
// SDK. Its handles are small numbers, as those of Go plugins are. It makes garbage.
package main

/*
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { const char *config; void *owner; void *err; void *tables; void *log; } init_input;
typedef struct { void *res; uint64_t res_len; uint32_t id; const char *name, *key; uint64_t index; uint32_t present, type, list; } field;
typedef struct { uint8_t *evt; uint64_t num; const char *source; } event_input;
typedef struct { void *owner, *err; uint32_t n; field *fields; } extract_input;
*/
import "C"

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unsafe"
)

const (
	id        = 1073742002
	batchSize = 64
	dataSize  = 100
	eventSize = 38 + dataSize
)

type state struct {
	lastError *C.char
	results   []unsafe.Pointer
	texts     []*C.char
}

type instance struct {
	count, sent uint64
	memory      unsafe.Pointer
	list        unsafe.Pointer
}

var (
	mu        sync.Mutex
	states    [256]*state
	instances [256]*instance
	fixed     = map[string]*C.char{}
)

// text returns a string that lives as long as the process.
func text(s string) *C.char {
	mu.Lock()
	defer mu.Unlock()
	if fixed[s] == nil {
		fixed[s] = C.CString(s)
	}
	return fixed[s]
}

//export plugin_get_required_api_version
func plugin_get_required_api_version() *C.char { return text("3.0.0") }

//export plugin_get_name
func plugin_get_name() *C.char { return text("gobed") }

//export plugin_get_description
func plugin_get_description() *C.char { return text("events from Go") }

//export plugin_get_contact
func plugin_get_contact() *C.char { return text("nobody") }

//export plugin_get_version
func plugin_get_version() *C.char { return text("0.1.0") }

//export plugin_get_id
func plugin_get_id() C.uint32_t { return id }

//export plugin_get_event_source
func plugin_get_event_source() *C.char { return text("go_source") }

//export plugin_get_fields
func plugin_get_fields() *C.char {
	return text(`[{"name":"go.text","type":"string","desc":"the payload"},{"name":"go.number","type":"uint64","desc":"a number of it"}]`)
}

//export plugin_init
func plugin_init(in *C.init_input, rc *C.int32_t) C.uintptr_t {
	mu.Lock()
	defer mu.Unlock()
	for i := 1; i < len(states); i++ {
		if states[i] == nil {
			states[i] = &state{lastError: C.CString("something in Go")}
			*rc = 0
			if C.GoString(in.config) == "fail" {
				*rc = 1
			}
			return C.uintptr_t(i)
		}
	}
	*rc = 1
	return 0
}

//export plugin_destroy
func plugin_destroy(s C.uintptr_t) {
	mu.Lock()
	defer mu.Unlock()
	st := states[s]
	C.free(unsafe.Pointer(st.lastError))
	st.free()
	states[s] = nil
}

func (s *state) free() {
	for _, p := range s.results {
		C.free(p)
	}
	for _, p := range s.texts {
		C.free(unsafe.Pointer(p))
	}
	s.results, s.texts = s.results[:0], s.texts[:0]
}

//export plugin_get_last_error
func plugin_get_last_error(s C.uintptr_t) *C.char { return states[s].lastError }

//export plugin_open
func plugin_open(_ C.uintptr_t, params *C.char, rc *C.int32_t) C.uintptr_t {
	count, err := strconv.ParseUint(C.GoString(params), 10, 64)
	if err != nil {
		*rc = 1
		return 0
	}
	mu.Lock()
	defer mu.Unlock()
	for i := 1; i < len(instances); i++ {
		if instances[i] == nil {
			instances[i] = &instance{count: count, memory: C.malloc(batchSize * eventSize), list: C.malloc(batchSize * 8)}
			*rc = 0
			return C.uintptr_t(i)
		}
	}
	*rc = 1
	return 0
}

//export plugin_close
func plugin_close(_, i C.uintptr_t) {
	mu.Lock()
	defer mu.Unlock()
	C.free(instances[i].memory)
	C.free(instances[i].list)
	instances[i] = nil
}

//export plugin_next_batch
func plugin_next_batch(_, i C.uintptr_t, n *C.uint32_t, out *unsafe.Pointer) C.int32_t {
	mu.Lock()
	in := instances[i]
	mu.Unlock()
	list := unsafe.Slice((*unsafe.Pointer)(in.list), batchSize)
	k := 0
	for ; k < batchSize && in.sent < in.count; k++ {
		at := unsafe.Add(in.memory, k*eventSize)
		list[k] = at
		e := unsafe.Slice((*byte)(at), eventSize)
		binary.LittleEndian.PutUint64(e, in.sent+1)
		binary.LittleEndian.PutUint32(e[16:], eventSize)
		binary.LittleEndian.PutUint16(e[20:], 322)
		binary.LittleEndian.PutUint32(e[22:], 2)
		binary.LittleEndian.PutUint32(e[26:], 4)
		binary.LittleEndian.PutUint32(e[30:], dataSize)
		binary.LittleEndian.PutUint32(e[34:], id)
		// Garbage, for the collector of this library.
		doc, _ := json.Marshal(map[string]any{"number": in.sent, "text": strings.Repeat("g", 10)})
		copy(e[38:], fmt.Sprintf("%-*s", dataSize, doc))
		in.sent++
	}
	*n = C.uint32_t(k)
	*out = in.list
	if in.sent == in.count {
		return 2
	}
	return 0
}

//export plugin_extract_fields
func plugin_extract_fields(s C.uintptr_t, e *C.event_input, in *C.extract_input) C.int32_t {
	mu.Lock()
	st := states[s]
	mu.Unlock()
	st.free()
	size := binary.LittleEndian.Uint32(unsafe.Slice((*byte)(unsafe.Pointer(e.evt)), 38)[30:])
	data := C.GoStringN((*C.char)(unsafe.Add(unsafe.Pointer(e.evt), 38)), C.int(size))
	var doc struct{ Number uint64 }
	if err := json.Unmarshal([]byte(data), &doc); err != nil {
		return 1
	}
	fields := unsafe.Slice(in.fields, in.n)
	for i := range fields {
		res := C.malloc(8)
		st.results = append(st.results, res)
		fields[i].res = res
		fields[i].res_len = 1
		if fields[i].id == 0 {
			t := C.CString(strings.TrimSpace(data))
			st.texts = append(st.texts, t)
			*(**C.char)(res) = t
		} else {
			*(*uint64)(res) = doc.Number
		}
	}
	return 0
}

// A panic here is the end of the process.
//
//export plugin_set_config
func plugin_set_config(C.uintptr_t, unsafe.Pointer) C.int32_t { panic("a panic in a plugin") }

func main() {}
