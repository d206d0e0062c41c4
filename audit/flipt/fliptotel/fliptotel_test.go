package fliptotel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/audit/flipt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ EventExporter = (*Exporter)(nil)

// Behaviour 7.
func TestDecodeToAttributes(t *testing.T) {
	for _, c := range []struct {
		e    flipt.Event
		want string
	}{
		{flipt.Event{Version: "0.2", Type: "flag", Action: "created", Timestamp: "t", Status: "success", Metadata: flipt.Metadata{Actor: &flipt.Actor{IP: "1"}}, Payload: &flipt.Deleted{Key: "k"}},
			`flipt.event.version=0.2 flipt.event.action=created flipt.event.type=flag flipt.event.timestamp=t flipt.event.status=success flipt.event.metadata.actor={"ip":"1"} flipt.event.payload={"key":"k"}`},
		{flipt.Event{Version: "0.2", Type: "flag"}, `flipt.event.version=0.2 flipt.event.type=flag flipt.event.metadata.actor=null`},
		{flipt.Event{Payload: func() {}}, `flipt.event.metadata.actor=null`},
	} {
		var got []string
		for _, a := range DecodeToAttributes(&c.e) {
			if a.Value.Type() != attribute.STRING {
				t.Errorf("%s is %s", a.Key, a.Value.Type())
			}
			got = append(got, string(a.Key)+"="+a.Value.AsString())
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf(" got %s\nwant %s", s, c.want)
		}
	}
}

