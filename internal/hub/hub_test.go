package hub

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/filter"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is the other end of a subscription, without a handshake.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

// connect serves a subscription to a client.
func connect(t testing.TB, h *Hub, ln net.Listener, r Request) *client {
	t.Helper()
	return serve(t, subscribe(t, h, r), ln)
}

// subscribe opens a subscription that is cancelled at the end of the test if it is
// not served.
func subscribe(t testing.TB, h *Hub, r Request) *Subscription {
	t.Helper()
	s, err := h.Subscribe(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.group.mu.Lock()
		served := s.conn != nil
		s.group.mu.Unlock()
		if !served {
			s.Cancel()
		}
	})
	return s
}

func serve(t testing.TB, s *Subscription, ln net.Listener) *client {
	t.Helper()
	server, conn := tcpPair(t, ln)
	// Small buffers, so that a client that does not read is soon noticed.
	server.(*net.TCPConn).SetWriteBuffer(32 << 10)
	conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	s.Serve(websocket.NewConn(server, 0))
	return newClient(t, conn)
}

func newClient(t testing.TB, conn net.Conn) *client {
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn, bufio.NewReader(conn)}
}

// read returns the next frame.
func (c *client) read() (websocket.Opcode, []byte, error) {
	c.conn.SetReadDeadline(time.Now().Add(time.Minute))
	var h [10]byte
	if _, err := io.ReadFull(c.r, h[:2]); err != nil {
		return 0, nil, err
	}
	n := uint64(h[1])
	switch n {
	case 126:
		if _, err := io.ReadFull(c.r, h[2:4]); err != nil {
			return 0, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		if _, err := io.ReadFull(c.r, h[2:10]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(h[2:])
	}
	payload := make([]byte, n)
	_, err := io.ReadFull(c.r, payload)
	if h[0]&0x80 == 0 {
		return 0, nil, errors.New("fragmented frame")
	}
	return websocket.Opcode(h[0] & 0x0f), payload, err
}

// event returns the next event.
func (c *client) event() *event.Event {
	c.t.Helper()
	op, payload, err := c.read()
	if err != nil {
		c.t.Fatal(err)
	}
	var e *event.Event
	switch op {
	case websocket.Text:
		if !strings.HasSuffix(string(payload), "}\n") {
			c.t.Fatalf("text message %.200q does not end in a newline", payload)
		}
		if strings.Contains(string(payload), `"datacontentype"`) {
			e, err = event.ParseVaultJSON(payload)
		} else {
			e, err = event.ParseCloudEvent(payload)
		}
	case websocket.Binary:
		e, err = event.ParseVaultProto(payload)
	default:
		err = fmt.Errorf("got %v frame %q, want an event", op, payload)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return e
}

// closed waits for the close frame and returns its code and reason.
func (c *client) closed() (int, string) {
	c.t.Helper()
	for {
		op, payload, err := c.read()
		if err != nil {
			c.t.Fatal(err)
		}
		if op == websocket.Close {
			return int(binary.BigEndian.Uint16(payload)), string(payload[2:])
		}
	}
}

// send sends a masked frame.
func (c *client) send(op websocket.Opcode, payload []byte) {
	frame := []byte{0x80 | byte(op), 0x80 | byte(len(payload)), 1, 2, 3, 4}
	for i, b := range payload {
		frame = append(frame, b^frame[2+i&3])
	}
	if _, err := c.conn.Write(frame); err != nil {
		c.t.Error(err)
	}
}

func (c *client) wantEOF() {
	c.t.Helper()
	for {
		if _, _, err := c.read(); err != nil {
			if err != io.EOF {
				c.t.Errorf("connection ended with %v, want EOF", err)
			}
			return
		}
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func id(n int) string { return testEvent(n).ID }

func TestDeliversInEveryFormat(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{})
	begin := j.append(testEvent(0))
	for _, format := range []Format{Protobuf, VaultJSON, CloudEvents} {
		for _, sequence := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v sequence %v", format, sequence), func(t *testing.T) {
				r := allJSON(begin)
				r.Format, r.Sequence = format, sequence
				c := connect(t, h, ln, r)
				at := j.append(testEvent(1), testEvent(2))
				for i := range 2 {
					e := c.event()
					for e.ID != id(i+1) {
						e = c.event() // of an earlier subtest
					}
					_, got := e.Extensions.Text("sequence")
					if want := sequence && format != Protobuf; got != want {
						t.Errorf("event %d has a sequence: %v, want %v", i, got, want)
					}
					if format == CloudEvents && sequence && i == 0 {
						if s, _ := e.Extensions.Text("sequence"); s != at.String() && e.ID == id(1) {
							p, err := journal.ParsePosition(s)
							if err != nil || p.Ordinal > at.Ordinal {
								t.Errorf("sequence %q, want %q", s, at)
							}
						}
					}
				}
			})
		}
	}
}

// TestNothingMissedAfterSubscribe appends right after Subscribe, before anything
// of the subscription runs.
func TestNothingMissedAfterSubscribe(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{})
	for i := range 200 {
		s, err := h.Subscribe(allJSON(h.End()))
		if err != nil {
			t.Fatal(err)
		}
		j.append(testEvent(i))
		c := serve(t, s, ln)
		if e := c.event(); e.ID != id(i) {
			t.Fatalf("round %d: got %s", i, e.ID)
		}
		c.conn.Close()
	}
}

