package event

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

var update = flag.Bool("update", false, "write the golden files in testdata")

// golden compares got with testdata/name, or writes it there with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update if that is intended):\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// observedEvents are the events of which a Vault server's encodings are known;
// see observedJSON and observedProto.
func observedEvents() []*Event {
	const id = "a3be9fb1-b514-519f-5b25-b6f144a8c1ce"
	at := time.Date(2025, 1, 2, 3, 4, 5, 123456789, time.FixedZone("", -7*60*60))
	return []*Event{
		{
			ID: id, Source: SourceVault("node-1"), Type: "kv-v2/data-write", Time: at,
			Metadata: Fields{{Key: "a", Value: "b"}},
			Plugin:   &PluginInfo{MountClass: "secret", MountAccessor: "kv_5dc4d18e", MountPath: "secret/", Plugin: "kv"},
		},
		{
			ID: id, Source: SourceVault("node-1"), Type: "t", Time: at, Namespace: "ns1/",
			Metadata: Fields{{Key: "a", Value: "b"}}, EntityIDs: []string{"e1", "e2"}, Note: "hello <b>&",
			Plugin: &PluginInfo{
				MountClass: "secret", MountAccessor: "kv_5dc4d18e", MountPath: "secret/", Plugin: "kv",
				PluginVersion: "v0.1.0+builtin", Version: "2", IsLocal: true,
			},
		},
		{ID: "x", Source: SourceVault("node-1"), Type: "abc", Time: at},
	}
}

// sampleEvents are one event for each way of being encoded.
func sampleEvents() []*Event {
	at := time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC)
	base := func(n int, change func(*Event)) *Event {
		e := &Event{ID: DeriveID("sample", strconv.Itoa(n)), Source: SourceVault("node-1"), Type: "kv-v2/data-write", Time: at}
		change(e)
		return e
	}
	entry := `{"time":"2026-03-04T05:06:07.89Z","type":"request","request":{"id":"r1","path":"secret/data/a<b>"}}`
	return []*Event{
		base(0, func(e *Event) {}),
		base(1, func(e *Event) { e.Metadata = Fields{} }),
		base(2, func(e *Event) {
			e.Path, e.Namespace = "secret/data/foo", "ns1/"
			e.Metadata = Fields{
				{Key: "current_version", Value: "3"}, {Key: "data_path", Value: "secret/data/foo"},
				{Key: "modified", Value: "true"}, {Key: "operation", Value: "data-write"}, {Key: "path", Value: "secret/data/foo"},
			}
			e.Plugin = &PluginInfo{MountClass: "secret", MountAccessor: "kv_957bb7d8", MountPath: "secret/", Plugin: "kv", PluginVersion: "v0.25.0+builtin", Version: "2"}
			e.Recorded = at.Add(5 * time.Millisecond)
		}),
		base(3, func(e *Event) {
			e.Metadata.SetJSON("bool", "true")
			e.Metadata.SetJSON("list", `[1,"<\u0000>",{"a":[]}]`)
			e.Metadata.SetJSON("none", "null")
			e.Metadata.SetJSON("number", "-1.5e-7")
			e.Metadata.SetJSON("object", `{"b":1,"a":{}}`)
			e.Metadata.Set("text", "quote \" slash \\ tab \t bell \a html <&> line\nü\u2028\u2029\u007f")
			e.EntityIDs, e.Note, e.Plugin = []string{"e1", ""}, "note", &PluginInfo{}
		}),
		base(4, func(e *Event) {
			e.Type, e.Path = "audit/request", "sys/audit/file"
			e.Metadata = Fields{{Key: "operation", Value: "read"}, {Key: "path", Value: "sys/audit/file"}}
			e.Data, e.DataContentType = []byte(entry), "application/json"
		}),
		base(5, func(e *Event) { e.Data, e.DataContentType = []byte("{\n\t\"a b\": [1, 2]\r\n}\n"), "application/json" }),
		base(6, func(e *Event) { e.Data, e.DataContentType = []byte("not JSON"), "application/json" }),
		base(7, func(e *Event) { e.Data, e.DataContentType = []byte("line 1\nline 2"), "text/plain; charset=UTF-8" }),
		base(8, func(e *Event) { e.Data, e.DataContentType = []byte("\x00\xff"), "application/octet-stream" }),
		base(9, func(e *Event) { e.Data, e.DataSchema = []byte(`"text"`), "https://example.com/schema" }),
		base(10, func(e *Event) {
			e.DataRef, e.DataContentType = "tocsin:objects/1", "application/json"
			e.Metadata = Fields{{Key: "k", Value: "v"}}
			e.Extensions = Fields{{Key: "flag", Value: "true", JSON: true}, {Key: "number", Value: "-7", JSON: true}, {Key: "traceparent", Value: "00-a"}}
		}),
	}
}

