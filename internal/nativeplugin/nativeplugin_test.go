//go:build cgo && (linux || darwin) && (amd64 || arm64)

package nativeplugin_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/internal/nativeplugin"
	"github.com/tocsin-events/tocsin/test/plugins/testdata/native/everything"
)

// The library under test, as a program would make it: there is one in a process. Tests with real
// libraries and a host in C are in test/plugins; these are for the race detector, which libraries
// cannot have.
func TestMain(m *testing.M) {
	for _, p := range []nativeplugin.Part{nativeplugin.Source, nativeplugin.Extract, nativeplugin.Async, nativeplugin.SetConfig, nativeplugin.Progressing} {
		nativeplugin.Has(p)
	}
	nativeplugin.Register(everything.New(), nativeplugin.Options{API: "3.2.0"}) // no log, no offsets
	goleak.VerifyTestMain(m)
}

// cText is a text with a NUL, which does not move. Whoever gives its address to something keeps it.
//
//go:noinline
func cText(s string) []byte { return append([]byte(s), 0) }

// words is memory that does not move.
//
//go:noinline
func words(w ...uintptr) *[16]uintptr {
	m := new([16]uintptr)
	copy(m[:], w)
	return m
}

func text(p unsafe.Pointer) string {
	if p == nil {
		return "<NULL>"
	}
	var b []byte
	for ; *(*byte)(p) != 0; p = unsafe.Add(p, 1) {
		b = append(b, *(*byte)(p))
	}
	return string(b)
}

func initialise(config string) (state uintptr, rc int32) {
	c := cText(config)
	state, rc = nativeplugin.Init(unsafe.Pointer(words(uintptr(unsafe.Pointer(&c[0])), 7)))
	runtime.KeepAlive(c)
	return state, rc
}

func open(state uintptr, params string) (stream uintptr, rc int32) {
	p := cText(params)
	return nativeplugin.Open(state, unsafe.Pointer(&p[0]))
}

// batch returns copies of the events of a batch.
func batch(t *testing.T, state, stream uintptr) (events [][]byte, rc int32) {
	list, n, rc := nativeplugin.NextBatch(state, stream)
	for i := range int(n) {
		e := *(*unsafe.Pointer)(unsafe.Add(list, 8*i))
		size := *(*uint32)(unsafe.Add(e, 16))
		events = append(events, bytes.Clone(unsafe.Slice((*byte)(e), size)))
	}
	return events, rc
}

// extract asks for a field of an event and returns the address of the result, and how many
// elements it has.
func extract(state uintptr, event []byte, id uint32, key string) (result unsafe.Pointer, count uint64, rc int32) {
	source, arg := cText("everything"), cText(key)
	in := words(uintptr(unsafe.Pointer(&event[0])), 1, uintptr(unsafe.Pointer(&source[0])))
	field := words(0, 0, uintptr(id))
	if key != "" {
		field[4], field[6] = uintptr(unsafe.Pointer(&arg[0])), 1
	}
	// A host that is older than offsets: what is behind its struct is anything.
	x := words(0, 0, 1, uintptr(unsafe.Pointer(field)), 0, 0, 0, 0, 0, 0xdeadbeef)
	rc = nativeplugin.ExtractFields(state, unsafe.Pointer(in), unsafe.Pointer(x))
	runtime.KeepAlive(field)
	runtime.KeepAlive(event)
	runtime.KeepAlive(source)
	runtime.KeepAlive(arg)
	return *(*unsafe.Pointer)(unsafe.Pointer(field)), uint64(field[1]), rc
}

