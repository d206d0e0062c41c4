package pluginwire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

// local is a plugin that gives the batches of a test.
type local struct {
	sourceplugin.Plugin // what is not asked for
	batches             []sourceplugin.Batch
	end                 error
	acknowledged        atomic.Pointer[string]
	open                atomic.Int32
	opened              sourceplugin.Open
}

func (l *local) Describe() *sourceplugin.Description {
	d, err := description(good())
	if err != nil {
		panic(err)
	}
	return d
}
func (l *local) Open(_ context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	l.open.Add(1)
	l.opened = o
	return &localStream{l: l, batches: l.batches}, nil
}
func (l *local) Strings(_ context.Context, events []sourceplugin.Event) ([]string, error) {
	var texts []string
	for _, e := range events {
		texts = append(texts, fmt.Sprint(e.Source, e.Number, len(e.Data())))
	}
	return texts, nil
}
func (l *local) Metrics(context.Context) ([]sourceplugin.Metric, error) {
	return []sourceplugin.Metric{{Name: "m", Monotonic: true, Value: 2}}, nil
}
func (l *local) SetConfig(_ context.Context, config string) error { return errors.New("not " + config) }
func (l *local) OpenParams(context.Context) ([]sourceplugin.OpenParam, error) {
	return []sourceplugin.OpenParam{{Value: "v", Description: "d", Separator: ","}}, nil
}
func (l *local) Close(context.Context) error { return nil }

type localStream struct {
	l       *local
	batches []sourceplugin.Batch
}

func (s *localStream) Next(ctx context.Context, b *sourceplugin.Batch) error {
	if len(s.batches) == 0 {
		if s.l.end == nil {
			<-ctx.Done()
			return ctx.Err()
		}
		return s.l.end
	}
	next := s.batches[0]
	s.batches = s.batches[1:]
	next.Events = append(b.Events[:0], next.Events...)
	*b = next
	return nil
}
func (s *localStream) Acknowledge(_ context.Context, position []byte) error {
	text := string(position)
	s.l.acknowledged.Store(&text)
	return nil
}
func (s *localStream) Progress(context.Context) (sourceplugin.Progress, error) {
	return sourceplugin.Progress{Fraction: 0.5, Text: "half"}, nil
}
func (s *localStream) Close(context.Context) error {
	s.l.open.Add(-1)
	return nil
}

