package load

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/spelling"
)

// The keys of items.
var (
	listKeys       = []string{"list", "items", "append", "override"}
	macroKeys      = []string{"macro", "condition", "append", "override"}
	appendableKeys = []string{"condition", "output", "desc", "tags", "exceptions"}
	// replaceableKeys are those of rules. What can be appended to can be replaced, too.
	replaceableKeys = []string{
		"condition", "output", "desc", "priority", "tags", "exceptions", "enabled", "warn_evttypes",
		"skip-if-unknown-filter", "capture", "capture_duration", "window", "throttle",
	}
	ruleKeys = slices.Concat([]string{"rule", "source", "append", "override"}, replaceableKeys)

	exceptionKeys = []string{"name", "fields", "comps", "values"}
)

// read collects what a file says, and says whether to go on.
func (l *loader) read(src *source, docs []*yaml.Node) bool {
	file := newContext(src)
	for _, doc := range docs {
		if doc = resolve(doc); doc == nil || isNull(doc) {
			continue
		}
		if !isSequence(doc) {
			if !l.fail(&failure{code: ErrYAMLValidate, message: "a file of rules must be a list of items", hint: `begin each item with "- "`, context: file}) {
				return false
			}
			continue
		}
		for _, n := range doc.Content {
			if n = resolve(n); n == nil || isNull(n) {
				continue
			}
			f := l.readItem(src, n, file)
			if f == nil {
				continue
			}
			item := brokenItem{}
			for _, kind := range []string{inList, inMacro, inRule} {
				if v := value(n, kind); v != nil && item.kind == "" {
					item = brokenItem{kind, v.Value}
				}
			}
			if f.missing && l.broken[item] {
				continue // it was told why
			}
			l.broken[item] = true
			if !l.fail(f) {
				return false
			}
		}
	}
	return true
}

func (l *loader) readItem(src *source, n *yaml.Node, file *context) *failure {
	if !isMapping(n) {
		return &failure{code: ErrYAMLValidate, message: "an item must be a map, like \"rule: NAME\"", context: file.enter(n, inItem, "")}
	}
	if src.budget -= len(n.Content); src.budget < 0 {
		return &failure{code: ErrYAMLValidate, message: "the file has too much in it", context: file.enter(n, inItem, "")}
	}
	switch {
	case value(n, "required_engine_version") != nil:
		return l.readEngineVersion(n, file)
	case value(n, "required_plugin_versions") != nil:
		return l.readPluginVersions(n, file)
	case value(n, "list") != nil:
		return l.readList(n, file)
	case value(n, "macro") != nil:
		return l.readMacro(n, file)
	case value(n, "rule") != nil:
		return l.readRule(n, file)
	}
	hint := ""
	for i := 0; i+1 < len(n.Content); i += 2 {
		if near := spelling.Nearest(n.Content[i].Value, []string{"rule", "macro", "list", "required_engine_version", "required_plugin_versions"}); near != "" {
			hint = "did you mean " + near + "?"
			break
		}
	}
	l.warn(WarnUnknownItem, "Unknown top level item", hint, file.enter(n, inItem, ""))
	return nil
}

// scalarOf returns the scalar of a key. Without it, n is nil if it is optional.
func scalarOf(n *yaml.Node, key string, optional bool, c *context) (*yaml.Node, *failure) {
	v := value(n, key)
	switch {
	case v == nil && optional:
		return nil, nil
	case v == nil:
		return nil, &failure{code: ErrYAMLValidate, message: "there is no " + key, context: c}
	case isNull(v):
		return nil, &failure{code: ErrYAMLValidate, message: "the value of " + key + " is empty", context: c}
	}
	at := c.enter(v, inValue, key)
	switch {
	case v.Kind != yaml.ScalarNode:
		return nil, &failure{code: ErrYAMLValidate, message: key + " must be a text", context: at}
	case v.Value == "":
		return nil, &failure{code: ErrYAMLValidate, message: key + " must not be empty", context: at}
	case len(v.Value) > maxConditionBytes:
		return nil, &failure{code: ErrYAMLValidate, message: key + " is too long", context: at}
	}
	return v, nil
}

// boolOf reads a bool; nil if there is none and it is optional.
func boolOf(n *yaml.Node, key string, optional bool, c *context) (*bool, *failure) {
	v, f := scalarOf(n, key, optional, c)
	if v == nil {
		return nil, f
	}
	b, ok := parseBool(v.Value)
	if !ok {
		return nil, &failure{code: ErrYAMLValidate, message: key + " must be true or false", context: c.enter(v, inValue, key)}
	}
	return &b, nil
}

