package hub

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

const (
	// writeBytes is how much is written at once, more or less: large enough that
	// the system call does not count, small enough that a connection has its turn
	// often.
	writeBytes = 256 << 10
	// writeSpans bounds the pieces of one write.
	writeSpans = 32
	// copyBytes is how much is written at once, as a copy, where a write cannot be
	// interrupted. It is the size of a TLS record.
	copyBytes = 16 << 10
	// scanBatches bounds the batches looked through between two looks at what
	// else a subscription has to do.
	scanBatches = 64
)

// Subscription is a cursor and the connection that it feeds.
//
// It sleeps in a party of its group until there is something to do; then a
// goroutine runs until there is not. Whoever wants something of it, says so in
// the fields under group.mu and wakes it.
type Subscription struct {
	hub   *Hub
	group *group
	begin journal.Position
	conn  *websocket.Conn // nil before Serve

	// Guarded by hub.mu.
	index   int // in hub.members
	pingDue uint64

	// Guarded by group.mu.
	link    link // in a party while asleep
	running bool // the goroutine run exists
	at      *batch
	pong    []byte // frame due; only the answer to the latest ping counts (RFC 6455 section 5.5.3)
	pings   uint64 // sent so far
	pinging bool   // a ping is due
	ending  bool
	aborted bool
	last    []byte // frame to end with; may be nil
	reason  string // why it ended

	// Of the goroutine run.
	skip int // bytes of the chunk of at that are written already

	writing   atomic.Uint64 // tick in which the current write began; 0: none
	behind    atomic.Uint64 // tick since which there was always something to do; 0: asleep
	ordinal   atomic.Uint64 // of the next event due
	delivered atomic.Uint64

	flushed chan struct{} // closed when nothing will be written any more
}

// Cancel ends a subscription that was not served.
func (s *Subscription) Cancel() { s.hub.remove(s) }

// Serve feeds the subscription to a connection and takes it over. It returns at
// once.
func (s *Subscription) Serve(conn *websocket.Conn) {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	s.conn = conn
	s.at = s.hub.store.at(s.begin)
	if s.ending {
		conn.SetWriteDeadline(time.Now().Add(closeTimeout))
	}
	if s.aborted {
		conn.Close()
	}
	s.hub.tasks.Go(s.listen)
	s.wake()
}

// wake starts the goroutine run unless it runs. group.mu is held.
func (s *Subscription) wake() {
	if !s.running && s.conn != nil {
		s.running = true
		s.hub.tasks.Add(1)
		go s.run()
	}
}

// listen reads what the client sends, and sees to it that the connection is
// closed and forgotten at the end.
func (s *Subscription) listen() {
	for {
		op, payload, err := s.conn.Next()
		if err == nil {
			if op == websocket.Ping {
				s.answer(websocket.AppendFrame(nil, websocket.Pong, payload))
			}
			continue
		}
		var closed *websocket.PeerClosedError
		var violation *websocket.ViolationError
		switch {
		case errors.As(err, &closed):
			s.finish(websocket.AppendClose(nil, closed.Code, ""), "client closed")
			<-s.flushed
			s.conn.Close()
		case errors.As(err, &violation):
			s.finish(websocket.AppendClose(nil, violation.Code, violation.Reason), "client broke the protocol")
			<-s.flushed
			s.conn.Linger(closeTimeout)
		default:
			s.finish(nil, "connection lost")
			s.conn.Close() // a write that hangs fails
			<-s.flushed
		}
		break
	}
	s.hub.remove(s)
	s.hub.log.Debug("subscription ended", "type", s.group.matcher.types.String(), "client", s.conn.RemoteAddr().String(),
		"reason", s.reason, "delivered", s.delivered.Load())
}

// answer has a pong sent.
func (s *Subscription) answer(pong []byte) {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	s.pong = pong
	s.wake()
}

