package match

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// predicate asks about the value of an operand.
type predicate struct {
	op       condition.Op
	modifier condition.Modifier
	typ      sourceplugin.FieldType // of the values
	list     bool                   // there may be several
	left     int32                  // an operand
	right    int32                  // an operand, or -1: constants are asked for
	// never says that no element of a list fits, as in Falco.
	never     bool
	constants []constant
	texts     []string

	strings  map[string]struct{} // in and intersects of strings and addresses
	numbers  map[uint64]struct{} // and of numbers
	networks *networks           // and of networks
	paths    paths
}

// finish makes of the constants what is faster to ask, and returns texts that make two predicates
// with the same operator and operand the same or not.
func (p *predicate) finish(left *operand) []string {
	texts := p.texts
	p.texts = nil
	switch p.op {
	case condition.In, condition.Intersects:
		p.never = p.list && left.terminated
		switch p.typ {
		case sourceplugin.String, sourceplugin.IPAddr:
			p.strings = make(map[string]struct{}, len(p.constants))
			for _, c := range p.constants {
				p.strings[c.text] = struct{}{}
			}
		case sourceplugin.IPNet:
			p.networks = newNetworks(p.constants)
		default:
			p.numbers = make(map[uint64]struct{}, len(p.constants))
			for _, c := range p.constants {
				p.numbers[c.number] = struct{}{}
			}
		}
		texts = slices.Clone(texts)
		slices.Sort(texts)
		texts = slices.Compact(texts)
	case condition.PMatch:
		p.paths = newPaths(texts)
	}
	return texts
}

// eval says whether the value fits. It does not if there is none.
func (p *predicate) eval(v *values) bool {
	left, ok := v.get(p.left)
	if !ok {
		return false
	}
	switch {
	case p.never:
		return p.op == condition.In && len(left) == 0
	case p.op == condition.Exists:
		return true
	case p.right >= 0:
		right, ok := v.get(p.right)
		if !ok {
			return false
		}
		return p.evalRight(left, right, v.operands[p.left].terminated, v.operands[p.right].terminated)
	case p.list && p.op == condition.In:
		for i := range left {
			if !p.member(&left[i]) {
				return false
			}
		}
		return true
	case p.list:
		for i := range left {
			if p.member(&left[i]) {
				return true
			}
		}
		return false
	}
	value := &left[0]
	switch p.op {
	case condition.In, condition.Intersects:
		return p.member(value)
	case condition.PMatch:
		return p.paths.match(value.Text)
	}
	if p.modifier == condition.None {
		return p.fits(value, &p.constants[0])
	}
	n := 0
	for i := range p.constants {
		if p.fits(value, &p.constants[i]) {
			n++
		}
	}
	return modified(p.modifier, n, len(p.constants))
}

// modified says whether n of all are those that a modifier wants.
func modified(m condition.Modifier, n, all int) bool {
	switch m {
	case condition.OneOf:
		return n == 1
	case condition.AnyOf:
		return n > 0
	case condition.AllOf:
		return n == all && all > 0
	}
	return false
}

// member says whether a value is one of the constants.
func (p *predicate) member(value *field.Element) bool {
	var ok bool
	switch {
	case p.strings != nil:
		_, ok = p.strings[value.Text]
	case p.numbers != nil:
		_, ok = p.numbers[value.Number]
	default:
		ok = p.networks.have(value.Text)
	}
	return ok
}

// fits compares a value with one constant.
func (p *predicate) fits(value *field.Element, c *constant) bool {
	switch {
	case p.op == condition.Regex:
		return c.regex.MatchString(value.Text)
	case p.typ == sourceplugin.String:
		return compareStrings(p.op, value.Text, c.text)
	case p.typ == sourceplugin.IPNet:
		return inNetwork(value.Text, c.network) == (p.op == condition.Equal)
	case p.typ == sourceplugin.IPAddr:
		return (value.Text == c.text) == (p.op == condition.Equal)
	}
	return compare(p.op, value.Number, c.number)
}

func compareStrings(op condition.Op, a, b string) bool {
	switch op {
	case condition.Contains:
		return strings.Contains(a, b)
	case condition.IContains:
		return containsFold(a, b)
	case condition.StartsWith:
		return strings.HasPrefix(a, b)
	case condition.EndsWith:
		return strings.HasSuffix(a, b)
	case condition.Glob:
		return glob(b, a, false)
	case condition.IGlob:
		return glob(b, a, true)
	}
	return compare(op, a, b)
}

// compare compares by order.
func compare[T cmp.Ordered](op condition.Op, a, b T) bool {
	switch op {
	case condition.Equal:
		return a == b
	case condition.NotEqual:
		return a != b
	case condition.Less:
		return a < b
	case condition.LessEqual:
		return a <= b
	case condition.More:
		return a > b
	case condition.MoreEqual:
		return a >= b
	}
	return false
}

// containsFold is strings.Contains without regard to the case of ASCII letters.
func containsFold(text, part string) bool {
	for i := 0; i+len(part) <= len(text); i++ {
		j := 0
		for j < len(part) && lower(text[i+j]) == lower(part[j]) {
			j++
		}
		if j == len(part) {
			return true
		}
	}
	return false
}

// evalRight compares with the value of another operand, which has the same type. The flags say
// which values end with a NUL in Falco.
func (p *predicate) evalRight(left, right []field.Element, leftNUL, rightNUL bool) bool {
	switch p.op {
	case condition.In, condition.Intersects:
		same := (leftNUL && p.list) == rightNUL
		for i := range left {
			found := same && slices.ContainsFunc(right, func(e field.Element) bool {
				if p.typ == sourceplugin.String || p.typ == sourceplugin.IPAddr {
					return e.Text == left[i].Text
				}
				return e.Number == left[i].Number
			})
			if p.op == condition.In && !found {
				return false
			}
			if p.op == condition.Intersects && found {
				return true
			}
		}
		return p.op == condition.In
	}
	a, b := &left[0], &right[0]
	n := 0
	switch p.typ {
	case sourceplugin.String:
		if compareStrings(p.op, a.Text, b.Text) {
			n = 1
		}
	case sourceplugin.IPAddr:
		if (a.Text == b.Text) == (p.op == condition.Equal) {
			n = 1
		}
	default:
		if compare(p.op, a.Number, b.Number) {
			n = 1
		}
	}
	return p.modifier == condition.None && n == 1 || p.modifier != condition.None && modified(p.modifier, n, 1)
}