func uintOf(n *yaml.Node, key string, c *context) (*uint32, *failure) {
	v, f := scalarOf(n, key, true, c)
	if v == nil {
		return nil, f
	}
	i, ok := parseUint(v.Value)
	if !ok {
		return nil, &failure{code: ErrYAMLValidate, message: key + " must be a number", context: c.enter(v, inValue, key)}
	}
	return &i, nil
}

// textsOf reads a list of scalars.
func (l *loader) textsOf(n *yaml.Node, key string, optional bool, c *context) ([]string, *failure) {
	v := value(n, key)
	if v == nil {
		if optional {
			return nil, nil
		}
		return nil, &failure{code: ErrYAMLValidate, message: "there is no " + key, context: c}
	}
	at := c.enter(v, inValue, key)
	if !isSequence(v) {
		return nil, &failure{code: ErrYAMLValidate, message: key + " must be a list", context: at}
	}
	if c.src.budget -= len(v.Content); c.src.budget < 0 {
		return nil, &failure{code: ErrYAMLValidate, message: "the file has too much in it", context: at}
	}
	list := make([]string, 0, len(v.Content))
	for _, i := range v.Content {
		if i = resolve(i); i == nil || !isScalar(i) {
			if i == nil {
				i = v
			}
			return nil, &failure{code: ErrYAMLValidate, message: "an element of " + key + " must be a text", context: at.enter(i, inListItem, "")}
		}
		list = append(list, i.Value)
	}
	return list, nil
}

// unknownKeys warns of keys that mean nothing.
func (l *loader) unknownKeys(n *yaml.Node, known []string, c *context) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := resolve(n.Content[i])
		if k == nil || k.Kind != yaml.ScalarNode || slices.Contains(known, k.Value) {
			continue
		}
		hint := ""
		if near := spelling.Nearest(k.Value, known); near != "" {
			hint = "did you mean " + near + "?"
		}
		if d := l.warn(WarnUnknownKey, "Unknown key '"+k.Value+"'. The key will be ignored.", hint, c); d != nil {
			// People want to see the key, not the beginning of the item.
			at := c.src.offset(k)
			d.At = c.src.place(at)
			line, start := c.src.lineAt(at)
			d.Line, d.Width = shorten(line, at-start), len(k.Value)
		}
	}
}

const deprecatedAppend = "'append' key is deprecated. Add an 'append' entry (e.g. 'condition: append') under 'override' instead."

// overrides reads what an item says about earlier ones.
type overrides struct{ append, replace map[string]bool }

func (o *overrides) any() bool { return len(o.append)+len(o.replace) > 0 }

func readOverrides(n *yaml.Node, appendable, replaceable []string, c *context) (*overrides, *failure) {
	o := &overrides{append: map[string]bool{}, replace: map[string]bool{}}
	v := value(n, "override")
	if v == nil {
		return o, nil
	}
	at := c.enter(n, inOverride, "")
	if isSequence(v) && len(v.Content) > 0 {
		return nil, &failure{code: ErrValidate, message: "override must be a map of keys to append or replace", context: at}
	}
	if !isMapping(v) {
		return o, nil
	}
	for i := 0; i+1 < len(v.Content); i += 2 {
		k, op := resolve(v.Content[i]), resolve(v.Content[i+1])
		if k == nil || op == nil || k.Kind != yaml.ScalarNode || op.Kind != yaml.ScalarNode {
			return nil, &failure{code: ErrValidate, message: "override must be a map of keys to append or replace", context: at}
		}
		key := k.Value
		can := []string{}
		if slices.Contains(appendable, key) {
			can = append(can, "append")
		}
		if slices.Contains(replaceable, key) {
			can = append(can, "replace")
		}
		hint := ""
		if len(can) > 0 {
			hint = "say " + strings.Join(can, " or ")
		} else if near := spelling.Nearest(key, replaceable); near != "" {
			hint = "did you mean " + near + "?"
		}
		switch op.Value {
		case "append":
			if !slices.Contains(can, "append") {
				return nil, &failure{code: ErrYAMLValidate, message: "nothing can be appended to '" + key + "'", hint: hint, context: at.enter(k, inOverride, key)}
			}
			o.append[key] = true
		case "replace":
			if !slices.Contains(can, "replace") {
				return nil, &failure{code: ErrYAMLValidate, message: "'" + key + "' cannot be replaced", hint: hint, context: at.enter(k, inOverride, key)}
			}
			o.replace[key] = true
		default:
			return nil, &failure{code: ErrYAMLValidate, message: "override knows no '" + op.Value + "'", hint: hint, context: at.enter(op, inValue, key)}
		}
	}
	return o, nil
}

