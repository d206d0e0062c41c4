package deliver_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
	"github.com/tocsin-events/tocsin/internal/position"
)

var (
	seeds    = flag.Int("seeds", 300, "how many random runs TestModel makes")
	oneSeed  = flag.Uint64("seed", 0, "the only one that it makes")
	firstOne = flag.Uint64("first", 1, "the first one")
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

func (i *incarnation) isDead() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.dead
}

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

// TestModel runs deliveries in which everything happens at random: outcomes, outages, stops
// and crashes at any moment, pauses, replays and redrives. Each event that is selected must
// be delivered or a dead letter in the end, in order, and again only where a crash explains it.
func TestModel(t *testing.T) {
	first, last := *firstOne, *firstOne+uint64(*seeds)-1
	if *oneSeed != 0 {
		first, last = *oneSeed, *oneSeed
	} else if testing.Short() {
		last = min(last, first+49)
	}
	for seed := first; seed <= last; seed++ {
		synctest.Test(t, func(t *testing.T) { runModel(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func runModel(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := &model{t: t, rng: rng, journal: new(delivermem.Journal), store: new(delivermem.Store), at: make(map[position.Position]*known), replays: make(map[string]*modelReplay)}
	m.order = deliver.Order(rng.IntN(3))
	m.atomic = rng.IntN(2) == 0
	m.policy = deliver.Policy{Order: m.order, Concurrency: 1 + rng.IntN(5), MaxEvents: 1 + rng.IntN(10), Backoff: deliver.Backoff{First: time.Second, Most: time.Minute}, GiveUp: 10 * time.Hour}
	if rng.IntN(2) == 0 {
		m.policy.MaxEvents = 1
	}
	if rng.IntN(2) == 0 {
		m.policy.Attempts = 4
	}
	if rng.IntN(3) == 0 {
		m.policy.MaxDelay = time.Second
	}
	if rng.IntN(3) == 0 {
		m.policy.Window = deliver.Window{Events: 1 + rng.IntN(30), Bytes: 1 + rng.IntN(10_000)}
	}
	if rng.IntN(4) == 0 {
		m.policy.Rate = deliver.Rate{Events: 1 + rng.IntN(20), Per: time.Second}
	}
	for range rng.IntN(5) {
		m.append()
	}
	m.stored = position.Position{}
	for m.incarnation = 1; m.incarnation <= 4; m.incarnation++ {
		m.live(m.incarnation == 4)
		if t.Failed() {
			return
		}
	}
}

// live is one incarnation.
func (m *model) live(last bool) {
	t := m.t
	i := &incarnation{model: m, number: m.incarnation}
	m.mu.Lock()
	s, _, _ := m.store.Load(t.Context())
	m.stored = s.Through
	for _, e := range m.events {
		e.doubts = 0
	}
	m.mu.Unlock()
	d := deliver.New(deliver.Options{Name: "model", Sink: i, Journal: m.journal, Store: i, From: deliver.FromStart, Policy: m.policy,
		Match: func(e *event.Event) bool { return e.Type != "skip" }})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	for range 5 + m.intn(20) {
		m.act(d)
		if m.intn(2) == 0 {
			time.Sleep(time.Duration(m.intn(int(3 * time.Second))))
		}
	}
	if last {
		m.finish(d)
	}
	if !last && m.intn(2) == 0 { // killed
		m.mu.Lock()
		i.dead = true
		m.mu.Unlock()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	m.mu.Lock()
	i.dead = true
	m.pausedAt = time.Time{} // the next one finds it in the store
	if s, _, _ := m.store.Load(t.Context()); s.Held.By == deliver.HeldPaused {
		m.pausedAt = time.Now()
	}
	m.mu.Unlock()
}

func (m *model) intn(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rng.IntN(n)
}

// act does something at random.
func (m *model) act(d *deliver.Delivery) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
	defer cancel()
	switch r := m.intn(20); r {
	case 0:
		if d.Pause(ctx, "for a while") == nil {
			m.mu.Lock()
			m.pausedAt = time.Now()
			m.mu.Unlock()
		}
	case 1, 2:
		m.resume(ctx, d)
	case 3:
		d.Status()
		d.Attempts()
		d.Health()
	case 4:
		after, until := m.someRange()
		if id, err := d.Replay(ctx, after, until); err == nil {
			m.mu.Lock()
			m.replays[id] = &modelReplay{after: after, until: until}
			m.mu.Unlock()
		}
	case 5:
		m.mu.Lock()
		for id, r := range m.replays {
			m.mu.Unlock()
			err := d.CancelReplay(ctx, id)
			m.mu.Lock()
			if err == nil {
				r.cancelled = true
			}
			break
		}
		m.mu.Unlock()
	case 6:
		d.Redrive(ctx, deliver.Letters{})
	case 7:
		d.Redrive(ctx, deliver.Letters{First: uint64(m.intn(5)), Last: uint64(m.intn(20))})
	default:
		m.append()
	}
}

func (m *model) resume(ctx context.Context, d *deliver.Delivery) error {
	m.mu.Lock()
	was := m.pausedAt
	m.pausedAt = time.Time{} // when it fails nobody knows
	m.mu.Unlock()
	err := d.Resume(ctx)
	if err != nil {
		m.mu.Lock()
		m.pausedAt = was
		m.mu.Unlock()
	}
	return err
}

func (m *model) someRange() (after, until position.Position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.events); n > 0 {
		a, b := m.rng.IntN(n), m.rng.IntN(n)
		after, until = m.events[min(a, b)].at, m.events[max(a, b)].at
		if m.rng.IntN(4) == 0 {
			after = position.Position{}
		}
	}
	return after, until
}

// finish lets everything come to its end, and checks what that is.
func (m *model) finish(d *deliver.Delivery) {
	t := m.t
	ctx, cancel := context.WithTimeout(t.Context(), 2000*time.Hour)
	defer cancel()
	m.mu.Lock()
	m.calm, m.downUntil = true, time.Time{}
	m.mu.Unlock()
	for m.resume(ctx, d) != nil {
		time.Sleep(time.Second)
	}
	if err := d.Flush(ctx); err != nil {
		t.Fatalf("not everything is delivered: %v; %+v; health %v", err, d.Status(), d.Health())
	}
	m.settle(d)
	m.mu.Lock()
	letters := m.letters()
	m.fixed = true
	m.mu.Unlock()
	for _, e := range m.events {
		mayBe := e.fate == refused || e.fate == fixable || e.fate == impossible || e.fate == poisonous
		lost := mayBe && e.mostDoubt == 0 || e.fate == poisonous
		limit := m.policy.Attempts
		if limit == 0 {
			limit = 10
		}
		switch {
		case e.fate == skipped && letters[e.at]:
			t.Errorf("event %d is a dead letter but not selected", e.n)
		case letters[e.at] && !mayBe && e.mostDoubt < limit:
			t.Errorf("event %d is a dead letter, its fate is %d, %d doubts: %+v", e.n, e.fate, e.mostDoubt, m.letter(e))
		case lost && !letters[e.at]:
			t.Errorf("event %d is no dead letter, its fate is %d", e.n, e.fate)
		case e.fate != skipped && len(e.delivered) == 0 && !letters[e.at] && !e.redriven:
			t.Errorf("event %d is lost", e.n)
		}
	}
	for id, r := range m.replays {
		for _, e := range m.events {
			if r.cancelled || e.fate == skipped || letters[e.at] || e.at.Compare(r.after) <= 0 || e.at.Compare(r.until) > 0 {
				continue
			}
			if !e.replayed[id] {
				t.Errorf("event %d was not replayed by %s", e.n, id)
			}
		}
	}
	if _, n, err := d.Redrive(ctx, deliver.Letters{}); err != nil || n != uint64(len(letters)) {
		t.Errorf("redrive of %d of %d dead letters: %v", n, len(letters), err)
	}
	m.settle(d)
	letters = m.letters()
	for _, e := range m.events {
		if e.fate == fixable && (letters[e.at] || !e.redriven) {
			t.Errorf("event %d was fixed and redriven, and is still a dead letter", e.n)
		}
		if (e.fate == refused || e.fate == poisonous || e.fate == impossible) && !letters[e.at] {
			t.Errorf("event %d is no dead letter after it was redriven in vain", e.n)
		}
	}
	s := d.Status()
	if s.LagEvents != 0 || s.Waiting != 0 || s.InFlight != 0 || s.Sending != 0 || s.Condition != deliver.Running && s.Condition != deliver.Failing {
		t.Errorf("in the end: %+v", s)
	}
}

// settle waits until no replay and no redrive is under way.
func (m *model) settle(d *deliver.Delivery) {
	for range 1_000_000 {
		busy := false
		s := d.Status()
		for _, r := range s.Replays {
			busy = busy || !r.Done
		}
		for _, r := range s.Redrives {
			busy = busy || !r.Done
		}
		if !busy {
			return
		}
		time.Sleep(time.Minute)
	}
	m.t.Fatalf("a replay or redrive does not end: %+v", d.Status())
}
