package deliver

import (
	"math/rand/v2"
	"time"
)

// From is where a delivery begins that has no place in the journal yet.
type From string

// The places where a delivery can begin.
const (
	FromStart From = "start" // the oldest event in the journal
	FromEnd   From = "end"   // what comes from now on
)

// Order is what keeps its order.
type Order uint8

// The orders.
const (
	// ByPath: events of the same namespace and path reach the sink in their order, whatever
	// has to be sent again. Others overtake them.
	ByPath Order = iota
	// All events are in order: one batch is on its way at a time.
	All
	// None: events are sent when there is somebody to send them.
	None
)

// Defaults of a [Policy].
const (
	DefaultMaxEvents   = 500
	DefaultMaxBytes    = 1 << 20
	DefaultTimeout     = 20 * time.Second
	DefaultStopTimeout = 3 * time.Second
	DefaultAttempts    = 100 // of Options.AttemptsKept
)

// DefaultBackoff is the pause between attempts.
var DefaultBackoff = Backoff{First: time.Second, Most: 5 * time.Minute}

// Policy says how a delivery sends. The zero value has the defaults, and no limits.
type Policy struct {
	Order Order
	// Concurrency is how many batches are on their way at the same time; default 1, and
	// always 1 with the order All.
	Concurrency int
	// A batch has at most MaxEvents events, and not much more than MaxBytes.
	MaxEvents int
	MaxBytes  int
	// MaxDelay is how long an event waits for others to fill a batch; 0: not at all, so that
	// batches are what came while others were sent.
	MaxDelay time.Duration
	// Backoff is the pause after failures.
	Backoff Backoff
	// Attempts is how often the sink may fail with an event ([Doubtful]) before that becomes a
	// dead letter. Only attempts with this event alone count. 0: no limit, but an event that
	// fails again and again while others are delivered is given up after ten attempts.
	Attempts int
	// GiveUp is for how long the sink may fail with an event, from the first attempt that
	// counts, and for how long Options.Choose may fail; 0: for ever.
	GiveUp time.Duration
	// MaxAge is how old an event may be when it is its turn. Older ones become dead letters;
	// 0: no limit. It is not for replays and redrives.
	MaxAge time.Duration
	Rate   Rate
	// Timeout bounds one call of [Sink.Send].
	Timeout time.Duration
	// StopTimeout bounds how long what is on its way is waited for at the end.
	StopTimeout time.Duration
	Window      Window
}

// Rate bounds how much is sent: in any time of Per at most so many events are handed to the
// sink, those that are sent again too. The zero value is no limit.
type Rate struct {
	Events int
	Per    time.Duration // default one second
}

// Window bounds what a delivery has in memory: how far it reads ahead of the oldest event
// that is not delivered. One record of the journal may exceed it. Defaults follow from the
// sizes of batches and Concurrency.
type Window struct {
	Events int
	Bytes  int
}

func (p Policy) withDefaults() Policy {
	if p.Order == All || p.Concurrency <= 0 {
		p.Concurrency = 1
	}
	if p.MaxEvents <= 0 {
		p.MaxEvents = DefaultMaxEvents
	}
	if p.MaxBytes <= 0 {
		p.MaxBytes = DefaultMaxBytes
	}
	if p.Backoff.First <= 0 {
		p.Backoff.First = DefaultBackoff.First
	}
	if p.Backoff.Most <= 0 {
		p.Backoff.Most = max(DefaultBackoff.Most, p.Backoff.First)
	}
	if p.Timeout <= 0 {
		p.Timeout = DefaultTimeout
	}
	if p.StopTimeout <= 0 {
		p.StopTimeout = DefaultStopTimeout
	}
	if p.Rate.Events > 0 && p.Rate.Per <= 0 {
		p.Rate.Per = time.Second
	}
	// Batches need twice what the journal reads at once, so that it reads on while they are sent.
	events, bytes := 2000, 4<<20
	if p.MaxEvents > 1 {
		events = min(max(2*p.Concurrency*p.MaxEvents, 10_000), 200_000)
		bytes = min(max(2*p.Concurrency*p.MaxBytes, 8<<20), 64<<20)
	} else {
		events = max(2*p.Concurrency, events)
	}
	if p.Window.Events <= 0 {
		p.Window.Events = events
	}
	if p.Window.Bytes <= 0 {
		p.Window.Bytes = bytes
	}
	return p
}

// Backoff is how long to wait after failures: after the nth in a row a random time between
// 0 and First doubled n-1 times, but at most Most.
type Backoff struct{ First, Most time.Duration }

// wait draws the pause after failure n, from 1.
func (b Backoff) wait(n int) time.Duration {
	limit := b.Most
	if n := n - 1; n < 32 && b.First<<n < b.Most && b.First<<n > 0 {
		limit = b.First << n
	}
	return rand.N(limit + 1)
}