func bothError(c *context) *failure {
	return &failure{code: ErrYAMLValidate, message: "an item has either override or append: true", hint: "say under override what is appended", context: c}
}

func (l *loader) readList(n *yaml.Node, file *context) *failure {
	name, f := scalarOf(n, "list", false, file.enter(n, inList, ""))
	if f != nil {
		return f
	}
	c := file.enter(n, inList, name.Value)
	l.unknownKeys(n, listKeys, c)
	if strings.ContainsAny(name.Value, "()\"'=, \t\r\n\v\f") {
		l.warn(WarnInvalidListName, `List has an invalid name. List names should match a regular expression: ([^()\"'[:space:]=,]+)`, "", c)
	}
	items, f := l.textsOf(n, "items", false, c)
	if f != nil {
		return f
	}
	appends, o, f := l.readAppend(n, c, "items")
	if f != nil {
		return f
	}
	item := &listItem{item: item{name: name.Value, context: c}, items: items}
	if appends || o.append["items"] {
		return l.collector.appendList(item)
	}
	l.collector.defineList(item)
	return nil
}

// readAppend reads append and override of a list or macro, which have one key that can be
// overridden.
func (l *loader) readAppend(n *yaml.Node, c *context, key string) (bool, *overrides, *failure) {
	b, f := boolOf(n, "append", true, c)
	if f != nil {
		return false, nil, f
	}
	appends := b != nil && *b
	if appends {
		l.warn(WarnDeprecatedItem, deprecatedAppend, "", c)
	}
	keys := []string{key}
	o, f := readOverrides(n, keys, keys, c)
	if f != nil {
		return false, nil, f
	}
	if appends && o.any() {
		return false, nil, bothError(c)
	}
	return appends, o, nil
}

func (l *loader) readMacro(n *yaml.Node, file *context) *failure {
	name, f := scalarOf(n, "macro", false, file.enter(n, inMacro, ""))
	if f != nil {
		return f
	}
	c := file.enter(n, inMacro, name.Value)
	l.unknownKeys(n, macroKeys, c)
	if !isIdentifier(name.Value) {
		l.warn(WarnInvalidMacroName, "Macro has an invalid name. Macro names should match a regular expression: ([a-zA-Z]+[a-zA-Z0-9_]*)", "", c)
	}
	cond, f := scalarOf(n, "condition", false, c)
	if f != nil {
		return f
	}
	appends, o, f := l.readAppend(n, c, "condition")
	if f != nil {
		return f
	}
	m := &macroItem{
		item: item{name: name.Value, context: c}, condition: newText(c.src, cond),
		conditionContext: c.enter(cond, inMacroCondition, ""),
	}
	if appends || o.append["condition"] {
		return l.collector.appendMacro(m)
	}
	l.collector.defineMacro(m)
	return nil
}

func isIdentifier(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case i > 0 && (c == '_' || c >= '0' && c <= '9'):
		default:
			return false
		}
	}
	return name != ""
}

// parsePriority reads a priority, with the names of Falco alone.
func parsePriority(name string) (severity.Severity, bool) {
	if strings.EqualFold(name, "info") {
		return severity.Informational, true
	}
	for s := severity.Emergency; s <= severity.Debug; s++ {
		if strings.EqualFold(name, s.String()) {
			return s, true
		}
	}
	return 0, false
}

func readPriority(n *yaml.Node, c *context) (severity.Severity, *failure) {
	v, f := scalarOf(n, "priority", false, c)
	if f != nil {
		return 0, f
	}
	p, ok := parsePriority(v.Value)
	if !ok {
		names := make([]string, 0, 9)
		lower := make([]string, 0, 9)
		for s := severity.Emergency; s <= severity.Debug; s++ {
			names, lower = append(names, s.String()), append(lower, strings.ToLower(s.String()))
		}
		hint := "known are " + strings.Join(names, ", ")
		if near := spelling.Nearest(v.Value, lower); near != "" {
			hint = "did you mean " + strings.ToUpper(near) + "?"
		} else if near := shortPriorities[strings.ToLower(v.Value)]; near != "" {
			hint = "did you mean " + near + "?"
		}
		return 0, &failure{code: ErrYAMLValidate, message: "Invalid priority", hint: hint, context: c.enter(v, inRulePriority, "")}
	}
	return p, nil
}

var shortPriorities = map[string]string{"warn": "WARNING", "err": "ERROR", "crit": "CRITICAL", "emerg": "EMERGENCY", "fatal": "EMERGENCY", "panic": "EMERGENCY", "high": "CRITICAL", "medium": "WARNING", "low": "NOTICE"}
