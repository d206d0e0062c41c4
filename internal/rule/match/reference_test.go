package match

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// reference evaluates conditions as slowly and as plainly as it can, from the tree. It panics at
// what does not compile.
type reference struct {
	fields map[string]field.Field
	values map[string][]field.Element // by the text of the field
}

// refValue is the value of an operand: texts that can be compared. A string is all the bytes that
// Falco has of it, with a NUL at the end of what a transformer made.
type refValue struct {
	typ      sourceplugin.FieldType
	list     bool
	ok       bool
	base     valueType
	elements []string
}

// upToNUL is a string as C sees it, trimmed one without its end.
func upToNUL(s string) string { s, _, _ = strings.Cut(s, "\x00"); return s }
func trimmed(s string) string { return strings.TrimRight(s, "\x00") }

// raw is an element as the bytes in memory.
func (v refValue) raw(i int) string {
	switch v.typ {
	case sourceplugin.Bool:
		n, _ := strconv.ParseUint(v.elements[i], 10, 64)
		return string(binary.LittleEndian.AppendUint32(nil, uint32(n)))
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		n, _ := strconv.ParseUint(v.elements[i], 10, 64)
		return string(binary.LittleEndian.AppendUint64(nil, n))
	}
	return v.elements[i]
}

func (r *reference) holds(e condition.Expr) bool {
	switch e := e.(type) {
	case *condition.Not:
		return !r.holds(e.Term)
	case *condition.And:
		for _, t := range e.Terms {
			if !r.holds(t) {
				return false
			}
		}
		return true
	case *condition.Or:
		for _, t := range e.Terms {
			if r.holds(t) {
				return true
			}
		}
		return false
	case *condition.Check:
		return r.check(e)
	}
	panic(fmt.Sprintf("%T", e))
}

func (r *reference) check(c *condition.Check) bool {
	left := r.operand(c.Left)
	if !left.ok {
		return false
	}
	if c.Op == condition.Exists {
		return true
	}
	var right []string
	constants := true
	switch x := c.Right.(type) {
	case *condition.Literal:
		right = []string{constantText(x.Text, left.typ)}
	case *condition.List:
		for _, i := range x.Items {
			right = append(right, constantText(i.(*condition.Literal).Text, left.typ))
		}
	default:
		v := r.operand(x)
		if !v.ok {
			return false
		}
		right, constants = v.elements, false
	}
	switch c.Op {
	case condition.In, condition.Intersects:
		fitting := 0
		for _, l := range left.elements {
			if left.typ == sourceplugin.String && !left.list {
				l = trimmed(l)
			}
			if slices.ContainsFunc(right, func(x string) bool { return r.one(left.typ, condition.Equal, l, x) }) {
				fitting++
			}
		}
		if c.Op == condition.In {
			return fitting == len(left.elements)
		}
		return fitting > 0
	case condition.PMatch:
		return slices.ContainsFunc(right, func(path string) bool { return refPath(path, trimmed(left.elements[0])) })
	}
	value := left.elements[0]
	set := c.Op == condition.Equal && c.Modifier == condition.AnyOf || c.Op == condition.NotEqual && c.Modifier == condition.AllOf
	if set && constants || c.Op == condition.Regex {
		value = trimmed(value)
	} else {
		value = upToNUL(value)
	}
	fitting := 0
	for _, x := range right {
		if r.one(left.typ, c.Op, value, upToNUL(x)) {
			fitting++
		}
	}
	switch c.Modifier {
	case condition.OneOf:
		return fitting == 1
	case condition.AllOf:
		return len(right) > 0 && fitting == len(right)
	}
	return fitting > 0
}

