package hub

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// endings records what Ended is told.
type endings struct {
	mu   sync.Mutex
	seen []string
}

func (e *endings) record(delivered uint64, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, fmt.Sprint(delivered, " ", reason))
}

// want waits for the ending and sees to it that there is no other one.
func (e *endings) want(t *testing.T, h *Hub, want string) {
	t.Helper()
	waitEmpty(t, h)
	h.tasks.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.seen) != 1 || e.seen[0] != want {
		t.Errorf("ended with %q, want once %q", e.seen, want)
	}
}

// secureServe is serve over TLS.
func secureServe(t testing.TB, s *Subscription, ln net.Listener) *client {
	t.Helper()
	https := httptest.NewTLSServer(nil)
	config := https.TLS
	https.Close()
	server, conn := tcpPair(t, ln)
	server.(*net.TCPConn).SetWriteBuffer(32 << 10)
	conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	secure := tls.Server(server, &tls.Config{Certificates: config.Certificates})
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // the test is both ends
	failed := make(chan error, 1)
	go func() { failed <- secure.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	s.Serve(websocket.NewConn(secure, 0))
	return newClient(t, c)
}

// transports are the ways in which a client is connected.
var transports = []struct {
	name  string
	serve func(testing.TB, *Subscription, net.Listener) *client
	// How many events may follow after rights have ended: the one that was cut, or
	// what is in the piece that TLS is sending.
	tail int
}{
	{"tcp", serve, 1},
	{"tls", secureServe, 1 + copyBytes/2500},
}

// drain reads all events up to the close frame, answers it, and returns what there
// was.
func (c *client) drain() (events []string, code int, reason string) {
	c.t.Helper()
	for {
		op, payload, err := c.read()
		if err != nil {
			c.t.Fatal(err)
		}
		switch op {
		case websocket.Text:
			e, err := event.ParseVaultJSON(payload)
			if err != nil {
				c.t.Fatal(err)
			}
			events = append(events, e.ID)
		case websocket.Close:
			c.send(websocket.Close, payload[:2])
			c.wantEOF()
			return events, int(payload[0])<<8 | int(payload[1]), string(payload[2:])
		}
	}
}

func wantInOrder(t *testing.T, events []string, from int) {
	t.Helper()
	for n, got := range events {
		if got != id(from+n) {
			t.Fatalf("event %d is %s, want %s", n, got, id(from+n))
		}
	}
}

func TestRevoke(t *testing.T) {
	for _, transport := range transports {
		open := func(t *testing.T, tick time.Duration) (*Hub, *memJournal, *Subscription, *endings) {
			j := newMemJournal()
			h := newTestHub(t, j, Options{PingInterval: time.Hour})
			h.tick = tick
			ended := new(endings)
			r := allJSON(h.End())
			r.Ended = func(delivered uint64, reason string) {
				if n := h.Subscriptions(); n != 0 {
					t.Errorf("%d subscriptions are known when the last has ended", n)
				}
				ended.record(delivered, reason)
			}
			s := subscribe(t, h, r)
			return h, j, s, ended
		}
		t.Run(transport.name+"/asleep", func(t *testing.T) {
			h, j, s, ended := open(t, 10*time.Millisecond)
			c := transport.serve(t, s, listen(t))
			j.append(testEvent(0))
			if e := c.event(); e.ID != id(0) {
				t.Fatal(e.ID)
			}
			s.Revoke("token revoked")
			j.append(testEvent(1))
			s.Revoke("once more")
			if events, code, reason := c.drain(); len(events) != 0 || code != 1008 || reason != "token revoked" {
				t.Errorf("got %v, then %d %q", events, code, reason)
			}
			ended.want(t, h, "1 token revoked")
		})
		t.Run(transport.name+"/before it is served", func(t *testing.T) {
			h, j, s, ended := open(t, 10*time.Millisecond)
			j.append(testEvent(0))
			s.Revoke("policies changed")
			c := transport.serve(t, s, listen(t))
			if events, code, reason := c.drain(); len(events) != 0 || code != 1008 || reason != "policies changed" {
				t.Errorf("got %v, then %d %q", events, code, reason)
			}
			ended.want(t, h, "0 policies changed")
		})
		t.Run(transport.name+"/stalled", func(t *testing.T) {
			for _, when := range []string{"write under way", "waiting for the client"} {
				t.Run(when, func(t *testing.T) {
					tick := 10 * time.Millisecond
					if when == "write under way" {
						tick = time.Hour // nobody notices that the client does not read
					}
					h, j, s, ended := open(t, tick)
					c := transport.serve(t, s, listen(t))
					events := make([]*event.Event, 1000) // which are one write
					for n := range events {
						events[n] = typedEvent(n, "a")
					}
					j.append(events...)
					eventually(t, "a write hangs", func() bool { return s.stuck(1<<40) || testutil.ToFloat64(h.metrics.stalled) == 1 })
					settled(t, s)
					if when != "write under way" && transport.name == "tcp" {
						eventually(t, "the stall is noticed", func() bool { return testutil.ToFloat64(h.metrics.stalled) == 1 })
					}
					before, start := s.Delivered(), time.Now()
					s.Revoke("token expired")
					if took := time.Since(start); took > 5*time.Second {
						t.Errorf("took %v", took)
					}
					got, code, reason := c.drain()
					if code != 1008 || reason != "token expired" {
						t.Errorf("closed with %d %q", code, reason)
					}
					wantInOrder(t, got, 0)
					// Without a look at it, a hanging write is counted when it ends.
					if when != "write under way" && len(got) > int(before)+transport.tail {
						t.Errorf("%d events came, of which %d after the end", len(got), len(got)-int(before))
					}
					if len(got) > 120 { // the buffers hold about half as many
						t.Errorf("%d events came", len(got))
					}
					ended.want(t, h, fmt.Sprint(len(got), " token expired"))
				})
			}
		})
		t.Run(transport.name+"/never reads again", func(t *testing.T) {
			h, j, s, ended := open(t, 10*time.Millisecond)
			h.closeTimeout = 50 * time.Millisecond
			transport.serve(t, s, listen(t))
			padded(j, 0, 2000)
			settled(t, s)
			s.Revoke("token revoked")
			waitEmpty(t, h)
			ended.want(t, h, fmt.Sprint(s.Delivered(), " token revoked"))
		})
		t.Run(transport.name+"/does not answer", func(t *testing.T) {
			h, _, s, ended := open(t, 10*time.Millisecond)
			h.closeTimeout = 50 * time.Millisecond
			c := transport.serve(t, s, listen(t))
			s.Revoke("token revoked")
			if code, reason := c.closed(); code != 1008 || reason != "token revoked" {
				t.Errorf("closed with %d %q", code, reason)
			}
			ended.want(t, h, "0 token revoked")
		})
		t.Run(transport.name+"/closing already", func(t *testing.T) {
			h, _, s, ended := open(t, 10*time.Millisecond)
			c := transport.serve(t, s, listen(t))
			c.send(websocket.Close, []byte{0x03, 0xe8})
			c.closed()
			ended.want(t, h, "0 client closed")
			s.Revoke("too late")
			ended.want(t, h, "0 client closed")
		})
		t.Run(transport.name+"/long reason", func(t *testing.T) {
			_, _, s, _ := open(t, 10*time.Millisecond)
			c := transport.serve(t, s, listen(t))
			s.Revoke(strings.Repeat("ä", 100))
			if _, code, reason := c.drain(); code != 1008 || reason != strings.Repeat("ä", 61) {
				t.Errorf("closed with %d %q", code, reason)
			}
		})
	}
}

// TestRevokeWhileMatching: what is selected after the end is not sent.
func TestRevokeWhileMatching(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{})
	asked, answer := make(chan bool), make(chan bool)
	r := allJSON(j.append(testEvent(9)))
	r.Allow = func(*event.Event) bool {
		close(asked)
		<-answer
		return true
	}
	s := subscribe(t, h, r)
	j.append(testEvent(0))
	eventually(t, "the batch is there", h.store.at(recordEnd(s.begin)).isReady)
	c := serve(t, s, ln)
	<-asked
	s.Revoke("token revoked")
	close(answer)
	if events, code, reason := c.drain(); len(events) != 0 || code != 1008 || reason != "token revoked" {
		t.Errorf("got %v, then %d %q", events, code, reason)
	}
}

