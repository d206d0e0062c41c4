package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// limits is what a rule says about the parameters of requests.
type limits struct {
	allowed, denied map[string][]any
	required        []string
}

// add merges the parameters of another rule with an equal pattern: the lists of a
// parameter are joined, and an empty list, which means all values, absorbs others.
func (l *limits) add(r *Rule) {
	l.allowed = joinParameters(l.allowed, r.allowed)
	l.denied = joinParameters(l.denied, r.denied)
	for _, name := range r.required {
		if !slices.Contains(l.required, name) {
			l.required = append(slices.Clip(l.required), name)
		}
	}
}

func joinParameters(into, more map[string][]any) map[string][]any {
	if len(more) == 0 {
		return into
	}
	if into == nil {
		return more
	}
	into = maps.Clone(into)
	for name, values := range more {
		have, ok := into[name]
		if len(values) == 0 || ok && len(have) == 0 {
			into[name] = []any{}
		} else {
			into[name] = slices.Concat(values, have)
		}
	}
	return into
}

// refuse says why a request with these parameters is refused; "" if it is not.
func (l *limits) refuse(parameters map[string]any) string {
	for _, name := range l.required {
		if _, ok := parameters[strings.ToLower(name)]; !ok {
			return fmt.Sprintf("the required parameter %q is missing", name)
		}
	}
	if len(parameters) == 0 {
		return ""
	}
	if len(l.denied) > 0 {
		if _, ok := l.denied["*"]; ok {
			return "all parameters are denied"
		}
		for name, value := range parameters {
			values, ok := l.denied[strings.ToLower(name)]
			if ok && (len(values) == 0 || someOf(stored(name, value), values)) {
				return fmt.Sprintf("the parameter %q is denied, or its value is", name)
			}
		}
	}
	if len(l.allowed) == 0 {
		return ""
	}
	_, others := l.allowed["*"]
	if others && len(l.allowed) == 1 {
		return ""
	}
	for name, value := range parameters {
		values, ok := l.allowed[strings.ToLower(name)]
		if !ok && !others {
			return fmt.Sprintf("the parameter %q is not among the allowed ones", name)
		}
		if ok && len(values) > 0 && !allOf(stored(name, value), values) {
			return fmt.Sprintf("the value of the parameter %q is not among the allowed ones", name)
		}
	}
	return ""
}

// stored returns the value that will take effect: names of policies are stored in
// lower case and without spaces around them (see [CleanName]), so they are compared
// so.
func stored(name string, value any) any {
	switch strings.ToLower(name) {
	case "policies", "token_policies":
	default:
		return value
	}
	if s, ok := value.(string); ok {
		return strings.ToLower(strings.TrimSpace(s))
	}
	elements, ok := elements(value)
	if !ok {
		return value
	}
	lower := make([]any, len(elements))
	for i, e := range elements {
		if s, ok := e.(string); ok {
			e = strings.ToLower(strings.TrimSpace(s))
		}
		lower[i] = e
	}
	return lower
}

// allOf says whether a value, or else every element of it, is in values. The
// elements of a text are those between commas, because that is how clients write
// lists.
func allOf(value any, values []any) bool {
	if in(value, values, equal) {
		return true
	}
	elements, ok := elements(value)
	if !ok {
		return false
	}
	for _, e := range elements {
		if !in(e, values, equal) {
			return false
		}
	}
	return true
}

// someOf says whether a value or an element of it is in values. Here a value is
// taken for another that is written alike, "5" for 5, since that may be what becomes
// of it.
func someOf(value any, values []any) bool {
	if in(value, values, alike) {
		return true
	}
	elements, _ := elements(value)
	for _, e := range elements {
		if in(e, values, alike) {
			return true
		}
	}
	return false
}

// elements returns the elements of a list, also of one written as a text.
func elements(value any) ([]any, bool) {
	switch value := value.(type) {
	case []any:
		return value, true
	case []string:
		list := make([]any, len(value))
		for i, s := range value {
			list[i] = s
		}
		return list, true
	case string:
		if value == "" {
			return nil, true
		}
		var list []any
		for s := range strings.SplitSeq(value, ",") {
			list = append(list, strings.TrimSpace(s))
		}
		return list, true
	}
	return nil, false
}

func in(value any, values []any, same func(want, got any) bool) bool {
	return slices.ContainsFunc(values, func(want any) bool { return same(want, value) })
}

// equal compares a value of a policy with one of a request. A text in a policy may
// begin or end with "*".
func equal(want, got any) bool {
	switch want := want.(type) {
	case string:
		got, ok := got.(string)
		return ok && globbed(want, got)
	case []any:
		got, ok := got.([]any)
		return ok && slices.EqualFunc(want, got, sameValue)
	}
	return sameValue(want, got)
}

func alike(want, got any) bool {
	if equal(want, got) {
		return true
	}
	w, ok := scalar(want)
	if !ok {
		return false
	}
	g, ok := scalar(got)
	return ok && globbed(w, g)
}

func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	}
	if i, f, isInt, ok := numeric(v); ok {
		if isInt {
			return strconv.FormatInt(i, 10), true
		}
		return strconv.FormatFloat(f, 'g', -1, 64), true
	}
	return "", false
}

func sameValue(a, b any) bool {
	switch a := a.(type) {
	case nil:
		return b == nil
	case string:
		b, ok := b.(string)
		return ok && a == b
	case bool:
		b, ok := b.(bool)
		return ok && a == b
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, sameValue)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, sameValue)
	}
	ai, af, aInt, ok := numeric(a)
	if !ok {
		return false
	}
	bi, bf, bInt, ok := numeric(b)
	if !ok {
		return false
	}
	if aInt && bInt {
		return ai == bi
	}
	return af == bf
}

// numeric returns a number as an integer, if it is one, and as a float.
func numeric(v any) (i int64, f float64, isInt, ok bool) {
	switch v := v.(type) {
	case int:
		return int64(v), float64(v), true, true
	case int64:
		return v, float64(v), true, true
	case float64:
		return 0, v, false, true
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, float64(i), true, true
		}
		f, err := v.Float64()
		return 0, f, false, err == nil
	}
	return 0, 0, false, false
}

func globbed(want, got string) bool {
	if len(want) < 2 {
		return want == got
	}
	middle, before := strings.CutPrefix(want, "*")
	middle, after := strings.CutSuffix(middle, "*")
	switch {
	case before && after:
		return strings.Contains(got, middle)
	case before:
		return strings.HasSuffix(got, middle)
	case after:
		return strings.HasPrefix(got, middle)
	}
	return want == got
}