// one compares two values.
func (r *reference) one(t sourceplugin.FieldType, op condition.Op, a, b string) bool {
	if t == sourceplugin.IPNet {
		address, _, _ := strings.Cut(a, "/")
		return netip.MustParsePrefix(b).Contains(netip.MustParseAddr(address)) == (op == condition.Equal)
	}
	order := strings.Compare(a, b)
	if t == sourceplugin.Uint64 || t == sourceplugin.RelTime || t == sourceplugin.AbsTime || t == sourceplugin.Bool {
		order = len(a) - len(b) // numbers have no zeros before them
		if order == 0 {
			order = strings.Compare(a, b)
		}
	}
	switch op {
	case condition.Equal:
		return order == 0
	case condition.NotEqual:
		return order != 0
	case condition.Less:
		return order < 0
	case condition.LessEqual:
		return order <= 0
	case condition.More:
		return order > 0
	case condition.MoreEqual:
		return order >= 0
	case condition.Contains:
		return strings.Contains(a, b)
	case condition.IContains:
		return strings.Contains(refLower(a), refLower(b))
	case condition.StartsWith:
		return strings.HasPrefix(a, b)
	case condition.EndsWith:
		return strings.HasSuffix(a, b)
	case condition.Glob:
		return refGlob(b, a)
	case condition.IGlob:
		return refGlob(refLower(b), refLower(a))
	case condition.Regex:
		return regexp.MustCompile(`^(?s:`+b+`)$`).FindString(a) == a && regexp.MustCompile(`^(?:`+b+`)$`).MatchString(a)
	}
	panic(op)
}

// refGlob fits a pattern that has no classes and no bytes above 127: it tries everything.
func refGlob(pattern, text string) bool {
	if pattern == "" {
		return text == ""
	}
	if pattern[0] == '*' {
		for i := range len(text) + 1 {
			if refGlob(pattern[1:], text[i:]) {
				return true
			}
		}
		return false
	}
	if text == "" {
		return false
	}
	switch c := pattern[0]; {
	case c == '?':
		return refGlob(pattern[1:], text[1:])
	case c == '[' && strings.Contains(pattern[1:], "]"):
		set, rest, _ := strings.Cut(pattern[1:], "]")
		negated := strings.HasPrefix(set, "!")
		in := strings.ContainsRune(strings.TrimPrefix(set, "!"), rune(text[0]))
		return in != negated && refGlob(rest, text[1:])
	case c == '\\' && len(pattern) > 1:
		return pattern[1] == text[0] && refGlob(pattern[2:], text[1:])
	case c == '\\':
		return false
	default:
		return c == text[0] && refGlob(pattern[1:], text[1:])
	}
}

func components(path string) (all []string) {
	for _, c := range strings.Split(path, "/") {
		if c != "" {
			all = append(all, c)
		}
	}
	return all
}

func refPath(search, path string) bool {
	want, have := components(search), components(path)
	if len(want) > len(have) {
		return false
	}
	for i := range want {
		if want[i] != have[i] && !refGlob(want[i], have[i]) {
			return false
		}
	}
	return true
}

// constantText is a constant as the values of a type are written.
func constantText(text string, t sourceplugin.FieldType) string {
	switch t {
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return strconv.FormatUint(uint64(n), 10)
		}
	case sourceplugin.Bool:
		return map[string]string{"true": "1", "false": "0"}[text]
	}
	return text
}

func (r *reference) operand(x condition.Operand) refValue {
	switch x := x.(type) {
	case *condition.Literal:
		return refValue{typ: sourceplugin.String, base: aText, ok: true, elements: []string{x.Text}}
	case *condition.List:
		v := refValue{typ: sourceplugin.String, list: true, base: aTexts, ok: true}
		for _, i := range x.Items {
			item := r.operand(i)
			if !item.ok {
				return refValue{typ: v.typ, base: v.base, list: true}
			}
			switch {
			case item.base.typ == sourceplugin.Bool && item.typ == sourceplugin.Bool:
				v.elements = append(v.elements, map[string]string{"0": "false", "1": "true"}[item.elements[0]])
			case item.base.numeric():
				v.elements = append(v.elements, item.elements[0])
			default:
				for n := range item.elements {
					v.elements = append(v.elements, item.raw(n))
				}
			}
		}
		return v
	case *condition.Field:
		f := r.fields[x.Name]
		v := refValue{typ: f.Type, list: f.List, base: valueType{f.Type, f.List}}
		text := x.Name
		if x.ArgPresent {
			text += "[" + x.Arg + "]"
		}
		for _, e := range r.values[text] {
			v.ok = true
			switch f.Type {
			case sourceplugin.String, sourceplugin.IPNet:
				v.elements = append(v.elements, e.Text)
			case sourceplugin.IPAddr:
				a, _ := netip.AddrFromSlice([]byte(e.Text))
				v.elements = append(v.elements, a.String())
			default:
				v.elements = append(v.elements, strconv.FormatUint(e.Number, 10))
			}
		}
		return v
	case *condition.Transformer:
		return r.transformer(x)
	}
	panic(fmt.Sprintf("%T", x))
}