// settled waits until a subscription whose client does not read has filled all
// buffers.
func settled(t *testing.T, s *Subscription) {
	t.Helper()
	var at uint64
	still := 0
	eventually(t, "nothing moves any more", func() bool {
		w := s.writing.Load() | s.Delivered()<<32
		if still++; w != at {
			at, still = w, 0
		}
		return still > 30
	})
}

func TestCancel(t *testing.T) {
	h := newTestHub(t, newMemJournal(), Options{})
	for _, revoked := range []bool{false, true} {
		ended, want := new(endings), "0 cancelled"
		r := allJSON(h.End())
		r.Ended = ended.record
		s := subscribe(t, h, r)
		if revoked {
			s.Revoke("token revoked")
			want = "0 token revoked"
		}
		s.Cancel()
		s.Cancel()
		ended.want(t, h, want)
	}
}

// TestEndedOfShutdown: who waits for the hub knows that all endings were told.
func TestEndedOfShutdown(t *testing.T) {
	j, ln := newMemJournal(), listen(t)
	h := New(Options{Journal: j})
	ended := new(endings)
	r := allJSON(h.End())
	r.Ended = ended.record
	c := connect(t, h, ln, r)
	var client sync.WaitGroup
	client.Go(func() { c.drain() })
	if err := h.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	client.Wait()
	ended.want(t, h, "0 shutdown")
}

