package hub

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// rights are answers for Allow that can change: which types may be seen.
type rights struct{ types atomic.Pointer[string] }

func newRights(types string) *rights {
	r := new(rights)
	r.set(types)
	return r
}

func (r *rights) set(types string)          { r.types.Store(&types) }
func (r *rights) allow(e *event.Event) bool { return strings.Contains(*r.types.Load(), e.Type) }
func (r *rights) request(after journal.Position) Request {
	request := allJSON(after)
	request.Allow, request.AccessKey = r.allow, r
	return request
}

// typedEvent is of one type and large.
func typedEvent(n int, typ string) *event.Event {
	e := testEvent(n)
	e.Type = typ
	e.Metadata.Set("padding", strings.Repeat("y", 2000))
	return e
}

// appendTyped appends events of the types in turn, in records of 100.
func appendTyped(j *memJournal, from, n int, types ...string) {
	for i := from; i < from+n; i += 100 {
		events := make([]*event.Event, 100)
		for k := range events {
			events[k] = typedEvent(i+k, types[(i+k)%len(types)])
		}
		j.append(events...)
	}
}

// TestInvalidateWhileStalled: what was selected for a client that does not read is
// not sent after its rights have changed, and what it may see now is, from where it
// stands.
func TestInvalidateWhileStalled(t *testing.T) {
	const total = 600 // 1.5 MB, many times the buffers of a connection
	for _, transport := range transports {
		for _, noticed := range []bool{false, true} {
			for _, change := range []string{"a to b", "ab to b", "a to ab"} {
				t.Run(fmt.Sprintf("%s/noticed %v/%s", transport.name, noticed, change), func(t *testing.T) {
					old, now, _ := strings.Cut(change, " to ")
					j := newMemJournal()
					h := newTestHub(t, j, Options{PingInterval: time.Hour})
					h.tick = 5 * time.Millisecond
					if !noticed {
						h.tick = time.Hour
					}
					r := newRights(old)
					s := subscribe(t, h, r.request(h.End()))
					c := transport.serve(t, s, listen(t))
					appendTyped(j, 0, total, "a", "b")
					settled(t, s)
					if noticed && transport.name == "tcp" {
						eventually(t, "the stall is noticed", func() bool { return testutil.ToFloat64(h.metrics.stalled) == 1 })
					}
					r.set(now)
					start := time.Now()
					h.Invalidate(r)
					if took := time.Since(start); took > 5*time.Second {
						t.Errorf("took %v", took)
					}
					settled(t, s)
					sent := int(s.Delivered())
					// The first ones are by the old answers, up to where the buffers
					// ended; from there on the new ones count.
					n, seen := -1, 0
					var got int
					for {
						if got = number(t, c.event()); got != nextOf(old, n+1) {
							break
						}
						n = got
						seen++
					}
					// The first one by the new answers may look like one by the old ones.
					if seen > sent+transport.tail+1 {
						t.Fatalf("%d events came by the old answers, of which %d were sent before", seen, sent)
					}
					for ; ; got = number(t, c.event()) {
						if want := nextOf(now, n+1); got != want {
							t.Fatalf("after %d came %d, want %d", n, got, want)
						}
						if n = got; nextOf(now, n+1) >= total {
							break
						}
					}
				})
			}
		}
	}
}

