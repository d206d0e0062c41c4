package hub

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// versions are the answers for one AccessKey over time.
type versions struct {
	mu       sync.Mutex
	all      []string // the types that may be seen
	returned int      // the last one for which Invalidate has returned
	current  atomic.Pointer[string]
}

func (v *versions) allow(e *event.Event) bool { return strings.Contains(*v.current.Load(), e.Type) }

func (v *versions) add(types string) (number int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all = append(v.all, types)
	v.current.Store(&types)
	return len(v.all) - 1
}

func (v *versions) last() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.returned
}

// watcher is a client that reads at its own pace and knows at any time how many
// bytes were sent to it: over a local socket, what is sent is with the receiver.
type watcher struct {
	conn    *net.UnixConn
	request Request
	rights  *versions

	mu     sync.Mutex
	stream []byte
	peeked [256 << 10]byte // more than these sockets hold
	sent   map[int]int     // when a version was in force, how many bytes were sent before
}

// pending is how many bytes are there to be read.
func (w *watcher) pending(t *testing.T) (n int) {
	raw, err := w.conn.SyscallConn()
	if err == nil {
		control := raw.Control(func(fd uintptr) {
			n, _, err = syscall.Recvfrom(int(fd), w.peeked[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		})
		err = cmp.Or(control, err)
	}
	if err != nil {
		if err != syscall.EAGAIN {
			t.Error(err)
		}
		return 0
	}
	return n
}

// mark remembers how many bytes were sent before now.
func (w *watcher) mark(t *testing.T, version int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent[version] = len(w.stream) + w.pending(t)
}

// read reads some of what is there, and says whether that was the last event.
func (w *watcher) read(t *testing.T, most int) (last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(w.pending(t), most)
	if n == 0 {
		return t.Failed()
	}
	w.stream = slices.Grow(w.stream, n)
	n, err := w.conn.Read(w.stream[len(w.stream) : len(w.stream)+n])
	if err != nil {
		t.Error(err)
		return true
	}
	w.stream = w.stream[:len(w.stream)+n]
	return strings.Contains(string(w.stream[max(0, len(w.stream)-4000):]), lastType) && w.pending(t) == 0
}

const lastType = "x/the-last"

// happened is an event with the version of each rights that was in force before it
// was appended.
type happened struct {
	event  *event.Event
	before map[*versions]int
}

// TestRightsChange has rights change at random moments while events are appended
// and clients read them at all speeds. Every event that comes must be allowed by
// answers that were in force when its frame was begun or later ones; every event
// that is allowed by all answers since it was appended must come; all in order,
// none twice.
func TestRightsChange(t *testing.T) {
	for seed := range uint64(2) {
		t.Run("", func(t *testing.T) { rightsChange(t, seed) })
	}
}

func rightsChange(t *testing.T, seed uint64) {
	const records, changes, clients = 250, 120, 16
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "hub"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	j := newMemJournal()
	h := newTestHub(t, j, Options{MemoryBytes: 200 << 10, PingInterval: time.Hour})
	h.tick = 2 * time.Millisecond
	types := []string{"x/a", "x/b", "x/c", "y/d", "y/e"}
	rng := rand.New(rand.NewPCG(seed, 7))
	some := func(rng *rand.Rand) string {
		set := lastType
		for _, typ := range types {
			if rng.IntN(3) > 0 {
				set += " " + typ
			}
		}
		return set
	}
	keys := make([]*versions, 4)
	for i := range keys {
		keys[i] = new(versions)
		keys[i].add(some(rng))
	}

	var all []happened // by number
	appendSome := func(rng *rand.Rand, typs ...string) {
		before := make(map[*versions]int)
		for _, key := range keys {
			before[key] = key.last()
		}
		var events []*event.Event
		for _, typ := range typs {
			e := testEvent(len(all))
			e.Type = typ
			e.Metadata.Set("padding", strings.Repeat("y", rng.IntN(3000)))
			events = append(events, e)
			all = append(all, happened{e, before})
		}
		j.append(events...)
	}
	for range records / 5 {
		appendSome(rng, types[:1+rng.IntN(4)]...)
	}

	watchers := make([]*watcher, clients)
	for i := range watchers {
		key := keys[i%len(keys)]
		r := Request{Selection: Selection{Type: []string{"*", "x/*"}[i/4%2], Namespaces: []string{""}}, Format: VaultJSON, Sequence: i/8 == 1,
			Allow: key.allow, AccessKey: key}
		s, err := h.Subscribe(r)
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		server.(*net.UnixConn).SetWriteBuffer(8 << 10 << (i % 3))
		watchers[i] = &watcher{conn: client.(*net.UnixConn), request: r, rights: key, sent: map[int]int{0: 0}}
		s.Serve(websocket.NewConn(server, 0))
	}

	var work, reading sync.WaitGroup
	work.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 8))
		for range records {
			var typs []string
			for range 1 + rng.IntN(12) {
				typs = append(typs, types[rng.IntN(len(types))])
			}
			appendSome(rng, typs...)
			if rng.IntN(4) == 0 {
				time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
			}
		}
	})
	work.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 9))
		for range changes {
			key := keys[rng.IntN(len(keys))]
			number := key.add(some(rng))
			start := time.Now()
			h.Invalidate(key)
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("a change took %v", took)
			}
			for _, w := range watchers {
				if w.rights == key {
					w.mark(t, number)
				}
			}
			key.mu.Lock()
			key.returned = number
			key.mu.Unlock()
			if rng.IntN(2) == 0 {
				time.Sleep(time.Duration(rng.IntN(4000)) * time.Microsecond)
			}
		}
	})
	for i, w := range watchers {
		reading.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
			for deadline := time.Now().Add(60 * time.Second); !w.read(t, 1+rng.IntN(20_000)); {
				if time.Now().After(deadline) {
					t.Errorf("client %d waits in vain for the last event", i)
					return
				}
				if rng.IntN(1+i%5*3) > 0 || i%5 == 0 {
					time.Sleep(time.Duration(rng.IntN(1000*(1+i%4))) * time.Microsecond)
				}
			}
		})
	}
	work.Wait()
	appendSome(rng, lastType)
	reading.Wait()
	for i, w := range watchers {
		w.check(t, i, all)
	}
}

