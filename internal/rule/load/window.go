package load

import (
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// windowItem is the key window of a rule as it was read.
type windowItem struct {
	context *context
	within  time.Duration
	by, new []string
	count   int
	// distinct is a field, or empty.
	distinct string
	then     []step
}

// step is a condition of the key then.
type step struct {
	text    *text
	context *context
}

type throttleItem struct {
	context *context
	every   time.Duration
	by      []string
}

// Bounds of windows. Those of package window are not lower.
const (
	maxWindowTime  = 366 * 24 * time.Hour
	maxWindowCount = 10_000
	maxWindowSteps = 16
	maxWindowBy    = 8
)

var (
	windowKeys   = []string{"within", "by", "count", "distinct", "then", "new"}
	throttleKeys = []string{"every", "by"}
)

// readWindow reads the key window:
//
//	window: {count: 5, within: 1m, by: [field]}
//	window: {count: 5, distinct: field, within: 1m, by: [field]}
//	window: {then: [condition, condition], within: 10m, by: [field]}
//	window: {new: [field], within: 30d, by: [field]}
func (l *loader) readWindow(n *yaml.Node, parent *context) (*windowItem, *failure) {
	v := value(n, "window")
	if v == nil || isNull(v) {
		return nil, nil
	}
	c := parent.enter(v, inValue, "window")
	bad := func(message, hint string, at *context) (*windowItem, *failure) {
		return nil, &failure{code: ErrYAMLValidate, message: message, hint: hint, context: at}
	}
	if !isMapping(v) {
		return bad("window must be a map", "for example {count: 5, within: 1m, by: [FIELD]}", c)
	}
	l.unknownKeys(v, windowKeys, c)
	w := &windowItem{context: c}
	var f *failure
	if w.within, f = durationOf(v, "within", c); f != nil {
		return nil, f
	}
	if w.by, f = l.fieldsOf(v, "by", c); f != nil {
		return nil, f
	}
	if w.new, f = l.fieldsOf(v, "new", c); f != nil {
		return nil, f
	}
	if d := value(v, "distinct"); d != nil {
		d, f := scalarOf(v, "distinct", false, c)
		if f != nil {
			return nil, f
		}
		w.distinct = d.Value
	}
	if value(v, "count") != nil {
		s, f := scalarOf(v, "count", false, c)
		if f != nil {
			return nil, f
		}
		count, err := strconv.Atoi(s.Value)
		if err != nil || count < 2 || count > maxWindowCount {
			return bad("count must be a number from 2 to "+strconv.Itoa(maxWindowCount), "", c.enter(s, inValue, "count"))
		}
		w.count = count
	}
	if then := value(v, "then"); then != nil {
		at := c.enter(then, inValue, "then")
		steps := []*yaml.Node{then}
		if isSequence(then) {
			steps = then.Content
		}
		if len(steps) == 0 || len(steps) > maxWindowSteps {
			return bad("then must be 1 to "+strconv.Itoa(maxWindowSteps)+" conditions", "", at)
		}
		for _, s := range steps {
			if s = resolve(s); s == nil || !isScalar(s) || s.Value == "" {
				return bad("then must be a condition or a list of conditions", "", at)
			}
			w.then = append(w.then, step{text: newText(c.src, s), context: at.enter(s, inRuleCondition, "")})
		}
	}
	kinds := 0
	for _, is := range []bool{w.count > 0, len(w.then) > 0, len(w.new) > 0} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		return bad("window needs count, then or new", "for example {count: 5, within: 1m, by: [FIELD]}", c)
	case kinds > 1:
		return bad("window has either count, then or new", "make several rules of it", c)
	case w.distinct != "" && w.count == 0:
		return bad("distinct needs count", "", c)
	}
	return w, nil
}

// readThrottle reads the key throttle:
//
//	throttle: {every: 10m, by: [field]}
func (l *loader) readThrottle(n *yaml.Node, parent *context) (*throttleItem, *failure) {
	v := value(n, "throttle")
	if v == nil || isNull(v) {
		return nil, nil
	}
	c := parent.enter(v, inValue, "throttle")
	if !isMapping(v) {
		return nil, &failure{code: ErrYAMLValidate, message: "throttle must be a map", hint: "for example {every: 10m, by: [FIELD]}", context: c}
	}
	l.unknownKeys(v, throttleKeys, c)
	t := &throttleItem{context: c}
	var f *failure
	if t.every, f = durationOf(v, "every", c); f != nil {
		return nil, f
	}
	t.by, f = l.fieldsOf(v, "by", c)
	if f != nil {
		return nil, f
	}
	return t, nil
}

// field returns the place of a field in a window or throttle.
func (c *context) field(name string) *context {
	for _, key := range []string{"by", "distinct", "new"} {
		v := value(c.node, key)
		if v == nil {
			continue
		}
		for _, n := range append([]*yaml.Node{v}, v.Content...) {
			if n = resolve(n); n != nil && isScalar(n) && n.Value == name {
				return c.enter(n, inValue, key)
			}
		}
	}
	return c
}

// fieldsOf reads one field or a list of fields.
func (l *loader) fieldsOf(n *yaml.Node, key string, c *context) ([]string, *failure) {
	v := value(n, key)
	if v == nil {
		return nil, nil
	}
	if isScalar(v) && v.Value != "" {
		return []string{v.Value}, nil
	}
	list, f := l.textsOf(n, key, true, c)
	if f != nil {
		return nil, f
	}
	if len(list) == 0 || len(list) > maxWindowBy {
		return nil, &failure{code: ErrYAMLValidate, message: key + " must be 1 to " + strconv.Itoa(maxWindowBy) + " fields", context: c.enter(v, inValue, key)}
	}
	return list, nil
}

func durationOf(n *yaml.Node, key string, c *context) (time.Duration, *failure) {
	v, f := scalarOf(n, key, false, c)
	if f != nil {
		return 0, f
	}
	d, ok := parseDuration(v.Value)
	if !ok || d < time.Millisecond || d > maxWindowTime {
		return 0, &failure{code: ErrYAMLValidate, message: key + " must be a time from 1ms to 366d", hint: "write it as 30s, 10m, 12h or 30d", context: c.enter(v, inValue, key)}
	}
	return d, nil
}

// parseDuration reads a duration that may be in days or weeks.
func parseDuration(text string) (time.Duration, bool) {
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			f, err := strconv.ParseFloat(number, 64)
			if err != nil || !(f >= 0 && f <= 1000) {
				return 0, false
			}
			return time.Duration(f * float64(unit)), true
		}
	}
	d, err := time.ParseDuration(text)
	return d, err == nil
}
