package manager

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/store"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/position"
)

// letters returns where the dead letters of a sink are, also of a removed one that has left
// some, and of one that does not run.
func (m *Manager) letters(ctx context.Context, name string) (*store.Store, error) {
	s, err := m.find(name)
	if err == nil {
		return s.store, nil
	}
	if _, left := m.left(ctx, name); left {
		return store.New(store.Options{Journal: m.o.Journal, Sink: name}), nil
	}
	return nil, err
}

func letterError(err error) error {
	broken := (*store.LetterError)(nil)
	if err == nil || errors.Is(err, deliver.ErrNoLetter) || errors.As(err, &broken) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Letters returns up to limit dead letters with ids after after, in order; see
// [store.Store.List]. The error wraps [ErrNoSink], or is a [*store.LetterError].
func (m *Manager) Letters(ctx context.Context, name string, after uint64, limit int) ([]deliver.DeadLetter, error) {
	st, err := m.letters(ctx, name)
	if err != nil {
		return nil, err
	}
	list, err := st.List(ctx, after, limit)
	return list, letterError(err)
}

// Letter returns one dead letter. The error wraps [ErrNoSink] or [deliver.ErrNoLetter], or
// is a [*store.LetterError].
func (m *Manager) Letter(ctx context.Context, name string, id uint64) (deliver.DeadLetter, error) {
	st, err := m.letters(ctx, name)
	if err != nil {
		return deliver.DeadLetter{}, err
	}
	l, err := st.Get(ctx, id)
	return l, letterError(err)
}

// Count returns how many dead letters a sink has, and their bytes.
func (m *Manager) Count(ctx context.Context, name string) (letters, bytes uint64, err error) {
	st, err := m.letters(ctx, name)
	if err != nil {
		return 0, 0, err
	}
	letters, bytes, err = st.Count(ctx)
	return letters, bytes, letterError(err)
}

// Purge removes dead letters for good, and returns how many: those with these ids, or,
// without any, all up to the id through. The events are not sent any more.
func (m *Manager) Purge(ctx context.Context, name string, ids []uint64, through uint64) (uint64, error) {
	st, err := m.letters(ctx, name)
	if err != nil {
		return 0, err
	}
	if s, err := m.runs(name); err == nil {
		defer s.delivery.LettersRemoved()
	}
	if len(ids) == 0 {
		n, err := st.Purge(ctx, through)
		return n, letterError(err)
	}
	before, _, err := st.Count(ctx)
	if err != nil {
		return 0, letterError(err)
	}
	var removed uint64
	for _, id := range ids {
		_, err := st.Get(ctx, id)
		if errors.Is(err, deliver.ErrNoLetter) {
			continue
		}
		if broken := (*store.LetterError)(nil); err != nil && !errors.As(err, &broken) {
			return removed, letterError(err)
		}
		if err := st.Remove(ctx, id); err != nil {
			return removed, letterError(err)
		}
		removed++
	}
	return min(removed, before), nil
}

// AllLetters is the id up to which all dead letters are.
const AllLetters = math.MaxUint64

// Redrive sends dead letters once more. See [deliver.Delivery.Redrive].
func (m *Manager) Redrive(ctx context.Context, name string, which deliver.Letters) (id string, letters uint64, err error) {
	s, err := m.runs(name)
	if err != nil {
		return "", 0, err
	}
	id, letters, err = s.delivery.Redrive(ctx, which)
	return id, letters, replayError(err)
}

// Range is a part of the journal: what comes after After, up to Until.
type Range struct{ After, Until position.Position }

// Replay sends once more what the journal has from since until a later place, both as
// [journal.Journal.Since] takes them; an empty until is the end of the journal as it is now.
// An event that until names is the last one that is sent. The error wraps [ErrRange],
// [journal.ErrBadSince], [journal.ErrNotFound] or [deliver.ErrBusy].
func (m *Manager) Replay(ctx context.Context, name, since, until string) (id string, r Range, err error) {
	s, err := m.runs(name)
	if err != nil {
		return "", Range{}, err
	}
	now := time.Now()
	if r.After, err = m.since(ctx, since, now); err != nil {
		return "", Range{}, fmt.Errorf("since: %w", err)
	}
	r.Until = m.journal.End()
	if until != "" {
		if r.Until, err = m.since(ctx, until, now); err != nil {
			return "", Range{}, fmt.Errorf("until: %w", err)
		}
	}
	if r.Until.Compare(r.After) <= 0 {
		return "", Range{}, fmt.Errorf("%w: the journal has no events from since until there", ErrRange)
	}
	id, err = s.delivery.Replay(ctx, r.After, r.Until)
	return id, r, replayError(err)
}

func (m *Manager) since(ctx context.Context, text string, now time.Time) (position.Position, error) {
	p, err := m.o.Journal.Since(ctx, text, now)
	if err != nil && !errors.Is(err, journal.ErrBadSince) && !errors.Is(err, journal.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return p, err
}

// CancelReplay ends a replay or a redrive. The error wraps [deliver.ErrNoReplay].
func (m *Manager) CancelReplay(ctx context.Context, name, id string) error {
	s, err := m.runs(name)
	if err != nil {
		return err
	}
	err = s.delivery.CancelReplay(ctx, id)
	if errors.Is(err, deliver.ErrNoReplay) {
		err = s.delivery.CancelRedrive(ctx, id)
	}
	return replayError(err)
}

func replayError(err error) error {
	broken := (*store.LetterError)(nil)
	if err == nil || errors.Is(err, deliver.ErrBusy) || errors.Is(err, deliver.ErrNoReplay) || errors.Is(err, deliver.ErrNoLetter) {
		return err
	}
	if errors.As(err, &broken) {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return holdError(err)
}
