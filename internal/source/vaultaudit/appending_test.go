package vaultaudit

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// refusal is a pushback error as the journal returns it.
type refusal struct{ unknown bool }

func (refusal) Error() string { return "the disk is full" }

func (r refusal) Unwrap() error {
	return &journal.PushbackError{RetryAfter: time.Millisecond, Unknown: r.unknown}
}

// failed is the receipt of a unit that was accepted and then failed.
type failed struct{ error }

func (failed) Done() <-chan struct{} { return closed }

func (f failed) Wait(context.Context) (journal.Position, error) { return journal.Position{}, f.error }

// moody stands in front of a journal that fails now and then, in one of the ways
// in which a journal may.
type moody struct {
	mu     sync.Mutex
	rnd    *rand.Rand
	manner string
	stuck  bool   // it does not recover
	first  string // id of the first event that it did not take; it takes no other before
	fails  int
}

func (m *moody) submit(to *Source) func(context.Context, []*event.Event) (receipt, error) {
	real := to.submit
	return func(ctx context.Context, events []*event.Event) (receipt, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.first == "" && (m.stuck || m.rnd.IntN(8) == 0) {
			m.first = events[0].ID
		} else if m.first == events[0].ID && !m.stuck && m.rnd.IntN(2) == 0 {
			m.first = "" // recovered
		}
		if m.first == "" {
			return real(ctx, events)
		}
		m.fails++
		switch m.manner {
		case "refused":
			return nil, refusal{}
		case "failed":
			return failed{refusal{}}, nil
		default: // stored, but the answer was lost
			r, err := real(ctx, events)
			if err == nil {
				_, err = r.Wait(ctx)
			}
			if err != nil {
				return nil, err
			}
			m.first = ""
			return failed{refusal{unknown: true}}, nil
		}
	}
}

// TestPushback shows that units which the journal does not take are repeated in
// their order: nothing is lost, nothing is there twice, and health tells.
func TestPushback(t *testing.T) {
	t.Parallel()
	for _, manner := range []string{"refused", "failed", "unknown"} {
		t.Run(manner, func(t *testing.T) {
			const lines = 5000
			s := newStand(t)
			s.write(auditLines(0, lines))
			m := &moody{rnd: rand.New(rand.NewPCG(1, 2)), manner: manner, stuck: true}
			s.start(func(f *Source) { f.submit = m.submit(f) })
			s.waitFor("trouble", func() bool {
				err := s.file.Health()
				return err != nil && strings.Contains(err.Error(), "the disk is full")
			})
			m.mu.Lock()
			m.stuck = false
			m.mu.Unlock()
			s.waitFor("the end", func() bool { return s.file.Stats().Events >= eventCount(lines) })
			s.waitFor("health", func() bool { return s.file.Health() == nil })
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			checkExactlyOnce(t, s.journal, lines)
			t.Logf("%d submits failed", m.fails)
		})
	}
}

// frozen stands in front of a journal that stops in the middle of appends: it answers that
// their outcome is unknown, takes nothing for a while, and has them when it goes on.
type frozen struct {
	*journal.Journal
	mu    sync.Mutex
	down  bool
	units [][]*event.Event // on their way
}

func (j *frozen) Accepts() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.down
}

func (j *frozen) submit(to *Source) func(context.Context, []*event.Event) (receipt, error) {
	real := to.submit
	return func(ctx context.Context, events []*event.Event) (receipt, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		switch {
		case !j.down:
			return real(ctx, events)
		case len(j.units) < 2:
			j.units = append(j.units, events)
			return failed{refusal{unknown: true}}, nil
		}
		return nil, refusal{}
	}
}

func (j *frozen) goOn(tb testing.TB) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, events := range j.units {
		if _, err := j.Append(context.Background(), events...); err != nil {
			tb.Error(err)
		}
	}
	j.down = false
}

// TestFrozenJournal shows that what a journal had taken when it stopped is not appended
// again when it goes on, however often it refused that meanwhile.
func TestFrozenJournal(t *testing.T) {
	t.Parallel()
	const lines = 3000
	s := newStand(t)
	j := &frozen{Journal: s.journal}
	s.write(auditLines(0, 1000))
	s.start(func(f *Source) { f.journal, f.submit = j, j.submit(f) })
	s.waitLines(1000)
	j.mu.Lock()
	j.down = true
	j.mu.Unlock()
	s.write(auditLines(1000, lines))
	s.waitFor("refusals", func() bool {
		s.file.mu.Lock()
		defer s.file.mu.Unlock()
		return s.file.problems[stageAppend].count >= 3
	})
	j.goOn(t)
	s.waitLines(lines)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	checkExactlyOnce(t, s.journal, lines)
}

// TestSalvageRedacted shows that an entry which is kept without its metadata still
// says that its data is not what the server wrote.
func TestSalvageRedacted(t *testing.T) {
	limits := event.DefaultLimits
	limits.MaxMetadataKeys = 3
	f, err := New(Config{Name: "test", Inputs: []Input{{Name: "test", Paths: []string{"audit.log"}}}, Limits: limits}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	u := &unit{input: f.inputs[0], events: f.translator.Translate(nil, rawEntries(t)[0])}
	(&appender{Source: f}).salvage(u)
	if len(u.events) == 0 || u.events[0].Type != TypeQuarantined {
		t.Fatalf("events %+v", u.events)
	}
	if redacted, _ := u.events[0].Metadata.Text(metadataRedacted); redacted != "true" {
		t.Errorf("metadata %v", u.events[0].Metadata)
	}
}

// TestRepeatedBehindLater shows that the position stays behind all durable events
// when a unit that was repeated is in the journal behind the next one: an event that
// is taken for not noted would hide a line with the same id.
func TestRepeatedBehindLater(t *testing.T) {
	p := &progress{}
	events := make([]*event.Event, 2)
	p.note(&unit{events: events}, journal.Position{Seq: 9, Ordinal: 8})
	p.note(&unit{events: events}, journal.Position{Seq: 7, Ordinal: 4})
	if want := (journal.Position{Seq: 9, Index: 1, Ordinal: 9}); p.position != want {
		t.Errorf("position %+v, want %+v", p.position, want)
	}
}

// TestStopUnderPushback shows that Run ends although the journal takes nothing, and
// that what it had read comes with the next start.
func TestStopUnderPushback(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.config.ShutdownTimeout = 50 * time.Millisecond
	s.write(auditLines(0, 100))
	m := &moody{rnd: rand.New(rand.NewPCG(1, 2)), manner: "refused", stuck: true}
	s.start(func(f *Source) { f.submit = m.submit(f) })
	s.waitFor("trouble", func() bool { return s.file.Health() != nil })
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(allEvents(t, s.journal)); n != 0 {
		t.Fatalf("%d events in the journal", n)
	}
	s.start()
	s.waitLines(100)
	checkExactlyOnce(t, s.journal, 100)
}

func TestJournalClosed(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.write(auditLines(0, 2))
	s.start()
	s.waitLines(2)
	if err := s.journal.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.write(auditLines(2, 4))
	s.waitFor("health", func() bool { return s.file.Health() != nil })
	if err := s.stop(); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("Run returned %v", err)
	}
}
