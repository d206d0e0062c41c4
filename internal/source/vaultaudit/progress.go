package vaultaudit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// progress keeps the record of a source up to date.
//
// After a crash the state of the translator is put together from the stored one and
// the events of the journal behind it, so it knows what the journal has, in its order,
// and nothing else. The lines behind the marks of an input are read again; those whose
// events the journal has are recognised by their ids, and teach nothing. Until all of
// them were read, the marks of this input stay as they are stored, and so does its
// position in the journal; other inputs go on.
type progress struct {
	*Source
	record   record
	inputs   map[*input]*inputProgress
	position journal.Position // behind which no event of this source is durable that is not noted
	stored   bool             // a record exists
	dirty    bool             // what is to be stored was changed since
	saved    time.Time        // last attempt

	state   []byte           // newest state not stored yet
	stateAt journal.Position // which knows all up to here
	current bool             // the stored state knows all up to position
}

// inputProgress is how far an input is.
type inputProgress struct {
	marks    map[string]mark  // by reader
	stored   map[string]bool  // readers of which a mark is stored
	replay   bool             // lines that are durable are still being read
	since    string           // then: up to which position of the journal the marks know
	later    map[string]mark  // then: the newest marks
	known    journal.Position // the same, of a start
	released inbox.Position
}

// begin is called with each unit before it is submitted. It stores where a reader was
// begun before anything of it is appended: without that a restart would not know what
// is in the journal already.
func (p *progress) begin(ctx context.Context, u *unit) error {
	if u.from == nil {
		return nil
	}
	in := p.inputs[u.input]
	if in.stored[u.from.key] {
		return nil
	}
	if _, ok := in.marks[u.from.key]; !ok && !u.after.gone {
		var begin mark // of an inbox; a file begins with a unit without events
		if len(u.events) == 0 {
			begin = u.after
		}
		in.marks[u.from.key] = begin
		p.dirty = true
	}
	if len(u.events) == 0 {
		return nil
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
	if u.snapshot != nil {
		p.state, p.stateAt = u.snapshot, p.position
	}
	if u.input == nil {
		return
	}
	in := p.inputs[u.input]
	if !in.replay {
		if u.from != nil {
			in.set(u.from.key, u.after)
			p.dirty = true
		}
		return
	}
	if u.from != nil {
		in.later[u.from.key] = u.after
	}
	if u.fresh {
		for key, m := range in.later {
			in.set(key, m)
		}
		in.replay, in.later, in.since = false, nil, ""
		p.dirty = true
	}
}

// set changes the mark of a reader.
func (in *inputProgress) set(key string, m mark) {
	if m.gone {
		delete(in.marks, key)
		delete(in.stored, key)
		return
	}
	in.marks[key] = m
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
	if idle && p.stored {
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
	at := p.position.String()
	if p.current {
		r.Through = at
	}
	for in, state := range p.inputs {
		r.Inputs[in.Name] = state.record(in, at)
	}
	r.Read = nil
	if p.files != nil {
		r.Read = p.files.Read()
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
	for in, state := range p.inputs {
		for key := range state.marks {
			state.stored[key] = true
		}
		if at := state.marks[""].inbox; in.Inbox != nil && at.Compare(state.released) > 0 {
			in.Inbox.Release(at)
			state.released = at
		}
	}
	return nil
}

// record returns what is stored of the input when the journal is noted up to a position.
func (in *inputProgress) record(of *input, at string) *inputRecord {
	r := &inputRecord{Journal: at}
	if in.replay {
		r.Journal = in.since
	}
	if of.Inbox != nil {
		position := in.marks[""].inbox
		r.Inbox = &position
		return r
	}
	r.Files = make(map[string]tail.Checkpoint, len(in.marks))
	for key, m := range in.marks {
		r.Files[key] = m.file
	}
	return r
}

// putState stores the state.
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

// resume reads back how far the source is, puts together the state of the translator,
// and finds out which lines behind the marks are durable already, and which entries
// came lately.
func (s *Source) resume(ctx context.Context) (*progress, error) {
	p := &progress{Source: s, inputs: make(map[*input]*inputProgress)}
	for _, in := range s.inputs {
		p.inputs[in] = &inputProgress{marks: make(map[string]mark), stored: make(map[string]bool), later: make(map[string]mark)}
	}
	var state []byte
	var recent, end journal.Position
	err := s.retry(ctx, stageStart, "read back the position in the file", func(ctx context.Context) (err error) {
		if p.stored, err = s.load(ctx, &p.record); err != nil {
			return err
		}
		if p.stored {
			if state, err = s.loadState(ctx); err != nil {
				return err
			}
		}
		end = s.journal.End()
		recent, err = s.recent(ctx, end)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.position = end
	if p.record.Inputs == nil {
		p.record.Inputs = make(map[string]*inputRecord)
	}
	if !p.stored {
		p.record.Begin = end.String()
	}
	known := end
	if p.stored {
		if known, err = s.restoreState(&p.record, state); err != nil {
			return nil, err
		}
	}
	begin, err := p.restoreInputs(known, end)
	if err != nil {
		return nil, err
	}
	if recent.Compare(begin) < 0 {
		begin = recent
	}
	if s.files != nil {
		s.files.Add(p.record.Read)
	}
	learnt := 0
	gap := func(missing *journal.GapError) {
		if missing.Next.IsZero() || missing.Next.Compare(known) > 0 {
			s.translator.Gap()
		}
	}
	err = s.readBack(ctx, begin, end, gap, func(b *journal.Batch) {
		for i := b.Start(); i < b.Len(); i++ {
			e := b.Event(i)
			if !s.ours(e) {
				continue
			}
			at := b.Position(i)
			in := s.inputOf(e)
			if in != nil && at.Compare(p.inputs[in].known) > 0 {
				in.replay.add(e.ID)
			}
			if at.Compare(known) > 0 {
				s.learn(ctx, e)
				learnt++
			}
			if s.window != nil && at.Compare(recent) > 0 {
				s.remember(e, in, b.Recorded())
			}
		}
	})
	if err != nil {
		return nil, err
	}
	durable := 0
	for _, in := range s.inputs {
		state := p.inputs[in]
		state.replay = !in.replay.empty()
		durable += len(in.replay.left)
		in.marks, in.fresh = maps.Clone(state.marks), len(state.stored) == 0 && p.record.Inputs[in.Name] == nil
	}
	if p.stored {
		s.log.Info("going on where the last run ended", "entries_learnt", learnt, "lines_durable", durable)
	}
	return p, nil
}

// restoreState gives the translator the stored state. It returns up to where that knows
// the events of the journal.
func (s *Source) restoreState(r *record, state []byte) (known journal.Position, err error) {
	if known, err = journal.ParsePosition(r.Begin); err != nil {
		return known, fmt.Errorf("stored position: %w", err)
	}
	if state == nil {
		return known, nil
	}
	at, snapshot, err := openState(state)
	if err == nil {
		err = s.translator.Restore(snapshot)
	}
	if err != nil {
		s.log.Warn("stored state cannot be used, building it anew from the journal", "error", err)
		return known, nil
	}
	known = at
	if through, err := journal.ParsePosition(r.Through); err == nil && stateSum(state) == r.Snapshot && at.Compare(through) < 0 {
		known = through
	}
	return known, nil
}

// restoreInputs takes the marks of the inputs from the record. It returns from where on
// the journal is to be read, at most from a position given.
func (p *progress) restoreInputs(most, end journal.Position) (begin journal.Position, err error) {
	begin = most
	for _, in := range p.Source.inputs {
		state := p.inputs[in]
		state.known = end
		r := p.record.Inputs[in.Name]
		if r == nil {
			continue
		}
		if state.known, err = journal.ParsePosition(r.Journal); err != nil {
			return begin, fmt.Errorf("stored position of input %s: %w", in.Name, err)
		}
		state.since = r.Journal
		if state.known.Compare(begin) < 0 {
			begin = state.known
		}
		if in.Inbox != nil && r.Inbox != nil {
			state.marks[""] = mark{inbox: *r.Inbox}
			state.stored[""] = true
		}
		if in.Inbox == nil {
			for path, c := range r.Files {
				if len(in.patterns) == 0 && !slices.Contains(in.literals, path) {
					continue // not among the paths any more
				}
				state.marks[path] = mark{file: c}
				state.stored[path] = true
			}
		}
	}
	forgotten := 0
	for _, name := range slices.Sorted(maps.Keys(p.record.Inputs)) {
		if p.record.Inputs[name] == nil {
			delete(p.record.Inputs, name)
		} else if p.input(name) == nil {
			if forgotten++; forgotten > maxForgotten {
				delete(p.record.Inputs, name)
			}
		}
	}
	return begin, nil
}

// recent returns the position behind which the entries are that the window knows.
func (s *Source) recent(ctx context.Context, end journal.Position) (journal.Position, error) {
	if s.window == nil {
		return end, nil
	}
	newest, err := s.journal.Recent(ctx, 2*uint64(s.window.most))
	if err != nil {
		return end, err
	}
	since, err := s.journal.Since(ctx, (2 * s.window.age).String(), time.Now())
	if err != nil {
		return end, err
	}
	if since.Compare(newest) < 0 {
		return newest, nil
	}
	return since, nil
}

// remember notes in the window an entry that was recorded before the start.
func (s *Source) remember(e *event.Event, in *input, recorded time.Time) {
	if e.Type != TypeRequest && e.Type != TypeResponse {
		return
	}
	number := uint32(unknownReader)
	if in != nil && !in.several() {
		number = in.number
	}
	if s.window.turned.IsZero() || len(s.window.later) == 0 {
		s.window.turned = recorded
	}
	s.window.expire(recorded)
	sum := uint32(unknownSum)
	if _, redacted := e.Metadata.Text(metadataRedacted); !redacted && len(e.Data) > 0 {
		sum = textSum(e.Data)
	}
	s.window.add(idKey(e.ID), seen{number, sum}, recorded)
}

// ours reports whether e stands for a line of this source.
func (s *Source) ours(e *event.Event) bool {
	return e.Source == s.translator.source && e.Path == s.translator.path && strings.HasPrefix(e.Type, "audit/")
}

// inputOf returns the input over which a line came, nil when there is none such.
func (s *Source) inputOf(e *event.Event) *input {
	if _, imported := e.Metadata.Text(metadataImported); imported {
		return nil
	}
	device, _ := e.Metadata.Text(metadataDevice)
	if in := s.byDevice[device]; in != nil || device != "" {
		return in
	}
	name, _ := s.heir() // the events are older than the names of inputs
	return s.input(name)
}

// learn folds an event of the journal into the state of the translator.
func (s *Source) learn(ctx context.Context, e *event.Event) {
	name, ok := strings.CutPrefix(e.DataRef, PayloadPath)
	if !ok || len(e.Data) > 0 {
		s.translator.Learn(e)
		return
	}
	store, err := s.journal.Objects(ctx, PayloadBucket)
	whole := *e
	if err == nil {
		whole.Data, err = store.GetBytes(ctx, name)
	}
	if err != nil {
		s.log.Warn("bytes of a large audit entry cannot be read back", "payload", name, "error", err)
		s.translator.Gap()
		return
	}
	s.translator.Learn(&whole)
}

// readBack calls each with every batch of the journal after one position and up to
// another, and gap where some are missing.
func (s *Source) readBack(ctx context.Context, after, end journal.Position, gap func(*journal.GapError), each func(*journal.Batch)) error {
	r := s.journal.Read(after)
	for at := after; at.Compare(end) < 0; {
		b, err := r.Next(ctx)
		if missing := (*journal.GapError)(nil); errors.As(err, &missing) {
			s.log.Warn("events of the source's past are gone from the journal", "error", missing)
			gap(missing)
			if missing.Next.Compare(end) > 0 {
				return nil
			}
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
