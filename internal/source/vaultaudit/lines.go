package vaultaudit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// Reasons of quarantined events, beside those of package auditlog.
const (
	reasonTooLong = "too-long" // longer than the limit for lines
	reasonLimit   = "limit"    // an entry that cannot be an event, for example because its path is too long
)

// Metadata keys of quarantined events, beside those of the translator.
const (
	metadataSize = "size" // of the whole line in bytes, where Data is only its beginning
	metadataTorn = "torn" // "true" for a line whose end was never written
)

// translateLine is [Translator.Translate] for a line as package tail gives it.
// A blank line gives no event. A line that was skipped because of its length
// gives a quarantined event with its size and its first [tail.PrefixBytes] bytes,
// or their hash where they may hold secrets.
//
// take is asked before anything is learnt from the line whether it is taken, with the
// id of its audit event, and, if that is the same over every device, with the text of the
// entry; a nil take takes all. A line that is not taken gives no event.
func translateLine(t *Translator, dst []*event.Event, l tail.Line, take func(id string, text []byte) bool) []*event.Event {
	if l.Kind == tail.TooLong {
		e := t.quarantine(l.Data, &auditlog.SyntaxError{Reason: reasonTooLong, Detail: fmt.Sprintf("the line has %d bytes", l.Size)})
		size := strconv.FormatInt(l.Size, 10)
		sum := sha256.Sum256(l.Data)
		e.ID = event.DeriveID("quarantined", hex.EncodeToString(sum[:]), size)
		e.Metadata.Set(metadataSize, size)
		if take != nil && !take(e.ID, nil) {
			return dst
		}
		t.Gap() // it may have changed anything
		return append(dst, e)
	}
	if len(l.Data) == 0 || len(bytes.TrimSpace(l.Data)) == 0 {
		return dst
	}
	first := len(dst)
	dst = t.translate(dst, l.Data, take)
	if len(dst) > first && dst[first].Type == TypeQuarantined {
		if l.Kind == tail.Torn {
			dst[first].Metadata.Set(metadataTorn, "true")
		}
		if lostEntry(dst[first]) {
			t.Gap()
		}
	}
	return dst
}

// lostEntry is true for a quarantined event in whose place there was an entry, which may
// have changed anything: one that is too long, and one that was cut short on its way, for
// example by a syslog relay. What a server left unfinished in a file it writes again.
func lostEntry(e *event.Event) bool {
	reason, _ := e.Metadata.Text(metadataReason)
	_, torn := e.Metadata.Text(metadataTorn)
	return reason == reasonTooLong || reason == auditlog.ReasonTruncated && !torn
}

// Stats count what a source made of an audit log. They only grow.
type Stats struct {
	Lines       uint64 // that came in, of any kind
	Bytes       uint64 // of these lines
	Blank       uint64 // lines without content, of which nothing is kept
	Quarantined uint64 // lines that are no audit entries
	TooLong     uint64 // of these, lines beyond the limit
	Repeated    uint64 // lines read again after a restart whose events were durable already
	Duplicates  uint64 // entries that had come over another input, or were sent again
	Lost        uint64 // lines that an input could not keep, as far as it is known
	Events      uint64 // made durable, or handed out
	Refused     uint64 // derived events that were beyond a limit
}

// count adds one line and the events made of it. Why there are none is counted by
// whoever knows.
func (s *Stats) count(l tail.Line, events []*event.Event) {
	s.Lines++
	s.Bytes += uint64(l.Size)
	if len(events) > 0 && events[0].Type == TypeQuarantined {
		s.Quarantined++
	}
	if l.Kind == tail.TooLong {
		s.TooLong++
	}
}

// add adds the counts of o.
func (s *Stats) add(o Stats) {
	s.Lines += o.Lines
	s.Bytes += o.Bytes
	s.Blank += o.Blank
	s.Quarantined += o.Quarantined
	s.TooLong += o.TooLong
	s.Repeated += o.Repeated
	s.Duplicates += o.Duplicates
	s.Lost += o.Lost
	s.Events += o.Events
	s.Refused += o.Refused
}

// Events reads an audit log to its end, a file, a pipe or standard input, and calls
// emit with each event made of it: for each line the audit event, then what is
// derived from it, or a quarantined event. It stops at the first error, of r, of
// emit, or of ctx, and returns it. ctx is asked between reads: a read that blocks
// is not interrupted. The events may be kept.
func Events(ctx context.Context, r io.Reader, t *Translator, emit func(*event.Event) error) (Stats, error) {
	var s Stats
	var events []*event.Event
	for lines, err := range tail.ReadLines(r, 0) {
		for _, l := range lines {
			events = translateLine(t, events[:0], l, nil)
			s.count(l, events)
			if len(events) == 0 {
				s.Blank++
			}
			for _, e := range events {
				if err := emit(e); err != nil {
					return s, err
				}
				s.Events++
			}
		}
		if err != nil {
			return s, fmt.Errorf("read audit log: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return s, err
		}
	}
	return s, nil
}