// ping has a ping sent.
func (s *Subscription) ping() {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	s.pinging = true
	s.wake()
}

// finish has the subscription end with a frame, nil for none, as soon as what is
// being written is written, but within the timeout of the closing handshake.
// Only the first call counts.
func (s *Subscription) finish(last []byte, reason string) {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	if s.ending {
		return
	}
	s.ending, s.last, s.reason = true, last, reason
	if s.conn != nil {
		s.conn.SetWriteDeadline(time.Now().Add(closeTimeout))
	}
	s.wake()
}

// abort cuts the connection, now or as soon as there is one.
func (s *Subscription) abort() {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	s.aborted = true
	if s.conn != nil {
		s.conn.Close()
	}
}

// interrupt ends a write that takes long, so that what it holds can be let go. It
// must not hit writePatiently: that begins with writing cleared and then resume,
// which undoes what came before.
func (s *Subscription) interrupt() {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	if s.writing.Load() != 0 && !s.ending && s.conn.Interruptible() {
		s.conn.SetWriteDeadline(time.Unix(1, 0))
	}
}

// A span is the part of a chunk that is being written, from byte from on.
type span struct {
	batch *batch
	chunk *chunk
	from  int
}

// room is what a running subscription needs beside itself.
type room struct {
	spans []span
	bufs  [writeSpans][]byte
	copy  []byte
}

var rooms = sync.Pool{New: func() any { return &room{spans: make([]span, 0, writeSpans)} }}

// clear lets go of everything in the room.
func (r *room) clear() {
	clear(r.spans)
	r.spans = r.spans[:0]
	clear(r.bufs[:])
}

func (s *Subscription) run() {
	defer s.hub.tasks.Done()
	r := rooms.Get().(*room)
	if s.behind.Load() == 0 {
		s.behind.Store(s.hub.now.Load())
	}
	for s.step(r) {
	}
	r.clear()
	rooms.Put(r)
}

// step does the next thing that is to be done; false ends the goroutine.
func (s *Subscription) step(r *room) bool {
	g := s.group
	g.mu.Lock()
	if s.ending {
		last := s.last
		s.leave()
		g.mu.Unlock()
		s.end(last)
		return false
	}
	if s.pinging || s.pong != nil {
		frames := s.pong
		s.pong = nil
		if s.pinging {
			s.pinging = false
			s.pings++
			var count [20]byte
			frames = websocket.AppendFrame(frames, websocket.Ping, strconv.AppendUint(count[:0], s.pings, 10))
		}
		g.mu.Unlock()
		return s.writeControl(frames)
	}
	if s.link.next != nil { // was woken only for the above
		s.running = false
		s.behind.Store(0)
		g.mu.Unlock()
		return false
	}
	b := s.at
	g.mu.Unlock()

	if !b.isReady() {
		return !s.sleep(b)
	}
	if b.err != nil {
		s.endFor(b.err)
		return true
	}
	next := s.collect(b, r)
	if len(r.spans) > 0 {
		return s.writeSpans(next, r)
	}
	s.moveTo(next, 0)
	return true
}

// moveTo sets what is due next.
func (s *Subscription) moveTo(b *batch, skip int) {
	s.ordinal.Store(nextOrdinal(b.after))
	s.skip = skip
	s.group.mu.Lock()
	s.at = b
	s.group.mu.Unlock()
}

// sleep has the subscription woken when b is ready; false means that there is
// something to do.
func (s *Subscription) sleep(b *batch) bool {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ready || s.ending || s.pinging || s.pong != nil {
		return false
	}
	b.party(s.group).add(&s.link)
	s.at, s.running = nil, false
	s.behind.Store(0)
	return true
}

