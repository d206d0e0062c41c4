package otlplogs

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/telemetry"
)

var update = flag.Bool("update", false, "write the golden files anew")

// samples are events with all that a record can have.
func samples() *deliver.Batch {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	full := &event.Event{
		ID: "0190a1b2-0000-7000-8000-000000000001", Type: "kv-v2/data-write", Source: "vault://prod", Path: "secret/data/app/db", Namespace: "team-a/",
		Time: at, Recorded: at.Add(time.Second), EntityIDs: []string{"e1", "e2"}, Note: "a note",
		Plugin:     &event.PluginInfo{MountClass: "secret", MountAccessor: "kv_1", MountPath: "secret/", Plugin: "kv", PluginVersion: "v1", Version: "2", IsLocal: true},
		Data:       []byte(`{"null":null,"yes":true,"int":-7,"float":0.5,"big":12345678901234567890,"text":"ä\"\n","list":[1,[],{}],"object":{"b":1,"a":{"c":[null]}}}`),
		DataSchema: "https://example.com/schema", DataContentType: "application/json",
	}
	full.Metadata.Set("operation", "data-write")
	full.Metadata.SetJSON("count", "3")
	full.Metadata.SetJSON("tags", `["a","b"]`)
	full.Extensions.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	full.Extensions.SetJSON("number", "5")
	alert := &event.Event{ID: "2", Type: "alert/root-token-used", Source: "tocsin://hub", Time: at, Metadata: event.Fields{}}
	alert.Metadata.Set("priority", "Critical")
	return &deliver.Batch{Attempt: 1, Replay: "r1", Redriven: true, Items: []deliver.Item{
		{Event: full, At: position.Position{Seq: 7, Index: 1, Ordinal: 20}},
		{Event: &event.Event{ID: "1", Type: "request/denied", Source: "vault://prod", Path: "secret/data/app", Time: at, Metadata: event.Fields{}}},
		{Event: alert},
		{Event: &event.Event{ID: "3", Type: "x/text", Source: "vault://other", Time: time.Time{}, Data: []byte("plain \x01 text"), DataContentType: "text/plain"}},
		{Event: &event.Event{ID: "4", Type: "x/bytes", Source: "", Time: at, Data: []byte{0xff, 0, 1}, DataContentType: "application/octet-stream"}},
		{Event: &event.Event{ID: "5", Type: "x/broken\xff", Source: "vault://prod", Time: at, Data: []byte(`{"a":`), DataContentType: "application/json", DataRef: "/payload/1"}},
	}}
}

func testEncoder() *encoder {
	return newEncoder("1.2.3", map[string]string{"deployment.environment.name": "test", "telemetry.sdk.language": "golang"})
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
	e, b := testEncoder(), samples()
	text := e.appendJSON(nil, b, b.Items)
	if !json.Valid(text) {
		t.Fatalf("%s", text)
	}
	golden(t, "testdata/logs.json", append(text, '\n'))
	golden(t, "testdata/logs.pb.hex", []byte(hex.Dump(e.appendProtobuf(nil, b, b.Items))))
}

// node is a message of protobuf as a tree: fields by number.
type node map[protowire.Number][]any // uint64, []byte

func parse(t testing.TB, b []byte) node {
	t.Helper()
	n := make(node)
	for len(b) > 0 {
		field, wire, size := protowire.ConsumeTag(b)
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		b = b[size:]
		switch wire {
		case protowire.BytesType:
			v, size := protowire.ConsumeBytes(b)
			if size < 0 {
				t.Fatal(protowire.ParseError(size))
			}
			n[field] = append(n[field], v)
			b = b[size:]
		case protowire.VarintType:
			v, size := protowire.ConsumeVarint(b)
			if size < 0 {
				t.Fatal(protowire.ParseError(size))
			}
			n[field] = append(n[field], v)
			b = b[size:]
		case protowire.Fixed64Type:
			v, size := protowire.ConsumeFixed64(b)
			if size < 0 {
				t.Fatal(protowire.ParseError(size))
			}
			n[field] = append(n[field], v)
			b = b[size:]
		case protowire.Fixed32Type:
			v, size := protowire.ConsumeFixed32(b)
			if size < 0 {
				t.Fatal(protowire.ParseError(size))
			}
			n[field] = append(n[field], uint64(v))
			b = b[size:]
		default:
			t.Fatalf("wire type %d", wire)
		}
	}
	return n
}

// anyValue returns an AnyValue as JSON would be decoded.
func anyValue(t testing.TB, b []byte) any {
	t.Helper()
	n := parse(t, b)
	if len(n) > 1 {
		t.Fatalf("%d fields are set", len(n))
	}
	for field, v := range n {
		switch field {
		case 1:
			return string(v[0].([]byte))
		case 2:
			return v[0].(uint64) == 1
		case 3:
			return int64(v[0].(uint64))
		case 4:
			return math.Float64frombits(v[0].(uint64))
		case 5:
			list := []any{}
			for _, e := range parse(t, v[0].([]byte))[1] {
				list = append(list, anyValue(t, e.([]byte)))
			}
			return list
		case 6:
			m := map[string]any{}
			for _, kv := range parse(t, v[0].([]byte))[1] {
				pair := parse(t, kv.([]byte))
				var key string
				if k := pair[1]; len(k) > 0 {
					key = string(k[0].([]byte))
				}
				m[key] = anyValue(t, pair[2][0].([]byte))
			}
			return m
		case 7:
			return v[0].([]byte)
		}
	}
	return nil
}

