package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/plugin"
)

func numbered(n int) *event.Event {
	e := event.NewNotification("app/thing-done", "path", fmt.Sprintf("things/%d", n))
	e.ID = fmt.Sprintf("id-%06d", n)
	return e
}

func numberedMany(n int) (events []*event.Event) {
	for i := range n {
		events = append(events, numbered(i))
	}
	return events
}

func soon(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after 20 s: %s", what)
		}
	}
}

// checkSums finds what the counters of a publisher do not account for.
func checkSums(t *testing.T, s Stats) {
	t.Helper()
	if sum := s.Acknowledged + s.Refused + s.Lost + uint64(s.Waiting); sum != s.Taken {
		t.Errorf("%d events were taken, and %d are accounted for: %+v", s.Taken, sum, s)
	}
}

func TestSendEvent(t *testing.T) {
	h := newPublishHub(t)
	var request atomic.Pointer[http.Request]
	h.setHook(func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		request.Store(r)
		return false
	})
	p := h.publisher(t, PublisherOptions{Token: "secret", Namespace: "team1/"})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := SendEvent(ended, p, "app/order-placed", "path", "orders/1", "operation", "place", "operation", "replace", "odd"); err != nil {
		t.Fatal(err)
	}
	if err := plugin.SendEvent(ended, p, "app/empty"); err != nil {
		t.Fatal(err)
	}
	own := &event.Event{ID: "mine", Type: "app/own", Source: "/me", Namespace: "team1/a", Data: []byte("x"), DataContentType: "text/plain"}
	if err := p.SendEvent(ended, own); err != nil {
		t.Fatal(err)
	}
	if own.Namespace != "team1/a" || !own.Time.IsZero() {
		t.Error("the event of the caller was changed")
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := request.Load()
	if r.Header.Get("X-Vault-Token") != "secret" || r.Header.Get("X-Vault-Namespace") != "team1/" || r.URL.Query().Get("partial") != "true" || strings.Contains(r.URL.String(), "secret") {
		t.Errorf("the request was %v %v", r.URL, r.Header)
	}
	e := h.events[0]
	if len(e.ID) != 36 || e.Path != "orders/1" || time.Since(e.Time).Abs() > time.Minute || !strings.HasPrefix(e.Source, "tocsin-client://") || !strings.HasSuffix(e.Source, "/client.test") {
		t.Errorf("got %+v", e)
	}
	want := event.Fields{{Key: "EXTRA_VALUE_AT_END", Value: "odd"}, {Key: "operation", Value: "replace"}, {Key: "path", Value: "orders/1"}}
	if !slices.Equal(e.Metadata, want) {
		t.Errorf("the metadata are %v", e.Metadata)
	}
	if e := h.events[1]; e.Metadata == nil || len(e.Metadata) > 0 || e.ID == h.events[0].ID {
		t.Errorf("got %+v", e)
	}
	if e := h.events[2]; e.ID != "mine" || e.Source != "/me" || e.Namespace != "team1/a/" || string(e.Data) != "x" || e.Time.IsZero() {
		t.Errorf("got %+v", e)
	}
	checkSums(t, p.Stats())
}