// Many states, each with its own thread, do not get in each other's way.
func TestAtOnce(t *testing.T) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				state, rc := initialise(`{"prefix":"p"}`)
				if rc != nativeplugin.Success {
					t.Errorf("init: %s", text(nativeplugin.LastError(state)))
					return
				}
				stream, rc := open(state, `{"count":250,"note":100}`)
				if rc != nativeplugin.Success {
					t.Errorf("open: %s", text(nativeplugin.LastError(state)))
				}
				n := 0
				for {
					events, rc := batch(t, state, stream)
					for _, e := range events {
						n++
						if p, count, rc := extract(state, e, 0, ""); rc != 0 || count != 1 || *(*uint64)(p) != uint64(n) {
							t.Errorf("event %d: %d elements, code %d", n, count, rc)
						}
						if p, count, rc := extract(state, e, 14, "x"); rc != 0 || count != 1 || text(*(*unsafe.Pointer)(p)) != "x" {
							t.Errorf("event %d: %d elements, code %d", n, count, rc)
						}
					}
					if rc == nativeplugin.EOF {
						break
					}
					if rc != nativeplugin.Success && rc != nativeplugin.Timeout {
						t.Errorf("next_batch: %d %s", rc, text(nativeplugin.LastError(state)))
						break
					}
					if _, percent := nativeplugin.Progress(state, stream); percent > 10_000 {
						t.Errorf("%d hundredths of a percent", percent)
					}
				}
				if n != 250 {
					t.Errorf("%d events", n)
				}
				nativeplugin.Close(state, stream)
				nativeplugin.Destroy(state)
			}
		})
	}
	all.Wait()
}

// What is asked of what is not there is an error, or nothing.
func TestNothing(t *testing.T) {
	for _, state := range []uintptr{0, 1 << 40} {
		if _, rc := open(state, "{}"); rc != nativeplugin.Failure {
			t.Errorf("open: %d", rc)
		}
		if _, rc := batch(t, state, 1); rc != nativeplugin.Failure {
			t.Errorf("next_batch: %d", rc)
		}
		if _, _, rc := extract(state, make([]byte, 100), 0, ""); rc != nativeplugin.Failure {
			t.Errorf("extract_fields: %d", rc)
		}
		if nativeplugin.EventToString(state, nil) != nil || nativeplugin.Configure(state, nil) != nativeplugin.Failure || nativeplugin.SetAsyncHandler(state, 0, nil) != nativeplugin.Failure {
			t.Error("something is there")
		}
		if _, rc := nativeplugin.OpenParams(state); rc != nativeplugin.Failure {
			t.Errorf("list_open_params: %d", rc)
		}
		if list, n := nativeplugin.Metrics(state); list != nil || n != 0 {
			t.Errorf("%d metrics", n)
		}
		if _, percent := nativeplugin.Progress(state, 1<<40); percent != 0 {
			t.Error(percent)
		}
		if !strings.Contains(text(nativeplugin.LastError(state)), "no plugin with this state") {
			t.Error(text(nativeplugin.LastError(state)))
		}
		nativeplugin.Close(state, 1<<40)
		nativeplugin.Destroy(state)
	}
	state, rc := initialise("{}")
	if rc != nativeplugin.Success {
		t.Fatal(rc)
	}
	defer nativeplugin.Destroy(state)
	for name, e := range map[string]string{"zeros": strings.Repeat("\x00", 100), "short": strings.Repeat("\x00", 16) + "\x05" + strings.Repeat("\x00", 80), "another type": strings.Repeat("\x00", 16) + "&\x00\x00\x00\x01" + strings.Repeat("\x00", 80)} {
		if _, count, rc := extract(state, cText(e), 0, ""); rc != nativeplugin.Failure || count != 0 {
			t.Errorf("%s: code %d", name, rc)
		}
		if !strings.Contains(text(nativeplugin.LastError(state)), "malformed event") {
			t.Errorf("%s: %s", name, text(nativeplugin.LastError(state)))
		}
	}
	if rc := nativeplugin.ExtractFields(state, nil, nil); rc != nativeplugin.Failure || !strings.Contains(text(nativeplugin.LastError(state)), "panic in extract_fields") {
		t.Errorf("code %d: %s", rc, text(nativeplugin.LastError(state)))
	}
	if rc := nativeplugin.Configure(state, nil); rc != nativeplugin.Failure || !strings.Contains(text(nativeplugin.LastError(state)), "panic in set_config") {
		t.Errorf("code %d: %s", rc, text(nativeplugin.LastError(state)))
	}
	failed, rc := nativeplugin.Init(nil)
	if rc != nativeplugin.Failure || !strings.Contains(text(nativeplugin.LastError(failed)), "panic in init") {
		t.Errorf("code %d: %s", rc, text(nativeplugin.LastError(failed)))
	}
	nativeplugin.Destroy(failed)
	if got := text(nativeplugin.EventToString(state, nil)); got != "" {
		t.Errorf("%q", got)
	}
}

