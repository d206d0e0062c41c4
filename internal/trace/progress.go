package trace

import (
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/internal/position"
)

// Progress is how far a [Tracer] has come, which is all that another Tracer needs to go on
// as if there had been no restart. Whoever exports spans stores the Progress that was true
// when the last of them was given out, once they are delivered. The zero Progress is the
// beginning of the journal.
type Progress struct {
	// Read is the position behind which a restart begins to read: that of Open or of Back.
	Read position.Position
	// Back is a window, at least, before the oldest request that is open. From there on
	// everything is seen again as it was seen before.
	Back position.Position
	// Open is before the oldest request that is open: all that began at or before it have
	// their span.
	Open position.Position
	// Closed is the last event: all spans that ended at or before it were given out.
	Closed position.Position
	// Waiting is true when reading from Open on would not do, because responses without
	// request are open, or were joined with a request behind them.
	Waiting bool
}

// Has reports whether a span was given out before the Tracer had this progress.
func (p Progress) Has(s *Span) bool { return p.has(s.Opened, s.Closed) }

func (p Progress) has(opened, closed position.Position) bool {
	if p.Closed.IsZero() {
		return false
	}
	// A span that time has closed may have been closed after the Progress was taken,
	// although no event came in between; then it is open in it.
	return opened.Compare(p.Open) <= 0 || closed.Index != position.BetweenRecords && closed.Compare(p.Closed) <= 0
}

// MarshalText returns a text for UnmarshalText, also of later versions of the program.
func (p Progress) MarshalText() ([]byte, error) {
	flag := ""
	if p.Waiting {
		flag = "w"
	}
	return fmt.Appendf(nil, "1:%s:%s:%s:%s", p.Back, p.Open, p.Closed, flag), nil
}

// UnmarshalText is the inverse of MarshalText.
func (p *Progress) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ":")
	if len(parts) != 5 || parts[0] != "1" || parts[4] != "" && parts[4] != "w" {
		return fmt.Errorf("parse progress of the tracer: %d bytes of unknown layout", len(text))
	}
	var q Progress
	for i, to := range []*position.Position{&q.Back, &q.Open, &q.Closed} {
		var err error
		if *to, err = position.Parse(parts[i+1]); err != nil {
			return fmt.Errorf("parse progress of the tracer: %w", err)
		}
	}
	q.Waiting = parts[4] == "w"
	if q.Read = q.Open; q.Waiting {
		q.Read = q.Back
	}
	*p = q
	return nil
}
