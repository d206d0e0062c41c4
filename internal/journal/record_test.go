package journal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

var update = flag.Bool("update", false, "rewrite golden files")

// fullEvent has every field set.
func fullEvent() *event.Event {
	e := &event.Event{
		ID: "0a1b", Type: "kv-v2/data-write", Namespace: "team/a/", Source: "vault://main", Path: "secret/data/é",
		EntityIDs: []string{"entity-1", ""}, Note: "a note",
		Plugin: &event.PluginInfo{MountClass: "secret", MountAccessor: "kv_957bb7d8", MountPath: "secret/",
			Plugin: "kv", PluginVersion: "v0.25.0+builtin", Version: "2", IsLocal: true},
		Time: time.Date(2026, 11, 21, 6, 10, 5, 123456789, time.UTC),
		Data: []byte("{\"a\":1}"), DataContentType: "application/json", DataSchema: "https://example.com/schema", DataRef: "objects/1",
	}
	e.Metadata.Set("path", e.Path)
	e.Metadata.SetJSON("current_version", "3")
	e.Metadata.Set("empty", "")
	e.Extensions.Set("traceparent", "00-1")
	e.Extensions.SetJSON("flag", "true")
	return e
}

// emptyish has every distinction between nil and empty.
func emptyish() []*event.Event {
	return []*event.Event{
		{},
		{Metadata: event.Fields{}, Extensions: event.Fields{}, EntityIDs: []string{}, Data: []byte{}, Plugin: &event.PluginInfo{}},
		{Time: time.Date(-5000, 1, 1, 0, 0, 0, 1, time.UTC)},
		{Time: time.Date(20000, 1, 1, 0, 0, 0, 999999999, time.FixedZone("x", 3600))},
	}
}

func randomEvent(r *rand.Rand) *event.Event {
	text := func(most int) string {
		b := make([]byte, r.IntN(most+1))
		for i := range b {
			b[i] = byte(r.Uint32())
			if r.IntN(2) == 0 {
				b[i] = 'a'
			}
		}
		return string(b)
	}
	fields := func() event.Fields {
		if r.IntN(3) == 0 {
			return nil
		}
		f := event.Fields{}
		for range r.IntN(6) {
			f = append(f, event.Field{Key: text(10), Value: text(200), JSON: r.IntN(2) == 0})
		}
		return f
	}
	e := &event.Event{
		ID: text(40), Type: text(30), Namespace: text(20), Source: text(20), Path: text(100), Note: text(5),
		Metadata: fields(), Extensions: fields(),
		Time:            time.Unix(r.Int64N(1<<40)-1<<39, r.Int64N(1e9)).UTC(),
		DataContentType: text(20), DataSchema: text(10), DataRef: text(10),
	}
	if r.IntN(3) > 0 {
		e.Data = []byte(text(3000))
	}
	if r.IntN(3) == 0 {
		e.Plugin = &event.PluginInfo{MountClass: text(8), MountAccessor: text(12), MountPath: text(9), Plugin: text(3),
			PluginVersion: text(12), Version: text(2), IsLocal: r.IntN(2) == 0}
	}
	if r.IntN(3) == 0 {
		e.EntityIDs = []string{}
		for range r.IntN(3) {
			e.EntityIDs = append(e.EntityIDs, text(20))
		}
	}
	return e
}

func encode(ordinal uint64, recorded time.Time, pack bool, events ...*event.Event) []byte {
	b := &block{}
	for _, e := range events {
		b.add(e)
	}
	plain := b.complete(ordinal, recorded)
	if pack {
		if packed, ok := compress(nil, plain); ok {
			return packed
		}
	}
	return plain
}

// decode does what a reader does.
func decode(stored []byte) (*record, error) {
	rec, err := parseRecord(1, stored)
	if err != nil {
		return nil, err
	}
	return rec, rec.load()
}

// asDecoded is what a reader must see of e.
func asDecoded(e *event.Event, recorded time.Time) *event.Event {
	c := *e
	c.Time, c.Recorded = e.Time.UTC(), recorded.UTC()
	return &c
}

