package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/hcl/ast"

	"github.com/tocsin-events/tocsin/event"
)

// Parse parses a text in HCL or, if it begins with "{", in JSON. name becomes the
// name of the policy, whatever the text says. Warnings are about what is accepted
// but has no effect here, or hardly the intended one. The error is an [Error], with
// all problems of the text unless its syntax is wrong.
func Parse(name, text string) (p *Policy, warnings []Problem, err error) {
	r := reader{name: name}
	_, root := r.read(text)
	rules := r.top(root)
	if err := r.err(); err != nil {
		return nil, nil, err
	}
	return &Policy{Name: name, Rules: rules}, inOrder(r.warnings), nil
}

// reader turns a text into rules and collects what is to be said about it.
type reader struct {
	name     string
	problems []Problem
	warnings []Problem
}

func (r *reader) problem(at Position, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, Problem{at, message(format, args...)})
	}
}

func (r *reader) warn(at Position, format string, args ...any) {
	if len(r.warnings) < maxProblems {
		r.warnings = append(r.warnings, Problem{at, message(format, args...)})
	}
}

// message bounds messages, since those of parsers quote the text.
func message(format string, args ...any) string {
	const most = 400
	m := fmt.Sprintf(format, args...)
	if len(m) > most {
		m = strings.ToValidUTF8(m[:most], "") + "..."
	}
	return m
}

func (r *reader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return Error(inOrder(r.problems))
}

func inOrder(p []Problem) []Problem {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return p
}

// read returns the tree of a text, nil if its syntax is wrong, and what the HCL
// parser made of it, nil for JSON.
func (r *reader) read(src string) (*ast.File, *node) {
	if len(src) > MaxBytes {
		r.problem(Position{1, 1}, "the policy has %d bytes, more than %d", len(src), MaxBytes)
		return nil, nil
	}
	if !utf8.ValidString(src) {
		valid := strings.ToValidUTF8(src, "\uFFFD")
		i := 0
		for i < len(src) && src[i] == valid[i] {
			i++
		}
		r.problem((&place{src: valid}).at(i), "not valid UTF-8")
		return nil, nil
	}
	if isJSON(src) {
		return nil, r.json(src)
	}
	return r.file(src)
}

var (
	topKeys    = []string{"name", "path"}
	stanzaKeys = []string{
		"allowed_parameters", "capabilities", "comment", "control_group", "denied_parameters", "max_wrapping_ttl",
		"mfa_methods", "min_wrapping_ttl", "policy", "required_parameters", "subscribe_event_types",
	}
)

func (r *reader) top(root *node) []Rule {
	if root == nil {
		return nil
	}
	var rules []Rule
	named := false
	for _, it := range root.items {
		switch it.key {
		case "name":
			if named {
				r.problem(it.Position, `"name" is set twice; every name can be set only once`)
			}
			named = true
			if name, ok := r.text(it); ok && r.name != "" && !strings.EqualFold(strings.TrimSpace(name), r.name) {
				r.warn(it.Position, "the policy is stored as %q; the name %s in its text has no effect", r.name, short(name))
			}
		case "path":
			rules = r.paths(it.value, rules)
		default:
			r.problem(it.Position, "unknown key %s%s", short(it.key), suggest(it.key, topKeys))
		}
	}
	if len(rules) > MaxRules {
		r.problem(rules[MaxRules].Position, "more than %d rules", MaxRules)
	}
	if len(rules) == 0 && len(r.problems) == 0 {
		r.warn(Position{1, 1}, "the policy has no rules, so it grants nothing")
	}
	return rules
}