// number is the number of a test event.
func number(t *testing.T, e *event.Event) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(e.ID, "%08d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func typedName(n int) string { return []string{"a", "b"}[n%2] }

// nextOf is the first event from n on that is of the types.
func nextOf(types string, n int) int {
	for !strings.Contains(types, typedName(n)) {
		n++
	}
	return n
}

// TestInvalidateWhileMatching: answers that were asked for before the change and
// come after it do not count, whether they were yes or no, for a subscription that
// runs and for one that sleeps.
func TestInvalidateWhileMatching(t *testing.T) {
	for _, asleep := range []bool{false, true} {
		for _, was := range []bool{false, true} {
			t.Run(fmt.Sprintf("asleep %v/answer was %v", asleep, was), func(t *testing.T) {
				j, ln := newMemJournal(), listen(t)
				h := newTestHub(t, j, Options{})
				asked, answer := make(chan bool), make(chan bool)
				var once sync.Once
				r := allJSON(j.append(testEvent(9)))
				r.AccessKey = "changing"
				r.Allow = func(e *event.Event) bool {
					allowed := !was
					if e.ID == id(0) {
						once.Do(func() {
							close(asked)
							<-answer
							allowed = was
						})
						return allowed
					}
					return true
				}
				s := subscribe(t, h, r)
				if !asleep {
					j.append(testEvent(0))
					eventually(t, "the batch is there", h.store.at(recordEnd(s.begin)).isReady)
				}
				c := serve(t, s, ln)
				if asleep {
					eventually(t, "it sleeps", func() bool {
						s.group.mu.Lock()
						defer s.group.mu.Unlock()
						return s.link.next != nil
					})
					j.append(testEvent(0))
				}
				<-asked
				h.Invalidate("another")
				h.Invalidate("changing")
				close(answer)
				j.append(testEvent(1))
				want := []string{id(0), id(1)}
				if was {
					want = want[1:]
				}
				for _, want := range want {
					if e := c.event(); e.ID != want {
						t.Fatalf("got %s, want %s", e.ID, want)
					}
				}
			})
		}
	}
}

// TestInvalidateOneOfMany: who shares frames with those whose rights change gets
// what it got before, and memory does not grow with the number of changes.
func TestInvalidateOneOfMany(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{PingInterval: time.Hour})
	h.tick = time.Hour // the batch stays in memory
	begin := j.append(typedEvent(0, "a"))
	var all []*rights
	var subs []*Subscription
	for range 10 {
		r := newRights("a b c")
		s := subscribe(t, h, r.request(begin))
		all, subs = append(all, r), append(subs, s)
	}
	appendTyped(j, 1, 100, "a", "b", "c")
	b := h.store.at(recordEnd(begin))
	eventually(t, "the batch is there", b.isReady)
	data := func(s *Subscription) string {
		c := b.selected(s.group)
		return string(c.bytes(nil, 0, c.size()))
	}
	whole := data(subs[0])
	var bytes int64
	for round := range 90 {
		all[0].set([]string{"a", "b c", "a c"}[round%3])
		h.Invalidate(all[0])
		part := data(subs[0])
		for _, s := range subs[1:] {
			if data(s) != whole {
				t.Fatal("others are affected")
			}
		}
		if got, want := strings.Count(part, "}\n"), []int{33, 67, 66}[round%3]; got != want {
			t.Fatalf("round %d: %d frames, want %d", round, got, want)
		}
		h.store.mu.Lock()
		now := h.store.bytes
		h.store.mu.Unlock()
		if round == 2 {
			bytes = now
		} else if round > 2 && now != bytes {
			t.Fatalf("round %d: %d bytes are in memory, there were %d", round, now, bytes)
		}
	}
	for i, s := range subs {
		c := serve(t, s, ln)
		for n := 1; n <= 100; n++ {
			if i == 0 && n%3 == 1 {
				continue // the last answers were a and c
			}
			if e := c.event(); e.ID != id(n) {
				t.Fatalf("subscriber %d: got %s, want %s", i, e.ID, id(n))
			}
		}
	}
}

// blocked is a subscription and its client, on a connection whose buffers are full
// before it is served. The client has to skip junk bytes before the first frame.
func blocked(t *testing.T, s *Subscription) (c *client, junk int) {
	t.Helper()
	server, conn := tcpPair(t, listen(t))
	server.(*net.TCPConn).SetWriteBuffer(16 << 10)
	conn.(*net.TCPConn).SetReadBuffer(16 << 10)
	for more := true; more; {
		server.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := server.Write(make([]byte, 1<<20))
		junk += n
		more = err == nil || n > 0
	}
	server.SetWriteDeadline(time.Time{})
	s.Serve(websocket.NewConn(server, 0))
	return newClient(t, conn), junk
}

func (c *client) skip(n int) {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.CopyN(io.Discard, c.r, int64(n)); err != nil {
		c.t.Fatal(err)
	}
}

// TestInvalidateBetweenFrames: a frame that waits for the client to read is not
// sent if nothing of it is, and sent whole if something is.
func TestInvalidateBetweenFrames(t *testing.T) {
	for _, noticed := range []bool{false, true} {
		for _, begun := range []bool{false, true} {
			t.Run(fmt.Sprintf("noticed %v/begun %v", noticed, begun), func(t *testing.T) {
				j := newMemJournal()
				h := newTestHub(t, j, Options{PingInterval: time.Hour})
				h.tick = 5 * time.Millisecond
				if !noticed {
					h.tick = time.Hour
				}
				r := newRights("a")
				s := subscribe(t, h, r.request(h.End()))
				c, junk := blocked(t, s)
				large := typedEvent(0, "a")
				large.Metadata.Set("padding", strings.Repeat("z", 1<<20))
				j.append(large, typedEvent(1, "b"))
				eventually(t, "the write has begun", func() bool { return s.writing.Load() != 0 })
				if noticed {
					eventually(t, "the stall is noticed", func() bool { return s.writing.Load()&patient != 0 })
				}
				if begun {
					c.skip(junk)
					junk = 0
					settled(t, s)
				}
				r.set("b")
				h.Invalidate(r)
				c.skip(junk)
				if begun {
					if e := c.event(); e.ID != id(0) {
						t.Fatalf("got %s, want the frame that was begun", e.ID)
					}
				}
				if e := c.event(); e.ID != id(1) {
					t.Fatalf("got %s, want %s", e.ID, id(1))
				}
			})
		}
	}
}