// TestReplayThenLive has subscribers of all kinds start anywhere while events are
// appended, pause at random, and compares what they get with a plain loop over
// everything appended. The memory is so small that batches are forgotten all the
// time.
func TestReplayThenLive(t *testing.T) {
	t.Run("fake journal", func(t *testing.T) { replayThenLive(t, newMemJournal()) })
	t.Run("real journal", func(t *testing.T) { replayThenLive(t, newRealJournal(t)) })
}

func replayThenLive(t *testing.T, j testJournal) {
	const records, subscribers = 300, 24
	ln := listen(t)
	h := newTestHub(t, j, Options{MemoryBytes: 64 << 10})
	rng := rand.New(rand.NewPCG(1, 2))
	types := []string{"kv-v2/data-write", "kv-v2/data-delete", "kv-v1/write", "database/creds-create"}
	namespaces := []string{"", "ns1/", "ns1/sub/", "other/"}
	f, err := filter.Compile(`operation == "data-write" and event_type contains "-v"`)
	if err != nil {
		t.Fatal(err)
	}
	selections := []Selection{
		{Type: "*", Namespaces: []string{"", "*"}},
		{Type: "kv*", Namespaces: []string{"", "*"}},
		{Type: "*", Namespaces: []string{""}},
		{Type: "*write", Namespaces: []string{"ns1*"}},
		{Type: "*", Namespaces: []string{"", "*"}, Filter: f},
		{Type: "database/*", Namespaces: []string{"other"}},
		{Type: "e*d", Namespaces: []string{""}},
	}

	var mu sync.Mutex // guards all three
	var all []*event.Event
	var positions []journal.Position
	var finished bool
	appendOne := func(finish bool) {
		mu.Lock()
		defer mu.Unlock()
		var events []*event.Event
		for range 1 + rng.IntN(5) {
			e := testEvent(len(all) + len(events))
			e.Type, e.Namespace = types[rng.IntN(len(types))], namespaces[rng.IntN(len(namespaces))]
			events = append(events, e)
		}
		p := j.append(events...)
		for i, e := range events {
			all = append(all, e)
			positions = append(positions, journal.Position{Seq: p.Seq, Index: uint32(i), Ordinal: p.Ordinal + uint64(i)})
		}
		finished = finish
	}
	for range records / 3 {
		appendOne(false)
	}

	var clients, producer sync.WaitGroup
	for i := range subscribers {
		selection := selections[i%len(selections)]
		var after journal.Position
		next := 0 // in all
		if i%4 > 0 {
			mu.Lock()
			next = 1 + rng.IntN(len(all))
			after = positions[next-1]
			mu.Unlock()
		}
		r := Request{Selection: selection, Format: []Format{VaultJSON, Protobuf, CloudEvents}[i%3], After: after, Allow: everything, AccessKey: "root"}
		c := connect(t, h, ln, r)
		m := newMatcher(selection, everything)
		rng := rand.New(rand.NewPCG(3, uint64(i)))
		clients.Go(func() {
			for {
				mu.Lock()
				for next < len(all) && !m.match(all[next]) {
					next++
				}
				var want *event.Event
				if next < len(all) {
					want = all[next]
				}
				over := finished
				mu.Unlock()
				switch {
				case want == nil && over:
					return
				case want == nil || rng.IntN(20) == 0:
					time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
				}
				if want == nil {
					continue
				}
				if e := c.event(); e.ID != want.ID || e.Type != want.Type || e.Namespace != want.Namespace {
					t.Errorf("subscriber %d: got event %s, want %s", i, e.ID, want.ID)
					return
				}
				next++
			}
		})
		if i == subscribers/2 {
			producer.Go(func() {
				for i := range records {
					appendOne(i == records-1)
				}
			})
		}
	}
	clients.Wait()
	producer.Wait()
}