// paths reads the value of "path": an object of stanzas by pattern, or in JSON also
// a list of such objects.
func (r *reader) paths(v *node, rules []Rule) []Rule {
	switch v.kind {
	case list:
		for _, element := range v.list {
			if element.kind != object {
				r.problem(element.Position, `"path" has %s where a block is needed`, element.kind)
				continue
			}
			rules = r.paths(element, rules)
		}
	case object:
		for _, it := range v.items {
			switch {
			case it.value.kind == object:
				rules = append(rules, r.rule(it, it.value))
			case it.value.kind == list && len(it.value.list) > 0 && !slices.Contains(stanzaKeys, it.key):
				for _, stanza := range it.value.list {
					if stanza.kind != object {
						r.problem(stanza.Position, "the rule for path %s is %s, not a block", short(it.key), stanza.kind)
						continue
					}
					rules = append(rules, r.rule(it, stanza))
				}
			case slices.Contains(stanzaKeys, it.key):
				r.problem(v.Position, `"path" needs a pattern: path "secret/data/*" { ... }`)
				return rules
			default:
				r.problem(it.Position, "the rule for path %s is %s, not a block", short(it.key), it.value.kind)
			}
		}
	default:
		r.problem(v.Position, `"path" is %s; it needs a pattern and a block: path "secret/data/*" { ... }`, v.kind)
	}
	return rules
}

// rule reads one stanza.
func (r *reader) rule(it item, stanza *node) Rule {
	rule := Rule{Pattern: strings.TrimPrefix(it.key, "/"), Position: it.Position}
	r.pattern(&rule)
	denies := false
	var minTTL, maxTTL time.Duration
	seen := make(map[string]bool)
	for _, it := range stanza.items {
		parameters := it.key == "allowed_parameters" || it.key == "denied_parameters"
		if seen[it.key] && !(parameters && it.block) {
			r.problem(it.Position, "%q is set twice in a rule; every name can be set only once", it.key)
			continue
		}
		seen[it.key] = true
		switch it.key {
		case "comment":
			switch it.value.kind {
			case list, object, boolean:
				r.warn(it.Position, "comment is %s, not a text, and has no effect", it.value.kind)
			default:
				rule.Comment, _ = r.text(it)
			}
		case "policy":
			legacy, ok := r.text(it)
			if !ok || legacy == "" {
				break
			}
			c, ok := legacyPolicies[legacy]
			if !ok {
				r.problem(it.value.Position, `unknown policy %s; it is "deny", "read", "write" or "sudo"`, short(legacy))
				break
			}
			rule.Capabilities |= c
			denies = denies || c == Deny
		case "capabilities":
			for _, element := range r.texts(it) {
				c, ok := CapabilityByName(element.text)
				if !ok {
					r.problem(element.Position, "unknown capability %s%s", short(element.text), suggest(element.text, writableNames()))
					continue
				}
				rule.Capabilities |= c
				denies = denies || c == Deny
			}
		case "subscribe_event_types":
			rule.EventTypes = r.eventTypes(it)
		case "allowed_parameters":
			rule.allowed = r.parameters(it, rule.allowed)
		case "denied_parameters":
			rule.denied = r.parameters(it, rule.denied)
		case "required_parameters":
			for _, element := range r.texts(it) {
				rule.required = append(rule.required, element.text)
			}
		case "min_wrapping_ttl":
			minTTL = r.duration(it)
		case "max_wrapping_ttl":
			maxTTL = r.duration(it)
		case "mfa_methods":
			if len(r.texts(it)) > 0 {
				rule.unsupported = it.key
			}
		case "control_group":
			switch {
			case it.value.kind != object:
				r.problem(it.value.Position, "control_group is %s, not a block", it.value.kind)
			case !slices.ContainsFunc(it.value.items, func(it item) bool { return it.key == "factor" }):
				r.problem(it.Position, "control_group has no factor")
			}
			rule.unsupported = it.key
		default:
			r.problem(it.Position, "unknown key %s in the rule for path %s%s", short(it.key), short(rule.Pattern), suggest(it.key, stanzaKeys))
		}
	}
	if minTTL > 0 && maxTTL > 0 && maxTTL < minTTL {
		r.problem(rule.Position, "max_wrapping_ttl is less than min_wrapping_ttl")
	}
	rule.wrapped = minTTL > 0 || maxTTL > 0
	if denies {
		if rule.Capabilities != Deny {
			r.warn(rule.Position, "deny drops the other capabilities of the rule")
		}
		rule = Rule{Pattern: rule.Pattern, Capabilities: Deny, Comment: rule.Comment, Position: rule.Position, parts: rule.parts}
	}
	r.advise(&rule)
	return rule
}

