package cli

import (
	"bytes"
	"io"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/terminal"
)

// printer writes events, one per line. Each line is one write, so that a reader
// of a pipe gets whole events at once.
type printer struct {
	w       io.Writer
	output  outputFlag
	colours bool
	buf     []byte
}

func newPrinter(w io.Writer, o outputFlag) *printer {
	return &printer{w: w, output: o, colours: o == outputPretty && colours(w)}
}

// message prints what a subscription returned. Without sequence, the attribute
// that the client asked for in order to resume is taken out, and the rest of the
// message is left as the server sent it.
func (p *printer) message(m *client.Message, sequence bool) error {
	if p.output == outputPretty {
		return p.pretty(m.Event, m.Position, sequence)
	}
	raw := m.Raw
	if !sequence && m.Position != "" {
		raw = withoutMember(raw, event.ExtensionSequence)
	}
	return p.line(raw)
}

// line prints a JSON text as one line.
func (p *printer) line(text []byte) error {
	p.buf = append(append(p.buf[:0], bytes.TrimRight(text, "\n")...), '\n')
	_, err := p.w.Write(p.buf)
	return err
}

// pretty prints the parts that a person looks for first: when, what, where.
func (p *printer) pretty(e *event.Event, position string, sequence bool) error {
	if !sequence {
		position = ""
	}
	p.buf = append(terminal.AppendEvent(p.buf[:0], e, position, p.colours), '\n')
	_, err := p.w.Write(p.buf)
	return err
}

// visible makes a text that others have written fit for a terminal.
func visible(s string) string { return terminal.Visible(s) }

// withoutMember returns a JSON object without its member of this name, and the
// other bytes as they are. The text must be valid JSON; what is not found is not
// removed.
func withoutMember(object []byte, name string) []byte {
	depth, start := 0, 0 // start: of the current member of the outer object, with its comma
	for i := 0; i < len(object); i++ {
		switch object[i] {
		case '{', '[':
			if depth++; depth == 1 {
				start = i + 1
			}
		case '}', ']':
			depth--
		case ',':
			if depth == 1 {
				start = i
			}
		case '"':
			end := endOfString(object, i)
			isName := depth == 1 && end-1 > i && bytes.HasPrefix(bytes.TrimLeft(object[end:], " \t\r\n"), []byte(":"))
			if isName && string(object[i+1:end-1]) == name {
				return cutMember(object, start, end)
			}
			i = end - 1
		}
	}
	return object
}

// endOfString returns the index behind the string that begins at i.
func endOfString(text []byte, i int) int {
	for i++; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// cutMember removes the member whose comma, or first byte if it is the first, is
// at start and whose name ends at nameEnd.
func cutMember(object []byte, start, nameEnd int) []byte {
	depth := 1
	for i := nameEnd; i < len(object); i++ {
		switch object[i] {
		case '"':
			i = endOfString(object, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return append(object[:start:start], object[i:]...)
			}
		case ',':
			if depth == 1 {
				if object[start] != ',' {
					i++ // the first member takes the comma behind it along
				}
				return append(object[:start:start], object[i:]...)
			}
		}
	}
	return object
}
