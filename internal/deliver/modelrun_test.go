package deliver_test

import (
	"context"
	"flag"
	"math/rand/v2"
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