func TestProtocol(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{PingInterval: 3 * tickInterval})
	h.tick = 5 * time.Millisecond
	quiet := allJSON(j.End())
	quiet.Type = "quiet"

	t.Run("pings", func(t *testing.T) {
		c := connect(t, h, ln, quiet)
		for want := 1; want <= 3; want++ {
			if op, payload, err := c.read(); op != websocket.Ping || string(payload) != fmt.Sprint(want) {
				t.Fatalf("got %v %q %v, want ping %d", op, payload, err, want)
			}
			c.send(websocket.Pong, fmt.Append(nil, want))
		}
	})
	next := func(c *client) (op websocket.Opcode, payload []byte, err error) {
		for {
			if op, payload, err = c.read(); op != websocket.Ping {
				return op, payload, err
			}
		}
	}
	t.Run("answers pings", func(t *testing.T) {
		c := connect(t, h, ln, quiet)
		for i := range 10 {
			c.send(websocket.Ping, fmt.Append(nil, "mine", i))
			if op, payload, err := next(c); op != websocket.Pong || string(payload) != fmt.Sprint("mine", i) {
				t.Fatalf("got %v %q %v", op, payload, err)
			}
		}
	})
	t.Run("client closes", func(t *testing.T) {
		c := connect(t, h, ln, quiet)
		c.send(websocket.Close, []byte{0x0f, 0xa0}) // 4000
		if code, reason := c.closed(); code != 4000 || reason != "" {
			t.Errorf("got %d %q", code, reason)
		}
		c.wantEOF()
	})
	t.Run("client closes without code", func(t *testing.T) {
		c := connect(t, h, ln, quiet)
		c.send(websocket.Close, nil)
		if op, payload, err := next(c); op != websocket.Close || len(payload) != 0 || err != nil {
			t.Errorf("got %v %q %v", op, payload, err)
		}
		c.wantEOF()
	})
	t.Run("data message", func(t *testing.T) {
		c := connect(t, h, ln, quiet)
		c.send(websocket.Text, []byte("hello"))
		if code, reason := c.closed(); code != 1008 || reason != "unexpected data message" {
			t.Errorf("got %d %q", code, reason)
		}
		c.wantEOF()
	})
	t.Run("unmasked frame", func(t *testing.T) {
		c := connect(t, h, ln, quiet)
		c.conn.Write([]byte{0x89, 0})
		if code, reason := c.closed(); code != 1002 || reason == "" {
			t.Errorf("got %d %q", code, reason)
		}
		c.wantEOF()
	})
	t.Run("client vanishes", func(t *testing.T) {
		connect(t, h, ln, quiet).conn.Close()
	})
	for range 3 {
		j.append(testEvent(1))
	}
	t.Run("everything is freed", func(t *testing.T) {
		// The connections of the pings subtests are closed by their cleanups.
		waitEmpty(t, h)
		if len(h.groups) != 0 || h.store.batches != nil || h.store.bytes != 0 {
			t.Errorf("left: %d groups, %d batches, %d bytes", len(h.groups), len(h.store.batches), h.store.bytes)
		}
		for name, g := range map[string]float64{"subscriptions": testutil.ToFloat64(h.metrics.subscriptions), "groups": testutil.ToFloat64(h.metrics.groups)} {
			if g != 0 {
				t.Errorf("gauge %s is %v", name, g)
			}
		}
		h.tasks.Wait()
	})
}

// TestEndedSubscriptionsAreForgotten: although nothing happens that would wake
// them, subscriptions that come and go leave nothing behind.
func TestEndedSubscriptionsAreForgotten(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{})
	j.append(testEvent(0))
	s, err := h.Subscribe(allJSON(j.End()))
	if err != nil {
		t.Fatal(err)
	}
	stays := serve(t, s, ln)
	for i := range 50 {
		r := allJSON(j.End())
		if i >= 10 { // a group of its own, for which there will be nothing
			r.Type = fmt.Sprintf("other/%d", i)
		}
		c := connect(t, h, ln, r)
		if i%2 == 0 {
			c.send(websocket.Ping, nil)
			if op, _, err := c.read(); op != websocket.Pong || err != nil {
				t.Fatal(op, err)
			}
		}
		c.conn.Close()
	}
	eventually(t, "one subscription is left", func() bool { return h.Subscriptions() == 1 })
	oneSleeps := func() bool {
		b := h.store.at(recordEnd(j.End()))
		s.group.mu.Lock()
		defer s.group.mu.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		asleep := 0
		for _, p := range b.waiting {
			for l := p.head.next; l != &p.head; l = l.next {
				asleep++
			}
		}
		return asleep == 1 && len(b.waiting) == 1
	}
	eventually(t, "one subscription sleeps", oneSleeps)
	for i := 1; i <= 2; i++ {
		j.append(testEvent(i))
		if e := stays.event(); e.ID != id(i) {
			t.Error(e)
		}
		eventually(t, "one subscription sleeps again", oneSleeps)
	}
}