// TestRevokeMany: hundreds that are revoked one by one do not hold up those that
// stay.
func TestRevokeMany(t *testing.T) {
	m := revokeMany(t, 400, 10)
	t.Logf("%+v", m)
	if m.pause > time.Second {
		t.Errorf("the others got nothing for %v", m.pause)
	}
}

// TestAttempts: who takes rights away waits for an attempt that may have looked
// before, and for nothing else; an attempt that begins after that is refused.
func TestAttempts(t *testing.T) {
	h, ln := newTestHub(t, newMemJournal(), Options{}), listen(t)
	for name, take := range map[string]func(*Subscription){
		"invalidate": func(*Subscription) { h.Invalidate("root") },
		"revoke":     func(s *Subscription) { s.Revoke("token revoked") },
	} {
		t.Run(name, func(t *testing.T) {
			s := subscribe(t, h, allJSON(h.End()))
			server, client := tcpPair(t, ln)
			defer server.Close()
			defer client.Close()
			s.conn, s.running = websocket.NewConn(server, 0), true // by this test
			t.Cleanup(func() { s.conn = nil })
			if !s.beginWrite(s.group.epoch.Load(), 0) {
				t.Fatal("a write is refused while nothing has changed")
			}
			a := (*attempts)(s)
			if !a.Begin() {
				t.Fatal("an attempt is refused while nothing has changed")
			}
			var returned atomic.Int32
			var taking sync.WaitGroup
			for range 3 {
				taking.Go(func() { take(s); returned.Add(1) })
			}
			eventually(t, "the attempt is waited for", func() bool { return s.writing.Load()&awaited != 0 })
			if returned.Load() != 0 {
				t.Error("returned during an attempt")
			}
			a.End(s.writing.And(^attempting))
			taking.Wait()
			take(s) // does not wait for a write between two attempts
			if a.Begin() {
				t.Error("an attempt begins with what must not be sent any more")
			}
			if err := s.endWrite(os.ErrDeadlineExceeded); err != errInterrupted {
				t.Errorf("the write ended with %v", err)
			}
			if s.beginWrite(s.epoch, 0) {
				t.Error("a write begins with what must not be sent any more")
			}
			if w := s.writing.Load(); w != 0 {
				t.Errorf("writing is %b at the end", w)
			}
		})
	}
}
