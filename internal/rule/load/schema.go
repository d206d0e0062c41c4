package load

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// schema is a JSON Schema, as far as that of files of rules needs it.
type schema struct {
	kind       string // array, object, boolean, integer, or empty: anything
	items      *schema
	properties map[string]*schema
	names      []string // of the properties, sorted
	required   []string
	nonEmpty   bool
	enum       []string
}

func object(required []string, properties map[string]*schema) *schema {
	s := &schema{kind: "object", properties: properties, required: required}
	for name := range properties {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	return s
}

var (
	anything    = &schema{}
	boolean     = &schema{kind: "boolean"}
	integer     = &schema{kind: "integer"}
	plugin      = map[string]*schema{"name": anything, "version": anything}
	plugins     = &schema{kind: "array", items: object([]string{"name", "version"}, map[string]*schema{"name": anything, "version": anything, "alternatives": {kind: "array", items: object([]string{"name", "version"}, plugin)}})}
	overridden  = &schema{enum: []string{"append", "replace"}}
	fileSchema  = &schema{kind: "array", items: itemSchema()}
	prioritySet = []string{"EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO", "INFORMATIONAL", "DEBUG"}
)

func itemSchema() *schema {
	override := map[string]*schema{"items": overridden}
	for _, key := range replaceableKeys {
		override[key] = overridden
	}
	overrides := object(nil, override)
	overrides.nonEmpty = true
	exceptions := object([]string{"name"}, map[string]*schema{"name": anything, "fields": anything, "comps": anything, "values": anything})
	return object(nil, map[string]*schema{
		"required_engine_version": anything, "required_plugin_versions": plugins,
		"macro": anything, "condition": anything, "list": anything, "items": {kind: "array"},
		"rule": anything, "desc": anything, "enabled": boolean, "output": anything, "append": boolean,
		"priority": {enum: prioritySet}, "capture": boolean, "capture_duration": integer, "source": anything,
		"exceptions": {kind: "array", items: exceptions}, "override": overrides, "tags": {kind: "array"},
		"warn_evttypes": boolean, "skip-if-unknown-filter": boolean,
		"window": anything, "throttle": anything,
	})
}

// checkSchema compares documents with the schema of files of rules. It says what the real engine
// says, in its order.
func checkSchema(src *source, docs []*yaml.Node) (bool, []string) {
	var c schemaChecker
	valid := len(docs) > 0
	for i, doc := range docs {
		if doc = resolve(doc); doc == nil {
			continue
		}
		ok := c.check(doc, fileSchema, "<root>")
		if i == 0 {
			valid = ok
		}
	}
	if valid {
		return true, nil
	}
	return false, c.warnings
}

type schemaChecker struct{ warnings []string }

// fail notes what is wrong. What is too much is left out.
func (c *schemaChecker) fail(at, message string) bool {
	if len(c.warnings) < maxWarnings {
		c.warnings = append(c.warnings, "failed for "+at+": "+message)
	}
	return false
}

// isEmpty says whether something may be an empty list as well as an empty map: either of them, or an
// empty text.
func isEmpty(n *yaml.Node) bool {
	return (isSequence(n) || isMapping(n)) && len(n.Content) == 0 || isScalar(n) && n.Value == ""
}

func (c *schemaChecker) check(n *yaml.Node, s *schema, at string) bool {
	ok := true
	if s.enum != nil && (n.Kind != yaml.ScalarNode || !slices.Contains(s.enum, n.Value)) {
		ok = c.fail(at, "Failed to match against any enum values.")
	}
	if s.items != nil && isSequence(n) {
		for i, v := range n.Content {
			if v = resolve(v); v != nil && !c.check(v, s.items, at+"["+strconv.Itoa(i)+"]") {
				ok = c.fail(at, "Failed to validate item #"+strconv.Itoa(i)+" in array.")
			}
		}
	}
	if s.nonEmpty && isEmpty(n) {
		ok = c.fail(at, "Object should have no fewer than 1 properties.")
	}
	if s.properties != nil && isMapping(n) {
		for _, name := range s.names {
			if v := value(n, name); v != nil && !c.check(v, s.properties[name], at+"["+name+"]") {
				ok = c.fail(at, "Failed to validate against schema associated with property name '"+name+"'.")
			}
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if k := n.Content[i].Value; s.properties[k] == nil {
				ok = c.fail(at, "Object contains a property that could not be validated using 'properties' or 'additionalProperties' constraints: '"+k+"'.")
				break
			}
		}
	}
	if s.properties != nil && (isMapping(n) || isEmpty(n)) {
		for _, name := range s.required {
			if value(n, name) == nil {
				ok = c.fail(at, "Missing required property '"+name+"'.")
			}
		}
	}
	fits := true
	switch s.kind {
	case "array":
		fits = isSequence(n) || isEmpty(n)
	case "object":
		fits = isMapping(n) || isEmpty(n)
	case "boolean":
		fits = isScalar(n) && (n.Value == "true" || n.Value == "false")
	case "integer":
		_, err := strconv.ParseInt(strings.TrimSpace(n.Value), 10, 64)
		fits = isScalar(n) && err == nil
	}
	if !fits {
		ok = c.fail(at, "Value type not permitted by 'type' constraint.")
	}
	return ok
}
