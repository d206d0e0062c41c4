package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/position"
)

// A dead letter is one entry of the list. Its note is the text of its position, and its
// data
//
//	u8       version, 1
//	uvarint  length of the description
//	...      description, JSON of storedLetter
//	...      the event, as [journal.EncodeEvent] has it
const letterVersion = 1

// maxPageBytes is how much the letters of one List may have together; the last one may
// be beyond.
const maxPageBytes = 32 << 20

type storedLetter struct {
	At       string    `json:"at"`
	Cause    string    `json:"cause"`
	Outcome  string    `json:"outcome"`
	Attempts int       `json:"attempts,omitempty"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Status   int       `json:"status,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

// LetterError is the error of a dead letter that cannot be read. It wraps [ErrVersion] or
// [journal.ErrVersion] when another version of the program wrote it.
type LetterError = deliver.UnreadableLetter

// Add sets events aside and returns when they are durable. A letter of the same position
// is replaced by the newer one, which has a new id. The error wraps [deliver.ErrFull] when
// there is no room, then none was added; after another one some may be there, and
// are replaced when they are added again.
//
// When the process ends while a letter is being replaced, both may be there until the next
// Add.
func (s *Store) Add(ctx context.Context, letters []deliver.DeadLetter) error {
	if len(letters) == 0 {
		return nil
	}
	entries := make([]journal.ListEntry, len(letters))
	var size uint64
	for i := range letters {
		data, err := encodeLetter(&letters[i])
		if err != nil {
			return s.fail("set aside events", err)
		}
		entries[i] = journal.ListEntry{Note: letters[i].At.String(), Data: data}
		size += uint64(len(data) + entryOverhead)
	}
	s.adding.Lock()
	defer s.adding.Unlock()
	err := s.add(ctx, entries, size)
	if err != nil {
		return s.fail("set aside events", err)
	}
	return nil
}

// entryOverhead is about what an entry takes beside its data.
const entryOverhead = 160

func (s *Store) add(ctx context.Context, entries []journal.ListEntry, size uint64) error {
	info, err := s.list.Info(ctx)
	if err != nil {
		return err
	}
	if err := s.update(ctx, info); err != nil {
		return err
	}
	var freed uint64
	for i := range entries {
		if old, found, err := s.sameNote(ctx, entries[i].Note); err != nil {
			return err
		} else if found {
			freed += uint64(len(old.Data) + entryOverhead)
		}
	}
	if info.Bytes+size > s.most+freed {
		return fmt.Errorf("%w: those of %d events take %d bytes, at most %d are allowed (delivery.dead_letter_bytes); redrive some, or purge them",
			deliver.ErrFull, info.Entries, info.Bytes, s.most)
	}
	err = s.list.Add(ctx, entries)
	if errors.Is(err, journal.ErrFull) {
		err = fmt.Errorf("%w: %w", deliver.ErrFull, err)
	}
	if err != nil {
		return err // what was stored is found by the next update
	}
	for _, e := range entries {
		if err := s.insert(ctx, e); err != nil {
			s.index = index{}
			return err
		}
	}
	return nil
}

// index finds letters by their notes.
type index struct {
	ids     map[uint64]uint64 // hash of the note to id; the entry may be gone
	through uint64            // newest id that is in it
}

// hash is FNV-1a.
func hash(note string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(note) {
		h = (h ^ uint64(note[i])) * 1099511628211
	}
	return h
}

// update brings the index to what is in the list.
func (s *Store) update(ctx context.Context, info journal.ListInfo) error {
	const few = 1 << 12
	if s.index.ids == nil || s.index.through > info.Last || uint64(len(s.index.ids)) > 2*info.Entries+few {
		s.index = index{ids: make(map[uint64]uint64)} // else those that are gone would add up
	}
	if s.index.through >= info.Last {
		return nil
	}
	var entries []journal.ListEntry
	for {
		entries = entries[:0]
		err := s.list.Read(ctx, s.index.through+1, pageEntries, func(e journal.ListEntry) error {
			entries = append(entries, journal.ListEntry{ID: e.ID, Note: e.Note})
			return nil
		})
		for _, e := range entries { // also when there was no time for all: the next one goes on there
			if err := s.insert(ctx, e); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			s.index.through = max(s.index.through, info.Last) // which may have been removed
			return nil
		}
	}
}

// pageEntries is how many entries are read at once for the index.
const pageEntries = 1000

// insert puts an entry into the index, and removes the older one with the same note.
func (s *Store) insert(ctx context.Context, e journal.ListEntry) error {
	old, found, err := s.sameNote(ctx, e.Note)
	if err != nil {
		return err
	}
	if found && old.ID < e.ID {
		if err := s.list.Remove(ctx, old.ID); err != nil {
			return err
		}
	}
	if e.Note != "" {
		s.index.ids[hash(e.Note)] = e.ID
	}
	s.index.through = max(s.index.through, e.ID)
	return nil
}

// sameNote returns the entry with a note, if there is one.
func (s *Store) sameNote(ctx context.Context, note string) (journal.ListEntry, bool, error) {
	id, known := s.index.ids[hash(note)]
	if note == "" || !known {
		return journal.ListEntry{}, false, nil
	}
	e, err := s.list.Get(ctx, id)
	switch {
	case errors.Is(err, journal.ErrNoEntry):
		return journal.ListEntry{}, false, nil
	case err != nil:
		return journal.ListEntry{}, false, err
	}
	return e, e.Note == note, nil
}

// List returns up to limit dead letters with ids after after, in order. They are fewer when
// they are large: only no letter at all says that there are no more. A letter that cannot
// be read is a [*LetterError], after those before it were returned.
func (s *Store) List(ctx context.Context, after uint64, limit int) ([]deliver.DeadLetter, error) {
	if after == math.MaxUint64 {
		return nil, nil
	}
	var letters []deliver.DeadLetter
	size := 0
	full := errors.New("enough")
	err := s.list.Read(ctx, after+1, limit, func(e journal.ListEntry) error {
		letter, err := decodeLetter(e)
		if err != nil {
			return err
		}
		letters = append(letters, letter)
		if size += len(e.Data) + len(letter.Event.Data); size >= maxPageBytes {
			return full
		}
		return nil
	})
	if broken := (*LetterError)(nil); errors.Is(err, full) || errors.As(err, &broken) && len(letters) > 0 {
		err = nil
	}
	if err != nil {
		return nil, s.fail("list dead letters", err)
	}
	return letters, nil
}

// Get returns one dead letter. The error wraps [deliver.ErrNoLetter], or is a
// [*LetterError].
func (s *Store) Get(ctx context.Context, id uint64) (deliver.DeadLetter, error) {
	e, err := s.list.Get(ctx, id)
	if errors.Is(err, journal.ErrNoEntry) {
		return deliver.DeadLetter{}, fmt.Errorf("%w: %d of sink %s", deliver.ErrNoLetter, id, s.sink)
	}
	var letter deliver.DeadLetter
	if err == nil {
		letter, err = decodeLetter(e)
	}
	if err != nil {
		return deliver.DeadLetter{}, s.fail("read a dead letter", err)
	}
	return letter, nil
}

// Remove removes those with these ids; what is not there is no error.
func (s *Store) Remove(ctx context.Context, ids ...uint64) error {
	for _, id := range ids {
		if err := s.list.Remove(ctx, id); err != nil {
			return s.fail("remove dead letters", err)
		}
	}
	return nil
}

// Purge removes all up to an id, and returns how many.
func (s *Store) Purge(ctx context.Context, through uint64) (uint64, error) {
	n, err := s.list.Purge(ctx, through)
	if err != nil {
		return 0, s.fail("purge dead letters", err)
	}
	return n, nil
}

// Count returns how many there are, and the bytes that they take.
func (s *Store) Count(ctx context.Context) (letters, bytes uint64, err error) {
	info, err := s.list.Info(ctx)
	if err != nil {
		return 0, 0, s.fail("count dead letters", err)
	}
	return info.Entries, info.Bytes, nil
}

func encodeLetter(l *deliver.DeadLetter) ([]byte, error) {
	if l.Event == nil {
		return nil, errors.New("a dead letter without an event")
	}
	description, err := json.Marshal(storedLetter{
		At: l.At.String(), Cause: l.Cause, Outcome: l.Outcome.String(), Attempts: l.Attempts,
		First: l.First, Last: l.Last, Status: l.Status, Reason: l.Reason,
	})
	if err != nil {
		return nil, err
	}
	b := binary.AppendUvarint([]byte{letterVersion}, uint64(len(description)))
	b = append(b, description...)
	return append(b, journal.EncodeEvent(l.Event)...), nil
}

func decodeLetter(e journal.ListEntry) (deliver.DeadLetter, error) {
	l, err := parseLetter(e.Data)
	if err != nil {
		return deliver.DeadLetter{}, &LetterError{ID: e.ID, Err: err}
	}
	l.ID = e.ID
	return l, nil
}

// parseLetter decodes the data of an entry, which must not be changed after it.
func parseLetter(b []byte) (l deliver.DeadLetter, err error) {
	if len(b) == 0 {
		return l, errors.New("it is empty")
	}
	if b[0] != letterVersion {
		return l, fmt.Errorf("%w: it has version %d, this one knows up to %d", ErrVersion, b[0], letterVersion)
	}
	size, n := binary.Uvarint(b[1:])
	if n <= 0 || size > uint64(len(b)-1-n) {
		return l, errors.New("it is cut short")
	}
	rest := b[1+n:]
	var stored storedLetter
	if err := json.Unmarshal(rest[:size], &stored); err != nil {
		return l, fmt.Errorf("its description: %w", err)
	}
	if l.At, err = position.Parse(stored.At); err != nil {
		return l, err
	}
	if l.Event, err = journal.DecodeEvent(rest[size:]); err != nil {
		return l, err
	}
	l.Cause = stored.Cause
	l.Failure = deliver.Failure{
		Outcome: parseOutcome(stored.Outcome), Attempts: stored.Attempts,
		First: stored.First, Last: stored.Last, Status: stored.Status, Reason: stored.Reason,
	}
	return l, nil
}

// parseOutcome returns the outcome of a name; a name that is not known is Doubtful.
func parseOutcome(name string) deliver.Outcome {
	for o := deliver.Delivered; o <= deliver.Gone; o++ {
		if o.String() == name {
			return o
		}
	}
	return deliver.Doubtful
}
