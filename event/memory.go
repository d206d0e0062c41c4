package event

import (
	"slices"
	"strings"
)

// How much is allocated at once for many small things. They bound what one event that
// is kept keeps besides itself: less than 64 KiB.
const (
	textChunk  = 8 << 10  // bytes
	dataChunk  = 16 << 10 // bytes
	fieldChunk = 128      // of 40 bytes
	eventChunk = 32       // of about 400 bytes

	// soloTextChunk is textChunk of a parser that reads one event.
	soloTextChunk = 512
)

// maxFields bounds the metadata, extensions and entity ids that one call of a parser
// keeps, because each takes several times its bytes in memory.
const maxFields = 1 << 19

// memory is where a parser keeps what it has read: the texts of an event, or of several
// of one batch, next to each other, so that an event takes few allocations. It is not
// safe for concurrent use.
type memory struct {
	textChunk int
	batch     bool // others will follow
	texts     strings.Builder
	bytes     slab[byte]
	fields    slab[Field]
	events    slab[Event]
	count     int // of fields

	// Reused for what is not complete yet.
	scratch              []byte
	metadata, extensions Fields
}

// newMemory returns memory for one event whose encoding has size bytes.
func newMemory(size int) *memory { return &memory{textChunk: min(size, soloTextChunk)} }

// newBatchMemory returns memory for many events.
func newBatchMemory(size int) *memory { return &memory{textChunk: min(size, textChunk), batch: true} }

// text returns b as a string that shares nothing with b.
func (m *memory) text(b []byte) string {
	if len(b) > m.texts.Cap()-m.texts.Len() {
		if len(b) > m.textChunk/2 {
			return string(b)
		}
		m.texts.Reset()
		m.texts.Grow(m.textChunk)
	}
	n := m.texts.Len()
	m.texts.Write(b) // fits, so that what was returned before stays in place
	return m.texts.String()[n:]
}

// data returns a copy of b, which is not nil.
func (m *memory) data(b []byte) []byte {
	if !m.batch {
		return append(make([]byte, 0, len(b)), b...)
	}
	return m.bytes.copy(b, dataChunk)
}

// keep returns a copy of f, which is not nil.
func (m *memory) keep(f Fields) Fields {
	if !m.batch {
		return append(make(Fields, 0, len(f)), f...)
	}
	return m.fields.copy(f, fieldChunk)
}

// event returns a new event.
func (m *memory) event() *Event {
	if !m.batch {
		return new(Event)
	}
	return &m.events.copy([]Event{{}}, eventChunk)[0]
}

// counted counts one more field.
func (m *memory) counted() error {
	if m.count++; m.count > maxFields {
		return &LimitError{"fields", m.count, maxFields}
	}
	return nil
}

// slab cuts small slices out of larger ones.
type slab[T any] struct{ free []T }

// copy returns a copy of v, which is not nil. chunk is how many elements are made at
// once.
func (s *slab[T]) copy(v []T, chunk int) []T {
	n := len(v)
	if n == 0 {
		return []T{}
	}
	if n > len(s.free) {
		if n > chunk/4 {
			return slices.Clone(v)
		}
		s.free = make([]T, chunk)
	}
	out := s.free[:n:n]
	s.free = s.free[n:]
	copy(out, v)
	return out
}