func pair(t testing.TB, l *local) *Client {
	t.Helper()
	server := NewServer(Offer{Description: l.Describe(), Init: func(_ context.Context, config string) (sourceplugin.Plugin, error) {
		if config == "bad" {
			return nil, errors.New("it is bad")
		}
		return l, nil
	}})
	c, err := Connect(t.Context(), connect(t, server, ServerOptions()...), ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Metrics(t.Context()); err == nil || !strings.Contains(err.Error(), "Init must be called first") {
		t.Error(err)
	}
	if err := c.Init(t.Context(), "bad"); err == nil || err.Error() != "plugin peer: it is bad" {
		t.Error(err)
	}
	if err := c.Init(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Init(t.Context(), ""); err == nil {
		t.Error("Init was called twice")
	}
	return c
}

// Both sides together: batches of any size arrive whole, in order, and with their positions behind
// the last event.
func TestServer(t *testing.T) {
	var want []byte
	var events, dropped int
	l := &local{end: io.EOF}
	batch := func(count, size int) {
		var b sourceplugin.Batch
		for range count {
			b.Events = scapevent.Append(b.Events, testID, uint64(events+1), bytes.Repeat([]byte{byte(events)}, size))
			b.Count++
			events++
		}
		b.Position = fmt.Append(nil, events)
		want = append(want, b.Events...)
		l.batches = append(l.batches, b)
	}
	batch(3, 10)
	batch(5000, 700)   // several messages
	batch(1, 3<<20)    // one message that is larger than others
	batch(100, 60_000) // several, again
	large := sourceplugin.Batch{Events: blob(plain(testID, 1, 1), plain(testID, 1, 5<<20), plain(testID, 1, 2)), Count: 3, Position: []byte("last")}
	l.batches = append(l.batches, large, sourceplugin.Batch{Dropped: 4, DroppedReason: "why"})
	want = append(want, blob(plain(testID, 1, 1), plain(testID, 1, 2))...)

	c := pair(t, l)
	s, err := c.Open(t.Context(), sourceplugin.Open{Params: "p", Resume: []byte{}, MaxEventBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if l.opened.Params != "p" || l.opened.Resume == nil || l.opened.MaxEventBytes != 4<<20 {
		t.Errorf("%+v", l.opened)
	}
	var got []byte
	var b sourceplugin.Batch
	position := ""
	count := 0
	for {
		err := s.Next(t.Context(), &b)
		if len(b.Events) > batchBytes && b.Count > 1 {
			t.Errorf("a message has %d bytes", len(b.Events))
		}
		got = append(got, b.Events...)
		count += b.Count
		dropped += b.Dropped
		if b.Position != nil {
			position = string(b.Position)
			if position != "last" && position != fmt.Sprint(count) {
				t.Errorf("position %s behind %d events", position, count)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) || position != "last" || dropped != 5 {
		t.Errorf("%d bytes, %d are expected; position %s, %d are left out", len(got), len(want), position, dropped)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestServerAnswers(t *testing.T) {
	l := &local{}
	c := pair(t, l)
	s, err := c.Open(t.Context(), sourceplugin.Open{})
	if err != nil {
		t.Fatal(err)
	}
	if l.opened.Resume != nil || l.opened.MaxEventBytes != MaxEvent {
		t.Errorf("%+v", l.opened)
	}
	if p, err := s.Progress(t.Context()); err != nil || p != (sourceplugin.Progress{Fraction: 0.5, Text: "half"}) {
		t.Error(p, err)
	}
	if err := s.Acknowledge(t.Context(), []byte("x")); err != nil || *l.acknowledged.Load() != "x" {
		t.Error(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(time.Minute); l.open.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the stream is still open")
		}
	}
	if err := s.Acknowledge(t.Context(), []byte("y")); err != nil || *l.acknowledged.Load() != "x" {
		t.Error(err)
	}
	if _, err := s.Progress(t.Context()); !errors.Is(err, sourceplugin.ErrNotSupported) {
		t.Error(err)
	}
	texts, err := c.Strings(t.Context(), []sourceplugin.Event{{Event: plain(1, 1, 3), Number: 4, Source: "a"}, {Event: plain(1, 1, 2), Source: "b"}})
	if err != nil || strings.Join(texts, "|") != "a4 3|b0 2" {
		t.Errorf("%q %v", texts, err)
	}
	if m, err := c.Metrics(t.Context()); err != nil || len(m) != 1 || !m[0].Monotonic || m[0].Value != 2 {
		t.Error(m, err)
	}
	if err := c.SetConfig(t.Context(), "this"); err == nil || err.Error() != "plugin peer: not this" {
		t.Error(err)
	}
	if p, err := c.OpenParams(t.Context()); err != nil || p[0] != (sourceplugin.OpenParam{Value: "v", Description: "d", Separator: ","}) {
		t.Error(p, err)
	}
}

// A quiet stream says now and then that it is alive.
func TestBeat(t *testing.T) {
	l := &local{batches: make([]sourceplugin.Batch, 1), end: io.EOF}
	out := &sender{said: time.Now().Add(-beatTime)}
	got := &recorder{}
	out.to = got
	out.spare.take()
	for range 3 {
		if err := out.send(&l.batches[0], true); err != nil {
			t.Fatal(err)
		}
	}
	if got.n != 1 {
		t.Errorf("it has said so %d times", got.n)
	}
	out.said = time.Now().Add(-beatTime)
	if err := out.send(&l.batches[0], false); err != nil || got.n != 1 {
		t.Error("it is told behind the end", err)
	}
	if err := out.send(&sourceplugin.Batch{Position: make([]byte, maxPosition+1)}, true); status.Code(err) != codes.Aborted {
		t.Error(err)
	}
}

type recorder struct {
	pb.PluginService_OpenServer
	n int
}

func (r *recorder) SendMsg(any) error {
	r.n++
	return nil
}

// FuzzEvents: the events of a question are cut as they were put together.
func FuzzEvents(f *testing.F) {
	f.Add(blob(plain(1, 1, 2), plain(3, 1, 0)), uint8(2), uint8(1))
	f.Add([]byte("x"), uint8(0), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, numbers, sources uint8) {
		m := &pb.Events{Events: b, Numbers: make([]uint64, numbers), Sources: make([]string, sources)}
		events, err := cut(m)
		if err != nil {
			return
		}
		again, err := message(events)
		if err != nil || !bytes.Equal(again.Events, b) {
			t.Error(err)
		}
	})
}