// TestInterruptedAnywhere: wherever a write is interrupted, the frame that was cut
// is completed, and what comes after the last frame is due again, selected before
// or not. So it is if rights change when all is written.
func TestInterruptedAnywhere(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{})
	begin := j.append(testEvent(99))
	n := 0
	for _, record := range []string{"b a a b a", "b b", "b a b"} {
		var events []*event.Event
		for _, typ := range strings.Fields(record) {
			e := testEvent(n)
			e.Type = typ
			events = append(events, e)
			n++
		}
		j.append(events...)
	}
	for _, answers := range []string{"a", "a b"} {
		s := subscribe(t, h, newRights(answers).request(begin))
		at := place{batch: h.store.at(recordEnd(begin))}
		for b := at.batch; b.after != recordEnd(h.End()); b = h.store.after(b) {
			eventually(t, "the batches are there", b.isReady)
		}
		server, conn := tcpPair(t, ln)
		defer server.Close()
		c := newClient(t, conn)
		s.conn = websocket.NewConn(server, 0)
		t.Cleanup(func() { s.conn = nil }) // it is not served
		var wire []byte
		var ends, numbers []int // of the frames
		for b := at.batch; b.isReady(); b = h.store.after(b) {
			chunk := b.selected(s.group).chunk
			for k, i := range chunk.picks {
				numbers = append(numbers, number(t, b.events.Event(int(i))))
				ends = append(ends, len(wire)+int(chunk.ends[k]))
			}
			wire = append(wire, chunk.bytes(nil, 0, chunk.size())...)
		}
		for n := range len(wire) + 1 {
			r := rooms.Get().(*room)
			next, _ := s.collect(at, r)
			if sent := slices.Concat(r.bufs...); string(sent) != string(wire) {
				t.Fatal("what is collected is not the frames")
			}
			s.epoch = s.group.epoch.Add(1) - 1
			before := s.Delivered()
			if n == len(wire) {
				s.wroteAll(r, next)
			} else if !s.writeRest(at, r, n) {
				t.Fatal("the connection has failed")
			}
			k, cut := slices.BinarySearch(ends, n) // frames before the cut
			if cut {
				k++ // at the end of frame k
			} else if n > 0 && !slices.Contains(ends, n) {
				rest := make([]byte, ends[k]-n)
				if _, err := io.ReadFull(c.r, rest); err != nil || string(rest) != string(wire[n:ends[k]]) {
					t.Fatalf("interrupted after %d bytes: the rest of the frame is %q, want %q", n, rest, wire[n:ends[k]])
				}
				k++
			}
			if got := int(s.Delivered() - before); got != k {
				t.Fatalf("interrupted after %d bytes: %d frames are counted, want %d", n, got, k)
			}
			due := 0
			if k > 0 {
				due = numbers[k-1] + 1
			}
			if got := int(s.at.batch.events.Position(0).Ordinal-begin.Ordinal) - 1 + s.at.due; got != due {
				t.Fatalf("interrupted after %d bytes: event %d is due, want %d", n, got, due)
			}
		}
	}
}

// BenchmarkInvalidate changes the rights of 10,000 subscriptions with one
// AccessKey, of which 100 have clients that do not read.
func BenchmarkInvalidate(b *testing.B) {
	j, ln := newMemJournal(), listen(b)
	h := newTestHub(b, j, Options{PingInterval: time.Hour})
	h.tick = 5 * time.Millisecond
	r := newRights("a")
	var stalled []*Subscription
	var idle []*Subscription
	for i := range 10_000 {
		s, err := h.Subscribe(r.request(h.End()))
		if err != nil {
			b.Fatal(err)
		}
		if i%100 == 0 {
			serve(b, s, ln)
			stalled = append(stalled, s)
		} else {
			idle = append(idle, s)
		}
	}
	appendTyped(j, 0, 1000, "a")
	eventually(b, "the clients are stalled", func() bool { return testutil.ToFloat64(h.metrics.stalled) == float64(len(stalled)) })
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		h.Invalidate(r)
		took = append(took, time.Since(start))
		b.StopTimer()
		time.Sleep(10 * time.Millisecond)
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
	for _, s := range idle {
		s.Cancel()
	}
}
