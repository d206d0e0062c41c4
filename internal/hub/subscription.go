package hub

import (
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// Subscription is a cursor and the connection that it feeds.
//
// It sleeps in a party of its group until there is something to do; then a
// goroutine runs until there is not. Whoever wants something of it, says so in
// the fields under group.mu and wakes it.
type Subscription struct {
	hub     *Hub
	group   *group
	begin   journal.Position
	conn    *websocket.Conn // nil before Serve
	onEnded func(delivered uint64, reason string)

	noFollow bool
	until    journal.Position // normalised; where it ends if noFollow is set

	// Guarded by hub.mu.
	index   int // in hub.members; -1: forgotten
	member  int // in group.members
	pingDue uint64

	// Guarded by group.mu.
	link      link // in a party while asleep
	running   bool // the goroutine run exists
	at        place
	parked    *mark  // if not nil, where it waits for a plugin, instead of at
	pong      []byte // frame due; only the answer to the latest ping counts (RFC 6455 section 5.5.3)
	pings     uint64 // sent so far
	pinging   bool   // a ping is due
	aborted   bool
	last      []byte        // frame to end with; may be nil
	reason    string        // why it ended
	deadline  time.Time     // of all writes, once it is ending
	attempted chan struct{} // if not nil, closed when the attempt to write that is being made is over

	// Of the goroutine run.
	epoch   uint64    // in which the events being written were selected
	starved time.Time // since when it waits for a plugin; zero: it does not

	ending    atomic.Bool   // set under group.mu
	writing   atomic.Uint64 // the write under way; see beginWrite
	behind    atomic.Uint64 // tick since which there was always something to do; 0: asleep
	ordinal   atomic.Uint64 // of the next event due
	delivered atomic.Uint64

	flushed chan struct{} // closed when nothing will be written any more
	gone    chan struct{} // if not nil, closed when the subscription is forgotten
}

// Delivered is how many events were written to the connection so far.
func (s *Subscription) Delivered() uint64 { return s.delivered.Load() }

// Cancel ends a subscription that was not served. The reason that Ended is told is
// "cancelled", if it was not ended before.
func (s *Subscription) Cancel() {
	s.finish(nil, "cancelled")
	s.ended()
}

// Serve feeds the subscription to a connection and takes it over. It returns at
// once.
func (s *Subscription) Serve(conn *websocket.Conn) {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	s.conn = conn
	s.at = place{batch: s.hub.store.at(s.begin)}
	if s.ending.Load() {
		s.deadline = time.Now().Add(s.hub.closeTimeout)
		conn.SetWriteDeadline(s.deadline)
	}
	if s.aborted {
		conn.Close()
	}
	s.hub.tasks.Go(s.listen)
	s.wake()
}

// wake starts the goroutine run unless it runs. group.mu is held.
func (s *Subscription) wake() {
	if s.claim() {
		go s.run()
	}
}

// claim says whether the goroutine run is to be started, which it then counts as.
// group.mu is held.
func (s *Subscription) claim() bool {
	if s.running || s.conn == nil {
		return false
	}
	s.running = true
	s.hub.tasks.Add(1)
	return true
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
			s.conn.Linger(s.hub.closeTimeout)
		default:
			s.finish(nil, "connection lost")
			s.conn.Close() // a write that hangs fails
			<-s.flushed
		}
		break
	}
	s.ended()
}

// ended has the hub forget the subscription, and tells who wants to know.
func (s *Subscription) ended() {
	if !s.hub.remove(s) {
		return
	}
	s.group.mu.Lock()
	reason := s.reason
	if s.gone != nil {
		close(s.gone)
	}
	s.group.mu.Unlock()
	delivered := s.delivered.Load()
	if s.conn != nil {
		s.hub.log.Debug("subscription ended", "type", s.group.matcher.types.String(), "client", s.conn.RemoteAddr().String(),
			"reason", reason, "delivered", delivered)
	}
	if s.onEnded != nil {
		s.onEnded(delivered, reason)
	}
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
	if s.setEnding(last, reason) {
		s.wake()
	}
}

// setEnding is what finish does before it wakes the subscription; false means that
// it is ending already. group.mu is held.
func (s *Subscription) setEnding(last []byte, reason string) bool {
	if s.ending.Load() {
		return false
	}
	s.last, s.reason, s.deadline = last, reason, time.Now().Add(s.hub.closeTimeout)
	s.ending.Store(true)
	if s.conn != nil && s.writing.Load()&interrupted == 0 {
		s.conn.SetWriteDeadline(s.deadline)
	}
	return true
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

func (s *Subscription) run() {
	defer s.hub.tasks.Done()
	if s.behind.Load() == 0 {
		s.behind.Store(s.hub.now.Load())
	}
	for s.step() {
	}
}

// step does the next thing that is to be done; false ends the goroutine.
func (s *Subscription) step() bool {
	g := s.group
	g.mu.Lock()
	if s.ending.Load() {
		last := s.last
		s.leave()
		s.fed()
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
	if m := s.parked; m != nil {
		s.parked = nil
		g.mu.Unlock()
		s.returnTo(*m)
		return true
	}
	at := s.at
	g.mu.Unlock()

	if s.noFollow && at.batch.after.Compare(s.until) >= 0 {
		s.finish(websocket.AppendClose(nil, websocket.StatusNormal, "complete"), "complete")
		return true
	}
	if !at.batch.isReady() {
		return !s.sleep(at.batch)
	}
	if at.batch.err != nil {
		s.endFor(at.batch.err)
		return true
	}
	return s.writeEvents(at)
}

// sleep has the subscription woken when b is ready; false means that there is
// something to do.
func (s *Subscription) sleep(b *batch) bool {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ready || s.ending.Load() || s.pinging || s.pong != nil {
		return false
	}
	b.party(s.group).add(&s.link)
	s.at, s.running = place{}, false
	s.behind.Store(0)
	return true
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
	s.fed()
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
	s.conn.SetReadDeadline(time.Now().Add(s.hub.closeTimeout))
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
