package vaultaudit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// sourceBucket is the bucket that keeps how far sources are, and the object store
// that keeps their states.
const sourceBucket = "tocsin-sources"

// recordVersion is the layout of a record.
const recordVersion = 1

// record says how far a source is. It is stored as JSON under "vaultaudit.<name>".
type record struct {
	Version int `json:"version"`
	// File is where to read on, Journal the position up to which the journal has
	// the events of all lines before that, and none of a line behind it.
	File    tail.Checkpoint `json:"file"`
	Journal string          `json:"journal"`
	// Begin is the position behind which the first event of the source is.
	Begin string `json:"begin"`
	// Snapshot is the hash of the stored state and Through the position up to which
	// that state knows all events, when it has that hash. It is never behind Journal.
	Snapshot string `json:"snapshot,omitempty"`
	Through  string `json:"through,omitempty"`
}

// progress keeps the record of a source up to date. After a crash the state of the
// translator is put together from the stored one, the events of the journal up to
// the position of the record, and the lines that are read again, each line once;
// so the state must never be stored ahead of the record.
type progress struct {
	*File
	record   record
	position journal.Position // behind which no event of this source is durable that is not noted
	replayed journal.Position // the journal's end at the start: the lines of the events up to there are read again
	replay   bool             // they are still being read: the record must stay
	stored   bool             // a record exists
	dirty    bool             // record was changed since
	saved    time.Time        // last attempt

	state   []byte           // newest state not stored yet
	stateAt journal.Position // which knows all up to here
	current bool             // the stored state knows all up to position
}

// begin is called with each unit before it is submitted. It stores where the file
// was begun before anything of it is appended: without that a restart would not
// know what is in the journal already.
func (p *progress) begin(ctx context.Context, u *unit) error {
	if p.stored {
		return nil
	}
	if len(u.events) == 0 {
		p.record.File = u.after
	}
	p.dirty = true
	return p.retry(ctx, stagePosition, "store the position in the file", func(ctx context.Context) error {
		return p.put(ctx)
	})
}

// note takes note of a unit that is durable at position.
func (p *progress) note(u *unit, first journal.Position) {
	if n := len(u.events); n > 0 {
		first.Index += uint32(n - 1)
		first.Ordinal += uint64(n - 1)
		if p.position.Compare(first) < 0 { // a unit that was repeated is behind the next ones
			p.position = first
		}
		p.current = false
	}
	if p.replay {
		if !u.fresh {
			return
		}
		p.replay = false
		if p.position.Compare(p.replayed) < 0 {
			p.position = p.replayed
		}
	}
	p.record.File = u.after
	p.dirty = true
	if u.snapshot != nil {
		p.state, p.stateAt = u.snapshot, p.position
	}
}

// due is when to save next. idle says that nothing is in flight.
func (p *progress) due(idle bool) time.Time {
	switch {
	case p.dirty || p.state != nil:
		return p.saved.Add(saveInterval)
	case idle:
		return p.saved.Add(idleInterval)
	default:
		return p.saved.Add(24 * time.Hour)
	}
}

// save stores the record if it has changed, and then a new state of the
// translator. Failures are reported by Health, and the next save tries again.
func (p *progress) save(ctx context.Context, idle bool) error {
	if idle && !p.replay && p.stored {
		// Whatever is in the journal now, nothing of ours is missing from the record.
		if end := p.journal.End(); p.position.Compare(end) < 0 {
			if p.stateAt == p.position {
				p.stateAt = end
			}
			p.position = end
			p.dirty = true
		}
	}
	var err error
	if p.dirty {
		err = p.put(ctx)
	}
	if err == nil && p.state != nil && p.stored {
		err = p.putState(ctx)
	}
	p.saved = time.Now()
	p.trouble(stagePosition, "store the position in the file", err)
	return err
}

// saveTimeout bounds one store.
const saveTimeout = 5 * time.Second

func (p *progress) put(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	r := &p.record
	r.Version = recordVersion
	r.Journal = p.position.String()
	if p.current {
		r.Through = r.Journal
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	kv, err := p.journal.State(ctx, sourceBucket)
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, recordKey(p.config.Name), b); err != nil {
		return err
	}
	p.dirty, p.stored, p.saved = false, true, time.Now()
	return nil
}

// putState stores the state, which is not ahead of the stored record.
func (p *progress) putState(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 6*saveTimeout)
	defer cancel()
	store, err := p.journal.Objects(ctx, sourceBucket)
	if err != nil {
		return err
	}
	b := sealState(p.stateAt, p.state)
	if _, err := store.PutBytes(ctx, recordKey(p.config.Name), b); err != nil {
		return err
	}
	p.record.Snapshot, p.record.Through = stateSum(b), p.stateAt.String()
	p.current = p.stateAt == p.position
	p.state = nil
	return nil
}

// recordKey is the key of the record of a source and the name of its state.
func recordKey(name string) string {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return "vaultaudit.x." + hex.EncodeToString([]byte(name))
		}
	}
	return "vaultaudit." + name
}

// stateLayout is the first byte of a stored state. The length of the position, the
// position and the snapshot of the translator follow.
const stateLayout = 1