func (r *reference) transformer(x *condition.Transformer) refValue {
	var args []refValue
	ok := true
	for _, a := range x.Args {
		v := r.operand(a)
		args = append(args, v)
		ok = ok && v.ok && (v.base.list || len(v.elements) > 0)
	}
	text := func(s string) refValue {
		return refValue{typ: sourceplugin.String, base: aText, ok: ok, elements: []string{s}}
	}
	v := args[0]
	switch x.Name {
	case "val":
		return v
	case "len":
		n := refValue{typ: sourceplugin.Uint64, base: v.base, ok: ok}
		switch {
		case !ok:
		case v.base.list:
			n.elements = []string{strconv.Itoa(len(v.elements))}
		default:
			n.elements = []string{strconv.Itoa(len(upToNUL(v.elements[0])))}
		}
		return n
	case "concat":
		s := ""
		for _, a := range args {
			if ok {
				s += upToNUL(a.raw(0))
			}
		}
		return text(s)
	case "join":
		s := ""
		for i := range args[1].elements {
			if ok && i > 0 {
				s += v.raw(0)
			}
			s += upToNUL(args[1].raw(i))
		}
		return text(s)
	case "getopt":
		return refGetopt(args[0], args[1], x.Arg)
	}
	transformed := refValue{typ: v.typ, list: v.list, base: v.base, ok: v.ok}
	for _, e := range v.elements {
		e = trimmed(e)
		switch x.Name {
		case "tolower":
			e = refLower(e)
		case "toupper":
			e = refUpper(e)
		case "basename":
			e = e[strings.LastIndex(e, "/")+1:]
		case "b64":
			padded := e
			for range 2 {
				e = strings.TrimSuffix(e, "=")
			}
			b, err := base64.RawStdEncoding.Strict().DecodeString(e)
			if strings.Contains(e, "\n") || e == "" && padded != "" {
				err = base64.CorruptInputError(0)
			}
			transformed.ok = transformed.ok && err == nil
			e = string(b)
		}
		if !strings.HasSuffix(e, "\x00") {
			e += "\x00"
		}
		transformed.elements = append(transformed.elements, e)
	}
	return transformed
}

// refGetopt knows options of one letter whose values are in the next argument or behind them.
func refGetopt(args, options refValue, selected string) refValue {
	v := refValue{typ: sourceplugin.String, base: aText, list: selected == "", ok: args.ok && options.ok}
	if !v.ok {
		return v
	}
	last := map[string]string{}
	var raw []string
	for i := range args.elements {
		raw = append(raw, args.raw(i))
	}
	for i := 0; i < len(raw); i++ {
		arg := raw[i]
		if strings.HasPrefix(arg, "--") && arg != "--" {
			continue
		}
		if arg == "--" || arg == "-" || !strings.HasPrefix(arg, "-") {
			break
		}
		for arg = arg[1:]; arg != ""; {
			option := arg[:1]
			arg = arg[1:]
			at := strings.Index(options.raw(0), option)
			switch {
			case option == ":" || at < 0:
				v.elements = append(v.elements, "?")
			case !strings.HasPrefix(options.raw(0)[at+1:], ":"):
				v.elements = append(v.elements, option)
				last[option] = option
			case arg != "":
				v.elements = append(v.elements, option, arg)
				last[option] = arg
				arg = ""
			case i+1 < len(raw):
				i++
				v.elements = append(v.elements, option, raw[i])
				last[option] = raw[i]
			default:
				v.elements = append(v.elements, "")
				last[option] = ""
			}
		}
	}
	if selected != "" {
		value, ok := last[selected]
		return refValue{typ: sourceplugin.String, base: aText, ok: ok, elements: []string{value}}
	}
	return v
}

const upperCase, lowerCase = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"

func refLower(text string) string { return mapped(text, upperCase, lowerCase) }
func refUpper(text string) string { return mapped(text, lowerCase, upperCase) }

func mapped(text, from, to string) string {
	b := []byte(text)
	for i, c := range b {
		if at := strings.IndexByte(from, c); at >= 0 {
			b[i] = to[at]
		}
	}
	return string(b)
}