func checkDecoded(t *testing.T, stored []byte, ordinal uint64, recorded time.Time, events []*event.Event) {
	t.Helper()
	rec, err := decode(stored)
	if err != nil {
		t.Fatal(err)
	}
	if len(rec.events) != len(events) || rec.header.ordinal != ordinal || !rec.header.recorded.Equal(recorded) {
		t.Fatalf("decoded %d events from %d recorded %v, want %d from %d recorded %v",
			len(rec.events), rec.header.ordinal, rec.header.recorded, len(events), ordinal, recorded)
	}
	for i := range events {
		if got, want := &rec.events[i], asDecoded(events[i], recorded); !reflect.DeepEqual(got, want) {
			t.Fatalf("event %d:\n got %#v\nwant %#v", i, got, want)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	recorded := time.Date(2026, 11, 21, 6, 11, 0, 1, time.UTC)
	r := rand.New(rand.NewPCG(1, 2))
	sets := [][]*event.Event{{fullEvent()}, emptyish(), append(emptyish(), fullEvent(), fullEvent())}
	for range 300 {
		var events []*event.Event
		for range 1 + r.IntN(20) {
			events = append(events, randomEvent(r))
		}
		sets = append(sets, events)
	}
	for _, events := range sets {
		size := 0
		for _, e := range events {
			size += StoredBytes(e)
		}
		for _, pack := range []bool{false, true} {
			stored := encode(77, recorded, pack, events...)
			if !pack && len(stored)-recordHeaderSize > size {
				t.Errorf("body of %d bytes, StoredBytes said %d", len(stored)-recordHeaderSize, size)
			}
			checkDecoded(t, stored, 77, recorded, events)
		}
	}
}

// TestRecordDecodedIsApart checks that appending to what was decoded cannot reach a
// neighbour.
func TestRecordDecodedIsApart(t *testing.T) {
	rec, err := decode(encode(0, time.Now(), false, fullEvent(), fullEvent()))
	if err != nil {
		t.Fatal(err)
	}
	first, second := &rec.events[0], asDecoded(fullEvent(), rec.header.recorded)
	_ = append(first.Metadata, event.Field{Key: "x"})
	_ = append(first.Extensions, event.Field{Key: "x"})
	_ = append(first.EntityIDs, "x")
	_ = append(first.Data, "xxxxxxxxxxxx"...)
	if !reflect.DeepEqual(&rec.events[1], second) {
		t.Fatal("the second event changed")
	}
}

func TestRecordCompression(t *testing.T) {
	compressible := make([]*event.Event, 100)
	for i := range compressible {
		compressible[i] = fullEvent()
		compressible[i].Data = []byte(strings.Repeat("audit ", 200))
	}
	if stored := encode(0, time.Now(), true, compressible...); stored[1] != codecS2 || len(stored) > 20_000 {
		t.Errorf("compressible events: codec %d, %d bytes", stored[1], len(stored))
	}
	random := incompressible(1000)
	if stored := encode(0, time.Now(), true, random...); stored[1] != codecNone {
		t.Error("random events were compressed")
	}
	if stored := encode(0, time.Now(), true, &event.Event{ID: "x"}); stored[1] != codecNone {
		t.Error("a tiny record was compressed")
	}
}

// TestRecordVersion1 reads records that an earlier program wrote. The file is never
// rewritten for a change of the layout: that needs a new version and a new file.
func TestRecordVersion1(t *testing.T) {
	recorded := time.Date(2026, 11, 21, 6, 11, 0, 1, time.UTC)
	events := append(emptyish(), fullEvent())
	long := fullEvent()
	long.Note = strings.Repeat("compress me ", 100)
	for _, c := range []struct {
		file   string
		stored []byte
		events []*event.Event
	}{
		{"record-v1-plain.hex", encode(12345, recorded, false, events...), events},
		{"record-v1-s2.hex", encode(12345, recorded, true, append(events, long)...), append(events, long)},
	} {
		path := filepath.Join("testdata", c.file)
		if *update {
			if err := os.WriteFile(path, []byte(hex.Dump(c.stored)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		stored := readHexDump(t, path)
		checkDecoded(t, stored, 12345, recorded, c.events)
		if c.stored[1] == codecNone && !bytes.Equal(stored, c.stored) {
			t.Errorf("%s: the layout of version 1 changed", c.file)
		}
	}
}

func readHexDump(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for line := range strings.Lines(string(text)) {
		digits := strings.Join(strings.Fields(line[8:min(len(line), 58)]), "")
		b, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

func TestRecordBad(t *testing.T) {
	good := encode(0, time.Now(), false, fullEvent())
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	var version recordVersionError
	if _, err := decode(change(0, 2)); !errors.As(err, &version) || version != 2 {
		t.Errorf("version 2: %v", err)
	}
	for name, stored := range map[string][]byte{
		"empty": {}, "header only": good[:recordHeaderSize], "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0),
		"codec": change(1, 9), "reserved": change(2, 1), "no events": change(4, 0), "more events": change(4, 2),
		"fewer fields": change(24, 4), "more fields": change(24, 6), "huge text": change(43, 0xff), "huge data": change(47, 0xff),
		"not S2": change(1, codecS2), "nanoseconds": change(len(good)-1, 0xff),
	} {
		if _, err := decode(stored); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	now := time.Unix(1700000000, 0)
	f.Add(encode(0, now, false, fullEvent()))
	f.Add(encode(9, now, false, emptyish()...))
	f.Add(encode(9, now, true, fullEvent(), fullEvent(), fullEvent(), fullEvent()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, stored []byte) {
		rec, err := decode(stored)
		if err != nil {
			return
		}
		// What can be decoded can be encoded and is the same again.
		var events []*event.Event
		for i := range rec.events {
			events = append(events, &rec.events[i])
		}
		checkDecoded(t, encode(rec.header.ordinal, rec.header.recorded, false, events...), rec.header.ordinal, rec.header.recorded, events)
	})
}

func BenchmarkRecordDecode(b *testing.B) {
	stored := encode(0, time.Now(), false, incompressible(375)...)
	b.SetBytes(int64(len(stored)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(stored); err != nil {
			b.Fatal(err)
		}
	}
}

func ExamplePosition() {
	p := Position{Seq: 7, Index: 3, Ordinal: 2041}
	fmt.Println(p)
	q, err := ParsePosition(p.String())
	fmt.Println(q == p, err)
	// Output:
	// 000000000000e000001g0000000001vp
	// true <nil>
}

// What addLike takes from the event before is what add would have written.
func TestRecordOfAlikes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		plain, quick := &block{}, &block{}
		for range 1 + r.IntN(3) {
			first := randomEvent(r)
			plain.add(first)
			quick.add(first)
			for range r.IntN(4) {
				other, e := randomEvent(r), *first
				e.ID, e.Time, e.Data = other.ID, other.Time, other.Data
				if !e.Alike(first) {
					t.Fatalf("%+v\nis not like\n%+v", e, first)
				}
				plain.add(&e)
				quick.addLike(&e)
			}
		}
		if plain.size != quick.size || plain.count != quick.count {
			t.Fatalf("size %d and %d, count %d and %d", plain.size, quick.size, plain.count, quick.count)
		}
		if a, b := plain.complete(7, time.Unix(1, 0)), quick.complete(7, time.Unix(1, 0)); !bytes.Equal(a, b) {
			t.Fatalf("%x\nis not\n%x", b, a)
		}
	}
}
