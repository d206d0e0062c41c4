// Package hub hands the events of the journal to live subscribers, many of them,
// as fast as their connections take them.
//
// # How it works
//
// A subscription is a cursor into the journal. The batches that subscriptions are
// working on are kept in memory (see store), each read from the journal once for
// all who stand at the same place. Subscriptions that select the same events in
// the same encoding for viewers of equal rights form a group: per batch, matching
// is done once per group. An event is encoded once for all groups that want the
// same encoding, and the frames that follow each other in memory are written as
// one piece, so that a member writes what is due to it with one system call,
// whatever others may see.
//
// A subscription has one goroutine that reads from its client and, only while
// there is something to write, a second one. A group for which a batch has nothing
// costs its members nothing.
//
// # Guarantees
//
// A subscription gets every event that it selects and that lies behind the
// position where it began, in journal order, each once. It begins when Subscribe
// returns, so nothing is missed that is appended after a client has seen the
// answer to its handshake.
//
// A client that stops reading blocks only its own writing goroutine. After a
// short while the hub lets go of everything that this goroutine holds but the
// rest of the frame that was cut; when the client reads again, its subscription
// continues from the journal. There is no time limit: a subscriber may pause for
// as long as the retention of the journal covers. Peers that are gone are found
// by TCP keep-alive, which listeners of net have by default (about 2.5 minutes),
// or, with unacknowledged data, when the kernel gives up (on Linux about 15
// minutes).
//
// Loss is never silent. If retention has removed events that a subscription was
// due, whatever its format, it is closed with [StatusGap] and a reason that says
// how many events of the journal are missing and from which position the client
// can go on.
//
// A filter may ask for fields that plugins extract. They are extracted once per batch, for all
// groups and fields together, and only when an event that a group may see depends on one. While
// a plugin cannot be asked, the subscriptions that need it wait, for a minute.
// What cannot be extracted, because a plugin does not run or does not answer, counts as a field
// without a value, and is counted: subscriptions do not wait for plugins.
//
// # Rights
//
// Rights end at once, not after what is on its way. [Hub.Invalidate] takes back
// what was selected by answers that hold no longer, and [Subscription.Revoke] ends
// a subscription; when they return, all that can still follow is the rest of a
// frame that was sent in part, or the piece that TLS is sending. Neither waits for
// a client: a write that is under way is interrupted. What is revoked in thousands is closed a few at a time, so
// that those who stay do not notice.
//
// # What it does not
//
// It does not authenticate, parse requests or answer handshakes (package api
// does), it stores nothing, and it remembers nothing of a subscription that has
// ended: the client does, with the sequence of the last event that it has seen.
package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// StatusGap is the close code, of the range for private use, with which a
// subscription ends when events due to it are no longer in the journal.
const StatusGap = 4410

const (
	// DefaultMaxSubscriptions is Options.MaxSubscriptions if not set.
	DefaultMaxSubscriptions = 20_000
	// DefaultMemoryBytes is Options.MemoryBytes if not set.
	DefaultMemoryBytes = 64 << 20
	// DefaultPingInterval is Options.PingInterval if not set; Vault's is the same.
	DefaultPingInterval = 30 * time.Second

	// tickInterval is how often the hub looks after its subscriptions.
	tickInterval = 250 * time.Millisecond
	// stallTicks is how many ticks a write may take before the peer counts as one
	// that does not read.
	stallTicks = 3
	// idleTicks is how many ticks batches stay in memory after their last use.
	idleTicks = 12
	// closeTimeout bounds each half of the closing handshake.
	closeTimeout = 5 * time.Second
	// shutdownTimeout bounds the closing of all subscriptions together when the hub
	// ends. Those who read answer at once.
	shutdownTimeout = 2 * time.Second
)

var (
	// ErrTooMany means that the maximum number of subscriptions is reached.
	ErrTooMany = errors.New("too many subscriptions")
	// ErrClosed means that the hub is shutting down.
	ErrClosed = errors.New("hub is shutting down")
)

// Options configure a Hub.
type Options struct {
	// Journal is required.
	Journal Journal
	// MaxSubscriptions bounds how many subscriptions are open at once.
	MaxSubscriptions int
	// MemoryBytes bounds the events and frames kept in memory for subscriptions
	// that are working on them. Beyond it comes what is being written at the
	// moment to those that have fallen behind, and at most one frame for each
	// client that does not read.
	MemoryBytes int64
	// PingInterval is the time between two pings to a client; an answer is not
	// waited for.
	PingInterval time.Duration
	// Fields extracts fields of plugins for filters that ask for them; nil: such
	// filters are refused.
	Fields *fields.Registry
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
	// Metrics has the common counters; Registry, if not nil, gets the hub's own.
	Metrics  *metrics.Metrics
	Registry prometheus.Registerer
}

