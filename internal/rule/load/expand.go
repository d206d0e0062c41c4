package load

import (
	"slices"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/spelling"
)

// expander puts the conditions of macros in the place of their names.
type expander struct {
	*loader
	compiled   *compiled
	visibility int
	limited    bool // by visibility
	size       int
	tooLarge   bool
	loop       *condition.Macro
	unknown    *condition.Macro
	later      bool // the unknown one is defined, but later
	used       []usedMacro
	broken     bool // something that is used has errors
}

// maxConditionNodes bounds a condition with all macros in it.
const maxConditionNodes = 100_000

// maxTotalNodes bounds all of them.
const maxTotalNodes = 2_000_000

func (x *expander) expand(e condition.Expr, path []string) condition.Expr {
	if x.size++; x.size > maxConditionNodes || e == nil {
		x.tooLarge = true
		return e
	}
	switch e := e.(type) {
	case *condition.And:
		if terms, changed := x.all(e.Terms, path); changed {
			return &condition.And{At: e.At, Terms: terms}
		}
	case *condition.Or:
		if terms, changed := x.all(e.Terms, path); changed {
			return &condition.Or{At: e.At, Terms: terms}
		}
	case *condition.Not:
		if term := x.expand(e.Term, path); term != e.Term {
			return &condition.Not{At: e.At, Term: term}
		}
	case *condition.Macro:
		m := x.compiled.byName[e.Name]
		switch {
		case m != nil && m.broken, m == nil && x.loader.broken[brokenItem{inMacro, e.Name}]:
			x.broken = true
		case m == nil || x.limited && m.item.index >= x.visibility:
			if x.unknown == nil {
				x.unknown, x.later = e, m != nil
			}
		case slices.Contains(path, e.Name):
			if x.loop == nil {
				x.loop = e
			}
		default:
			m.used = true
			x.used = append(x.used, usedMacro{e.Name, m.condition})
			if m.size > 0 && !x.limited {
				// It has no macros in it any more.
				if x.size += m.size; x.size > maxConditionNodes {
					x.tooLarge = true
				}
				return m.condition
			}
			return x.expand(m.condition, append(slices.Clip(path), e.Name))
		}
	}
	return e
}

func (x *expander) all(terms []condition.Expr, path []string) ([]condition.Expr, bool) {
	result := make([]condition.Expr, len(terms))
	changed := false
	for i, t := range terms {
		result[i] = x.expand(t, path)
		changed = changed || result[i] != t
	}
	return result, changed
}

// failure returns what went wrong, about a condition of an item.
func (x *expander) failure(t *text, at *context) *failure {
	switch {
	case x.loop != nil:
		return &failure{code: ErrValidate, message: "reference loop in macro '" + x.loop.Name + "'", context: x.context(t, x.loop, at)}
	case x.unknown != nil:
		hint := ""
		if x.later {
			hint = "it is defined later; macros may only use those that are defined before them"
		} else {
			names := make([]string, 0, len(x.compiled.macros))
			for _, m := range x.compiled.macros {
				names = append(names, m.item.name)
			}
			if near := spelling.Nearest(x.unknown.Name, names); near != "" {
				hint = "did you mean " + near + "?"
			} else if slices.ContainsFunc(x.compiled.lists, func(i *compiledList) bool { return i.item.name == x.unknown.Name }) {
				hint = "it is a list; write FIELD in (" + x.unknown.Name + ")"
			}
		}
		return &failure{code: ErrValidate, message: "Undefined macro '" + x.unknown.Name + "' used in filter.", hint: hint, context: x.context(t, x.unknown, at)}
	case x.tooLarge:
		return &failure{code: ErrValidate, message: "the condition is too large, with the macros in it", context: at}
	}
	return nil
}

// context returns where a macro is named. The snippet of the real engine shows the condition as it
// is without its lists replaced.
func (x *expander) context(t *text, m *condition.Macro, at *context) *context {
	c := at.expression(t, m.At.Offset)
	c.exact, c.exactAt = position(m.At)
	return c
}

// memo is what became of a macro or a rule when the last file was compiled. As long as nothing has
// changed that it depends on, it becomes the same again.
type memo struct {
	key       memoKey
	used      []usedMacro
	condition condition.Expr
	size      int
	rule      *compiledRule // nil if it was skipped
	warnings  []*Diagnostic
}

// memoKey is what it depends on, next to macros. Texts and items that were changed are others.
type memoKey struct {
	parsed                      condition.Expr
	visibility                  int
	output                      *text
	window                      *windowItem
	throttle                    *throttleItem
	skipUnknown, warnEventTypes bool
}

// usedMacro is a macro and what it was when it was used.
type usedMacro struct {
	name      string
	condition condition.Expr
}

// same says whether m is still true, and notes then what it uses.
func (m *memo) same(key memoKey, c *compiled) bool {
	if m == nil || m.key != key {
		return false
	}
	for _, u := range m.used {
		if now := c.byName[u.name]; now == nil || now.condition != u.condition {
			return false
		}
	}
	for _, u := range m.used {
		c.byName[u.name].used = true
	}
	return true
}