// received is a log record as it arrived.
type received struct {
	attributes, resource map[string]any
	body                 any
	fields               node
}

// records decodes an ExportLogsServiceRequest.
func records(t testing.TB, b []byte) (list []received) {
	t.Helper()
	attributes := func(fields []any) map[string]any {
		m := make(map[string]any)
		for _, kv := range fields {
			pair := parse(t, kv.([]byte))
			m[string(pair[1][0].([]byte))] = anyValue(t, pair[2][0].([]byte))
		}
		return m
	}
	for _, resource := range parse(t, b)[1] {
		r := parse(t, resource.([]byte))
		of := attributes(parse(t, r[1][0].([]byte))[1])
		for _, scope := range r[2] {
			for _, record := range parse(t, scope.([]byte))[2] {
				fields := parse(t, record.([]byte))
				got := received{attributes: attributes(fields[6]), resource: of, fields: fields}
				if body := fields[5]; len(body) > 0 {
					got.body = anyValue(t, body[0].([]byte))
				}
				list = append(list, got)
			}
		}
	}
	return list
}

func TestRecords(t *testing.T) {
	b := samples()
	list := records(t, testEncoder().appendProtobuf(nil, b, b.Items))
	byID := make(map[any]received)
	for _, r := range list {
		byID[r.attributes["cloudevents.event_id"]] = r
	}
	if len(list) != 6 || len(byID) != 6 {
		t.Fatalf("%d records", len(list))
	}
	full := byID[b.Items[0].Event.ID]
	for key, want := range map[string]any{
		"cloudevents.event_source": "vault://prod", "cloudevents.event_type": "kv-v2/data-write", "cloudevents.event_subject": "secret/data/app/db",
		"cloudevents.event_spec_version": "1.0", "tocsin.namespace": "team-a/", "tocsin.sequence": b.Items[0].At.String(), "tocsin.note": "a note",
		"tocsin.metadata.operation": "data-write", "tocsin.metadata.count": int64(3), "tocsin.metadata.tags": []any{"a", "b"}, "tocsin.extension.number": int64(5),
		"tocsin.plugin.mount_path": "secret/", "tocsin.plugin.is_local": true, "tocsin.entity_ids": []any{"e1", "e2"}, "tocsin.replay": "r1", "tocsin.redriven": true,
		"tocsin.data.content_type": "application/json", "tocsin.data.schema": "https://example.com/schema",
	} {
		if fmt.Sprintf("%T %v", full.attributes[key], full.attributes[key]) != fmt.Sprintf("%T %v", want, want) {
			t.Errorf("%s is %v, want %v", key, full.attributes[key], want)
		}
	}
	text, _ := json.Marshal(full.body)
	if want := `{"big":"12345678901234567890","float":0.5,"int":-7,"list":[1,[],{}],"null":null,"object":{"a":{"c":[null]},"b":1},"text":"ä\"\n","yes":true}`; string(text) != want {
		t.Errorf("body\n got %s\nwant %s", text, want)
	}
	if full.resource["service.name"] != "prod" || full.resource["telemetry.sdk.language"] != "golang" || full.resource["deployment.environment.name"] != "test" {
		t.Errorf("%v", full.resource)
	}
	f := full.fields
	if got := fmt.Sprintf("%x %x %v", f[9][0], f[10][0], f[8][0]); got != "0af7651916cd43dd8448eb211c80319c b7ad6b7169203331 1" {
		t.Error(got)
	}
	if f[1][0] != uint64(b.Items[0].Event.Time.UnixNano()) || f[11][0] != uint64(b.Items[0].Event.Recorded.UnixNano()) || string(f[12][0].([]byte)) != "kv-v2/data-write" || f[2][0] != uint64(9) {
		t.Errorf("%v", f)
	}
	for id, want := range map[string]struct {
		severity uint64
		text     string
		body     any
	}{
		"1": {13, "WARN", "request/denied secret/data/app"}, "2": {18, "Critical", "alert/root-token-used"}, "3": {9, "INFO", "plain \x01 text"},
		"4": {9, "INFO", []byte{0xff, 0, 1}}, "5": {9, "INFO", `{"a":`},
	} {
		r := byID[id]
		if r.fields[2][0] != want.severity || string(r.fields[3][0].([]byte)) != want.text || fmt.Sprintf("%T%v", r.body, r.body) != fmt.Sprintf("%T%v", want.body, want.body) {
			t.Errorf("%s: %v %s %v", id, r.fields[2], r.fields[3], r.body)
		}
	}
	if _, there := byID["3"].fields[1]; there {
		t.Error("a time that is not known is told")
	}
}

