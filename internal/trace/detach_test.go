package trace

import (
	"bytes"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
)

// largeEntries returns the entries of a request with texts of all kinds, and of this size.
func largeEntries(size int) []*event.Event {
	id := uuid.NewString()
	var out []*event.Event
	for i, kind := range []string{"request", "response"} {
		e := entryOf("s", id, i == 1, noon.Add(time.Duration(i)*time.Second))
		e.Data = fmt.Appendf(nil, `{"time":"2026-01-02T12:00:00Z","type":%q,"error":"1 error occurred","auth":{"display_name":"ann","entity_id":"e1","policies":["default","app"]},`+
			`"request":{"id":%q,"operation":"list","mount_point":"kv/","mount_type":"kv","path":"kv/a","remote_address":"10.0.0.1"},"response":{"data":{"keys":[%q]}}}`,
			kind, id, strings.Repeat("x", size))
		out = append(out, e)
	}
	return out
}

func TestLargeEntriesAreNotKept(t *testing.T) {
	for _, data := range []string{"at hand", "elsewhere"} {
		var entries []weak.Pointer[byte]
		f := newFeed(t, Options{Fetch: func(*event.Event) ([]byte, error) {
			data := bytes.Clone(largeEntries(largeLine)[1].Data)
			entries = append(entries, weak.Make(&data[0]))
			return data, nil
		}})
		var spans []*Span
		for range 20 {
			for _, e := range largeEntries(largeLine) {
				if data == "elsewhere" {
					e.Data, e.DataRef = nil, "x"
				} else {
					entries = append(entries, weak.Make(&e.Data[0]))
				}
				spans = append(spans, f.add(e)...)
			}
		}
		runtime.GC()
		kept := 0
		for _, p := range entries {
			if p.Value() != nil {
				kept++
			}
		}
		if len(spans) != 20 || kept > 2 { // the tracer may have the last one
			t.Errorf("%s: %d spans keep %d entries in memory", data, len(spans), kept)
		}
		runtime.KeepAlive(spans)
		if v, _ := spans[0].Get("auth.policies"); strings.Join(v.Texts, " ") != "default app" {
			t.Errorf("%s: policies %q", data, v.Texts)
		}
	}
}

func TestIsUTF8(t *testing.T) {
	for _, c := range []struct {
		audit, derived string
		want           bool
	}{{"a", "b", true}, {"\xff", "b", false}, {"a", "\xff", false}} {
		id := uuid.NewString()
		first, second := entryOf("s", id, false, noon), entryOf("s", id, true, noon)
		second.ID = c.audit
		other := &event.Event{ID: c.derived, Type: "kv-v2/data-write", Source: "s", Time: noon}
		other.Extensions.Set(extRequestID, id)
		for _, s := range newFeed(t, Options{}).add(first, second, other) {
			ids, _ := s.Get(attrEventIDs)
			if s.IsUTF8() != c.want || len(ids.Texts) != 1 {
				t.Errorf("%q %q: %t, %q", c.audit, c.derived, s.IsUTF8(), ids.Texts)
			}
		}
	}
}

func TestDetached(t *testing.T) {
	for _, size := range []int{1, largeLine} {
		spans := newFeed(t, Options{}).add(largeEntries(size)...)
		if len(spans) != 1 || len(spans[0].Attributes) < 10 {
			t.Fatalf("%+v", spans)
		}
		if c := spans[0].Detached(); !reflect.DeepEqual(c, spans[0]) {
			t.Errorf("%+v, want %+v", c, spans[0])
		}
	}
}