func TestNoPublisher(t *testing.T) {
	var p *Publisher
	ctx := t.Context()
	for name, err := range map[string]error{
		"client.SendEvent": SendEvent(ctx, p, "app/x"),
		"plugin.SendEvent": plugin.SendEvent(ctx, p, "app/x"),
		"nil sender":       plugin.SendEvent(ctx, nil, "app/x"),
		"SendEvent":        p.SendEvent(ctx, numbered(1)),
		"Queue":            p.Queue(ctx, numbered(1)),
		"Publish":          p.Publish(ctx, numbered(1)),
	} {
		if !errors.Is(err, plugin.ErrNoEvents) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(p.Flush(ctx), p.Sync(ctx), p.Close(ctx)); err != nil {
		t.Error(err)
	}
	if s := p.Stats(); s != (Stats{}) {
		t.Errorf("%+v", s)
	}
}

func TestPublisherOptions(t *testing.T) {
	for name, o := range map[string]PublisherOptions{
		"no address":        {},
		"token in the URL":  {Address: "http://u:p@hub"},
		"negative bound":    {Address: "http://hub", MaxQueueEvents: -1},
		"source":            {Address: "http://hub", Source: "a\nb"},
		"directory of file": {Address: "http://hub", Spool: &Spool{Dir: "/dev/null/x"}},
	} {
		if p, err := NewPublisher(o); err == nil {
			p.Close(t.Context())
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSendEventAllocates(t *testing.T) {
	h := newPublishHub(t)
	release := blocked(h) // so that only the calls are measured
	defer release()
	p := h.publisher(t, PublisherOptions{})
	for name, send := range map[string]func() error{
		"client": func() error {
			return SendEvent(t.Context(), p, "app/order-placed", "path", "orders/4711", "operation", "place", "customer", "17")
		},
		"plugin": func() error {
			return plugin.SendEvent(t.Context(), p, "app/order-placed", "path", "orders/4711", "operation", "place", "customer", "17")
		},
	} {
		if n := testing.AllocsPerRun(5000, func() {
			if err := send(); err != nil {
				t.Error(err)
			}
		}); n > 2 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// What no hub takes is refused at once, and breaks nothing.
func TestInvalidEvent(t *testing.T) {
	h := newPublishHub(t)
	p := h.publisher(t, PublisherOptions{})
	broken := numbered(1)
	broken.Metadata.SetJSON("k", `1}],"`)
	for name, e := range map[string]*event.Event{
		"nil":      nil,
		"no type":  {ID: "x"},
		"JSON":     broken,
		"too long": {Type: "x", Data: make([]byte, 9<<20)},
	} {
		if p.SendEvent(t.Context(), e) == nil {
			t.Errorf("%s: is sent", name)
		}
		if err := p.Publish(t.Context(), numbered(2), e); err == nil || !strings.HasPrefix(err.Error(), "event 1: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := SendEvent(t.Context(), p, ""); !errors.Is(err, event.ErrInvalid) {
		t.Error(err)
	}
	if err := p.Publish(t.Context(), numbered(3)); err != nil {
		t.Fatal(err)
	}
	if got := h.ids(); !slices.Equal(got, []string{"id-000003"}) {
		t.Errorf("stored are %q", got)
	}
}

// unreliable makes a hub fail in every way there is, two times of three.
func unreliable(h *publishHub) {
	h.setHook(func(n int, w http.ResponseWriter, r *http.Request) bool {
		drop := func() {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				c.Close()
			}
		}
		switch n % 12 {
		case 0: // nothing arrived
			drop()
		case 1: // it is stored, and nobody hears of it
			h.publish(httptest.NewRecorder(), r)
			drop()
		case 2: // the answer is cut off
			h.publish(httptest.NewRecorder(), r)
			w.Header().Set("Content-Length", "100")
			w.Write([]byte(`{"accepted":`))
		case 3:
			w.Header().Set("Retry-After", "0")
			sorry(w, http.StatusServiceUnavailable, "journal full")
		case 4:
			sorry(w, http.StatusTooManyRequests, "too many")
		case 5: // some proxy
			fmt.Fprint(w, "<html>welcome</html>")
		case 6: // stored, but what is told makes no sense
			h.publish(httptest.NewRecorder(), r)
			answerJSON(w, http.StatusOK, map[string]int{"accepted": -1, "duplicates": 2})
		case 7:
			sorry(w, http.StatusBadGateway, "")
		default:
			return false
		}
		return true
	})
}

func TestNothingLostNothingTwice(t *testing.T) {
	for _, connections := range []int{1, 3} {
		t.Run(fmt.Sprint(connections), func(t *testing.T) {
			h := newPublishHub(t)
			unreliable(h)
			p := h.publisher(t, PublisherOptions{Connections: connections, MaxBatchEvents: 50})
			const total, publishers = 6000, 4
			var group sync.WaitGroup
			for i := range publishers {
				group.Go(func() {
					for n := i; n < total; n += publishers {
						if err := p.Queue(t.Context(), numbered(n)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			group.Wait()
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			ids := h.ids()
			slices.Sort(ids)
			for n := range total {
				if n >= len(ids) || ids[n] != fmt.Sprintf("id-%06d", n) {
					t.Fatalf("of %d events, %d are stored; event %d is not", total, len(ids), n)
				}
			}
			s := p.Stats()
			checkSums(t, s)
			if len(ids) != total || h.twice == 0 || s.Duplicates == 0 || s.Retries == 0 || s.Acknowledged != total {
				t.Errorf("%d events, %d repeats, %+v", len(ids), h.twice, s)
			}
		})
	}
}

// With one connection the order is kept, whatever happens.
func TestOrder(t *testing.T) {
	h := newPublishHub(t)
	unreliable(h)
	p := h.publisher(t, PublisherOptions{MaxBatchEvents: 7})
	events := numberedMany(2000)
	for i := 0; i < len(events); i += 10 {
		for _, e := range events[i : i+5] {
			if err := p.SendEvent(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Queue(t.Context(), events[i+5:i+10]...); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := h.ids(); len(got) != len(events) || !slices.IsSorted(got) {
		t.Errorf("%d of %d events in this order: %q...", len(got), len(events), got[:min(len(got), 50)])
	}
}

// The hub goes away and comes back at the same address, with requests under way.
func TestHubRestarts(t *testing.T) {
	kept := newStore()
	var address string
	start := func() (stop func()) {
		h := &publishHub{store: kept, maxBody: 8 << 20}
		server := httptest.NewUnstartedServer(h)
		if address != "" {
			soon(t, "the address is free", func() bool {
				l, err := net.Listen("tcp", address)
				if err != nil {
					return false
				}
				server.Listener.Close()
				server.Listener = l
				return true
			})
		}
		server.Start()
		address = server.Listener.Addr().String()
		return func() {
			server.CloseClientConnections()
			server.Close()
		}
	}
	stop := start()
	var mu sync.Mutex
	var kinds []NoticeKind
	p, err := newPublisher(PublisherOptions{Address: address, MaxBatchEvents: 100, Notify: func(n Notice) {
		mu.Lock()
		defer mu.Unlock()
		kinds = append(kinds, n.Kind)
	}}, quickPublish)
	if err != nil {
		t.Fatal(err)
	}
	const total = 30_000
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for n := range total {
			if err := p.Queue(t.Context(), numbered(n)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := range 3 {
		soon(t, "some events arrive", func() bool { return kept.count() > (i+1)*total/5 })
		stop()
		soon(t, "the publisher notices", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(kinds) > 0 && kinds[len(kinds)-1] == Disconnected
		})
		stop = start()
	}
	<-sent
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if got := kept.ids(); len(got) != total || !slices.IsSorted(got) {
		t.Errorf("%d of %d events", len(got), total)
	}
	if !slices.Contains(kinds, Reconnected) || kinds[len(kinds)-1] != Reconnected {
		t.Errorf("the notices are %v", kinds)
	}
}

// blocked makes a hub answer nothing until the returned function is called.
func blocked(h *publishHub) (release func()) {
	gate := make(chan struct{})
	h.setHook(func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		<-gate
		return false
	})
	return sync.OnceFunc(func() { close(gate) })
}

// A hub that does not answer blocks nobody, and what has no room is refused and counted.
func TestQueueFull(t *testing.T) {
	for name, o := range map[string]PublisherOptions{
		"events": {MaxQueueEvents: 100},
		"bytes":  {MaxQueueBytes: 20_000},
	} {
		t.Run(name, func(t *testing.T) {
			h := newPublishHub(t)
			release := blocked(h)
			defer release()
			p := h.publisher(t, o)
			taken, dropped := 0, uint64(0)
			for n := range 500 {
				err := p.SendEvent(t.Context(), numbered(n))
				var full *QueueFullError
				switch {
				case err == nil:
					taken++
				case errors.As(err, &full) && errors.Is(err, ErrQueueFull) && full.Events == taken && full.Bytes > 0:
					dropped++
				default:
					t.Fatal(err)
				}
			}
			if taken < 50 || taken > 150 || dropped == 0 {
				t.Fatalf("%d were taken, %d dropped", taken, dropped)
			}
			s := p.Stats()
			checkSums(t, s)
			if s.Dropped != dropped || s.Taken != uint64(taken) || s.Unsafe != taken || s.QueueBytes > 20_000 && name == "bytes" {
				t.Errorf("%+v", s)
			}
			// Who rather waits gives up with its context, and goes on when there is room.
			ctx, cancel := context.WithCancelCause(t.Context())
			cause := errors.New("the user is impatient")
			cancel(cause)
			if err := p.Queue(ctx, numbered(1000)); !errors.Is(err, ErrQueueFull) || !errors.Is(err, cause) {
				t.Error(err)
			}
			if err := p.Publish(ctx, numbered(1000)); !errors.Is(err, ErrQueueFull) || !errors.Is(err, cause) {
				t.Error(err)
			}
			queued := make(chan error)
			go func() { queued <- p.Publish(t.Context(), numbered(1001), numbered(1002)) }()
			release()
			if err := <-queued; err != nil {
				t.Fatal(err)
			}
			if got := h.count(); got != taken+2 {
				t.Errorf("%d events are stored of %d", got, taken+2)
			}
			if s := p.Stats(); s.QueueBytes != 0 || s.Unsafe != 0 || s.Waiting != 0 || s.Dropped != dropped {
				t.Errorf("%+v", s)
			}
		})
	}
}

// One event that is larger than the queue is no reason to refuse it for ever.
func TestLargeEvent(t *testing.T) {
	h := newPublishHub(t)
	p := h.publisher(t, PublisherOptions{MaxQueueBytes: 1000, MaxBatchBytes: 1000})
	large := numbered(1)
	large.Data, large.DataContentType = make([]byte, 100_000), "application/octet-stream"
	if err := p.Publish(t.Context(), numbered(0), large, numbered(2)); err != nil {
		t.Fatal(err)
	}
	if got := h.ids(); !slices.Equal(got, []string{"id-000000", "id-000001", "id-000002"}) {
		t.Errorf("%q", got)
	}
	if s := p.Stats(); s.QueueBytes != 0 {
		t.Errorf("%+v", s)
	}
}

func TestCloseUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody listens there
	hub := newPublishHub(t)
	release := blocked(hub) // and this one does not answer
	defer release()
	for name, address := range map[string]string{"refuses": l.Addr().String(), "silent": hub.URL} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPublisher(PublisherOptions{Address: address})
			if err != nil {
				t.Fatal(err)
			}
			for n := range 10 {
				if err := p.SendEvent(t.Context(), numbered(n)); err != nil {
					t.Fatal(err)
				}
			}
			waiting := make(chan error)
			go func() { waiting <- p.Publish(context.Background(), numbered(10)) }()
			soon(t, "it waits", func() bool { return p.Stats().Taken == 11 })
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			start := time.Now()
			err = p.Close(ctx)
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
			var left *UndeliveredError
			if !errors.As(err, &left) || left.Lost != 11 || left.Spooled != 0 || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUndelivered) {
				t.Errorf("%v", err)
			}
			if err := <-waiting; !errors.Is(err, ErrPublisherClosed) {
				t.Error(err)
			}
			for what, err := range map[string]error{
				"SendEvent": p.SendEvent(t.Context(), numbered(1)), "Queue": p.Queue(t.Context(), numbered(1)),
				"Publish": p.Publish(t.Context(), numbered(1)), "client.SendEvent": SendEvent(t.Context(), p, "x"),
			} {
				if !errors.Is(err, ErrPublisherClosed) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if again := p.Close(t.Context()); again != err {
				t.Errorf("the second time %v", again)
			}
			checkSums(t, p.Stats())
		})
	}
}