// TestDeep: what nests deeper than decoders take is in a string, and nothing is lost.
func TestDeep(t *testing.T) {
	for _, depth := range []int{1, maxDepth, maxDepth + 1, 5000} {
		data := strings.Repeat(`{"a":[`, depth/2) + "1" + strings.Repeat("]}", depth/2)
		b := &deliver.Batch{Items: []deliver.Item{{Event: &event.Event{ID: "1", Type: "a/b", Source: "s", Data: []byte(data), DataContentType: "application/json"}}}}
		list := records(t, testEncoder().appendProtobuf(nil, b, b.Items))
		body, levels := list[0].body, 0
		for {
			if m, ok := body.(map[string]any); ok {
				body = m["a"]
			} else if l, ok := body.([]any); ok {
				body = l[0]
			} else {
				break
			}
			levels++
		}
		rest, _ := body.(string)
		if got := levels + strings.Count(rest, "{") + strings.Count(rest, "["); got != depth/2*2 || levels > maxDepth {
			t.Errorf("%d: %d levels, and %.50q", depth, levels, rest)
		}
		if !json.Valid(testEncoder().appendJSON(nil, b, b.Items)) {
			t.Errorf("%d: no JSON", depth)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		answer telemetry.Answer
		events int
		want   deliver.Result
	}{
		{telemetry.Answer{}, 5, deliver.Result{}},
		{telemetry.Answer{Reason: "a warning"}, 5, deliver.Result{}},
		{telemetry.Answer{Rejected: 2, Reason: "too old"}, 5, deliver.Result{Outcome: deliver.Doubtful, Reason: "the receiver does not take 2 of 5 log records: too old"}},
		{telemetry.Answer{Rejected: 1}, 1, deliver.Result{Outcome: deliver.Refused, Reason: "the receiver does not take 1 of 1 log records"}},
		{telemetry.Answer{Outcome: telemetry.Retry, After: time.Second, Reason: "busy"}, 1, deliver.Result{Outcome: deliver.Retry, After: time.Second, Reason: "busy"}},
		{telemetry.Answer{Outcome: telemetry.Doubtful, Reason: "x"}, 1, deliver.Result{Outcome: deliver.Doubtful, Reason: "x"}},
		{telemetry.Answer{Outcome: telemetry.TooLarge, Reason: "x"}, 1, deliver.Result{Outcome: deliver.Impossible, Reason: "larger than the receiver allows: x"}},
		{telemetry.Answer{Outcome: telemetry.TooLarge, Reason: "x"}, 2, deliver.Result{Outcome: deliver.Doubtful, Reason: "larger than the receiver allows: x"}},
		{telemetry.Answer{Outcome: telemetry.Never, Reason: "x"}, 1, deliver.Result{Outcome: deliver.Refused, Reason: "x"}},
		{telemetry.Answer{Outcome: telemetry.Never, Reason: "x"}, 2, deliver.Result{Outcome: deliver.Doubtful, Reason: "x"}},
	} {
		if got := judge(test.answer, test.events); got != test.want {
			t.Errorf("%+v: %+v", test.answer, got)
		}
	}
}

func TestRefusedOptions(t *testing.T) {
	bad := func() (string, error) { return "no PEM, but secret", nil }
	for name, test := range map[string]struct {
		options Options
		want    string
	}{
		"url":      {Options{URL: "localhost:4318"}, "url has no http://"},
		"path":     {Options{URL: "http://localhost/v1/logs", Protocol: GRPC}, "url has a path, which gRPC does not have"},
		"protocol": {Options{URL: "http://localhost", Protocol: "udp"}, `unknown protocol "udp"`},
		"ca":       {Options{URL: "https://localhost", TLS: TLS{CA: bad}}, "tls.ca has no certificate"},
		"cert":     {Options{URL: "https://localhost", TLS: TLS{Cert: bad, Key: bad}}, "tls.cert and tls.key are no certificate"},
		"no key":   {Options{URL: "https://localhost", TLS: TLS{Cert: bad}}, "cert and key belong together"},
	} {
		s, err := New(test.options)
		if err == nil {
			s.Close()
			t.Errorf("%s: accepted", name)
		} else if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("kv-v2/data-write", `{"a":[1,null,{"b":"c"}]}`, "application/json", "key", "value")
	f.Add("alert/x", "\xff\x00", "", "priority", "Critical")
	f.Fuzz(func(t *testing.T, eventType, data, contentType, key, value string) {
		e := &event.Event{ID: "1", Type: eventType, Source: value, Path: key, Data: []byte(data), DataContentType: contentType, Metadata: event.Fields{{Key: key, Value: value}, {Key: key + "j", Value: value, JSON: true}}}
		b := &deliver.Batch{Items: []deliver.Item{{Event: e}, {Event: e}}}
		if list := records(t, testEncoder().appendProtobuf(nil, b, b.Items)); len(list) != 2 {
			t.Fatalf("%d records", len(list))
		}
		if text := testEncoder().appendJSON(nil, b, b.Items); !json.Valid(text) {
			t.Fatalf("%s", text)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	e, batch := testEncoder(), samples()
	b.ReportAllocs()
	var buffer []byte
	for b.Loop() {
		buffer = e.appendProtobuf(buffer[:0], batch, batch.Items)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch.Items)), "ns/event")
}
