package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// Oldest is the since that means everything retained; so does "".
	Oldest = "oldest"

	maxSince = 4 << 10
	// scanRecords is how many records a search for an event id holds at once.
	scanRecords = 8
)

// Since returns the position after which a reader has to read to get what since
// asks for:
//
//   - "" or "oldest": everything retained
//   - a Go duration like "15m": what was recorded in that time before now; "0s":
//     only what is new
//   - an RFC 3339 time: what was recorded then or later
//   - the text of a [Position]: what comes after it
//   - an event id: what comes after that event. The journal is searched from its
//     end, which takes as long as the event is far away; when the event was stored
//     twice, its last occurrence counts. A position is quicker and exact.
//
// Its error is ErrBadSince for what is malformed, ErrNotFound for a position or an
// event that this journal does not have (for a position that retention has removed
// there is none: the reader reports the gap), or that of ctx.
func (j *Journal) Since(ctx context.Context, since string, now time.Time) (Position, error) {
	if since == "" || since == Oldest {
		return Position{}, nil
	}
	if len(since) > maxSince {
		return Position{}, fmt.Errorf("%w: longer than %d characters", ErrBadSince, maxSince)
	}
	if d, err := time.ParseDuration(since); err == nil {
		if d < 0 {
			return Position{}, fmt.Errorf("%w: duration %s is negative", ErrBadSince, since)
		}
		if d == 0 {
			return j.End(), nil
		}
		return j.sinceTime(ctx, now.Add(-d))
	}
	t, terr := time.Parse(time.RFC3339Nano, since)
	switch {
	case terr == nil:
		return j.sinceTime(ctx, t)
	case looksLikeTime(since):
		return Position{}, fmt.Errorf("%w: %q is not an RFC 3339 time such as 2006-01-02T15:04:05Z", ErrBadSince, since)
	case strings.ContainsFunc(since, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xfffd }):
		return Position{}, fmt.Errorf("%w: %q is no position, event id, RFC 3339 time or duration", ErrBadSince, since)
	}
	var notFound error
	if p, err := ParsePosition(since); err == nil {
		if notFound = j.checkPosition(ctx, p); notFound == nil {
			return p, nil
		}
		if !errors.Is(notFound, ErrNotFound) {
			return Position{}, notFound
		}
		// An event id may look like a position.
	}
	p, err := j.sinceEvent(ctx, since)
	if errors.Is(err, ErrNotFound) && notFound != nil {
		err = notFound
	}
	return p, err
}