func sealState(at journal.Position, snapshot []byte) []byte {
	position := at.String()
	b := make([]byte, 0, 2+len(position)+len(snapshot))
	b = append(b, stateLayout, byte(len(position)))
	b = append(b, position...)
	return append(b, snapshot...)
}

func openState(b []byte) (journal.Position, []byte, error) {
	if len(b) < 2 || b[0] != stateLayout || len(b) < 2+int(b[1]) {
		return journal.Position{}, nil, fmt.Errorf("%d bytes of unknown layout", len(b))
	}
	at, err := journal.ParsePosition(string(b[2 : 2+int(b[1])]))
	return at, b[2+int(b[1]):], err
}

func stateSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// resume reads back how far the source is, restores the state of the translator as
// it was there, and finds out which lines behind it are durable already.
func (f *File) resume(ctx context.Context) (*progress, *durableIDs, error) {
	p := &progress{File: f}
	var state []byte
	err := f.retry(ctx, stageStart, "read back the position in the file", func(ctx context.Context) (err error) {
		if p.stored, err = f.load(ctx, &p.record); err != nil || !p.stored {
			return err
		}
		state, err = f.loadState(ctx)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	end := f.journal.End()
	if !p.stored {
		p.position = end
		p.record.Begin = end.String()
		return p, &durableIDs{}, nil
	}
	if p.position, err = journal.ParsePosition(p.record.Journal); err != nil {
		return nil, nil, fmt.Errorf("stored position: %w", err)
	}
	known, err := journal.ParsePosition(p.record.Begin)
	if err != nil {
		return nil, nil, fmt.Errorf("stored position: %w", err)
	}
	if state != nil {
		at, snapshot, err := openState(state)
		if err == nil {
			err = f.translator.Restore(snapshot)
		}
		switch {
		case err != nil:
			f.log.Warn("stored state cannot be used, building it anew from the journal", "error", err)
		default:
			known = at
			if through, err := journal.ParsePosition(p.record.Through); err == nil && stateSum(state) == p.record.Snapshot && at.Compare(through) < 0 {
				known = through
			}
		}
	}
	skip, learnt := &durableIDs{}, 0
	begin := known
	if p.position.Compare(begin) < 0 {
		begin = p.position
	}
	err = f.readBack(ctx, begin, end, f.translator.Gap, func(b *journal.Batch) {
		for i := b.Start(); i < b.Len(); i++ {
			e := b.Event(i)
			if !f.ours(e) {
				continue
			}
			switch at := b.Position(i); {
			case at.Compare(p.position) > 0:
				skip.add(e.ID)
			case at.Compare(known) > 0:
				f.learn(ctx, e)
				learnt++
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	p.replayed, p.replay = end, true
	f.log.Info("going on where the last run ended", "entries_learnt", learnt, "lines_durable", len(skip.left))
	return p, skip, nil
}

// ours reports whether e stands for a line of this source.
func (f *File) ours(e *event.Event) bool {
	return e.Source == f.translator.source && e.Path == f.translator.path && strings.HasPrefix(e.Type, "audit/")
}

// load reads the record. It returns false when there is none.
func (f *File) load(ctx context.Context, r *record) (bool, error) {
	kv, err := f.journal.State(ctx, sourceBucket)
	if err != nil {
		return false, err
	}
	entry, err := kv.Get(ctx, recordKey(f.config.Name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(entry.Value(), r); err != nil {
		return false, fmt.Errorf("stored position: %w", err)
	}
	if r.Version != recordVersion {
		return false, fmt.Errorf("stored position has version %d, this program knows %d: use the program that wrote it", r.Version, recordVersion)
	}
	return true, nil
}

// loadState reads the stored state, nil when there is none.
func (f *File) loadState(ctx context.Context) ([]byte, error) {
	store, err := f.journal.Objects(ctx, sourceBucket)
	if err != nil {
		return nil, err
	}
	b, err := store.GetBytes(ctx, recordKey(f.config.Name))
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, nil
	}
	return b, err
}

// learn folds an event of the journal into the state of the translator.
func (f *File) learn(ctx context.Context, e *event.Event) {
	name, ok := strings.CutPrefix(e.DataRef, PayloadPath)
	if !ok || len(e.Data) > 0 {
		f.translator.Learn(e)
		return
	}
	store, err := f.journal.Objects(ctx, PayloadBucket)
	whole := *e
	if err == nil {
		whole.Data, err = store.GetBytes(ctx, name)
	}
	if err != nil {
		f.log.Warn("bytes of a large audit entry cannot be read back", "payload", name, "error", err)
		f.translator.Gap()
		return
	}
	f.translator.Learn(&whole)
}

// readBack calls each with every batch of the journal after one position and up to
// another, and gap where some are missing.
func (f *File) readBack(ctx context.Context, after, end journal.Position, gap func(), each func(*journal.Batch)) error {
	r := f.journal.Read(after)
	for at := after; at.Compare(end) < 0; {
		b, err := r.Next(ctx)
		if missing := (*journal.GapError)(nil); errors.As(err, &missing) {
			f.log.Warn("events of the source's past are gone from the journal", "error", missing)
			gap()
			continue
		}
		if err != nil {
			return err
		}
		each(b)
		at = b.End()
	}
	return nil
}
