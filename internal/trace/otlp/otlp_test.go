package otlp

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/tracetest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func encoder() *Encoder {
	return NewEncoder(Options{Version: "1.2.3", Resource: []trace.Attribute{
		tracetest.Text("deployment.environment.name", "test"), tracetest.Text("telemetry.sdk.language", "golang"),
	}})
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s: got\n%s", file, got)
	}
}

// TestGolden compares with files whose content test/compat has compared with that of
// OpenTelemetry's own code.
func TestGolden(t *testing.T) {
	e := encoder()
	for range 2 { // an encoder keeps nothing of its last spans
		golden(t, "testdata/spans.json", append(e.AppendJSON(nil, tracetest.Spans()), '\n'))
		golden(t, "testdata/spans.pb.hex", []byte(hex.Dump(e.AppendProtobuf(nil, tracetest.Spans()))))
	}
}

func TestJSONIsValid(t *testing.T) {
	b := encoder().AppendJSON(nil, tracetest.Spans())
	if !json.Valid(b) || strings.ContainsRune(string(b), '\n') {
		t.Errorf("%s", b)
	}
	if !json.Valid(encoder().AppendJSON(nil, nil)) {
		t.Error("no spans")
	}
}

// TestSizes walks a request by its lengths.
func TestSizes(t *testing.T) {
	prefix := []byte("prefix")
	b := encoder().AppendProtobuf(prefix, tracetest.Spans())
	if string(b[:6]) != "prefix" {
		t.Fatal("what was there is gone")
	}
	var walk func(b []byte, messages ...map[protowire.Number]bool)
	walk = func(b []byte, messages ...map[protowire.Number]bool) {
		for len(b) > 0 {
			field, wire, n := protowire.ConsumeTag(b)
			if n < 0 {
				t.Fatal(protowire.ParseError(n))
			}
			b = b[n:]
			size := protowire.ConsumeFieldValue(field, wire, b)
			if size < 0 {
				t.Fatal(protowire.ParseError(size))
			}
			if len(messages) > 0 && messages[0][field] {
				inner, _ := protowire.ConsumeBytes(b)
				walk(inner, messages[1:]...)
			}
			b = b[size:]
		}
	}
	walk(b[6:], map[protowire.Number]bool{1: true}, map[protowire.Number]bool{1: true, 2: true}, map[protowire.Number]bool{2: true},
		map[protowire.Number]bool{9: true}, map[protowire.Number]bool{2: true}, map[protowire.Number]bool{5: true})

	one := tracetest.Numbered(1, 1)
	two := tracetest.Numbered(1, 2)
	if got, want := SpanBytes(two[1]), len(encoder().AppendProtobuf(nil, two))-len(encoder().AppendProtobuf(nil, one)); got != want {
		t.Errorf("a span has %d bytes, a request grows by %d", got, want)
	}
}

// TestNoAllocations: a span costs no memory beside that of the request.
func TestNoAllocations(t *testing.T) {
	e, spans := encoder(), tracetest.Numbered(1, 100)
	buffer := make([]byte, 0, 1<<20)
	for name, encode := range map[string]func([]byte, []*trace.Span) []byte{"protobuf": e.AppendProtobuf, "json": e.AppendJSON} {
		encode(buffer, spans)
		if n := testing.AllocsPerRun(10, func() { encode(buffer, spans) }); n > 2 {
			t.Errorf("%s: %v allocations for %d spans", name, n, len(spans))
		}
	}
}

func BenchmarkProtobuf(b *testing.B) {
	e, spans := encoder(), tracetest.Numbered(1, 100)
	var buffer []byte
	b.ReportAllocs()
	for b.Loop() {
		buffer = e.AppendProtobuf(buffer[:0], spans)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(spans)), "ns/span")
	b.SetBytes(int64(len(buffer)))
}

func TestNanos(t *testing.T) {
	for text, want := range map[string]uint64{
		"0001-01-01T00:00:00Z": 0, "1969-12-31T23:59:59Z": 0, "1970-01-01T00:00:01Z": 1e9,
		"2262-04-11T23:47:15Z": 9223372035e9, "2262-04-12T00:00:00Z": math.MaxInt64, "9999-12-31T23:59:59Z": math.MaxInt64,
	} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := nanos(at); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}
