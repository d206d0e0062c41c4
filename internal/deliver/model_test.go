package deliver_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
	"github.com/tocsin-events/tocsin/internal/position"
)

// fate is what an endpoint does with an event.
type fate int

const (
	fine       fate = iota
	skipped         // not selected
	refused         // for ever
	fixable         // refused until it is redriven
	impossible      // for ever
	poisonous       // fails for ever
	flaky           // fails a few times
)

// model is an endpoint, and what is known of each event.
type model struct {
	t       *testing.T
	rng     *rand.Rand
	order   deliver.Order
	policy  deliver.Policy
	atomic  bool // a batch is taken as a whole, or not at all
	journal *delivermem.Journal
	store   *delivermem.Store

	mu          sync.Mutex
	events      []*known
	at          map[position.Position]*known
	incarnation int
	stored      position.Position // when it began
	downUntil   time.Time
	down        deliver.Outcome
	pausedAt    time.Time // zero: not paused
	fixed       bool
	calm        bool // nothing happens any more that is not the fate of an event
	goneOnce    bool
	replays     map[string]*modelReplay
}

type known struct {
	n         int
	key       int
	at        position.Position
	fate      fate
	fails     int // how often a flaky one still fails
	doubts    int // alone, in this incarnation
	mostDoubt int
	delivered []int // incarnations of live deliveries
	replayed  map[string]bool
	redriven  bool
}

type modelReplay struct {
	after, until position.Position
	cancelled    bool
}

// incarnation is the endpoint and the store as one process sees them.
type incarnation struct {
	*model
	number int
	dead   bool
}

var errCrashed = errors.New("the process is dead")

func (i *incarnation) pause(most time.Duration) {
	i.mu.Lock()
	d := time.Duration(i.rng.Int64N(int64(most) + 1))
	if i.rng.IntN(3) == 0 {
		d = 0
	}
	i.mu.Unlock()
	if d > 0 {
		time.Sleep(d)
	}
}

func (i *incarnation) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	begun := time.Now()
	i.mu.Lock()
	if !i.pausedAt.IsZero() && begun.After(i.pausedAt) && !i.dead {
		i.t.Errorf("sent at %v although it is paused since %v", begun, i.pausedAt)
	}
	if len(b.Items) > i.policy.MaxEvents || len(b.Items) == 0 {
		i.t.Errorf("a batch of %d", len(b.Items))
	}
	i.mu.Unlock()
	i.pause(300 * time.Millisecond)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.dead || ctx.Err() != nil {
		return deliver.Result{Outcome: deliver.Retry, Reason: "cancelled"}
	}
	if !i.calm {
		switch i.rng.IntN(60) {
		case 0:
			return deliver.Result{Outcome: deliver.Retry, Reason: "no connection"}
		case 1:
			return deliver.Result{Outcome: deliver.Retry, Status: 429, After: time.Duration(i.rng.IntN(60)) * time.Second}
		case 2:
			i.downUntil, i.down = time.Now().Add(time.Duration(i.rng.IntN(600))*time.Second), deliver.Retry
		case 3:
			if i.policy.Attempts == 0 {
				i.downUntil, i.down = time.Now().Add(time.Duration(i.rng.IntN(20))*time.Second), deliver.Doubtful
			}
		case 4:
			if !i.goneOnce {
				i.goneOnce = true
				return deliver.Result{Outcome: deliver.Gone, Status: 410}
			}
		}
	}
	if time.Now().Before(i.downUntil) {
		if i.down == deliver.Doubtful && len(b.Items) == 1 {
			i.doubt(b, 0)
		}
		return deliver.Result{Outcome: i.down, Reason: "down"}
	}
	outcomes := make([]deliver.Outcome, len(b.Items))
	worst := deliver.Delivered
	for k, item := range b.Items {
		outcomes[k] = i.outcome(i.at[item.At], b)
		worst = max(worst, outcomes[k])
	}
	if i.atomic && worst != deliver.Delivered {
		if len(b.Items) == 1 {
			if worst == deliver.Doubtful {
				i.doubt(b, 0)
			}
			i.events[i.at[b.Items[0].At].n].fails--
		}
		if worst == deliver.Doubtful && i.rng.IntN(10) == 0 {
			panic("oops")
		}
		return deliver.Result{Outcome: worst, Reason: "whole"}
	}
	decided := make(map[int]bool) // of this batch
	waits := make(map[int]bool)   // keys of which an event has to be sent again
	for k, item := range b.Items {
		e := i.at[item.At]
		key := e.key
		if i.order == deliver.All {
			key = 0
		}
		if waits[key] && i.order != deliver.None {
			b.Decide(k, deliver.Result{Outcome: deliver.Retry, Reason: "after another"})
			continue
		}
		waits[key] = outcomes[k] == deliver.Doubtful
		if outcomes[k] != deliver.Delivered {
			if outcomes[k] == deliver.Doubtful {
				i.doubt(b, k)
				e.fails--
			} else {
				decided[e.n] = true
			}
			b.Decide(k, deliver.Result{Outcome: outcomes[k], Reason: "one"})
			continue
		}
		i.deliver(e, b, decided)
		decided[e.n] = true
	}
	return deliver.Result{}
}