// Request is what a client subscribes to.
type Request struct {
	Selection
	Format Format
	// Sequence adds the position of each event to its message, in formats that
	// have a place for it.
	Sequence bool
	// After is the position after which the subscription begins; [Hub.End] for
	// new events only, the zero Position for all that there are.
	After journal.Position
	// NoFollow has the subscription end, with the close code 1000, when everything was
	// delivered that the journal had when it was opened.
	NoFollow bool
	// Allow says whether the client may see an event; required. It is called
	// concurrently and must give the same answer for all requests with an equal
	// AccessKey, which must be comparable. Answers are kept; when they change,
	// [Hub.Invalidate] says so.
	Allow     func(*event.Event) bool
	AccessKey any
	// Ended, if not nil, is called once when the subscription is over and the hub
	// has forgotten it, also one that was cancelled, with how many events were
	// written to the connection and why it ended: the reason given to Revoke, or
	// "cancelled", "client closed", "client broke the protocol", "connection lost",
	// "complete", "gap", "fields cannot be extracted", "journal closed" or "shutdown". The hub holds no lock; Shutdown waits
	// for the call, except after Cancel. It must not block.
	Ended func(delivered uint64, reason string)
}

// Hub has the open subscriptions. It is safe for concurrent use.
type Hub struct {
	log          *slog.Logger
	metrics      *hubMetrics
	store        *store
	max          int
	tick         time.Duration // tickInterval, shorter in tests
	closeTimeout time.Duration // closeTimeout, shorter in tests
	pingInterval uint64        // ticks
	now          atomic.Uint64 // tick, never 0
	exits        exits

	fieldsPause    time.Duration // fieldsPause, shorter in tests
	fieldsPatience time.Duration // fieldsPatience, shorter in tests

	fields *fields.Registry
	asking context.Context // ends when plugins need not be waited for any more
	hushed context.CancelFunc

	// tasks has all goroutines of the hub. Those of subscriptions start only
	// while the goroutine that serves the subscription is counted.
	tasks sync.WaitGroup

	mu      sync.Mutex
	members []*Subscription
	groups  map[groupKey]*group
	access  map[any]map[*group]struct{} // the groups of each AccessKey
	closed  bool
	empty   chan struct{} // closed when closed is set and there are no members
}

// New returns a Hub without subscriptions. It starts nothing before the first
// subscription, and has no goroutines after the last.
func New(o Options) *Hub {
	if o.MaxSubscriptions <= 0 {
		o.MaxSubscriptions = DefaultMaxSubscriptions
	}
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = DefaultMemoryBytes
	}
	if o.PingInterval <= 0 {
		o.PingInterval = DefaultPingInterval
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New(nil)
	}
	h := &Hub{
		log:          o.Logger,
		metrics:      newHubMetrics(o.Metrics, o.Registry),
		max:          o.MaxSubscriptions,
		tick:         tickInterval,
		closeTimeout: closeTimeout,
		pingInterval: max(1, uint64(o.PingInterval/tickInterval)),
		groups:       make(map[groupKey]*group),
		access:       make(map[any]map[*group]struct{}),
		empty:        make(chan struct{}),
		fields:       o.Fields,

		fieldsPause:    fieldsPause,
		fieldsPatience: fieldsPatience,
	}
	h.asking, h.hushed = context.WithCancel(context.Background())
	h.now.Store(1)
	h.store = newStore(o.Journal, o.MemoryBytes, h.log, h.metrics, &h.tasks)
	return h
}

// End returns the position after which new events will be.
func (h *Hub) End() journal.Position { return h.store.journal.End() }

// Subscriptions returns how many subscriptions are open.
func (h *Hub) Subscriptions() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.members)
}

// Subscribe opens a subscription. It ends by [Subscription.Cancel] or, after
// [Subscription.Serve], with its connection. The error is [ErrTooMany],
// [ErrClosed], or wraps [ErrSelection].
func (h *Hub) Subscribe(r Request) (*Subscription, error) {
	if err := r.Selection.check(); err != nil {
		return nil, err
	}
	if r.Allow == nil {
		return nil, errors.New("hub: request without Allow")
	}
	if h.fields == nil && len(r.Filter.Fields()) > 0 {
		return nil, errors.New("hub: fields of plugins cannot be extracted")
	}
	key := groupKey{r.Selection.key(), encoding{r.Format, r.Sequence && r.Format != Protobuf}, r.AccessKey, r.NoFollow}
	after, end := recordEndIfLast(r.After, h.End())
	if after.Compare(end) > 0 {
		after = end
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		h.metrics.Refused("closed").Inc()
		return nil, ErrClosed
	case len(h.members) >= h.max:
		h.metrics.Refused("too many").Inc()
		return nil, fmt.Errorf("%w: %d are open, which is the limit", ErrTooMany, h.max)
	}
	g := h.groups[key]
	if g == nil {
		g = &group{hub: h, key: key, matcher: newMatcher(r.Selection, r.Allow), encoding: key.encoding}
		if names := r.Filter.Fields(); len(names) > 0 {
			use, err := h.fields.Use(names...)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrSelection, err)
			}
			g.fields = use
		}
		h.addGroup(g)
	}
	s := &Subscription{hub: h, group: g, begin: after, noFollow: r.NoFollow, until: end, onEnded: r.Ended, index: len(h.members), member: len(g.members),
		pingDue: h.now.Load() + h.pingInterval, flushed: make(chan struct{})}
	g.members = append(g.members, s)
	s.link.member = s
	s.ordinal.Store(nextOrdinal(after))
	if len(h.members) == 0 {
		ctx := h.store.start()
		h.tasks.Go(func() { h.look(ctx) })
	}
	h.members = append(h.members, s)
	h.metrics.subscriptions.Inc()
	return s, nil
}