// generator makes valid events full of what encodings stumble over.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, 7))} }

func (g generator) oneIn(n int) bool { return g.IntN(n) == 0 }

func (g generator) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g generator) text() string {
	pieces := []string{
		"", "a", "secret/data/foo", "0123456789abcdef", "\"", "\\", "<", ">", "&", "\n", "\r", "\t", "\b", "\f", "\x00", "\x1f",
		"\x7f", "ü", "\u0080", "\u2028", "\u2029", "€", "\U0001f514", "\ufffd", " ", "/", "\\u0041",
	}
	var s strings.Builder
	for range g.IntN(6) {
		s.WriteString(g.pick(pieces...))
	}
	return s.String()
}

// word returns a text without control characters, not empty.
func (g generator) word() string {
	return "w" + strings.Map(func(r rune) rune {
		if isControl(r) {
			return '-'
		}
		return r
	}, g.text())
}

func (g generator) json(depth int) string {
	text, _ := json.Marshal(g.text())
	kinds := 5
	if depth > 0 {
		kinds = 7
	}
	switch g.IntN(kinds) {
	case 0:
		return "null"
	case 1:
		return g.pick("true", "false")
	case 2:
		return strconv.Itoa(g.IntN(2000) - 1000)
	case 3:
		return strconv.FormatFloat(g.NormFloat64()*math.Pow10(g.IntN(60)-30), 'g', -1, 64)
	case 4:
		return string(text)
	case 5:
		var list []string
		for range g.IntN(3) {
			list = append(list, g.json(depth-1))
		}
		return "[" + strings.Join(list, ",") + "]"
	default:
		var list []string
		for i := range g.IntN(3) {
			list = append(list, fmt.Sprintf(`"%d":%s`, i, g.json(depth-1)))
		}
		return "{" + strings.Join(list, ",") + "}"
	}
}

// typed returns a JSON value that is no string.
func (g generator) typed() string {
	for {
		if s := g.json(3); s[0] != '"' {
			return s
		}
	}
}

func (g generator) time() time.Time {
	zone := time.UTC
	if g.oneIn(2) {
		zone = time.FixedZone("", 60*(g.IntN(2*24*60-1)-(24*60-1)))
	}
	return time.Unix(g.Int64N(4e9)-1e9, g.Int64N(1e9)/[]int64{1, 1000, 1e6}[g.IntN(3)]).In(zone)
}

func (g generator) event() *Event {
	e := &Event{
		ID:        g.word(),
		Source:    "vault://" + g.word(),
		Type:      g.pick("kv-v2/data-write", "audit/request", "a<b", "ü"),
		Namespace: g.pick("", "ns1/", "ns1/ns2/", "a\"b/"),
		Time:      g.time(),
	}
	if g.oneIn(2) {
		e.Path = g.text()
	}
	if g.oneIn(2) {
		e.Metadata = Fields{}
		for range g.IntN(6) {
			if g.oneIn(3) {
				e.Metadata.SetJSON(g.text(), g.typed())
			} else {
				e.Metadata.Set(g.text(), g.text())
			}
		}
		if g.oneIn(2) {
			e.Metadata.Set(MetadataPath, e.Path)
		}
	}
	for range g.IntN(3) {
		e.EntityIDs = append(e.EntityIDs, g.text())
	}
	if g.oneIn(3) {
		e.Note = g.text()
	}
	if g.oneIn(2) {
		e.Plugin = &PluginInfo{IsLocal: g.oneIn(2)}
		if g.oneIn(2) {
			e.Plugin.MountClass, e.Plugin.MountPath, e.Plugin.Version = "secret", g.text(), "2"
		}
		if g.oneIn(2) {
			e.Plugin.MountAccessor, e.Plugin.Plugin, e.Plugin.PluginVersion = "kv_1", "kv", g.text()
		}
	}
	if g.oneIn(3) {
		e.Recorded = g.time()
	}
	if g.oneIn(3) {
		e.DataRef = g.word()
	}
	if g.oneIn(3) {
		e.DataSchema = "https://example.com/" + g.word()
	}
	if g.oneIn(2) {
		e.DataContentType = g.pick("application/json", "text/json; charset=utf-8", "application/x+json", "text/plain",
			"text/plain; charset=latin1", "application/octet-stream", "application/xml;a=b")
		switch g.IntN(4) {
		case 0:
			e.Data = []byte(g.text())
		case 1:
			e.Data = []byte(g.json(3))
		case 2:
			e.Data = []byte{0xff, 0, '\n'}
		}
	}
	for range g.IntN(3) {
		name := fmt.Sprintf("ext%d", g.IntN(10))
		if g.oneIn(2) {
			e.Extensions.SetJSON(name, g.pick("true", "false", "0", "-2147483648", "2147483647"))
		} else {
			e.Extensions.Set(name, g.word())
		}
	}
	return e
}