// check compares what came with what may and what must come.
func (w *watcher) check(t *testing.T, client int, all []happened) {
	m := newMatcher(w.request.Selection, nil)
	allowed := func(e *event.Event, from int, always bool) bool {
		for _, types := range w.rights.all[from:] {
			if strings.Contains(types, e.Type) != always {
				return !always
			}
		}
		return always
	}
	next, came, late := 0, 0, 0
	for at := 0; at < len(w.stream); {
		begin, size := at+2, int(w.stream[at+1])
		if size == 126 {
			begin, size = at+4, int(binary.BigEndian.Uint16(w.stream[at+2:]))
		}
		e, err := event.ParseVaultJSON(w.stream[begin : begin+size])
		if err != nil {
			t.Fatalf("client %d, byte %d: %v", client, at, err)
		}
		n := number(t, e)
		switch {
		case n < next:
			t.Fatalf("client %d: event %d came after %d", client, n, next-1)
		case !m.match(e):
			t.Fatalf("client %d: event %d was not asked for", client, n)
		}
		for ; next < n; next++ {
			w.mustNotBeDue(t, client, next, all[next], &m, allowed)
		}
		version := 0
		for v, sent := range w.sent {
			if sent <= at {
				version = max(version, v)
			}
		}
		if !allowed(e, version, false) {
			t.Fatalf("client %d: event %d of type %s was sent when %q was in force, and came at byte %d, %d after that",
				client, n, e.Type, w.rights.all[version], at, at-w.sent[version])
		}
		if !allowed(e, 0, true) {
			late++
		}
		next = n + 1
		came++
		at = begin + size
	}
	for ; next < len(all); next++ {
		w.mustNotBeDue(t, client, next, all[next], &m, allowed)
	}
	if came < 20 || late == 0 {
		t.Errorf("client %d: only %d events came, %d of types whose rights have changed", client, came, late)
	}
}

func (w *watcher) mustNotBeDue(t *testing.T, client, n int, h happened, m *matcher, allowed func(*event.Event, int, bool) bool) {
	if m.match(h.event) && allowed(h.event, h.before[w.rights], true) {
		t.Fatalf("client %d: event %d of type %s did not come, which was allowed all the time", client, n, h.event.Type)
	}
}