// recordEndIfLast returns both positions normalised. A client that resumes after
// the last event of the journal is so recognised as standing at its end.
func recordEndIfLast(after, end journal.Position) (a, e journal.Position) {
	e = recordEnd(end)
	if after.Seq == end.Seq && after.Ordinal == end.Ordinal {
		return e, e
	}
	return after, e
}

func nextOrdinal(after journal.Position) uint64 {
	if after.IsZero() {
		return 0
	}
	return after.Ordinal + 1
}

// addGroup makes a group known. mu is held.
func (h *Hub) addGroup(g *group) {
	h.groups[g.key] = g
	same := h.access[g.key.access]
	if same == nil {
		same = make(map[*group]struct{})
		h.access[g.key.access] = same
	}
	same[g] = struct{}{}
	h.metrics.groups.Inc()
}

// removeGroup forgets a group. mu is held.
func (h *Hub) removeGroup(g *group) {
	delete(h.groups, g.key)
	if g.fields != nil {
		g.fields.Release()
	}
	same := h.access[g.key.access]
	if delete(same, g); len(same) == 0 {
		delete(h.access, g.key.access)
	}
	h.metrics.groups.Dec()
}

// remove forgets a subscription whose connection is closed, and returns false if
// it was forgotten before.
func (h *Hub) remove(s *Subscription) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.index < 0 {
		return false
	}
	last := len(h.members) - 1
	h.members[s.index] = h.members[last]
	h.members[s.index].index = s.index
	h.members[last] = nil
	h.members = h.members[:last]
	s.index = -1
	h.metrics.subscriptions.Dec()
	if s.group.remove(s); len(s.group.members) == 0 {
		h.removeGroup(s.group)
	}
	if last == 0 {
		h.members = nil
		h.metrics.LagEvents.Set(0)
		h.metrics.LagSeconds.Set(0)
		h.store.stop()
		if h.closed {
			close(h.empty)
		}
	}
	return true
}

// Shutdown closes every subscription with code 1001 and the reason "server is
// shutting down", refuses new ones, and waits for all to end. Clients that have
// not answered after two seconds, because they do not read, are cut: they can
// resume as after any other loss of their connection. If ctx is done earlier, all
// that are left are cut at once and the error is that of ctx. Afterwards the hub
// has no goroutines.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	first := !h.closed
	h.closed = true
	if first && len(h.members) == 0 {
		close(h.empty)
	}
	members := slices.Clone(h.members)
	h.mu.Unlock()
	for _, s := range members {
		s.finish(websocket.AppendClose(nil, websocket.StatusGoingAway, "server is shutting down"), "shutdown")
	}
	h.hushed() // nothing is written any more that is chosen from now on
	patience := time.NewTimer(shutdownTimeout)
	defer patience.Stop()
	var err error
	select {
	case <-h.empty:
	case <-patience.C:
		h.log.Info("cutting subscribers that did not close their connections", "count", h.Subscriptions())
	case <-ctx.Done():
		err = fmt.Errorf("close subscriptions: %w", ctx.Err())
	}
	for _, s := range members {
		s.abort()
	}
	<-h.empty
	h.tasks.Wait()
	return err
}

// look is the hub's only clock: it sends pings, finds peers that do not read,
// lets the store forget, and measures the lag.
func (h *Hub) look(ctx context.Context) {
	ticker := time.NewTicker(h.tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := h.now.Add(1)
		h.store.tick(idleTicks)
		var ping, stalled []*Subscription
		var oldest, mostEvents uint64
		end := nextOrdinal(h.End())
		h.mu.Lock()
		for _, s := range h.members {
			if now >= s.pingDue {
				s.pingDue = now + h.pingInterval
				ping = append(ping, s)
			}
			if s.stuck(now) {
				stalled = append(stalled, s)
			}
			if since := s.behind.Load(); since != 0 {
				oldest = max(oldest, now-min(since, now))
				if due := s.ordinal.Load(); end > due {
					mostEvents = max(mostEvents, end-due)
				}
			}
		}
		h.mu.Unlock()
		for _, s := range ping {
			s.ping()
		}
		for _, s := range stalled {
			s.interruptIfStuck(now)
		}
		h.metrics.LagEvents.Set(float64(mostEvents))
		h.metrics.LagSeconds.Set((time.Duration(oldest) * h.tick).Seconds())
	}
}
