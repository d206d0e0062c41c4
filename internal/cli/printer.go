package cli

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
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

const (
	dim   = "\x1b[2m"
	bold  = "\x1b[1m"
	reset = "\x1b[0m"
)

// pretty prints the parts that a person looks for first: when, what, where.
func (p *printer) pretty(e *event.Event, position string, sequence bool) error {
	b := p.buf[:0]
	b = p.styled(b, dim, e.Time.Local().Format("2006-01-02 15:04:05.000"))
	b = append(b, "  "...)
	b = p.styled(b, bold, fmt.Sprintf("%-22s", visible(e.Type)))
	path := e.Path
	if dataPath, ok := e.Metadata.Text(event.MetadataDataPath); ok {
		path = dataPath
	}
	b = append(b, "  "...)
	b = append(b, visible(e.Namespace+path)...)
	for f := range e.Metadata.All() {
		switch f.Key {
		case event.MetadataPath, event.MetadataDataPath, event.MetadataOperation, event.MetadataModified:
			continue // told by type and path
		}
		b = append(b, "  "...)
		b = p.styled(b, dim, visible(f.Key)+"=")
		b = append(b, visible(f.Value)...)
	}
	if sequence && position != "" {
		b = append(b, "  "...)
		b = p.styled(b, dim, position)
	}
	p.buf = append(b, '\n')
	_, err := p.w.Write(p.buf)
	return err
}

func (p *printer) styled(b []byte, style, text string) []byte {
	if !p.colours {
		return append(b, text...)
	}
	return append(append(append(b, style...), text...), reset...)
}

// visible replaces what would move the cursor or hide text on a terminal: names
// in events come from whoever could write them to the server.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' ||
			r >= '\u2066' && r <= '\u2069' || r == '\u200e' || r == '\u200f' || r == '\u061c' { // all that changes the direction
			return '\ufffd'
		}
		return r
	}, s)
}

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
