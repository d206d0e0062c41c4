package delivertest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

// pause is between two looks at something that is waited for.
const pause = 20 * time.Millisecond

// trial is one check of one sink.
type trial struct {
	testing.TB
	h        Harness
	receiver Receiver

	mu   sync.Mutex
	log  bytes.Buffer
	said []string // reasons of results, and errors
}

func newTrial(t testing.TB, h Harness) *trial {
	x := &trial{TB: t, h: h}
	x.receiver = h.Receiver(t)
	t.Cleanup(func() { x.checkSecrets("a log", x.logged()); x.checkSecrets("a reason or an error", x.reasons()...) })
	return x
}

// Write takes what is logged.
func (x *trial) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.log.Write(p)
}

func (x *trial) logged() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.log.String()
}

func (x *trial) heard(text string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.said = append(x.said, text)
}

// reasons returns what was heard. A sink with flaws may go on saying something.
func (x *trial) reasons() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.said)
}

// open makes a sink, which is closed at the end.
func (x *trial) open() deliver.Sink {
	x.Helper()
	log := slog.New(slog.NewTextHandler(x, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
	sink, err := x.receiver.Sink(log)
	if err != nil {
		x.Fatalf("make the sink: %v", err)
	}
	x.Cleanup(func() { x.close(sink) })
	return sink
}

// close closes a sink, and does not wait for it longer than soon.
func (x *trial) close(sink deliver.Sink) {
	x.Helper()
	x.within(x.h.soon, "Close", func() {
		if err := sink.Close(); err != nil {
			x.heard(err.Error())
		}
	})
}

// within runs f, and fails when it takes longer. It is false when f still runs.
func (x *trial) within(d time.Duration, what string, f func()) bool {
	x.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				x.Errorf("%s panicked: %v", what, p)
			}
		}()
		f()
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		buf := make([]byte, 64<<10)
		x.Errorf("%s has not returned after %s\n%s", what, d, buf[:runtime.Stack(buf, true)])
		return false
	}
}

// send sends the events in one batch with a context of that long, and returns what became
// of each. Nil: it did not return.
func (x *trial) send(sink deliver.Sink, d time.Duration, events ...deliver.Item) []deliver.Result {
	x.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return x.sendIn(ctx, d+x.h.soon, sink, events...)
}

// sendIn sends the events in one batch, and fails when that takes longer than limit.
func (x *trial) sendIn(ctx context.Context, limit time.Duration, sink deliver.Sink, events ...deliver.Item) []deliver.Result {
	x.Helper()
	results, _ := x.sendCounting(ctx, limit, sink, events...)
	return results
}

// sendCounting is sendIn, and returns how many events have the result of the whole batch.
func (x *trial) sendCounting(ctx context.Context, limit time.Duration, sink deliver.Sink, events ...deliver.Item) (results []deliver.Result, rest int) {
	x.Helper()
	// The slice is used again by who sends: what looks at it later is found by the race
	// detector, or finds nothing.
	batch := &deliver.Batch{Items: slices.Clone(events), Attempt: 1}
	if !x.within(limit, "Send", func() { results = batch.Results(sink.Send(ctx, batch)) }) {
		return nil, 0
	}
	const none = deliver.Outcome(255)
	for _, r := range batch.Results(deliver.Result{Outcome: none}) {
		if r.Outcome == none {
			rest++
		}
	}
	clear(batch.Items)
	for _, r := range results {
		x.checkResult(r)
	}
	return results, rest
}

// sendAll sends all events, in as many batches as are needed, which must be delivered.
func (x *trial) sendAll(sink deliver.Sink, events []deliver.Item) {
	x.Helper()
	for _, part := range x.parts(events) {
		for i, r := range x.send(sink, x.h.patient, part...) {
			if r.Outcome != deliver.Delivered {
				x.Errorf("event %s was not delivered: %s, %s", part[i].Event.ID, r.Outcome, r.Reason)
			}
		}
	}
}

// sendUntil sends the events until they are delivered, as a delivery would.
func (x *trial) sendUntil(sink deliver.Sink, events []deliver.Item) {
	x.Helper()
	for _, part := range x.parts(events) {
		for begun := time.Now(); len(part) > 0; time.Sleep(pause) {
			results := x.send(sink, x.h.patient, part...)
			if results == nil {
				return
			}
			var left []deliver.Item
			for i, r := range results {
				switch r.Outcome {
				case deliver.Delivered:
				case deliver.Retry, deliver.Doubtful:
					left = append(left, part[i])
				default:
					x.Errorf("event %s: %s, %s", part[i].Event.ID, r.Outcome, r.Reason)
				}
			}
			if part = left; len(left) > 0 && time.Since(begun) > x.h.patient {
				x.Fatalf("%d events cannot be delivered although the receiver works: %s", len(left), results[0].Reason)
			}
		}
	}
}