// looksLikeTime reports whether s begins with a date.
func looksLikeTime(s string) bool {
	if len(s) < len("2006-01-02") {
		return false
	}
	for i, c := range []byte(s[:len("2006-01-02")]) {
		if i == 4 || i == 7 {
			if c != '-' {
				return false
			}
		} else if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// checkPosition returns ErrNotFound when p is not a position of this journal.
func (j *Journal) checkPosition(ctx context.Context, p Position) error {
	end := j.End()
	if p.Compare(end) > 0 && !(p.Seq == end.Seq && p.Index == BetweenRecords && p.Ordinal == end.Ordinal) {
		return fmt.Errorf("position %q is newer than the end of the journal, %q: %w", p, end, ErrNotFound)
	}
	rec, err := j.records.get(ctx, p.Seq)
	if err != nil {
		return fmt.Errorf("look up position: %w", err)
	}
	switch {
	case rec.broken != nil, rec.seq > p.Seq:
		return nil // the reader will tell
	case p.Index == BetweenRecords && p == (Position{Seq: rec.seq, Index: BetweenRecords, Ordinal: rec.lastPosition().Ordinal}):
		return nil
	case int64(p.Index) < int64(rec.header.count) && p == rec.position(int(p.Index)):
		return nil
	}
	return fmt.Errorf("position %q does not fit record %d: %w", p, p.Seq, ErrNotFound)
}

// sinceTime returns the position before the first record written at t or later.
func (j *Journal) sinceTime(ctx context.Context, t time.Time) (Position, error) {
	end := j.End()
	s := j.session.Load()
	if s == nil {
		return Position{}, fmt.Errorf("look up time: %w", errDown)
	}
	rec, err := s.fetchOne(ctx, getRequest{StartTime: &t})
	// A record is stored a moment after it was written, and of one that cannot be read
	// the time is not known.
	for err == nil && rec.header.recorded.Before(t) {
		if rec.seq >= end.Seq {
			return end, nil
		}
		rec, err = j.records.get(ctx, rec.seq+1)
	}
	switch {
	case errors.Is(err, errNoRecord):
		return end, nil
	case err != nil:
		return Position{}, fmt.Errorf("look up time: %w", err)
	}
	return rec.before(), nil
}

// sinceEvent searches from the end of the journal backwards.
func (j *Journal) sinceEvent(ctx context.Context, id string) (Position, error) {
	s := j.session.Load()
	if s == nil {
		return Position{}, fmt.Errorf("search event: %w", errDown)
	}
	for high := j.End().Seq; high > 0; {
		low := max(high, scanRecords) - scanRecords + 1
		found, records, err := s.scan(ctx, low, high, id)
		if err != nil {
			return Position{}, fmt.Errorf("search event: %w", err)
		}
		if !found.IsZero() {
			return found, nil
		}
		if records == 0 {
			break
		}
		high = low - 1
	}
	return Position{}, fmt.Errorf("event %q: %w", id, ErrNotFound)
}

// scan returns the last position of event id in the records from low to high, and
// how many records there were. It decodes only records in whose body the id
// occurs.
func (s *session) scan(ctx context.Context, low, high uint64, id string) (found Position, records int, err error) {
	for low <= high {
		next := low
		err := s.fetch(ctx, getRequest{Seq: low, Batch: int(high - low + 1), MaxBytes: fetchBytes}, func(seq uint64, stored []byte) error {
			next = seq + 1
			if seq > high {
				return nil
			}
			records++
			rec, err := parseRecord(seq, stored)
			if err != nil {
				return nil // readers report it
			}
			if i, ok := rec.find(id); ok {
				found = rec.position(i)
			}
			return nil
		})
		if errors.Is(err, errNoRecord) {
			break
		}
		if err != nil {
			return Position{}, records, err
		}
		if next == low {
			break
		}
		low = next
	}
	return found, records, nil
}

// find returns the index of the last event with this id.
func (r *record) find(id string) (int, bool) {
	body, err := recordBody(&r.header, r.stored)
	if err != nil || !bytes.Contains(body, []byte(id)) || r.load() != nil {
		return 0, false
	}
	for i := len(r.events) - 1; i >= 0; i-- {
		if r.events[i].ID == id {
			return i, true
		}
	}
	return 0, false
}

// Recent returns the position after which a reader gets the newest n events and
// perhaps some more, because it is between two records; where fewer are retained, it
// gets all of them. The error is that of ctx or of the storage.
func (j *Journal) Recent(ctx context.Context, n uint64) (Position, error) {
	end := j.End()
	if end.NextOrdinal() <= n {
		return Position{}, nil
	}
	wanted := end.NextOrdinal() - n // ordinal of the first event
	s := j.session.Load()
	if s == nil {
		return Position{}, fmt.Errorf("look up recent events: %w", errDown)
	}
	var found *record // begins with the wanted event, or before
	for low, high := uint64(1), end.Seq; low <= high; {
		middle := low + (high-low)/2
		// Retention may have removed the record, then this is one behind it.
		rec, err := s.readable(ctx, middle, end.Seq)
		if err != nil {
			return Position{}, fmt.Errorf("look up recent events: %w", err)
		}
		if rec == nil || rec.header.ordinal > wanted {
			high = middle - 1
			continue
		}
		found, low = rec, rec.seq+1
	}
	if found == nil {
		return Position{}, nil
	}
	return found.before(), nil
}

// readable returns the first record between two sequences that can be read, nil if there
// is none.
func (s *session) readable(ctx context.Context, from, to uint64) (*record, error) {
	for from <= to {
		rec, err := s.fetchOne(ctx, getRequest{Seq: from, Batch: 1})
		switch {
		case errors.Is(err, errNoRecord):
			return nil, nil
		case err != nil:
			return nil, err
		case rec.broken == nil:
			return rec, nil
		}
		from = rec.seq + 1
	}
	return nil, nil
}
