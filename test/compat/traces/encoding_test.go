package traces

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"
	"testing"

	service "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
	"github.com/tocsin-events/tocsin/internal/trace/tracetest"
)

// TestEncoding compares our encoders with the messages of OpenTelemetry, byte for byte.
func TestEncoding(t *testing.T) {
	e := otlp.NewEncoder(otlp.Options{Version: "1.2.3", Resource: []trace.Attribute{tracetest.Text("deployment.environment.name", "test")}})
	for name, spans := range map[string][]*trace.Span{
		"everything": tracetest.Spans(), "many": tracetest.Numbered(0, 500), "one": tracetest.Numbered(7, 1), "none": nil,
	} {
		ours := e.AppendProtobuf(nil, spans)
		var request service.ExportTraceServiceRequest
		if err := proto.Unmarshal(ours, &request); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if unknown := request.ProtoReflect().GetUnknown(); len(unknown) > 0 {
			t.Errorf("%s: fields that are not known: %x", name, unknown)
		}
		theirs, err := proto.MarshalOptions{Deterministic: true}.Marshal(&request)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours, theirs) {
			t.Errorf("%s: %d bytes, theirs has %d", name, len(ours), len(theirs))
		}
		// The JSON of OTLP is that of protobuf, but for identifiers, which are in hexadecimal
		// digits instead of base64.
		var fromJSON service.ExportTraceServiceRequest
		if err := protojson.Unmarshal(inBase64(t, e.AppendJSON(nil, spans)), &fromJSON); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !equal(&fromJSON, &request) {
			t.Errorf("%s: JSON says\n%v\nand protobuf\n%v", name, &fromJSON, &request)
		}
	}
}

// equal compares by bytes: NaN is not equal to itself.
func equal(a, b proto.Message) bool {
	x, err1 := proto.MarshalOptions{Deterministic: true}.Marshal(a)
	y, err2 := proto.MarshalOptions{Deterministic: true}.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

func inBase64(t *testing.T, text []byte) []byte {
	t.Helper()
	var request map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&request); err != nil {
		t.Fatal(err)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for key, e := range v {
				if s, ok := e.(string); ok && (key == "traceId" || key == "spanId" || key == "parentSpanId") {
					id, err := hex.DecodeString(s)
					if err != nil || s != strings.ToLower(s) {
						t.Errorf("%s %q: %v", key, s, err)
					}
					v[key] = base64.StdEncoding.EncodeToString(id)
					continue
				}
				walk(e)
			}
		}
	}
	walk(request)
	out, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAnswers: what OpenTelemetry's messages say, our parsers understand.
func TestAnswers(t *testing.T) {
	for _, rejected := range []int64{0, 1, 512, math.MaxInt64} {
		answer := &service.ExportTraceServiceResponse{PartialSuccess: &service.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: "too old"}}
		want := telemetry.Partial{Rejected: rejected, Message: "too old"}
		b, err := proto.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := telemetry.ParsePartial(b); err != nil || p != want {
			t.Errorf("%+v, %v", p, err)
		}
		if b, err = protojson.Marshal(answer); err != nil {
			t.Fatal(err)
		}
		if p, err := telemetry.ParsePartialJSON(b); err != nil || p != want {
			t.Errorf("%s: %+v, %v", b, p, err)
		}
	}
}