// parts cuts events into batches that the sink takes.
func (x *trial) parts(events []deliver.Item) [][]deliver.Item {
	n := x.h.MaxBatch
	if n == 0 {
		n = len(events)
	}
	return slices.Collect(slices.Chunk(events, max(n, 1)))
}

// checkResult checks what holds for every result.
func (x *trial) checkResult(r deliver.Result) {
	x.Helper()
	x.heard(r.Reason)
	switch {
	case r.Outcome > deliver.Gone:
		x.Errorf("outcome %d does not exist", r.Outcome)
	case r.Outcome != deliver.Delivered && strings.TrimSpace(r.Reason) == "":
		x.Errorf("%s has no reason", r.Outcome)
	case len(r.Reason) > deliver.MaxReasonBytes:
		x.Errorf("a reason of %d bytes: %.100q", len(r.Reason), r.Reason)
	case !utf8.ValidString(r.Reason) || strings.ContainsFunc(r.Reason, unicode.IsControl):
		x.Errorf("a reason that is not one printable line: %q", r.Reason)
	case r.After < 0:
		x.Errorf("a result that wants to be left alone for %s", r.After)
	}
}

// checkSecrets fails when one of texts has a secret.
func (x *trial) checkSecrets(where string, texts ...string) {
	x.Helper()
	for _, text := range texts {
		for _, secret := range x.h.Secrets {
			if secret != "" && strings.Contains(text, secret) {
				x.Errorf("%s has a secret: %.300q", where, text)
			}
		}
	}
}

// printed returns what v looks like when it is printed in any way.
func printed(v any) []string {
	texts := []string{fmt.Sprintf("%v", v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), fmt.Sprintf("%s", v)}
	if b, err := json.Marshal(v); err == nil {
		texts = append(texts, string(b))
	}
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("printed", "value", v)
	slog.New(slog.NewTextHandler(&b, nil)).Info("printed", "value", v)
	return append(texts, b.String())
}

// ids returns the ids of events.
func ids(events []deliver.Item) []string {
	list := make([]string, len(events))
	for i, e := range events {
		list[i] = e.Event.ID
	}
	return list
}

// arrived waits until so many events have arrived, and returns what has.
func (x *trial) arrived(n int) []Arrival {
	x.Helper()
	for begun := time.Now(); ; time.Sleep(pause) {
		list := x.receiver.Arrived()
		if len(list) >= n || time.Since(begun) > x.h.soon {
			return list
		}
	}
}

// wantExactly fails unless these events, and no others, have arrived in this order.
func (x *trial) wantExactly(events []deliver.Item) {
	x.Helper()
	got := x.arrived(len(events))
	list := make([]string, len(got))
	for i, a := range got {
		list[i] = a.ID
	}
	want := ids(events)
	if !slices.Equal(list, want) {
		x.Errorf("%d events arrived, want %d in this order%s", len(list), len(want), firstDifference(list, want))
		return
	}
	for i, a := range got {
		x.checkArrival(a, events[i])
	}
}

// wantEach fails unless each of these events has arrived at least once, or exactly once, and no
// others have.
func (x *trial) wantEach(events []deliver.Item, once bool) {
	x.Helper()
	sent := make(map[string]deliver.Item, len(events))
	for _, e := range events {
		sent[e.Event.ID] = e
	}
	times := make(map[string]int)
	for _, a := range x.arrived(len(events)) {
		times[a.ID]++
		if e, ok := sent[a.ID]; ok {
			x.checkArrival(a, e)
		} else {
			x.Errorf("event %q arrived, which is not one that should", a.ID)
		}
	}
	for id := range sent {
		if n := times[id]; n == 0 || once && n > 1 {
			x.Errorf("event %s arrived %d times", id, n)
		}
	}
}

// checkArrival compares an event with what was sent.
func (x *trial) checkArrival(a Arrival, sent deliver.Item) {
	x.Helper()
	if a.Event == nil {
		return
	}
	got, want := event.AppendCloudEvent(nil, a.Event, ""), asRead(sent)
	if !bytes.Equal(got, want) {
		x.Errorf("event %s arrived as\n%.2000s\nwant\n%.2000s", a.ID, got, want)
	}
}

// asRead is a CloudEvent as it is after it was written and read.
func asRead(s deliver.Item) []byte {
	b := event.AppendCloudEvent(nil, s.Event, s.At.String())
	if e, err := event.ParseCloudEvent(b); err == nil {
		b = event.AppendCloudEvent(b[:0], e, "")
	}
	return b
}

func firstDifference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			return fmt.Sprintf("; number %d is %.80s, want %.80s", i, g, w)
		}
	}
	return ""
}
