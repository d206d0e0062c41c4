// Package field is what rules ask about events: which fields there are, which of them a set of
// rules wants, and their values.
package field

import (
	"slices"

	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Element is one value: that of a field, or of those of a list. Which member has it depends on
// the type of the field.
type Element struct {
	// Text is a String; the 4 or 16 bytes of an IPAddr; an IPNet as address/bits.
	Text string
	// Number is a Uint64, a RelTime or AbsTime in nanoseconds, a Bool as 0 or 1.
	Number uint64
}

// Row is one event, for those who look at its fields. It belongs to one goroutine.
type Row interface {
	// Values returns the elements of a field, numbered as in [Requests]: one for what is no list,
	// none if the event does not have the field. They are valid until the Row is at another event
	// and must not be changed.
	Values(request int) []Element
}

// Field is something that can be asked about events of an event source.
type Field struct {
	sourceplugin.Field
	// Of says who provides it: the name of a plugin, or empty for fields of the hub itself.
	Of string
}

// Request is a field that a set of rules wants, with its argument.
type Request struct {
	// Text is how it is written: NAME or NAME[ARG].
	Text                      string
	Field                     *Field
	sourceplugin.FieldRequest // Index counts in the fields that Requests was made with
}

// Requests collects what a set of rules wants of the events of one event source. The zero value
// knows no fields.
type Requests struct {
	fields []Field
	plain  []sourceplugin.Field
	byText map[string]int
	list   []Request
}

// NewRequests returns Requests for these fields. They must not be changed.
func NewRequests(fields []Field) *Requests {
	r := &Requests{fields: fields, byText: make(map[string]int)}
	for _, f := range fields {
		r.plain = append(r.plain, f.Field)
	}
	return r
}

// Fields returns the fields that there are.
func (r *Requests) Fields() []Field { return r.fields }

// Find returns a field of a name, nil if there is none.
func (r *Requests) Find(name string) *Field {
	i := slices.IndexFunc(r.fields, func(f Field) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return &r.fields[i]
}

// Add asks for a field and returns its number: the same for the same text. arg is what is in the
// brackets, if present. The error wraps [fieldtext.ErrUnknownField] for a field that there is not.
func (r *Requests) Add(name, arg string, present bool) (int, error) {
	text := fieldtext.Join(name, arg, present)
	if i, ok := r.byText[text]; ok {
		return i, nil
	}
	q, err := fieldtext.Parse(text, r.plain)
	if err != nil {
		return 0, err
	}
	r.byText[text] = len(r.list)
	r.list = append(r.list, Request{Text: text, Field: &r.fields[q.Index], FieldRequest: q})
	return len(r.list) - 1, nil
}

// List returns what was asked for, in order of the numbers. It must not be changed.
func (r *Requests) List() []Request { return r.list }
