package hub

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// padded returns events that together take many times the buffers of a
// connection, in records of 100.
func padded(j *memJournal, from, n int) {
	for i := from; i < from+n; i += 100 {
		events := make([]*event.Event, 100)
		for k := range events {
			events[k] = testEvent(i + k)
			events[k].Metadata.Set("padding", strings.Repeat("y", 2000))
		}
		j.append(events...)
	}
}

// TestStalledSubscribers: of 100 subscribers, 50 stop reading. The others get
// everything at once; the stalled ones hold next to no memory, and get everything
// when they read again.
func TestStalledSubscribers(t *testing.T) {
	const total = 1000 // 2.5 MB, many times the buffers of a connection
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{MemoryBytes: 4 << 20, PingInterval: time.Hour})
	h.tick = 10 * time.Millisecond
	var stalled, healthy []*client
	for range 50 {
		stalled = append(stalled, connect(t, h, ln, allJSON(j.End())))
		healthy = append(healthy, connect(t, h, ln, allJSON(j.End())))
	}
	padded(j, 0, total)
	readAll := func(clients []*client) {
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				for n := range total {
					op, payload, err := c.read()
					if err != nil || op != websocket.Text {
						t.Errorf("frame %d: %v %v", n, op, err)
						return
					}
					if got := string(payload[7:15]); got != id(n)[:8] {
						t.Errorf("got event %s, want number %d", got, n)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	readAll(healthy)
	eventually(t, "50 subscriptions are stalled", func() bool { return testutil.ToFloat64(h.metrics.stalled) == 50 })
	eventually(t, "the memory is freed", func() bool { return testutil.ToFloat64(h.metrics.memory) == 0 })
	if lag := testutil.ToFloat64(h.metrics.LagEvents); lag < total/2 {
		t.Errorf("lag is %v events, want most of %d", lag, total)
	}
	readAll(stalled)
	eventually(t, "no subscription is stalled", func() bool { return testutil.ToFloat64(h.metrics.stalled) == 0 })
	if got := testutil.ToFloat64(h.metrics.Delivered); got != 100*total {
		t.Errorf("delivered %v, want %d", got, 100*total)
	}
}

// TestGapIsTold: what retention removed before a stalled client came to it is
// told, with a position from which the client can go on.
func TestGapIsTold(t *testing.T) {
	const total = 2000 // 5 MB, many times the buffers of a connection
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{MemoryBytes: 1 << 20, PingInterval: time.Hour})
	h.tick = 10 * time.Millisecond
	c := connect(t, h, ln, allJSON(j.End()))
	padded(j, 0, total)
	eventually(t, "the subscription is stalled", func() bool { return testutil.ToFloat64(h.metrics.stalled) == 1 })
	eventually(t, "the memory is freed", func() bool { return testutil.ToFloat64(h.metrics.memory) == 0 })
	j.remove(total/100 - 1)
	seen := 0
	var code int
	var reason string
	for {
		op, payload, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if op == websocket.Close {
			code, reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
			break
		}
		if got := string(payload[7:15]); got != id(seen)[:8] {
			t.Fatalf("got event %s, want number %d", got, seen)
		}
		seen++
	}
	var lost int
	var since string
	if _, err := fmt.Sscanf(reason, "gap: %d events removed by retention; go on with since=%s", &lost, &since); err != nil || code != StatusGap {
		t.Fatalf("closed with %d %q", code, reason)
	}
	if seen+lost != total-100 {
		t.Errorf("saw %d and lost %d of the first %d events", seen, lost, total-100)
	}
	c.send(websocket.Close, []byte{StatusGap >> 8, StatusGap & 0xff})
	c.wantEOF()
	if got := testutil.ToFloat64(h.metrics.gapEvents); got != float64(lost) {
		t.Errorf("counted %v lost events, want %d", got, lost)
	}
	after, err := journal.ParsePosition(since)
	if err != nil {
		t.Fatal(err)
	}
	again := connect(t, h, ln, allJSON(after))
	if e := again.event(); e.ID != id(total-100) {
		t.Errorf("after the gap came %s, want %s", e.ID, id(total-100))
	}
}

func TestGapReason(t *testing.T) {
	for _, tt := range []struct {
		gap  journal.GapError
		want string
	}{
		{journal.GapError{Events: 7, Next: journal.Position{Seq: 9, Index: 3, Ordinal: 40}},
			"gap: 7 events removed by retention; go on with since=" + journal.Position{Seq: 9, Index: 2, Ordinal: 39}.String()},
		{journal.GapError{Events: 1<<64 - 1, Next: journal.Position{Seq: 1 << 63, Ordinal: 1 << 63}},
			"gap: 18446744073709551615 events removed by retention; go on with since=" + journal.Position{Seq: 1<<63 - 1, Index: journal.BetweenRecords, Ordinal: 1<<63 - 1}.String()},
		{journal.GapError{Cause: errors.New("no such position")}, "gap: events cannot be read; go on with since=oldest"},
		{journal.GapError{Events: 1, Next: journal.Position{Seq: 1, Ordinal: 0}}, "gap: 1 events removed by retention; go on with since=oldest"},
	} {
		got := gapReason(&tt.gap)
		if got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
		if len(got) > websocket.MaxCloseReason {
			t.Errorf("reason %q has %d bytes", got, len(got))
		}
	}
}

// TestGapOfRealJournal: a client whose position retention has removed is told, and
// the position that it is given is one from which it can go on without another gap.
func TestGapOfRealJournal(t *testing.T) {
	limits := event.DefaultLimits
	limits.MaxEventBytes = 8 << 10
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), Limits: limits, MaxUnitBytes: 16 << 10, MaxBytes: 100 << 10,
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := j.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	h, ln := newTestHub(t, FromJournal(j), Options{}), listen(t)
	var first journal.Position
	const total = 200
	for i := range total {
		e := testEvent(i)
		e.Data = make([]byte, 4000)
		for k := range e.Data {
			e.Data[k] = byte(i * k >> 3)
		}
		p, err := j.Append(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = p
		}
	}
	eventually(t, "retention has removed something", func() bool { return j.Begin().Ordinal > 100 })
	after, err := j.Since(t.Context(), first.String(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	code, reason := connect(t, h, ln, allJSON(after)).closed()
	var lost int
	var since string
	if _, err := fmt.Sscanf(reason, "gap: %d events removed by retention; go on with since=%s", &lost, &since); err != nil || code != StatusGap {
		t.Fatalf("closed with %d %q", code, reason)
	}
	if after, err = j.Since(t.Context(), since, time.Now()); err != nil {
		t.Fatal(err)
	}
	c := connect(t, h, ln, allJSON(after))
	for n := lost + 1; n < total; n++ {
		if e := c.event(); e.ID != id(n) {
			t.Fatalf("after a gap of %d came %s, want %s", lost, e.ID, id(n))
		}
	}
}
