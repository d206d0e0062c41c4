package trace

import (
	"slices"
	"strings"
)

// Detached returns a copy of a span that shares no memory with records of the journal, for
// those who keep few spans of much that they have read.
func (s *Span) Detached() *Span {
	c := *s
	c.Attributes = slices.Clone(s.Attributes)
	for i := range c.Attributes {
		v := &c.Attributes[i].Value
		v.Texts = slices.Clone(v.Texts)
	}
	n := 0
	c.eachText(func(text *string) { n += len(*text) })
	var b strings.Builder
	b.Grow(n)
	c.eachText(func(text *string) {
		begin := b.Len()
		b.WriteString(*text)
		*text = b.String()[begin:]
	})
	return &c
}

// eachText calls do with the texts that are those of the entry.
func (s *Span) eachText(do func(*string)) {
	r := &s.Request
	for _, text := range [...]*string{
		&s.TraceState, &s.Message, &r.ID, &r.Operation, &r.Path, &r.Namespace, &r.MountPoint, &r.MountType,
		&r.DisplayName, &r.EntityID, &r.RemoteAddress,
	} {
		do(text)
	}
	for i := range s.Attributes {
		v := &s.Attributes[i].Value
		do(&v.Text)
		for k := range v.Texts {
			do(&v.Texts[k])
		}
	}
}

// largeLine is from how many bytes on an entry is not kept for the texts of its span, of which
// most are short.
const largeLine = 32 << 10

// letGo makes a span that was made of a large entry independent of it.
func (s *Span) letGo() {
	old := s.Attributes
	*s = *s.Detached()
	for i := range old { // they stand beside those of other spans
		clear(old[i].Value.Texts)
	}
	clear(old)
}