// Behaviour 9: there and back, for every recorded event.
func TestFromAttributes(t *testing.T) {
	f, err := os.Open("../../../internal/fliptevent/testdata/log.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); n++ {
		e, err := flipt.Decode(s.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		back, err := FromAttributes(append([]attribute.KeyValue{attribute.Int("other", 1)}, DecodeToAttributes(&e)...))
		if err != nil {
			t.Fatal(err)
		}
		line, err := back.AppendLogLine(nil)
		if err != nil || string(line) != s.Text() {
			t.Errorf("%v\n got %s\nwant %s", err, line, s.Text())
		}
	}
	if n != 56 {
		t.Error(n)
	}
	if _, err := FromAttributes(nil); !errors.Is(err, flipt.ErrNotValid) {
		t.Error(err)
	}
	good := DecodeToAttributes(&flipt.Event{Version: "0.2", Type: "flag", Action: "created", Timestamp: "t"})
	for _, bad := range []attribute.KeyValue{KeyActor.String("{"), KeyActor.String("7"), KeyPayload.String("{"), KeyPayload.String(""), KeyPayload.Int(7)} {
		if _, err := FromAttributes(append(good[:len(good):len(good)], bad)); err == nil || errors.Is(err, flipt.ErrNotValid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// sink collects.
type sink struct {
	mu    sync.Mutex
	got   []string
	calls int
}

func (s *sink) SendAudits(_ context.Context, events []flipt.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	for _, e := range events {
		b, _ := json.Marshal(&e)
		s.got = append(s.got, string(b))
	}
	return nil
}
func (s *sink) Close() error   { return nil }
func (s *sink) String() string { return "test" }

func provider(t *testing.T, log *slog.Logger, o ...sdktrace.TracerProviderOption) (*sdktrace.TracerProvider, *sink, *Exporter) {
	t.Helper()
	s := new(sink)
	x := NewExporter(flipt.NewFanout([]flipt.Sink{s}, flipt.FanoutOptions{Logger: log}), log)
	return sdktrace.NewTracerProvider(append(o, sdktrace.WithSyncer(x))...), s, x
}

func event() *flipt.Event {
	return flipt.NewEvent(flipt.Request{Resource: flipt.ResourceFlag, Action: flipt.ActionCreate, Status: flipt.StatusSuccess}, nil, &flipt.Flag{Key: "k"})
}

// Behaviours 8, 10, 20, 21, with the real SDK.
func TestExporter(t *testing.T) {
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	p, s, x := provider(t, log)
	ctx, span := p.Tracer("t").Start(t.Context(), "request")
	span.AddEvent("ordinary", trace.WithAttributes(attribute.String("x", "y")))
	first := event()
	if !AddToSpan(ctx, first) {
		t.Error("the span is not recorded")
	}
	span.AddEvent("nothing")
	span.End()
	if logged.Len() > 0 || s.calls != 1 || len(s.got) != 1 {
		t.Fatalf("%d calls, log: %s", s.calls, logged.String())
	}
	want, _ := first.Generic()
	if b, _ := json.Marshal(&want); string(b) != s.got[0] {
		t.Errorf(" got %s\nwant %s", s.got[0], b)
	}

	ctx, span = p.Tracer("t").Start(t.Context(), "request")
	AddToSpan(ctx, event())
	good := DecodeToAttributes(event())
	span.AddEvent(SpanEventName, trace.WithAttributes(append(good[:len(good)-1:len(good)-1], KeyPayload.String("{broken"))...))
	span.AddEvent(SpanEventName, trace.WithAttributes(good[:3]...)) // as a limit of attributes leaves it
	AddToSpan(ctx, event())
	span.End()
	if len(s.got) != 3 {
		t.Errorf("%d events", len(s.got))
	}
	if n := strings.Count(logged.String(), "audit event not decodable"); n != 2 {
		t.Errorf("%d lines in the log: %s", n, logged.String())
	}

	_, span = p.Tracer("t").Start(t.Context(), "request")
	span.End() // no events: no sink is called
	if err := x.SendAudits(t.Context(), nil); err != nil || s.calls != 2 {
		t.Errorf("%v, %d calls", err, s.calls)
	}
	if err := x.SendAudits(t.Context(), []flipt.Event{*event()}); err != nil || len(s.got) != 4 {
		t.Error(err)
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := x.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if broken, dropped := x.Lost(); broken != 2 || dropped != 0 {
		t.Error(broken, dropped)
	}
}

// What spans lose is told, and a logger loses nothing then.
func TestLossesOfSpansAreTold(t *testing.T) {
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	if AddToSpan(t.Context(), event()) {
		t.Error("there is no span")
	}
	p, s, x := provider(t, log, sdktrace.WithSampler(sdktrace.NeverSample()))
	ctx, span := p.Tracer("t").Start(t.Context(), "request")
	if AddToSpan(ctx, event()) {
		t.Error("the span is not sampled")
	}
	if err := flipt.NewLogger(nil, x).Log(ctx, event()); err != nil || len(s.got) != 1 {
		t.Errorf("%v: a logger depends on sampling", err)
	}
	span.End()
	_ = p.Shutdown(t.Context())

	limits := sdktrace.NewSpanLimits()
	limits.EventCountLimit = 1
	p, s, x = provider(t, log, sdktrace.WithRawSpanLimits(limits))
	ctx, span = p.Tracer("t").Start(t.Context(), "request")
	AddToSpan(ctx, event())
	AddToSpan(ctx, event())
	span.End()
	if _, dropped := x.Lost(); dropped != 1 || len(s.got) != 1 || !strings.Contains(logged.String(), "dropped events") {
		t.Errorf("%d dropped, log: %s", dropped, logged.String())
	}
	_ = p.Shutdown(t.Context())
}

func FuzzFromAttributes(f *testing.F) {
	f.Add("0.2", "flag", "created", "t", `{"ip":"1"}`, `{"key":"k","n":1e400}`)
	f.Add("", "", "", "", "null", "")
	f.Fuzz(func(t *testing.T, version, typ, action, timestamp, actor, payload string) {
		e, err := FromAttributes([]attribute.KeyValue{KeyVersion.String(version), KeyType.String(typ), KeyAction.String(action),
			KeyTimestamp.String(timestamp), KeyActor.String(actor), KeyPayload.String(payload)})
		if err != nil {
			return
		}
		back, err := FromAttributes(DecodeToAttributes(e))
		if err != nil {
			t.Fatal(err)
		}
		a, errA := json.Marshal(e)
		b, errB := json.Marshal(back)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Fatalf("%v %v\n%s\n%s", errA, errB, a, b)
		}
	})
}