// collect gathers what can be written at once, from b on, and returns the batch
// that comes after. Asking for that one has it read while this is written.
func (s *Subscription) collect(b *batch, r *room) *batch {
	size := 0
	for range scanBatches {
		c := b.selected(s.group)
		if n := len(c.data) - s.skip; n > 0 {
			r.spans = append(r.spans, span{b, c, s.skip})
			size += n
		}
		s.skip = 0
		b = s.hub.store.after(b)
		if size >= writeBytes || len(r.spans) == writeSpans || !b.isReady() || b.err != nil {
			break
		}
	}
	return b
}

// writeSpans writes what was collected and goes on to next.
func (s *Subscription) writeSpans(next *batch, r *room) bool {
	if !s.conn.Interruptible() {
		return s.writeCopy(next, r)
	}
	bufs := net.Buffers(r.bufs[:0])
	for _, p := range r.spans {
		bufs = append(bufs, p.chunk.data[p.from:])
	}
	s.writing.Store(s.hub.now.Load())
	var n int64
	var err error
	if len(bufs) == 1 {
		var k int
		k, err = s.conn.Write(bufs[0])
		n = int64(k)
	} else {
		n, err = s.conn.WriteBuffers(&bufs)
	}
	s.writing.Store(0)
	switch {
	case err == nil:
		frames := 0
		for _, p := range r.spans {
			frames += p.frames()
		}
		s.count(frames)
		r.clear()
		s.moveTo(next, 0)
		return true
	case errors.Is(err, os.ErrDeadlineExceeded) && s.resume():
		return s.stall(r, int(n))
	}
	r.clear()
	return s.fail()
}

// frames is how many frames end in the span.
func (p *span) frames() int {
	if p.from == 0 {
		return len(p.chunk.ends)
	}
	return len(p.chunk.ends) - p.frameAt(p.from)
}