func (i *incarnation) doubt(b *deliver.Batch, k int) {
	e := i.at[b.Items[k].At]
	e.doubts++
	e.mostDoubt = max(e.mostDoubt, e.doubts)
}

func (i *incarnation) outcome(e *known, b *deliver.Batch) deliver.Outcome {
	switch e.fate {
	case skipped:
		i.t.Errorf("event %d is not selected", e.n)
	case refused:
		return deliver.Refused
	case fixable:
		if !b.Redriven || !i.fixed {
			return deliver.Refused
		}
	case impossible:
		return deliver.Impossible
	case poisonous:
		return deliver.Doubtful
	case flaky:
		if e.fails > 0 {
			return deliver.Doubtful
		}
	}
	return deliver.Delivered
}

// deliver checks that an event may be delivered now.
func (i *incarnation) deliver(e *known, b *deliver.Batch, decided map[int]bool) {
	switch {
	case b.Replay != "":
		e.replayed[b.Replay] = true
		return
	case b.Redriven:
		e.redriven = true
		return
	}
	for _, in := range e.delivered {
		if in == i.number {
			i.t.Errorf("event %d is delivered twice", e.n)
		} else if e.at.Compare(i.stored) <= 0 {
			i.t.Errorf("event %d is delivered again although %v was stored", e.n, i.stored)
		}
	}
	first := len(e.delivered) == 0
	e.delivered = append(e.delivered, i.number)
	if i.order == deliver.None || !first {
		return
	}
	letters := i.letters()
	for _, earlier := range i.events[:e.n] {
		if earlier.fate == skipped || i.order == deliver.ByPath && earlier.key != e.key {
			continue
		}
		if len(earlier.delivered) == 0 && !letters[earlier.at] && !earlier.redriven && !decided[earlier.n] {
			i.t.Errorf("event %d of key %d overtakes %d, whose fate is %d; replay %q", e.n, e.key, earlier.n, earlier.fate, b.Replay)
		}
	}
}

func (m *model) letters() map[position.Position]bool {
	list, err := m.store.List(context.Background(), 0, 1<<20)
	if err != nil {
		m.t.Fatal(err)
	}
	letters := make(map[position.Position]bool)
	for _, l := range list {
		if letters[l.At] {
			m.t.Errorf("two dead letters of %v", l.At)
		}
		letters[l.At] = true
	}
	return letters
}

func (m *model) letter(e *known) deliver.DeadLetter {
	list, _ := m.store.List(context.Background(), 0, 1<<20)
	for _, l := range list {
		if l.At == e.at {
			return l
		}
	}
	return deliver.DeadLetter{}
}

