package fliptaudit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
)

const (
	// remembered is how many bodies, and ids, are remembered, at least.
	remembered = 50_000
	// lookBack is how far before a start the journal is read: longer than a Flipt
	// server repeats one request.
	lookBack = 15 * time.Minute
	// maxDoubts bounds how many equal events are found in the journal after a restart.
	maxDoubts = 10_000
	// storeTimeout bounds how long an event waits for the disk.
	storeTimeout = 30 * time.Second
)

// Receipt is an event that was taken in and waits for its answer to be written.
// [Receipt.Done] must be called.
type Receipt struct {
	// Type is that of the event.
	Type string
	// Quarantined is why the body is no event of Flipt, nil when it is one.
	Quarantined error
	// Repeat says that the event was stored with an earlier request.
	Repeat bool

	source *Source
	key    [sha256.Size]byte
	of     *occurrence
	n      int
}

// TypeOf returns the type of the event that a body will become.
func TypeOf(body []byte) string {
	d := read(body, false)
	return d.Type()
}

// Receive takes the body of a webhook in and returns when it is durable. Whatever it is, it is stored:
// what is no event of Flipt becomes one of the type flipt/quarantined. body is kept. The error is that
// of the journal; the same body may then be sent again.
//
// Requests with equal bodies are served one after the other.
func (s *Source) Receive(ctx context.Context, body []byte) (*Receipt, error) {
	d := read(body, false)
	s.counts.Received.Inc()
	if err := s.repeats.load(ctx, s); err != nil {
		return nil, err
	}
	r := &Receipt{Type: d.Type(), Quarantined: d.why, source: s, key: sha256.Sum256([]byte(d.key))}
	var err error
	if r.of, err = s.repeats.take(ctx, r.key); err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			s.repeats.release(r.of)
		}
	}()
	origin := fliptevent.Origin{Occurrence: r.of.next}
	ev, err := s.make(ctx, &d, origin)
	if err != nil {
		return nil, err
	}
	if r.n = r.of.next; r.of.stored {
		r.Repeat, ok = true, true
		s.counts.Duplicates.Inc()
		return r, nil
	}
	// Events that the journal has from before a restart.
	for doubt := ""; s.repeats.has(ev.ID); {
		if r.n-r.of.next == maxDoubts {
			return nil, fmt.Errorf("the journal has more than %d equal events of the same second", maxDoubts)
		}
		if doubt == "" {
			doubt = ev.ID
		}
		r.n++
		origin.Occurrence = r.n
		if ev, err = s.make(ctx, &d, origin); err != nil {
			return nil, err
		}
		fliptevent.Repeats(ev, doubt)
		if s.fits(ev) != nil { // there is no room for the doubt
			ev.Metadata.Delete(fliptevent.MetadataRepeatOf)
		}
	}
	// A client that has gone repeats the request, and it must then be known what became
	// of this one.
	storing, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if _, err := s.deps.Journal.Append(storing, ev); err != nil {
		return nil, err
	}
	s.repeats.add(ev.ID)
	s.counts.Appended.Inc()
	if ev.Type == fliptevent.TypeQuarantined {
		if r.Quarantined == nil {
			r.Quarantined, r.Type = fmt.Errorf("%s", reasonOf(ev)), ev.Type
		}
		s.counts.Quarantined.Inc()
	}
	ok = true
	return r, nil
}

func reasonOf(ev *event.Event) string {
	reason, _ := ev.Metadata.Text(fliptevent.MetadataReason)
	return reason
}

// Done says whether the answer was written, and the client was still there: then it
// does not repeat the request.
func (r *Receipt) Done(answered bool) {
	if answered {
		r.of.next, r.of.stored = r.n+1, false
	} else {
		r.of.next, r.of.stored = r.n, true
	}
	r.source.repeats.release(r.of)
}

// occurrence counts equal events. It belongs to who has taken it.
type occurrence struct {
	lock   chan struct{} // has room for one
	next   int           // of the next event
	stored bool          // that one is in the journal, but was not answered
}

// repeats remembers what was received.
type repeats struct {
	loading chan struct{} // has room for who loads
	loaded  bool          // belongs to who loads

	mu           sync.Mutex
	bodies, old  map[[sha256.Size]byte]*occurrence
	ids, formers map[string]struct{}
}

func (r *repeats) init() {
	r.loading = make(chan struct{}, 1)
	r.bodies = make(map[[sha256.Size]byte]*occurrence)
	r.ids = make(map[string]struct{})
}

// load reads once what the journal has from before.
func (r *repeats) load(ctx context.Context, s *Source) error {
	select {
	case r.loading <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.loading }()
	if r.loaded {
		return nil
	}
	from, err := s.deps.Journal.Since(ctx, lookBack.String(), s.deps.Now())
	if err == nil {
		err = s.scan(ctx, from, s.deps.Journal.End(), func(e *event.Event) error {
			r.add(e.ID)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("read which events of %s the journal has: %w", s.config.Name, err)
	}
	r.loaded = true
	return nil
}

// take waits for and returns the occurrence of a body.
func (r *repeats) take(ctx context.Context, key [sha256.Size]byte) (*occurrence, error) {
	r.mu.Lock()
	o := r.bodies[key]
	if o == nil {
		if o = r.old[key]; o == nil {
			o = &occurrence{lock: make(chan struct{}, 1)}
		}
		if len(r.bodies) == remembered {
			r.old, r.bodies = r.bodies, make(map[[sha256.Size]byte]*occurrence)
		}
		r.bodies[key] = o
	}
	r.mu.Unlock()
	select {
	case o.lock <- struct{}{}:
		return o, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *repeats) release(o *occurrence) { <-o.lock }

func (r *repeats) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, is := r.ids[id]
	_, was := r.formers[id]
	return is || was
}

func (r *repeats) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ids) == 4*remembered {
		r.formers, r.ids = r.ids, make(map[string]struct{})
	}
	r.ids[id] = struct{}{}
}
