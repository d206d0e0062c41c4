// Package tracetest has spans for the tests of those who encode and export them.
package tracetest

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// Spans returns spans of two servers that have everything that a span can have.
func Spans() []*trace.Span {
	start := time.Date(2026, 3, 14, 15, 9, 26, 535_897_932, time.UTC)
	first := trace.TraceID{0x5c, 0x3e, 0x1f, 0x00, 0xa1, 0xb2, 0x4c, 0xd4, 0x9e, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb}
	return []*trace.Span{
		{
			TraceID: first, SpanID: trace.SpanID{1, 2, 3, 4, 5, 6, 7, 8},
			Name: "update secret/data/…", Start: start, End: start.Add(1_234_567), Source: "vault://prod",
			Attributes: []trace.Attribute{
				Text("request.path", "secret/data/my \"app\"\n<&>\x01\t\\"), Text("empty", ""), Int("client.port", 49152), Int("negative", -5),
				Text("client.address", "127.0.0.1"), Bool("yes", true), Bool("no", false), Float("ratio", 0.25), Float("nan", math.NaN()),
				Texts("auth.policies", "default", "häuser", ""), Texts("none"),
			},
			Closed: position.Position{Seq: 1, Index: 1, Ordinal: 1},
		},
		{
			TraceID: trace.TraceID{15: 2}, SpanID: trace.SpanID{7: 2}, Parent: trace.SpanID{0xff, 7: 1}, TraceState: "vendor=value", Flags: tracecontext.Sampled | tracecontext.Random, Dropped: 300,
			Name: "read \xff kv", Start: start.Add(time.Second), End: start.Add(time.Second), Source: "vault://staging",
			Failed: true, Message: "1 error occurred:\n\t* permission denied\n\n", Kind: trace.RequestOnly,
			Attributes: []trace.Attribute{Text("bad \xfe", "bytes \xc3\x28"), Text("client.address", "2001:db8::7")},
			Closed:     position.Position{Seq: 1, Index: 2, Ordinal: 2},
		},
		{
			TraceID: trace.TraceID{15: 3}, SpanID: trace.SpanID{7: 3}, Name: "login", Source: "vault://prod", Kind: trace.ResponseOnly, Expected: true,
			Start: start.Add(-time.Hour), End: start.Add(-time.Hour + 10*time.Microsecond), Failed: true,
			Closed: position.Position{Seq: 2, Index: 0, Ordinal: 3},
		},
	}
}

// Numbered returns n spans of a millisecond, the first with this number, each the one of
// the event with that ordinal.
func Numbered(first, n int) []*trace.Span {
	spans := make([]*trace.Span, n)
	for i := range spans {
		number := uint64(first + i)
		s := &trace.Span{
			Name: "read secret/data/…", Source: "vault://prod", Start: time.Unix(1_800_000_000, int64(number)*1_000_000),
			Attributes: []trace.Attribute{
				Text("request.operation", "read"), Text("request.path", "secret/data/app"), Text("request.mount_type", "kv"),
				Text("client.address", "10.0.0.1"), Int("client.port", 4711), Texts("auth.policies", "default", "app"),
			},
			Closed: position.Position{Seq: number + 1, Ordinal: number},
		}
		binary.BigEndian.PutUint64(s.TraceID[8:], number+1)
		binary.BigEndian.PutUint64(s.SpanID[:], number+1)
		s.End = s.Start.Add(time.Millisecond)
		spans[i] = s
	}
	return spans
}

// Text returns an attribute with text.
func Text(key, value string) trace.Attribute {
	return trace.Attribute{Key: key, Value: trace.Value{Kind: trace.Text, Text: value}}
}

// Texts returns an attribute with a list.
func Texts(key string, values ...string) trace.Attribute {
	return trace.Attribute{Key: key, Value: trace.Value{Kind: trace.Texts, Texts: values}}
}

// Int returns an attribute with a whole number.
func Int(key string, value int64) trace.Attribute {
	return trace.Attribute{Key: key, Value: trace.Value{Kind: trace.Int, Num: uint64(value)}}
}

// Float returns an attribute with a number.
func Float(key string, value float64) trace.Attribute {
	return trace.Attribute{Key: key, Value: trace.Value{Kind: trace.Float, Num: math.Float64bits(value)}}
}

// Bool returns an attribute that is true or false.
func Bool(key string, value bool) trace.Attribute {
	v := trace.Value{Kind: trace.Bool}
	if value {
		v.Num = 1
	}
	return trace.Attribute{Key: key, Value: v}
}