func (i *incarnation) Close() error { return nil }

// The store.

func (i *incarnation) Load(ctx context.Context) (deliver.State, bool, error) {
	return i.store.Load(ctx)
}

func (i *incarnation) Save(ctx context.Context, s deliver.State) error {
	i.pause(20 * time.Millisecond)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.mayFail(); err != nil {
		return err
	}
	letters := i.letters()
	for _, e := range i.events {
		if e.fate != skipped && e.at.Compare(s.Through) <= 0 && len(e.delivered) == 0 && !letters[e.at] && !e.redriven {
			i.t.Errorf("%v is stored, event %d at %v is not decided", s.Through, e.n, e.at)
		}
	}
	return i.store.Save(ctx, s)
}

func (i *incarnation) mayFail() error {
	if i.dead {
		return errCrashed
	}
	if !i.calm && i.rng.IntN(40) == 0 {
		return errors.New("the disk does not answer")
	}
	return nil
}

func (i *incarnation) Add(ctx context.Context, letters []deliver.DeadLetter) error {
	i.pause(20 * time.Millisecond)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.mayFail(); err != nil {
		return err
	}
	if !i.calm && i.rng.IntN(20) == 0 {
		return fmt.Errorf("%w: today", deliver.ErrFull)
	}
	for _, l := range letters {
		e := i.at[l.At]
		if l.Event == nil || number(l.Event) != e.n {
			i.t.Errorf("the dead letter of %d has event %v", e.n, l.Event)
		}
		cause := deliver.CauseFailed
		if e.fate == refused || e.fate == fixable {
			cause = deliver.CauseRefused
		}
		if l.Cause != cause || l.Attempts == 0 || l.First.IsZero() || l.Last.Before(l.First) {
			i.t.Errorf("the dead letter of %d: %+v", e.n, l)
		}
	}
	return i.store.Add(ctx, letters)
}

func (i *incarnation) List(ctx context.Context, after uint64, limit int) ([]deliver.DeadLetter, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.mayFail(); err != nil {
		return nil, err
	}
	return i.store.List(ctx, after, limit)
}

func (i *incarnation) Get(ctx context.Context, id uint64) (deliver.DeadLetter, error) {
	return i.store.Get(ctx, id)
}

func (i *incarnation) Remove(ctx context.Context, ids ...uint64) error {
	i.pause(20 * time.Millisecond)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.mayFail(); err != nil {
		return err
	}
	return i.store.Remove(ctx, ids...)
}

func (i *incarnation) Purge(ctx context.Context, through uint64) (uint64, error) {
	return i.store.Purge(ctx, through)
}

func (i *incarnation) Count(ctx context.Context) (uint64, uint64, error) { return i.store.Count(ctx) }

// append appends a record of random events.
func (m *model) append() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var record []*event.Event
	var news []*known
	for range 1 + m.rng.IntN(12) {
		e := &known{n: len(m.events), key: m.rng.IntN(5), replayed: make(map[string]bool)}
		switch r := m.rng.IntN(100); {
		case r < 15:
			e.fate = skipped
		case r < 18:
			e.fate = refused
		case r < 21:
			e.fate = fixable
		case r < 22:
			e.fate = impossible
		case r < 24:
			e.fate = poisonous
		case r < 28:
			e.fate, e.fails = flaky, 1+m.rng.IntN(2)
		}
		v := testEvent(e.n, fmt.Sprint("key/", e.key))
		if e.fate == skipped {
			v.Type = "skip"
		}
		m.events, record, news = append(m.events, e), append(record, v), append(news, e)
	}
	last := m.journal.Append(record...)
	for k, e := range news {
		e.at = last
		e.at.Index -= uint32(len(news) - 1 - k)
		e.at.Ordinal -= uint64(len(news) - 1 - k)
		m.at[e.at] = e
	}
}
