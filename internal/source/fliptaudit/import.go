package fliptaudit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/journal"
)

const (
	// maxImportIDs bounds the ids that an import compares with.
	maxImportIDs = 4 << 20
	// importIdle is how long ids are kept after an import.
	importIdle = 5 * time.Minute
	// importBatch is how many events are stored at once.
	importBatch = 500
)

// Errors of an import.
var (
	// ErrTooMany means that the journal has more events of the server than can be compared.
	ErrTooMany = fmt.Errorf("the journal has more than %d events of this server, which is more than an import can compare with", maxImportIDs)
	// ErrChunk means that what was sent is not as it should be.
	ErrChunk = errors.New("a line does not begin with the number of equal lines before it and a space")
)

// Counted is what became of lines.
type Counted struct {
	Lines       uint64 `json:"lines"`
	Accepted    uint64 `json:"accepted"`    // new
	Duplicates  uint64 `json:"duplicates"`  // the journal has them
	Quarantined uint64 `json:"quarantined"` // of the accepted ones: no events of Flipt
	Skipped     uint64 `json:"skipped"`     // of something else than auditing, or empty
}

// importer knows which events the journal has.
type importer struct {
	working chan struct{} // has room for who works; what follows is theirs
	ids     map[uuid.UUID]struct{}
	through journal.Position
	forget  *time.Timer
}

// Import takes lines of a log and returns when they are durable. Each line has before it the
// number of equal events that came before it in the log, and a space, so that lines can be
// sent again, in any pieces. What the journal has is not stored again. Lines of a log that
// are about something else are skipped. With dry, nothing is stored. data is kept.
func (s *Source) Import(ctx context.Context, data []byte, dry bool) (c Counted, err error) {
	i := &s.imports
	if err := ctx.Err(); err != nil {
		return c, err // nobody waits for it
	}
	select {
	case i.working <- struct{}{}:
		defer func() { <-i.working }()
	case <-ctx.Done():
		return c, ctx.Err()
	}
	if i.forget != nil {
		i.forget.Stop()
	}
	defer func() { i.forget = time.AfterFunc(importIdle, func() { s.forgetImport() }) }()
	if err := s.compare(ctx); err != nil {
		return c, err
	}
	var events []*event.Event
	fresh := make(map[uuid.UUID]struct{}) // of this chunk, for a dry run and until it is stored
	store := func() error {
		if len(events) == 0 || dry {
			return nil
		}
		if _, err := s.deps.Journal.Append(ctx, events...); err != nil {
			return err
		}
		s.counts.Appended.Add(float64(len(events)))
		for _, e := range events {
			s.repeats.add(e.ID)
		}
		clear(events)
		events = events[:0]
		return nil
	}
	size := 0
	for line := range bytes.Lines(data) {
		occurrence, line, err := cutCount(line)
		if err != nil {
			return c, err
		}
		c.Lines++
		d := read(line, true)
		if d.event == nil && !isAudit(line) {
			c.Skipped++
			continue
		}
		s.counts.Received.Inc()
		e, err := s.make(ctx, &d, fliptevent.Origin{Occurrence: occurrence, Imported: true})
		if err != nil {
			return c, err
		}
		id, err := uuid.Parse(e.ID)
		if err != nil {
			return c, fmt.Errorf("read the id of an event: %w", err)
		}
		_, stored := i.ids[id]
		_, now := fresh[id]
		if stored || now {
			c.Duplicates++
			s.counts.Duplicates.Inc()
			continue
		}
		fresh[id] = struct{}{}
		c.Accepted++
		if e.Type == fliptevent.TypeQuarantined {
			c.Quarantined++
			if !dry {
				s.counts.Quarantined.Inc()
			}
		}
		if size += e.Size(); len(events) == importBatch || size > s.deps.Journal.MaxUnitBytes()/2 && len(events) > 0 {
			if err := store(); err != nil {
				return c, err
			}
			size = e.Size()
		}
		events = append(events, e)
	}
	return c, store()
}

// compare reads the ids of the events that the journal has and that are not known yet.
func (s *Source) compare(ctx context.Context) error {
	i := &s.imports
	if i.ids == nil {
		i.ids, i.through = make(map[uuid.UUID]struct{}), journal.Position{}
	}
	end := s.deps.Journal.End()
	err := s.scan(ctx, i.through, end, func(e *event.Event) error {
		id, err := uuid.Parse(e.ID)
		if err != nil {
			return nil // not from here
		}
		if len(i.ids) == maxImportIDs {
			return ErrTooMany
		}
		i.ids[id] = struct{}{}
		return nil
	})
	if err != nil {
		i.ids = nil
		return fmt.Errorf("read which events of %s the journal has: %w", s.config.Name, err)
	}
	i.through = end
	return nil
}

// forgetImport gives the memory of imports back, unless one runs.
func (s *Source) forgetImport() {
	select {
	case s.imports.working <- struct{}{}:
		s.imports.ids = nil
		<-s.imports.working
	default: // it begins the time anew
	}
}

// cutCount takes the number from the beginning of a line.
func cutCount(line []byte) (int, []byte, error) {
	number, rest, ok := bytes.Cut(line, []byte(" "))
	n, err := strconv.ParseUint(string(number), 10, 31)
	if !ok || err != nil {
		return 0, nil, ErrChunk
	}
	return int(n), bytes.TrimRight(rest, "\r\n"), nil
}

// isAudit reports whether a line that is no event was meant to be one. A log on the standard
// output has lines of the server, too.
func isAudit(line []byte) bool {
	line = bytes.TrimSpace(line)
	switch {
	case len(line) == 0:
		return false
	case line[0] != '{':
		return bytes.Contains(line, []byte("\tAUDIT\t"))
	case bytes.Contains(line, []byte(`"M":"AUDIT"`)):
		return true
	}
	return !bytes.Contains(line, []byte(`"M":`)) || !bytes.Contains(line, []byte(`"L":`))
}
