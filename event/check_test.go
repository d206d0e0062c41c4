package event

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestCheckRefuses(t *testing.T) {
	tests := []struct {
		attribute string
		change    func(*Event)
	}{
		{"id", func(e *Event) { e.ID = "" }},
		{"id", func(e *Event) { e.ID = "\xff" }},
		{"id", func(e *Event) { e.ID = "a\nb" }},
		{"source", func(e *Event) { e.Source = "" }},
		{"source", func(e *Event) { e.Source = "\x00" }},
		{"type", func(e *Event) { e.Type = "" }},
		{"type", func(e *Event) { e.Type = "a b" }},
		{"type", func(e *Event) { e.Type = "a*" }},
		{"type", func(e *Event) { e.Type = "a\u0085" }},
		{"type", func(e *Event) { e.Type = "\xc3" }},
		{"time", func(e *Event) { e.Time = time.Time{} }},
		{"time", func(e *Event) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{"recordedtime", func(e *Event) { e.Recorded = time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{"namespace", func(e *Event) { e.Namespace = "/ns1/" }},
		{"namespace", func(e *Event) { e.Namespace = "ns1" }},
		{"namespace", func(e *Event) { e.Namespace = "root/" }},
		{"namespace", func(e *Event) { e.Namespace = "/" }},
		{"path", func(e *Event) { e.Path = "\xff" }},
		{"path", func(e *Event) { e.Path = "public"; e.Metadata.Set("path", "secret") }},
		{"metadata", func(e *Event) { e.Metadata = Fields{{Key: "b"}, {Key: "a"}} }},
		{"metadata", func(e *Event) { e.Metadata = Fields{{Key: "a"}, {Key: "a"}} }},
		{"metadata", func(e *Event) { e.Metadata = Fields{{Key: "\xff"}} }},
		{"metadata a", func(e *Event) { e.Metadata.Set("a", "\xff") }},
		{"metadata a", func(e *Event) { e.Metadata.SetJSON("a", "") }},
		{"metadata a", func(e *Event) { e.Metadata.SetJSON("a", `1,"b":2`) }},
		{"metadata a", func(e *Event) { e.Metadata.SetJSON("a", `"text"`) }},
		{"metadata a", func(e *Event) { e.Metadata.SetJSON("a", `[1, 2]`) }},
		{"metadata a", func(e *Event) { e.Metadata.SetJSON("a", " 1") }},
		{"metadata a", func(e *Event) { e.Metadata.SetJSON("a", "[\"\xff\"]") }},
		{"metadata a", func(e *Event) { e.Metadata.SetJSON("a", strings.Repeat("[", 101)+strings.Repeat("]", 101)) }},
		{"entity_ids", func(e *Event) { e.EntityIDs = []string{"\xff"} }},
		{"note", func(e *Event) { e.Note = "\xff" }},
		{"plugin_info", func(e *Event) { e.Plugin = &PluginInfo{Version: "\xff"} }},
		{"datacontenttype", func(e *Event) { e.DataContentType = "json" }},
		{"datacontenttype", func(e *Event) { e.DataContentType = "a/b\n" }},
		{"datacontenttype", func(e *Event) { e.DataContentType = "/b" }},
		{"datacontenttype", func(e *Event) { e.DataContentType = "a/b c" }},
		{"dataschema", func(e *Event) { e.DataSchema = NotificationSchema }},
		{"dataref", func(e *Event) { e.DataRef = "\u0080" }},
		{`extension "A"`, func(e *Event) { e.Extensions.Set("A", "x") }},
		{`extension ""`, func(e *Event) { e.Extensions.Set("", "x") }},
		{"extension subject", func(e *Event) { e.Extensions.Set("subject", "x") }},
		{"extension data", func(e *Event) { e.Extensions.Set("data", "x") }},
		{"extension a", func(e *Event) { e.Extensions.Set("a", "\r") }},
		{"extension a", func(e *Event) { e.Extensions.SetJSON("a", "null") }},
		{"extension a", func(e *Event) { e.Extensions.SetJSON("a", "007") }},
		{"extensions", func(e *Event) { e.Extensions = Fields{{Key: "b"}, {Key: "a"}} }},
	}
	for i, tt := range tests {
		e := observedEvents()[2]
		tt.change(e)
		err := DefaultLimits.Check(e)
		wantInvalid(t, tt.attribute+" #"+string(rune('0'+i%10)), err, tt.attribute)
	}
}

func TestCheckLimits(t *testing.T) {
	limits := Limits{MaxTypeBytes: 3, MaxMetadataKeys: 2, MaxMetadataBytes: 8, MaxEventBytes: 50}
	tests := []struct {
		part   string // "" is within the limits
		change func(*Event)
	}{
		{"", func(e *Event) {}},
		{"type", func(e *Event) { e.Type = "abcd" }},
		{"", func(e *Event) { e.Metadata = Fields{{Key: "a"}, {Key: "b"}} }},
		{"metadata keys", func(e *Event) { e.Metadata = Fields{{Key: "a"}, {Key: "b"}, {Key: "c"}} }},
		{"", func(e *Event) { e.Metadata.Set("a", "1234567") }},
		{"metadata", func(e *Event) { e.Metadata.Set("a", "12345678") }},
		{"", func(e *Event) { e.Data = make([]byte, 50-e.Size()) }},
		{"event", func(e *Event) { e.Data = make([]byte, 51-e.Size()) }},
		{"event", func(e *Event) { e.Plugin = &PluginInfo{Plugin: strings.Repeat("x", 50)} }},
		{"event", func(e *Event) { e.EntityIDs = []string{strings.Repeat("x", 50)} }},
	}
	for _, tt := range tests {
		e := observedEvents()[2]
		tt.change(e)
		err := limits.Check(e)
		var limit *LimitError
		switch {
		case tt.part == "" && err != nil:
			t.Errorf("got %v", err)
		case tt.part != "" && (!errors.As(err, &limit) || !errors.Is(err, ErrTooLarge) || limit.Part != tt.part):
			t.Errorf("got %v, want %q", err, tt.part)
		}
	}
	if err := (Limits{}).Check(observedEvents()[2]); !errors.Is(err, ErrTooLarge) {
		t.Errorf("the zero Limits give %v", err)
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	e := sampleEvents()[2]
	if n := testing.AllocsPerRun(100, func() {
		if err := DefaultLimits.Check(e); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Check allocates %v times", n)
	}
}

func TestIsPrintableASCIIAtEveryPlace(t *testing.T) {
	for length := range 20 {
		for place := range length {
			for c := range 256 {
				b := bytes.Repeat([]byte("~"), length)
				b[place] = byte(c)
				if got, want := isPrintableASCII(string(b)), c >= ' ' && c < 0x7f; got != want {
					t.Fatalf("byte %#x at %d of %d: got %t", c, place, length, got)
				}
			}
		}
	}
}