// TestOldestAfterRetention: what was the oldest a moment ago is not in the way.
func TestOldestAfterRetention(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{})
	for i := range 3 {
		j.append(testEvent(i))
	}
	for i := range 3 {
		c := connect(t, h, ln, allJSON(journal.Position{}))
		for n := i; n < 3; n++ {
			if e := c.event(); e.ID != id(n) {
				t.Fatalf("got %s, want %s", e.ID, id(n))
			}
		}
		j.remove(1)
	}
}

func TestUninterruptibleConnections(t *testing.T) {
	j := newMemJournal()
	h := newTestHub(t, j, Options{})
	padded(j, 0, 1000)
	big := testEvent(1000)
	big.Metadata.Set("padding", strings.Repeat("z", 100_000))
	j.append(big, testEvent(1001))
	s, err := h.Subscribe(allJSON(journal.Position{}))
	if err != nil {
		t.Fatal(err)
	}
	server, conn := net.Pipe()
	s.Serve(websocket.NewConn(server, 0))
	c := newClient(t, conn)
	for n := range 1002 {
		if e := c.event(); e.ID != id(n) {
			t.Fatalf("got %s, want %s", e.ID, id(n))
		}
	}
	j.append(testEvent(1002))
	if e := c.event(); e.ID != id(1002) {
		t.Fatalf("got %s, want %s", e.ID, id(1002))
	}
}

func TestShutdown(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := New(Options{Journal: j, PingInterval: time.Hour})
	h.tick = 10 * time.Millisecond
	var clients []*client
	others := allJSON(j.End())
	others.Type = "other"
	for range 10 {
		clients = append(clients, connect(t, h, ln, others))
	}
	unserved, err := h.Subscribe(allJSON(j.End()))
	if err != nil {
		t.Fatal(err)
	}
	stalled := connect(t, h, ln, allJSON(j.End()))
	padded(j, 0, 2000)
	eventually(t, "one is stalled", func() bool { return testutil.ToFloat64(h.metrics.stalled) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	done := make(chan error)
	go func() { done <- h.Shutdown(ctx) }()
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			if code, reason := c.closed(); code != 1001 || reason != "server is shutting down" {
				t.Errorf("closed with %d %q", code, reason)
			}
			c.send(websocket.Close, []byte{0x03, 0xe9})
			c.wantEOF()
		})
	}
	wg.Wait()
	unserved.Cancel()
	if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown with a stalled client: %v", err)
	}
	stalled.conn.Close()
	if _, err := h.Subscribe(allJSON(j.End())); !errors.Is(err, ErrClosed) {
		t.Errorf("subscribe after shutdown: %v", err)
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Errorf("second shutdown: %v", err)
	}
}

// TestShutdownDoesNotWaitForTheDead: clients that do not read, and those that do
// not answer, hold the end up for a moment only.
func TestShutdownDoesNotWaitForTheDead(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := New(Options{Journal: j, PingInterval: time.Hour})
	h.tick = 10 * time.Millisecond
	others := allJSON(j.End())
	others.Type = "other"
	silent := connect(t, h, ln, others)
	connect(t, h, ln, allJSON(j.End()))
	padded(j, 0, 2000)
	eventually(t, "one is stalled", func() bool { return testutil.ToFloat64(h.metrics.stalled) == 1 })
	start := time.Now()
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > shutdownTimeout+time.Second {
		t.Errorf("took %v, want about %v", took, shutdownTimeout)
	}
	if code, reason := silent.closed(); code != 1001 || reason != "server is shutting down" {
		t.Errorf("closed with %d %q", code, reason)
	}
}

