package trace

import (
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/list"
	"github.com/tocsin-events/tocsin/internal/position"
)

// requestKey tells requests apart: the source, as a hash whose seed nobody knows, and the
// request id, as its bytes or a hash.
type requestKey struct {
	source uint64
	id     [16]byte
}

// openRequest is a request of which one entry was seen.
type openRequest struct {
	key      requestKey
	unique   bool                    // no other request has the key
	place    list.Links[openRequest] // in the order of opened
	opened   position.Position
	clock    time.Duration // of the tracer, when it was opened
	at       time.Time     // of the entry
	source   string
	auditID  string
	response bool // the entry is a response
	imported bool // it is of an old log
	listed   bool // it is still open
	repeated bool // its span was given out before a restart

	// The entry: as in the journal until the batch ends, then packed. An entry that is
	// not at hand has neither.
	raw    []byte
	packed []byte
	// event is what is left of the event of an entry whose data is not at hand.
	event *event.Event
	// derived are the ids of events that followed a response.
	derived []string
	memory  int64
}

// openMemory is what an open request takes beside its packed entry: itself, its place in
// the table, and the slack of the allocator.
const openMemory = 400

// Which entries of a request were seen.
const (
	sawRequest = 1 << iota
	sawResponse
)

// recent remembers for a while which requests were closed, so that repeated entries are
// recognised. It forgets by generations.
type recent struct {
	young, old map[requestKey]uint8
	since      time.Duration
}

// maxRecent is how many requests a generation has at most: about 6 MB.
const maxRecent = 100_000

func (r *recent) get(k requestKey) uint8 {
	if seen, ok := r.young[k]; ok {
		return seen
	}
	return r.old[k]
}

func (r *recent) add(k requestKey, seen uint8, now, window time.Duration) {
	if len(r.young) >= maxRecent || now-r.since >= window {
		r.old, r.young = r.young, make(map[requestKey]uint8, len(r.young)/2)
		r.since = now
	}
	if r.young == nil {
		r.young = make(map[requestKey]uint8)
	}
	r.young[k] = r.get(k) | seen
}