var legacyPolicies = map[string]Capabilities{
	"deny":  Deny,
	"read":  Read | List,
	"write": Create | Read | Update | Delete | List,
	"sudo":  Create | Read | Update | Delete | List | Sudo,
}

// advise warns of what is right but may not be meant.
func (r *reader) advise(rule *Rule) {
	at := rule.Position
	switch {
	case rule.unsupported != "":
		r.warn(at, "%s is not possible here, so the rule denies everything", rule.unsupported)
	case rule.Capabilities == 0:
		r.warn(at, "the rule grants nothing, because it has no capabilities; it still hides less specific rules")
	case rule.wrapped && rule.Capabilities&^Subscribe != 0:
		r.warn(at, "responses are not wrapped here, so a rule with a wrapping TTL refuses every operation; only events may be seen by it")
	}
	if rule.unsupported == "" {
		switch subscribes := rule.Capabilities.Has(Subscribe); {
		case subscribes && len(rule.EventTypes) == 0:
			r.warn(at, `subscribe without subscribe_event_types shows no event; for all of them: subscribe_event_types = ["*"]`)
		case !subscribes && len(rule.EventTypes) > 0:
			r.warn(at, "subscribe_event_types has no effect without the capability subscribe")
		}
	}
	if rule.parts != nil && rule.closes() {
		r.warn(at, "the rule takes something away, but not from those for whom a template in its path has no value: for them there is no such rule")
	}
	for _, p := range rule.parts {
		if p.template && !known(p.text) {
			r.warn(at, "{{%s}} never has a value here, so there never is such a rule", p.text)
		}
	}
}

// pattern checks the pattern of a rule and finds its templates.
func (r *reader) pattern(rule *Rule) {
	p, at := rule.Pattern, rule.Position
	if len(p) > MaxPatternBytes {
		r.problem(at, "the path has %d bytes, more than %d", len(p), MaxPatternBytes)
		return
	}
	parts, err := templateParts(p)
	if err != nil {
		r.problem(at, "the path %s: %s", short(p), err)
		return
	}
	rule.parts = parts
	literal := p
	if parts != nil {
		var b strings.Builder
		for _, part := range parts {
			if part.template {
				b.WriteByte('x')
			} else {
				b.WriteString(part.text)
			}
		}
		literal = b.String()
	}
	if strings.IndexFunc(literal, unicode.IsControl) >= 0 {
		r.problem(at, "the path %s has a control character", short(p))
	}
	if strings.Contains(literal, "+*") {
		r.problem(at, `the path %s has "+*"; "+" stands for one whole segment, so write "+/*"`, short(p))
	}
	switch {
	case p == "":
		r.warn(at, "the empty path is never asked for")
	case p[0] == '/':
		r.warn(at, "the path %s never matches: only one slash at the beginning is ignored", short("/"+p))
	case strings.HasPrefix(p, "v1/"):
		r.warn(at, `the path %s begins with "v1/", which is part of the URL but not of paths in policies`, short(p))
	}
	if strings.Contains(strings.TrimSuffix(literal, "*"), "*") {
		r.warn(at, `"*" means something only at the end of a path; elsewhere in %s it stands for itself`, short(p))
	}
	for segment := range strings.SplitSeq(literal, "/") {
		if segment != "+" && strings.Contains(segment, "+") {
			r.warn(at, `"+" means something only as a whole segment; in %s it stands for itself`, short(p))
			break
		}
	}
}

func (r *reader) eventTypes(it item) []string {
	var types []string
	for _, element := range r.texts(it) {
		switch {
		case element.text == "":
			r.warn(element.Position, `the event type "" is none`)
		case !strings.Contains(element.text, "*") && event.CheckType(element.text) != nil:
			r.warn(element.Position, "no event has the type %s", short(element.text))
		}
		types = append(types, element.text)
	}
	if len(types) > MaxEventTypes {
		r.problem(it.Position, "subscribe_event_types has %d entries, more than %d", len(types), MaxEventTypes)
	}
	return types
}

// text reads a text; numbers are taken literally and null is empty.
func (r *reader) text(it item) (string, bool) {
	switch it.value.kind {
	case text, number, null:
		return it.value.text, true
	}
	r.problem(it.value.Position, "%s is %s, not a text", it.key, it.value.kind)
	return "", false
}