func TestLimits(t *testing.T) {
	h := newTestHub(t, newMemJournal(), Options{MaxSubscriptions: 2})
	var subs []*Subscription
	for range 2 {
		s, err := h.Subscribe(allJSON(h.End()))
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, s)
	}
	if _, err := h.Subscribe(allJSON(h.End())); !errors.Is(err, ErrTooMany) {
		t.Errorf("third subscription: %v", err)
	}
	if len(h.groups) != 1 {
		t.Errorf("%d groups, want 1", len(h.groups))
	}
	subs[0].Cancel()
	if s, err := h.Subscribe(allJSON(h.End())); err != nil {
		t.Errorf("after one is gone: %v", err)
	} else {
		s.Cancel()
	}
	subs[1].Cancel()
	for _, sel := range []Selection{
		{Type: strings.Repeat("x", MaxTypeBytes+1)},
		{Type: "*", Namespaces: make([]string, MaxNamespaces+1)},
		{Type: "*", Namespaces: []string{strings.Repeat("x", MaxNamespacesBytes+1)}},
	} {
		if _, err := h.Subscribe(Request{Selection: sel, Allow: everything}); !errors.Is(err, ErrSelection) {
			t.Errorf("got %v, want ErrSelection", err)
		}
	}
	if _, err := h.Subscribe(Request{Selection: Selection{Type: "*"}}); err == nil {
		t.Error("a request without Allow was accepted")
	}
}

func TestJournalTrouble(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{Logger: slog.New(slog.DiscardHandler)})
	c := connect(t, h, ln, allJSON(j.End()))
	j.fail(errors.New("disk on fire"))
	eventually(t, "two reads have failed", func() bool { return testutil.ToFloat64(h.metrics.readErrors) >= 2 })
	j.fail(nil)
	j.append(testEvent(1))
	if e := c.event(); e.ID != id(1) {
		t.Fatalf("got %s", e.ID)
	}
	j.fail(journal.ErrClosed)
	if code, _ := c.closed(); code != websocket.StatusGoingAway {
		t.Errorf("closed with %d", code)
	}
}

// TestGroupsShareFrames: groups that select the same of a batch have the same
// bytes, and no event is encoded twice for an encoding.
func TestGroupsShareFrames(t *testing.T) {
	j := newMemJournal()
	h := newTestHub(t, j, Options{})
	other := testEvent(2)
	other.Type = "other"
	begin := j.append(testEvent(9))
	j.append(testEvent(0), testEvent(1), other)
	var chunks []*chunk
	var b *batch
	for _, typ := range []string{"*", "kv*", "kv-v2/*", "other"} {
		r := allJSON(begin)
		r.Type = typ
		s, err := h.Subscribe(r)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Cancel()
		b = h.store.at(recordEnd(s.begin))
		eventually(t, "the batch is there", b.isReady)
		chunks = append(chunks, b.selected(s.group).chunk)
	}
	if len(chunks[0].ends) != 3 || len(chunks[1].ends) != 2 || len(chunks[3].ends) != 1 {
		t.Fatalf("chunks have %d, %d, %d frames", len(chunks[0].ends), len(chunks[1].ends), len(chunks[3].ends))
	}
	if chunks[1] != chunks[2] {
		t.Error("groups that select the same do not share it")
	}
	data := func(c *chunk) []byte { return c.bytes(nil, 0, c.size()) }
	if want := slices.Concat(data(chunks[1]), data(chunks[3])); string(data(chunks[0])) != string(want) {
		t.Error("the frames of a group differ from those of another one")
	}
	var message struct{ Type string }
	if err := json.Unmarshal(data(chunks[3])[4:], &message); err != nil || message.Type != "*" {
		t.Error(message, err)
	}
}

// TestNoFollow: a subscription that does not follow gets what there was when it was opened, also
// if nothing of it is for the subscriber, and ends.
func TestNoFollow(t *testing.T) {
	for name, newJournal := range map[string]func() testJournal{
		"fake journal": func() testJournal { return newMemJournal() },
		"real journal": func() testJournal { return newRealJournal(t) },
	} {
		t.Run(name, func(t *testing.T) {
			j, ln := newJournal(), listen(t)
			h := newTestHub(t, j, Options{})
			request := func(typ string, after journal.Position) Request {
				r := allJSON(after)
				r.Type, r.NoFollow = typ, true
				return r
			}
			wantEnd := func(c *client) {
				t.Helper()
				if code, reason := c.closed(); code != websocket.StatusNormal || reason != "complete" {
					t.Errorf("closed with %d %q", code, reason)
				}
			}
			wantEnd(connect(t, h, ln, request("*", h.End())))
			for i := range 100 {
				j.append(testEvent(i))
			}
			s := subscribe(t, h, request("*", journal.Position{}))
			j.append(testEvent(100), testEvent(101))
			c := serve(t, s, ln)
			for i := range 100 {
				if e := c.event(); e.ID != id(i) {
					t.Fatalf("event %d is %s", i, e.ID)
				}
			}
			wantEnd(c)
			wantEnd(connect(t, h, ln, request("nothing/*", journal.Position{})))
			wantEnd(connect(t, h, ln, request("*", h.End())))
		})
	}
}
