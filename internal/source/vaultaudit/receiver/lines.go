package receiver

import (
	"io"
	"iter"

	"github.com/tocsin-events/tocsin/internal/syslog"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// maxKeptLines is how many lines the memory has room for that a stream keeps between two
// reads. A sender of empty lines can make a batch hundreds of thousands long, which takes
// many times what was read, and then be silent.
const maxKeptLines = 512

// reusable returns memory for the next batch.
func reusable(batch []tail.Line) []tail.Line {
	if cap(batch) > maxKeptLines {
		return nil
	}
	return batch[:0]
}

// maxEmptyReads is how often a reader may return nothing before it is taken for broken.
const maxEmptyReads = 100

// lines is a [stream] of lines.
type lines struct {
	from    io.Reader
	s       *tail.Splitter
	resumed []tail.Line // of the predecessor's rest
	batch   []tail.Line
}

func newLines(from io.Reader, maxLine int, rest *remainder) *lines {
	l := &lines{from: from, s: tail.NewSplitter(maxLine)}
	if rest != nil {
		l.resumed = l.s.Resume(nil, rest.Rest)
	}
	return l
}

func (l *lines) next() ([]tail.Line, error) {
	if len(l.resumed) > 0 {
		resumed := l.resumed
		l.resumed = nil
		return resumed, nil
	}
	for range maxEmptyReads {
		n, err := l.from.Read(l.s.Space())
		batch := l.s.Cut(l.batch[:0], n)
		l.batch = reusable(batch)
		if n > 0 || err != nil {
			return batch, err
		}
	}
	return nil, io.ErrNoProgress
}

func (l *lines) rest() (remainder, bool) { return remainder{Rest: l.s.Rest()}, true }
func (l *lines) memory() int             { return l.s.Size() }

// messages is a [stream] of the bodies of syslog messages.
type messages struct {
	record *recorder
	pull   func() ([]tail.Line, error, bool)
	stop   func()
	kept   []tail.Line
	torn   bool
}

func newMessages(from io.Reader, maxLine int, rest *remainder) *messages {
	m := &messages{record: &recorder{from: from, most: maxLine + maxSyslogHeader}}
	if rest != nil {
		m.record.again = rest.Raw
	}
	m.pull, m.stop = iter.Pull2(syslog.ReadMessages(m.record, maxLine))
	return m
}

func (m *messages) next() ([]tail.Line, error) {
	batch, err, ok := m.pull()
	if !ok {
		m.stop()
		return nil, io.EOF
	}
	kept := m.kept[:0]
	for _, l := range batch {
		if l.Kind == tail.Torn {
			m.torn = true
			continue
		}
		kept = append(kept, l)
	}
	if n := len(kept); n > 0 {
		m.record.done(kept[n-1].End) // once: it moves all that is behind it
	}
	m.kept = reusable(kept)
	return kept, err
}

func (m *messages) rest() (remainder, bool) {
	m.stop()
	return remainder{Raw: m.record.raw}, !m.record.lost
}

func (m *messages) memory() int { return 2 * cap(m.record.raw) }

// maxSyslogHeader is what a message may have beside its body: header and framing.
const maxSyslogHeader = 32 << 10

// recorder remembers what was read since the last message that is complete.
type recorder struct {
	from  io.Reader
	again []byte // what is read first
	most  int

	raw  []byte
	end  int64 // offset behind raw
	lost bool  // raw would be too long
}

func (r *recorder) Read(b []byte) (n int, err error) {
	if len(r.again) > 0 {
		n = copy(b, r.again)
		r.again = r.again[n:]
	} else {
		n, err = r.from.Read(b)
	}
	r.end += int64(n)
	switch {
	case r.lost:
	case len(r.raw)+n > r.most+len(b):
		r.raw, r.lost = nil, true
	default:
		r.raw = append(r.raw, b[:n]...)
	}
	return n, err
}

// done forgets what is before an offset.
func (r *recorder) done(offset int64) {
	if r.lost {
		// The rest of what was read last is not known any more, unless nothing is.
		r.lost = offset != r.end
		return
	}
	n := copy(r.raw, r.raw[len(r.raw)-int(r.end-offset):])
	r.raw = r.raw[:n]
}