// texts reads a list of texts.
func (r *reader) texts(it item) []*node {
	if it.value.kind != list {
		hint := ""
		if it.value.kind == text {
			hint = ": " + it.key + " = [" + short(it.value.text) + "]"
		}
		r.problem(it.value.Position, "%s is %s, not a list%s", it.key, it.value.kind, hint)
		return nil
	}
	var texts []*node
	for _, element := range it.value.list {
		if element.kind != text && element.kind != number {
			r.problem(element.Position, "%s has %s where a text is needed", it.key, element.kind)
			continue
		}
		texts = append(texts, element)
	}
	return texts
}

// duration reads seconds or a duration such as "1h" or "2d".
func (r *reader) duration(it item) time.Duration {
	var seconds float64
	switch v := it.value; v.kind {
	case null:
	case text:
		if v.text == "" {
			break
		}
		days, isDays := strings.CutSuffix(v.text, "d")
		if n, err := strconv.ParseInt(v.text, 10, 64); err == nil {
			seconds = float64(n)
		} else if n, err := strconv.ParseInt(days, 10, 64); isDays && err == nil {
			seconds = float64(n) * 24 * 3600
		} else if d, err := time.ParseDuration(v.text); err == nil {
			seconds = d.Seconds()
		} else {
			r.problem(v.Position, `%s is %s, not a duration such as "30s", "1h" or "2d"`, it.key, short(v.text))
			return 0
		}
	case number:
		switch n, _ := v.number(); n := n.(type) {
		case int64:
			seconds = float64(n)
		case float64:
			seconds = n
		}
	default:
		r.problem(v.Position, "%s is %s, not a duration", it.key, v.kind)
		return 0
	}
	const most = float64(1<<63-1) / float64(time.Second)
	if seconds < 0 || seconds >= most {
		r.problem(it.value.Position, "%s is negative or too long", it.key)
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}

// parameters reads lists of values by parameter and adds them to into.
func (r *reader) parameters(it item, into map[string][]any) map[string][]any {
	if it.value.kind != object {
		r.problem(it.value.Position, "%s is %s, not a block", it.key, it.value.kind)
		return into
	}
	if into == nil {
		into = make(map[string][]any)
	}
	for _, p := range it.value.items {
		name := strings.ToLower(p.key)
		if _, ok := into[name]; ok {
			r.problem(p.Position, "%s has the parameter %s twice", it.key, short(name))
			continue
		}
		if p.value.kind != list {
			r.problem(p.value.Position, "the parameter %s of %s has %s, not a list of values", short(name), it.key, p.value.kind)
			continue
		}
		into[name] = r.list(p.value)
	}
	return into
}

func (r *reader) list(v *node) []any {
	values := make([]any, 0, len(v.list))
	for _, element := range v.list {
		values = append(values, r.any(element))
	}
	return values
}

func (r *reader) any(v *node) any {
	switch v.kind {
	case text:
		return v.text
	case number:
		n, _ := v.number()
		return n
	case boolean:
		return v.truth
	case list:
		return r.list(v)
	case object:
		m := make(map[string]any, len(v.items))
		for _, it := range v.items {
			if _, ok := m[it.key]; ok {
				r.problem(it.Position, "%q is set twice; every name can be set only once", it.key)
			}
			m[it.key] = r.any(it.value)
		}
		return m
	}
	r.problem(v.Position, "null cannot be a value")
	return nil
}

func writableNames() []string {
	var names []string
	for _, n := range capabilityNames {
		if n.bit != Root {
			names = append(names, n.name)
		}
	}
	return names
}

// suggest says which of the known words may be meant.
func suggest(word string, known []string) string {
	best, least := "", 3
	lower := strings.ToLower(strings.TrimSpace(word))
	for _, k := range known {
		if d := distance(lower, k); d < least && d < len(k) {
			best, least = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; possible are " + strings.Join(known, ", ")
}

// distance is how many characters must be inserted, removed or replaced to make b of
// a, as far as it matters: 3 means 3 or more.
func distance(a, b string) int {
	if len(a)-len(b) > 2 || len(b)-len(a) > 2 {
		return 3
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], 3)
}
