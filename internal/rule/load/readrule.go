package load

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	deprecatedEnabled = "an item with nothing but 'enabled' is deprecated; say 'enabled: replace' under 'override', too"
	defaultSource     = "syscall"
)

func (l *loader) readRule(n *yaml.Node, file *context) *failure {
	name, f := scalarOf(n, "rule", false, file.enter(n, inRule, ""))
	if f != nil {
		return f
	}
	c := file.enter(n, inRule, name.Value)
	l.unknownKeys(n, ruleKeys, c)
	appends, f := boolOf(n, "append", true, c)
	if f != nil {
		return f
	}
	if appends != nil && *appends {
		l.warn(WarnDeprecatedItem, deprecatedAppend, "", c)
	}
	o, f := readOverrides(n, appendableKeys, replaceableKeys, c)
	switch {
	case f != nil:
		return f
	case appends != nil && *appends && o.any():
		return bothError(c)
	case o.any():
		return l.readOverride(n, name.Value, o, c)
	case appends != nil && *appends:
		// Nothing else can be appended in this way.
		u := &ruleUpdate{name: name.Value, context: c}
		for _, key := range []string{"condition", "exceptions"} {
			if value(n, key) != nil {
				if f := l.readUpdate(u, n, key, true, c); f != nil {
					return f
				}
			}
		}
		return l.appendRule(u)
	}
	if !slices.ContainsFunc([]string{"condition", "output", "desc", "priority"}, func(key string) bool { return value(n, key) != nil }) {
		return l.readEnabled(n, name.Value, c)
	}
	return l.readDefinition(n, name.Value, c)
}

// readEnabled reads an item that does nothing but turn a rule on or off.
func (l *loader) readEnabled(n *yaml.Node, name string, c *context) *failure {
	if value(n, "enabled") == nil {
		return &failure{code: ErrYAMLValidate, message: "there is no enabled", hint: "a rule needs condition, output, desc and priority; an item without them turns an earlier rule on or off", context: c}
	}
	enabled, f := boolOf(n, "enabled", false, c)
	if f != nil {
		return f
	}
	l.warn(WarnDeprecatedItem, deprecatedEnabled, "", c)
	r, ok := l.collector.rules.find(name)
	if !ok {
		return (&failure{code: ErrValidate, message: "there is no rule of this name before, to turn on or off", hint: l.ruleHint(name), context: c}).isMissing()
	}
	r.enabled = *enabled
	return nil
}

// readOverride reads an item that changes an earlier rule.
func (l *loader) readOverride(n *yaml.Node, name string, o *overrides, c *context) *failure {
	expected := map[string]bool{}
	for _, key := range replaceableKeys {
		if value(n, key) != nil {
			expected[key] = true
		}
	}
	for _, way := range []struct {
		keys    map[string]bool
		appends bool
		name    string
		apply   func(*ruleUpdate) *failure
	}{{o.append, true, "append", l.appendRule}, {o.replace, false, "replace", l.replaceRule}} {
		if len(way.keys) == 0 {
			continue
		}
		u := &ruleUpdate{name: name, context: c}
		for _, key := range replaceOrder {
			if !way.keys[key] {
				continue
			}
			if !expected[key] {
				return &failure{code: ErrYAMLValidate, message: "override says " + way.name + " for '" + key + "', but there is no '" + key + "'", context: c}
			}
			delete(expected, key)
			if f := l.readUpdate(u, n, key, way.appends, c); f != nil {
				return f
			}
		}
		if f := way.apply(u); f != nil {
			return f
		}
	}
	if len(expected) > 0 {
		keys := make([]string, 0, len(expected))
		for key := range expected {
			keys = append(keys, key)
		}
		key := slices.Min(keys)
		return &failure{code: ErrYAMLValidate, message: "nothing under override says what to do with '" + key + "'", hint: "add '" + key + ": append' or '" + key + ": replace' there, as far as the key allows it", context: c.enter(value(n, key), inOverride, key)}
	}
	return nil
}

// replaceOrder is the order in which the real engine looks at the keys, which decides about the
// first error.
var replaceOrder = []string{
	"condition", "exceptions", "output", "desc", "tags", "priority", "enabled", "capture", "capture_duration",
	"warn_evttypes", "skip-if-unknown-filter", "window", "throttle",
}

