package zipkin

import (
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/tracetest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGolden(t *testing.T) {
	const file = "testdata/spans.json"
	got := append(AppendJSON(nil, tracetest.Spans()), '\n')
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
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// decoded is a span as Zipkin's API describes it.
type decoded struct {
	TraceID, ID, ParentID, Kind, Name string
	Timestamp, Duration               int64
	LocalEndpoint, RemoteEndpoint     struct {
		ServiceName, IPv4, IPv6 string
		Port                    int
	}
	Tags map[string]string
}

func decode(t *testing.T, s *trace.Span) decoded {
	t.Helper()
	var list []decoded
	if err := json.Unmarshal(AppendJSON(nil, []*trace.Span{s}), &list); err != nil || len(list) != 1 {
		t.Fatalf("%v: %s", err, AppendJSON(nil, []*trace.Span{s}))
	}
	return list[0]
}

func TestDuration(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 6_789, time.UTC)
	for length, want := range map[time.Duration]int64{
		0: 1, 1: 1, 999: 1, 1000: 1, 1999: 1, 2000: 2, time.Second: 1_000_000, 90*time.Second + 1: 90_000_000,
	} {
		d := decode(t, &trace.Span{Start: start, End: start.Add(length)})
		if d.Duration != want || d.Timestamp != start.UnixMicro() {
			t.Errorf("%v: duration %d at %d, want %d at %d", length, d.Duration, d.Timestamp, want, start.UnixMicro())
		}
	}
}

func TestEndpoints(t *testing.T) {
	attribute := tracetest.Text
	for _, test := range []struct {
		attributes []trace.Attribute
		v4, v6     string
		port       int
	}{
		{nil, "", "", 0},
		{[]trace.Attribute{attribute("client.address", "10.1.2.3"), tracetest.Int("client.port", 4711)}, "10.1.2.3", "", 4711},
		{[]trace.Attribute{attribute("client.address", "2001:db8::1")}, "", "2001:db8::1", 0},
		{[]trace.Attribute{attribute("client.address", "::ffff:10.1.2.3")}, "10.1.2.3", "", 0},
		{[]trace.Attribute{attribute("client.address", "fe80::1%eth0")}, "", "fe80::1", 0},
		{[]trace.Attribute{attribute("client.address", "no address"), tracetest.Int("client.port", 1)}, "", "", 0},
		{[]trace.Attribute{attribute("network.peer.address", "10.0.0.1"), attribute("client.address", "10.0.0.2")}, "10.0.0.2", "", 0},
		{[]trace.Attribute{attribute("client.address", "10.0.0.2"), attribute("network.peer.address", "10.0.0.1")}, "10.0.0.2", "", 0},
		{[]trace.Attribute{attribute("client.address", "10.1.2.3"), tracetest.Int("client.port", 70000)}, "10.1.2.3", "", 0},
	} {
		d := decode(t, &trace.Span{Source: "vault://prod", Attributes: test.attributes})
		r := d.RemoteEndpoint
		if r.IPv4 != test.v4 || r.IPv6 != test.v6 || r.Port != test.port || d.LocalEndpoint.ServiceName != "prod" {
			t.Errorf("%+v: %+v", test, d)
		}
	}
}

func TestErrorTag(t *testing.T) {
	own := []trace.Attribute{tracetest.Text("error", "an attribute")}
	for _, test := range []struct {
		span trace.Span
		want string
	}{
		{trace.Span{}, ""},
		{trace.Span{Failed: true}, "true"},
		{trace.Span{Failed: true, Message: "permission denied"}, "permission denied"},
		{trace.Span{Failed: true, Message: "permission denied", Attributes: own}, "permission denied"},
		{trace.Span{Attributes: own}, "an attribute"},
	} {
		if got := decode(t, &test.span).Tags["error"]; got != test.want {
			t.Errorf("%+v: %q", test.span, got)
		}
	}
}