// frameAt is the frame that has the byte at offset.
func (p *span) frameAt(offset int) int {
	lo, hi := 0, len(p.chunk.ends)
	for lo < hi {
		if mid := (lo + hi) / 2; p.chunk.ends[mid] > offset {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// mark is a place that does not keep anything in memory.
type mark struct {
	batch    weak.Pointer[batch]
	skip     int
	position journal.Position // of the last event before the place
}

func (p *span) markAfter(frame int) mark {
	i := int(p.chunk.picks[frame])
	position := p.batch.events.Position(i)
	if i == p.batch.events.Len()-1 {
		position = recordEnd(position)
	}
	return mark{weak.Make(p.batch), p.chunk.ends[frame], position}
}

// returnTo goes on at a mark: from memory if it is still there, else from the
// journal.
func (s *Subscription) returnTo(m mark) {
	if b := m.batch.Value(); b != nil {
		s.moveTo(b, m.skip)
	} else {
		s.moveTo(s.hub.store.at(m.position), 0)
	}
}

// stall waits, for as long as it takes, until a client that does not read reads
// again. n bytes of the spans are written. Meanwhile only the rest of the frame
// that was cut is kept.
func (s *Subscription) stall(r *room, n int) bool {
	frames := 0
	var m mark
	var rest []byte
	for _, p := range r.spans {
		if length := len(p.chunk.data) - p.from; n >= length {
			n -= length
			frames += p.frames()
			continue
		}
		k := p.frameAt(p.from + n)
		frames += k - p.frameAt(p.from) + 1
		rest = append(rest, p.chunk.data[p.from+n:p.chunk.ends[k]]...)
		m = p.markAfter(k)
		break
	}
	r.clear()
	s.group.mu.Lock()
	s.at = nil
	s.group.mu.Unlock()
	if !s.writePatiently(rest) {
		return s.fail()
	}
	s.count(frames)
	s.returnTo(m)
	return true
}

// writePatiently writes bytes that complete a frame. It has no time limit of its
// own, only that of finish.
func (s *Subscription) writePatiently(rest []byte) bool {
	s.hub.metrics.stalled.Inc()
	defer s.hub.metrics.stalled.Dec()
	_, err := s.conn.Write(rest)
	return err == nil
}

// resume ends the interruption of writes. It returns false when the deadline
// passed was that of the end.
func (s *Subscription) resume() bool {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	if s.ending {
		return false
	}
	s.conn.SetWriteDeadline(time.Time{})
	return true
}

// writeCopy writes some whole frames as a copy, so that a write that takes long
// holds nothing else.
func (s *Subscription) writeCopy(next *batch, r *room) bool {
	p := r.spans[0]
	first := p.frameAt(p.from)
	last := max(first, p.frameAt(p.from+copyBytes)-1)
	r.copy = append(r.copy[:0], p.chunk.data[p.from:p.chunk.ends[last]]...)
	m := p.markAfter(last)
	done := last == len(p.chunk.ends)-1 && len(r.spans) == 1
	r.clear()
	if done {
		s.moveTo(next, 0)
	} else {
		s.group.mu.Lock()
		s.at = nil
		s.group.mu.Unlock()
	}
	s.writing.Store(s.hub.now.Load())
	_, err := s.conn.Write(r.copy)
	s.writing.Store(0)
	if cap(r.copy) > 4*copyBytes {
		r.copy = nil
	}
	if err != nil {
		return s.fail()
	}
	s.count(last - first + 1)
	if !done {
		s.returnTo(m)
	}
	return true
}

// writeControl writes control frames.
func (s *Subscription) writeControl(frames []byte) bool {
	s.writing.Store(s.hub.now.Load())
	n, err := s.conn.Write(frames)
	s.writing.Store(0)
	if errors.Is(err, os.ErrDeadlineExceeded) && s.resume() && s.writePatiently(frames[n:]) {
		return true
	}
	if err != nil {
		return s.fail()
	}
	return true
}

func (s *Subscription) count(frames int) {
	s.delivered.Add(uint64(frames))
	s.hub.metrics.Delivered.Add(float64(frames))
}

// leave leaves the party, if the subscription is in one. group.mu is held.
func (s *Subscription) leave() {
	if s.link.next != nil {
		s.group.leave(&s.link)
	}
}

// fail ends the goroutine because nothing can be written any more.
func (s *Subscription) fail() bool {
	s.finish(nil, "connection lost")
	s.conn.Close()
	s.group.mu.Lock()
	s.leave()
	s.group.mu.Unlock()
	close(s.flushed)
	return false
}

// end writes the last frame and gives the client time to answer it.
func (s *Subscription) end(last []byte) {
	if last != nil {
		s.conn.Write(last)
	}
	s.conn.SetReadDeadline(time.Now().Add(closeTimeout))
	close(s.flushed)
}

// endFor ends the subscription because there is nothing to read for it.
func (s *Subscription) endFor(err error) {
	var gap *journal.GapError
	if errors.As(err, &gap) {
		s.hub.metrics.gaps.Inc()
		s.hub.metrics.gapEvents.Add(float64(gap.Events))
		s.finish(websocket.AppendClose(nil, StatusGap, gapReason(gap)), "gap")
		return
	}
	s.finish(websocket.AppendClose(nil, websocket.StatusGoingAway, "server is shutting down"), "journal closed")
}

// gapReason is what a client is told that has missed events.
func gapReason(gap *journal.GapError) string {
	resume := journal.Oldest
	if before := recordEndBefore(gap.Next); !before.IsZero() {
		resume = before.String()
	}
	if gap.Cause != nil {
		return "gap: events cannot be read; go on with since=" + resume
	}
	return "gap: " + strconv.FormatUint(gap.Events, 10) + " events removed by retention; go on with since=" + resume
}

// recordEndBefore is the position after which p is the first event.
func recordEndBefore(p journal.Position) journal.Position {
	switch {
	case p.Index > 0:
		p.Index--
	case p.Seq > 1:
		p.Seq--
		p.Index = journal.BetweenRecords
	default:
		return journal.Position{}
	}
	if p.Ordinal > 0 {
		p.Ordinal--
	}
	return p
}
