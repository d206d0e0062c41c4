package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// isJSON decides as Vault does: a text that begins with "{" is JSON.
func isJSON(src string) bool {
	return strings.HasPrefix(strings.TrimLeftFunc(src, unicode.IsSpace), "{")
}

// json parses JSON. The HCL library has a parser for it, too, but that one forgets
// positions, ignores what follows the first mistake, and drops truth values.
func (r *reader) json(src string) *node {
	// The whole is checked first: errors of a decoder have no useful positions.
	if err := json.Unmarshal([]byte(src), new(json.RawMessage)); err != nil {
		at := len(src) - 1
		if se, ok := errors.AsType[*json.SyntaxError](err); ok {
			at = int(se.Offset) - 1
		}
		message := err.Error()
		if strings.Contains(message, "max depth") { // of encoding/json, far beyond ours
			message = fmt.Sprintf("nested deeper than %d levels", MaxNesting)
		}
		r.problem((&place{src: src}).at(max(at, 0)), "%s", message)
		return nil
	}
	d := jsonReader{reader: r, src: src, place: place{src: src}, d: json.NewDecoder(strings.NewReader(src))}
	d.d.UseNumber()
	n, err := d.value(0)
	if err != nil {
		if err != errTooDeep {
			r.problem(Position{1, 1}, "%s", err)
		}
		return nil
	}
	return n
}

// jsonReader reads JSON that is known to be correct.
type jsonReader struct {
	*reader
	src   string
	place place
	d     *json.Decoder
}

var errTooDeep = errors.New("nested too deep")

// next returns where the next token begins.
func (d *jsonReader) next() Position {
	offset := int(d.d.InputOffset())
	for offset < len(d.src) && strings.IndexByte(" \t\r\n,:", d.src[offset]) >= 0 {
		offset++
	}
	return d.place.at(offset)
}

func (d *jsonReader) value(depth int) (*node, error) {
	n := &node{Position: d.next()}
	t, err := d.d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case string:
		n.kind, n.text = text, t
	case json.Number:
		n.kind, n.text = number, t.String()
		if _, err := n.number(); err != nil {
			d.problem(n.Position, "the number %s cannot be represented", short(n.text))
			n.kind = null
		}
	case bool:
		n.kind, n.truth = boolean, t
	case nil:
		n.kind = null
	case json.Delim:
		if depth++; depth > MaxNesting {
			d.problem(n.Position, "nested deeper than %d levels", MaxNesting)
			return nil, errTooDeep
		}
		n.kind = object
		if t == '[' {
			n.kind = list
		}
		for d.d.More() {
			var it item
			if n.kind == object {
				it.Position = d.next()
				key, err := d.d.Token()
				if err != nil {
					return nil, err
				}
				it.key, _ = key.(string)
			}
			if it.value, err = d.value(depth); err != nil {
				return nil, err
			}
			if n.kind == object {
				n.items = append(n.items, it)
			} else {
				n.list = append(n.list, it.value)
			}
		}
		_, err = d.d.Token()
	}
	return n, err
}

// place finds lines and columns of offsets, fast if they grow.
type place struct {
	src          string
	offset       int
	line, column int // at offset, from 0
}

func (p *place) at(offset int) Position {
	offset = min(offset, len(p.src))
	if offset < p.offset {
		*p = place{src: p.src}
	}
	between := p.src[p.offset:offset]
	if i := strings.LastIndexByte(between, '\n'); i >= 0 {
		p.line += strings.Count(between, "\n")
		p.column = 0
		between = between[i+1:]
	}
	p.column += utf8.RuneCountInString(between)
	p.offset = offset
	return Position{p.line + 1, p.column + 1}
}