// What the author's code gets wrong is told with its text.
func TestFailures(t *testing.T) {
	state, rc := initialise("{")
	if rc != nativeplugin.Failure || !strings.Contains(text(nativeplugin.LastError(state)), "it ends too early") {
		t.Errorf("code %d: %s", rc, text(nativeplugin.LastError(state)))
	}
	nativeplugin.Destroy(state)
	if state, rc = initialise("{}"); rc != nativeplugin.Success {
		t.Fatal(rc)
	}
	defer nativeplugin.Destroy(state)
	for params, want := range map[string]string{
		`{"count":3,"end":"fail"}`: "the stream broke", `{"count":3,"end":"panic"}`: "panic in NextBatch: told to panic",
	} {
		stream, _ := open(state, params)
		n := 0
		for {
			events, rc := batch(t, state, stream)
			n += len(events)
			if rc == nativeplugin.Failure {
				break
			}
		}
		if got := text(nativeplugin.LastError(state)); n != 3 || got != want {
			t.Errorf("%s: %d events, %q", params, n, got)
		}
		nativeplugin.Close(state, stream)
	}
	for config, want := range map[string]int32{`{"prefix":"x"}`: nativeplugin.Success, `{"fail":"x"}`: nativeplugin.Failure, `{`: nativeplugin.Failure} {
		c := cText(config)
		if rc := nativeplugin.Configure(state, unsafe.Pointer(words(uintptr(unsafe.Pointer(&c[0]))))); rc != want {
			t.Errorf("set_config %s: %d", config, rc)
		}
		runtime.KeepAlive(c)
	}
	if got := text(nativeplugin.TextOf(nativeplugin.RequiredAPI)) + fmt.Sprint(nativeplugin.ID()); got != "3.2.01073742100" {
		t.Error(got)
	}
}

// Code that panics with each event does not fill the log of the host.
func TestLogIsBounded(t *testing.T) {
	state, rc := initialise("{}")
	if rc != nativeplugin.Success {
		t.Fatal(rc)
	}
	defer nativeplugin.Destroy(state)
	stream, _ := open(state, `{"count":1}`)
	defer nativeplugin.Close(state, stream)
	var event []byte
	for event == nil {
		if events, _ := batch(t, state, stream); len(events) > 0 {
			event = events[0]
		}
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var lines atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(read); s.Scan(); {
			if strings.Contains(s.Text(), "The plugin has panicked.") {
				lines.Add(1)
			}
		}
	}()
	before := os.Stderr
	os.Stderr = write
	start := time.Now()
	// Those of this second may have been for other tests.
	for i := 0; i < 2000 || lines.Load() == 0 && time.Since(start) < 30*time.Second; i++ {
		if _, _, rc := extract(state, event, 14, "panic"); rc != nativeplugin.Failure {
			t.Fatal(rc)
		}
	}
	seconds := int64(time.Since(start)/time.Second) + 2
	os.Stderr = before
	write.Close()
	<-done
	read.Close()
	if n := lines.Load(); n < 1 || n > 100*seconds {
		t.Errorf("%d messages in %d seconds", n, seconds)
	}
}
