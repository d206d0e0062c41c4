package match

import (
	"encoding/base64"
	"strings"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/rule/field"
)

const (
	maxResult = 1 << 20   // bytes of what a transformer makes; what is longer is no value
	maxArena  = 256 << 10 // bytes that are kept for the next event
	maxOwn    = 1 << 10   // elements of an operand that are
)

// values are the values of operands at one event, each made when it is asked for.
type values struct {
	operands []operand
	row      field.Row
	epoch    uint32
	cache    []value
	made     []int32 // operands that have a value of their own
	arena    []byte  // texts that transformers made
}

type value struct {
	epoch    uint32
	ok       bool
	elements []field.Element
	own      []field.Element // room for those that a transformer makes
}

func newValues(operands []operand) *values {
	return &values{operands: operands, cache: make([]value, len(operands))}
}

// start begins with another event. What was returned before is not valid any more, and nothing of
// it is kept.
func (s *values) start(row field.Row) {
	s.row = row
	for _, i := range s.made {
		v := &s.cache[i]
		clear(v.own[:cap(v.own)])
		if v.elements = nil; cap(v.own) > maxOwn {
			v.own = nil
		}
	}
	s.made = s.made[:0]
	s.epoch++
	if s.epoch == 0 { // it went round: nothing of long ago may look like new
		for i := range s.cache {
			s.cache[i].epoch = 0
		}
		s.epoch = 1
	}
	if cap(s.arena) > maxArena {
		s.arena = nil
	}
	s.arena = s.arena[:0]
}

// get returns the elements of an operand, and whether there is a value at all: only what getopt
// makes may be a list of none.
func (s *values) get(i int32) ([]field.Element, bool) {
	v := &s.cache[i]
	if v.epoch != s.epoch {
		v.epoch = s.epoch
		if o := &s.operands[i]; o.kind == fieldValue {
			v.elements = s.row.Values(o.request)
			v.ok = len(v.elements) > 0
		} else {
			v.elements, v.ok = s.make(o, v.own[:0])
			v.own = v.elements
			s.made = append(s.made, i)
		}
	}
	return v.elements, v.ok
}

// make makes the value of what is no field, in the room of own.
func (s *values) make(o *operand, own []field.Element) ([]field.Element, bool) {
	switch o.kind {
	case literalValue:
		return append(own, field.Element{Text: o.text}), true
	case listValue:
		for _, a := range o.args {
			e, ok := s.get(a)
			if !ok {
				return own[:0], false
			}
			own = append(own, e[0])
		}
		return own, true
	case length:
		e, ok := s.get(o.args[0])
		switch {
		case !ok:
			return own, false
		case s.operands[o.args[0]].list:
			return append(own, field.Element{Number: uint64(len(e))}), true
		}
		return append(own, field.Element{Number: uint64(len(e[0].Text))}), true
	case toLower, toUpper, base64Decoded, baseName:
		e, ok := s.get(o.args[0])
		if !ok {
			return own, false
		}
		for i := range e {
			text, ok := s.transform(o.kind, e[i].Text)
			if !ok {
				return own[:0], false
			}
			own = append(own, field.Element{Text: text})
		}
		return own, true
	case join, concat:
		text, ok := s.joined(o)
		if !ok {
			return own, false
		}
		return append(own, field.Element{Text: text}), true
	case getopt, getoptValue:
		options, ok := s.get(o.args[1])
		if !ok {
			return own, false
		}
		args, ok := s.get(o.args[0])
		if !ok {
			return own, false
		}
		return getOptions(args, options[0].Text, o.kind == getoptValue, o.option, own)
	}
	return own, false
}

// kept returns what was appended to the arena since an offset as a string. It is valid until the
// next event: the arena grows by getting another array, and what is in an array is written once
// for each event.
func (s *values) kept(from int) string {
	b := s.arena[from:]
	return unsafe.String(unsafe.SliceData(b), len(b))
}