// readUpdate reads one key of an item that changes a rule.
func (l *loader) readUpdate(u *ruleUpdate, n *yaml.Node, key string, appends bool, c *context) (f *failure) {
	text := func() (v *yaml.Node) {
		v, f = scalarOf(n, key, false, c)
		return v
	}
	switch key {
	case "condition":
		if v := text(); v != nil {
			u.condition = newText(c.src, v)
		}
	case "output":
		if v := text(); v != nil {
			u.output = newText(c.src, v)
		}
	case "desc":
		if v := text(); v != nil {
			u.description = &v.Value
		}
	case "tags":
		var tags []string
		if tags, f = l.textsOf(n, key, false, c); f == nil {
			tags = union(tags, nil)
			u.tags = &tags
		}
	case "exceptions":
		var list []*exception
		if list, f = l.readExceptions(n, c, appends); f == nil {
			u.exceptions = &list
		}
	case "priority":
		p, failed := readPriority(n, c)
		u.priority, f = &p, failed
	case "enabled":
		u.enabled, f = boolOf(n, key, false, c)
	case "warn_evttypes":
		u.warnEventTypes, f = boolOf(n, key, false, c)
	case "skip-if-unknown-filter":
		u.skipUnknown, f = boolOf(n, key, false, c)
	case "capture":
		u.capture, f = boolOf(n, key, false, c)
	case "capture_duration":
		u.captureDuration, f = uintOf(n, key, c)
	case "window":
		var w *windowItem
		w, f = l.readWindow(n, c)
		u.window = &w
	case "throttle":
		var t *throttleItem
		t, f = l.readThrottle(n, c)
		u.throttle = &t
	}
	return f
}

func (l *loader) readDefinition(n *yaml.Node, name string, c *context) *failure {
	r := &ruleItem{item: item{name: name, context: c}, source: defaultSource, enabled: true, warnEventTypes: true}
	cond, f := scalarOf(n, "condition", false, c)
	if f != nil {
		return f
	}
	r.condition, r.conditionContext = newText(c.src, cond), c.enter(cond, inRuleCondition, "")
	output, f := scalarOf(n, "output", false, c)
	if f != nil {
		return f
	}
	r.output, r.outputContext = newText(c.src, output).trim(), c.enter(output, inRuleOutput, "")
	desc, f := scalarOf(n, "desc", false, c)
	if f != nil {
		return f
	}
	r.description = desc.Value
	if r.priority, f = readPriority(n, c); f != nil {
		return f
	}
	src, f := scalarOf(n, "source", true, c)
	if f != nil {
		return f
	}
	if src != nil {
		r.source, r.sourceGiven = src.Value, true
	}
	for _, b := range []struct {
		key string
		to  *bool
	}{{"enabled", &r.enabled}, {"capture", &r.capture}, {"warn_evttypes", &r.warnEventTypes}, {"skip-if-unknown-filter", &r.skipUnknown}} {
		v, f := boolOf(n, b.key, true, c)
		if f != nil {
			return f
		}
		set(b.to, v)
	}
	duration, f := uintOf(n, "capture_duration", c)
	if f != nil {
		return f
	}
	set(&r.captureDuration, duration)
	tags, f := l.textsOf(n, "tags", true, c)
	if f != nil {
		return f
	}
	r.tags = union(tags, nil)
	if r.exceptions, f = l.readExceptions(n, c, false); f != nil {
		return f
	}
	if value(n, "window") != nil {
		if r.window, f = l.readWindow(n, c); f != nil {
			return f
		}
	}
	if value(n, "throttle") != nil {
		if r.throttle, f = l.readThrottle(n, c); f != nil {
			return f
		}
	}
	return l.defineRule(r)
}

// trim returns the text without white space around it.
func (t *text) trim() *text {
	start := len(t.s) - len(strings.TrimLeft(t.s, " \t\n\v\f\r"))
	end := len(strings.TrimRight(t.s, " \t\n\v\f\r"))
	if start == 0 && end == len(t.s) {
		return t
	}
	var b builder
	b.slice(t, start, end)
	return b.text()
}
