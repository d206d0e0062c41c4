package match

import (
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

const (
	maxResult = 1 << 20   // bytes of what a transformer makes; what is longer is no value
	maxNumber = 40        // bytes of what is not a text, or of a NUL
	maxItems  = 64 << 10  // elements of a list in a condition; a longer one is no value
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
		return s.items(o, own)
	case length:
		return s.length(o, own)
	case untilNUL, withoutNULs:
		e, ok := s.get(o.args[0])
		if !ok {
			return own, false
		}
		for i := range e {
			text := strings.TrimRight(e[i].Text, "\x00")
			if o.kind == untilNUL {
				text = untilZero(text)
			}
			own = append(own, field.Element{Text: text})
		}
		return own, true
	case toLower, toUpper, base64Decoded, baseName:
		e, ok := s.get(o.args[0])
		if !ok {
			return own, false
		}
		for i := range e {
			text, ok := s.transform(o.kind, strings.TrimRight(e[i].Text, "\x00"))
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
		of, to := &s.operands[o.args[0]], &s.operands[o.args[1]]
		if of.odd() {
			args = s.raw(of, args)
		}
		if to.odd() {
			options = s.raw(to, options)
		}
		return getOptions(args, options[0].Text, o.kind == getoptValue, o.option, own)
	}
	return own, false
}

// items makes the value of a list that is written in a condition: of what is a number its text, of
// what are texts all of them.
func (s *values) items(o *operand, own []field.Element) ([]field.Element, bool) {
	for _, a := range o.args {
		e, ok := s.get(a)
		if !ok || len(own)+len(e) > maxItems {
			return own[:0], false
		}
		of := &s.operands[a]
		switch {
		case of.base.numeric() && of.typ == sourceplugin.Bool:
			own = append(own, field.Element{Text: strconv.FormatBool(e[0].Number != 0)})
		case of.base.numeric():
			from := len(s.arena)
			s.arena = AppendNumber(s.arena, e[0].Number, of.digits)
			own = append(own, field.Element{Text: s.kept(from)})
		case of.odd():
			own = append(own, s.raw(of, e)...)
		default:
			own = append(own, e...)
		}
	}
	return own, true
}

// length makes the value of len(). Of what getopt finds it is, as in Falco, the length of the first.
func (s *values) length(o *operand, own []field.Element) ([]field.Element, bool) {
	e, ok := s.get(o.args[0])
	switch of := &s.operands[o.args[0]]; {
	case !ok:
		return own, false
	case of.base.list:
		return append(own, field.Element{Number: uint64(len(e))}), true
	case len(e) == 0:
		return own, false
	}
	return append(own, field.Element{Number: uint64(len(untilZero(e[0].Text)))}), true
}

// raw returns values as texts of the bytes that Falco has of them.
func (s *values) raw(of *operand, elements []field.Element) []field.Element {
	texts := make([]field.Element, 0, len(elements))
	for i := range elements {
		from := len(s.arena)
		s.arena = appendRaw(s.arena, of, &elements[i])
		texts = append(texts, field.Element{Text: s.kept(from)})
	}
	return texts
}

// appendRaw appends the bytes of a value as Falco has them: transformed texts with a NUL at the
// end, numbers as they are in memory, addresses as people write them.
func appendRaw(dst []byte, of *operand, e *field.Element) []byte {
	switch of.typ {
	case sourceplugin.Bool:
		return binary.LittleEndian.AppendUint32(dst, uint32(e.Number))
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		return binary.LittleEndian.AppendUint64(dst, e.Number)
	case sourceplugin.IPAddr:
		if a, ok := netip.AddrFromSlice([]byte(e.Text)); ok {
			return a.AppendTo(dst)
		}
	}
	dst = append(dst, e.Text...)
	if of.terminated {
		dst = append(dst, 0)
	}
	return dst
}

// appendC appends the bytes of a value up to the first NUL.
func appendC(dst []byte, of *operand, e *field.Element) []byte {
	from := len(dst)
	dst = appendRaw(dst, of, e)
	if of.odd() {
		dst = dst[:from+len(untilZero(unsafe.String(unsafe.SliceData(dst[from:]), len(dst)-from)))]
	}
	return dst
}

// untilZero returns what is before the first NUL.
func untilZero(text string) string {
	if i := strings.IndexByte(text, 0); i >= 0 {
		return text[:i]
	}
	return text
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
		inner := strings.TrimSuffix(strings.TrimSuffix(text, "="), "=")
		if strings.ContainsAny(inner, "\r\n") || inner == "" && text != "" { // the decoder would skip them
			return "", false
		}
		text = inner
		var err error
		s.arena, err = base64.RawStdEncoding.Strict().AppendDecode(s.arena, unsafe.Slice(unsafe.StringData(text), len(text)))
		if err != nil {
			s.arena = s.arena[:from]
			return "", false
		}
		// A NUL at the end is taken for that which the texts of transformers end with.
		if n := len(s.arena); n > from && s.arena[n-1] == 0 {
			s.arena = s.arena[:n-1]
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
	for _, a := range o.args {
		e, ok := s.get(a)
		if !ok || len(e) == 0 && !s.operands[a].base.list {
			return "", false
		}
		for i := range e {
			size += len(e[i].Text) + maxNumber
		}
	}
	from := len(s.arena)
	if o.kind == concat {
		if size > maxResult {
			return "", false
		}
		for _, a := range o.args {
			e, _ := s.get(a)
			s.arena = appendC(s.arena, &s.operands[a], &e[0])
		}
		return s.kept(from), true
	}
	separator, _ := s.get(o.args[0])
	list, _ := s.get(o.args[1])
	if size+len(list)*(len(separator[0].Text)+maxNumber) > maxResult {
		return "", false
	}
	for i := range list {
		if i > 0 {
			s.arena = appendRaw(s.arena, &s.operands[o.args[0]], &separator[0])
		}
		s.arena = appendC(s.arena, &s.operands[o.args[1]], &list[i])
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