func (s *values) transform(kind operandKind, text string) (string, bool) {
	from := len(s.arena)
	switch kind {
	case toLower:
		if !hasByte(text, 'A', 'Z') {
			return text, true
		}
		for i := range len(text) {
			s.arena = append(s.arena, lower(text[i]))
		}
	case toUpper:
		if !hasByte(text, 'a', 'z') {
			return text, true
		}
		for i := range len(text) {
			s.arena = append(s.arena, upper(text[i]))
		}
	case baseName:
		return text[strings.LastIndexByte(text, '/')+1:], true
	case base64Decoded:
		// Padding may be missing, but nothing may be in it and in unused bits.
		text = strings.TrimSuffix(strings.TrimSuffix(text, "="), "=")
		if strings.ContainsAny(text, "\r\n") { // the decoder would skip them
			return "", false
		}
		var err error
		s.arena, err = base64.RawStdEncoding.Strict().AppendDecode(s.arena, unsafe.Slice(unsafe.StringData(text), len(text)))
		if err != nil {
			s.arena = s.arena[:from]
			return "", false
		}
	}
	return s.kept(from), true
}

func hasByte(text string, from, to byte) bool {
	for i := range len(text) {
		if from <= text[i] && text[i] <= to {
			return true
		}
	}
	return false
}

func (s *values) joined(o *operand) (string, bool) {
	// All arguments first: making one may use the arena.
	size := 0
	var separator string
	var list []field.Element
	if o.kind == join {
		sep, ok := s.get(o.args[0])
		if !ok {
			return "", false
		}
		if list, ok = s.get(o.args[1]); !ok {
			return "", false
		}
		separator = sep[0].Text
		for i := range list {
			size += len(list[i].Text) + len(separator)
		}
	} else {
		for _, a := range o.args {
			e, ok := s.get(a)
			if !ok {
				return "", false
			}
			size += len(e[0].Text)
		}
	}
	if size > maxResult {
		return "", false
	}
	from := len(s.arena)
	if o.kind == join {
		for i := range list {
			if i > 0 {
				s.arena = append(s.arena, separator...)
			}
			s.arena = append(s.arena, list[i].Text...)
		}
	} else {
		for _, a := range o.args {
			e, _ := s.get(a)
			s.arena = append(s.arena, e[0].Text...)
		}
	}
	return s.kept(from), true
}

// getOptions reads arguments of a command as getopt(3) does, with the options that it has. It
// returns option, value, option, ...; or, with an option that is selected, the value of that or
// itself, the last one. It ends at the first argument that is no option and at "--"; arguments
// like --long are skipped. An option that is not known is "?", and a value that is missing "".
func getOptions(args []field.Element, options string, selected bool, option byte, own []field.Element) ([]field.Element, bool) {
	options = strings.TrimPrefix(options, ":")
	emit := func(texts ...string) {
		if selected {
			own = append(own[:0], field.Element{Text: texts[len(texts)-1]})
			return
		}
		for _, t := range texts {
			own = append(own, field.Element{Text: t})
		}
	}
	for n := 0; n < len(args); n++ {
		arg := args[n].Text
		if len(arg) < 2 || arg[0] != '-' || arg == "--" {
			break
		}
		if arg[1] == '-' {
			continue
		}
		for i := 1; i < len(arg); i++ {
			known, hasValue := findOption(options, arg[i])
			wanted := !selected || arg[i] == option
			switch {
			case !known:
				if !selected {
					emit("?")
				}
				continue
			case !hasValue:
				if wanted {
					emit(arg[i : i+1])
				}
				continue
			case i+1 < len(arg):
				if wanted {
					emit(arg[i:i+1], arg[i+1:])
				}
			case n+1 < len(args):
				n++
				if wanted {
					emit(arg[i:i+1], args[n].Text)
				}
			case wanted:
				emit("")
			}
			break
		}
	}
	return own, !selected || len(own) > 0
}

// findOption says whether an option is among those of an optstring, and whether it has a value.
func findOption(options string, option byte) (known, hasValue bool) {
	if option == ':' {
		return false, false
	}
	for i := 0; i < len(options); i++ {
		if options[i] == option {
			known = true
			hasValue = hasValue || i+1 < len(options) && options[i+1] == ':'
		}
	}
	return known, hasValue
}