// noLimits is for events that are large on purpose.
var noLimits = Limits{math.MaxInt, math.MaxInt, math.MaxInt, math.MaxInt}

// diff returns "" when both events are equal, times by instant and offset.
func diff(got, want *Event) string {
	a, b := *got, *want
	for _, t := range []*time.Time{&a.Time, &a.Recorded, &b.Time, &b.Recorded} {
		if t.IsZero() {
			*t = time.Time{}
			continue
		}
		_, offset := t.Zone()
		*t = time.Unix(t.Unix(), int64(t.Nanosecond())).In(time.FixedZone("", offset))
	}
	at, bt := [2]string{a.Time.String(), a.Recorded.String()}, [2]string{b.Time.String(), b.Recorded.String()}
	a.Time, a.Recorded, b.Time, b.Recorded = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if at == bt && reflect.DeepEqual(a, b) {
		return ""
	}
	return fmt.Sprintf("got:  %+v plugin %+v data %q times %v\nwant: %+v plugin %+v data %q times %v",
		a, a.Plugin, a.Data, at, b, b.Plugin, b.Data, bt)
}

func TestGeneratedEventsAreValid(t *testing.T) {
	g := newGenerator(1)
	for range 5000 {
		if e := g.event(); DefaultLimits.Check(e) != nil {
			t.Fatalf("%v: %+v", DefaultLimits.Check(e), e)
		}
	}
	for _, e := range append(observedEvents(), sampleEvents()...) {
		if err := DefaultLimits.Check(e); err != nil {
			t.Errorf("%v: %+v", err, e)
		}
	}
}

func TestDeriveID(t *testing.T) {
	id := DeriveID("ab", "c")
	if id != DeriveID("ab", "c") || id == DeriveID("a", "bc") || id == DeriveID("ab", "c", "") {
		t.Error("ids are not a function of the parts")
	}
	if want := uuid.NewSHA1(idSpace, []byte("ab\x00c\x00")).String(); id != want {
		t.Errorf("got %s, which is not the UUIDv5 %s", id, want)
	}
	// Part of the wire contract: must never change.
	if want := "aa210e22-b9a4-5f81-a3fe-f488a2aa323a"; id != want {
		t.Errorf("got %s, want %s", id, want)
	}
}

func TestComplete(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e := &Event{Source: "s", Type: "t", Namespace: "/ns1"}
	e.Complete(now)
	if len(e.ID) != 36 || !e.Time.Equal(now) || e.Namespace != "ns1/" {
		t.Errorf("got %+v", e)
	}
	kept := *e
	e.Complete(now.Add(time.Hour))
	if d := diff(e, &kept); d != "" {
		t.Error(d)
	}
}

func TestCanonicalNamespace(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/": "", "root": "", "/root/": "", "ns1": "ns1/", "ns1/": "ns1/", "/a/b": "a/b/", "a//": "a/", "root/a": "root/a/",
	} {
		got := CanonicalNamespace(in)
		if got != want || CanonicalNamespace(got) != got {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
