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

func TestPartial(t *testing.T) {
	partial := protowire.AppendTag(nil, 1, protowire.VarintType)
	partial = protowire.AppendVarint(partial, 7)
	partial = protowire.AppendTag(partial, 2, protowire.BytesType)
	partial = protowire.AppendString(partial, "too\nold \x1b[31m")
	binary := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial)
	want := Partial{7, "too old [31m"}
	if p, err := ParsePartial(binary); err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
	for _, text := range []string{`{"partialSuccess":{"rejectedSpans":"7","errorMessage":"too\nold \u001b[31m"}}`,
		`{"partialSuccess":{"rejectedSpans":7,"errorMessage":"too\nold \u001b[31m"},"other":1}`} {
		if p, err := ParsePartialJSON([]byte(text)); err != nil || p != want {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
	}
	if p, err := ParsePartialJSON([]byte(`{"partialSuccess":{"rejectedSpans":null,"errorMessage":"old"}}`)); err != nil || p.Message != "old" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, empty := range []string{"", "{}", `{"partialSuccess":{}}`, `{"partialSuccess":null}`} {
		if p, err := ParsePartialJSON([]byte(empty)); err != nil || p != (Partial{}) {
			t.Errorf("%s: %+v, %v", empty, p, err)
		}
	}
	if _, err := ParsePartial(binary[:len(binary)-1]); err == nil {
		t.Error("a cut answer is one")
	}
	if _, err := ParsePartialJSON([]byte("<html>")); err == nil {
		t.Error("a page is an answer")
	}
}

func TestFailure(t *testing.T) {
	field := func(b []byte, n protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), content)
	}
	number := func(b []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	status := func(delay []byte) []byte {
		detail := field(field(nil, 1, []byte(retryInfo)), 2, field(nil, 1, delay))
		return field(field(number(nil, 1, 8), 2, []byte("slow down")), 3, detail)
	}
	for _, test := range []struct {
		body []byte
		json string
		want Failure
	}{
		{status(number(number(nil, 1, 3), 2, 500_000_000)), `{"code":8,"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"3.5s"}]}`,
			Failure{"slow down", 3500 * time.Millisecond, true}},
		{status(nil), `{"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"0s"}]}`, Failure{"slow down", 0, true}},
		{status(number(nil, 1, 1<<62)), `{"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"99999999999999999999s"}]}`, Failure{"slow down", MaxRetryAfter, true}},
		{status(number(nil, 1, 1<<64-1)), `{"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"-1s"}]}`, Failure{"slow down", 0, true}},
		{field(nil, 2, []byte("no")), `{"message":"no","details":[{"@type":"other"}]}`, Failure{Message: "no"}},
	} {
		if f, err := ParseFailure(test.body); err != nil || f != test.want {
			t.Errorf("%x: %+v, %v", test.body, f, err)
		}
		if f, err := ParseFailureJSON([]byte(test.json)); err != nil || f != test.want {
			t.Errorf("%s: %+v, %v", test.json, f, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": -1, "0": 0, "5": 5 * time.Second, " 120 ": 2 * time.Minute, "-1": -1, "soon": -1, "999999999999": MaxRetryAfter, "1e3": -1,
		"Sat, 14 Mar 2026 15:10:26 GMT": time.Minute, "Sat, 14 Mar 2026 15:00:00 GMT": 0, strings.Repeat("1", 1000): -1,
	} {
		got, ok := ParseRetryAfter(value, now)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"partialSuccess":{"rejectedSpans":"7","errorMessage":"too old"}}`))
	f.Add([]byte(`{"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"3.5s"}]}`))
	f.Add([]byte{0x0a, 0x04, 0x08, 0x07, 0x12, 0x00})
	f.Add([]byte("120"))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(text string, delay time.Duration) {
			if len(text) > MaxText+3 || strings.ContainsAny(text, "\n\x1b") || delay < 0 || delay > MaxRetryAfter {
				t.Errorf("%q, %v", text, delay)
			}
		}
		for _, parse := range []func([]byte) (Partial, error){ParsePartial, ParsePartialJSON} {
			if p, err := parse(b); err == nil && p.Rejected < 0 {
				t.Error("less than none")
			} else {
				check(p.Message, 0)
			}
		}
		for _, parse := range []func([]byte) (Failure, error){ParseFailure, ParseFailureJSON} {
			f, _ := parse(b)
			check(f.Message, f.RetryAfter)
		}
		delay, _ := ParseRetryAfter(string(b), time.Unix(1_800_000_000, 0))
		check(Printable(string(b)), delay)
	})
}
