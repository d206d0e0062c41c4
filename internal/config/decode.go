package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// position is where a value stands in the file.
type position struct{ line, column int }

// decoder walks the nodes of a YAML document and the fields of a Config side by
// side. It goes on after a problem, so one run finds all of them.
type decoder struct {
	file     string
	problems []Problem
	at       map[string]position // of every value seen, by dotted path
	wrong    map[string]bool     // values with a problem and the sections that they are in
	values   bool                // secrets are given by value and not by reference
	unread   bool                // it is no YAML, or no section
}

func newDecoder(file string) *decoder {
	return &decoder{file: file, at: make(map[string]position), wrong: make(map[string]bool)}
}

// maxProblems is how many mistakes are told of what is read: nobody corrects more at once, and
// somebody may send nothing but mistakes.
const maxProblems = 1000

// report adds a problem of the value at key. What the rules for the finished
// configuration say about the same value or its section, "has no path" after a
// path that could not be read, would only repeat it, so both are marked.
func (d *decoder) report(key string, n *yaml.Node, format string, args ...any) {
	d.wrong[key], d.wrong[parent(key)] = true, true
	if len(d.problems) >= maxProblems {
		return
	}
	d.problems = append(d.problems, Problem{
		File: d.file, Line: n.Line, Column: n.Column, Key: key, Message: fmt.Sprintf(format, args...),
	})
}

// locate gives a problem of the finished configuration the position of the
// value that it is about, or of the nearest value around it.
func (d *decoder) locate(p Problem) Problem {
	p.File = d.file
	for key := p.Key; key != ""; key = parent(key) {
		if at, ok := d.at[key]; ok {
			p.Line, p.Column = at.line, at.column
			break
		}
	}
	return p
}

// parent returns "a.b" for "a.b.c" and "a.b[1]".
func parent(key string) string {
	return key[:max(0, strings.LastIndexAny(key, ".["))]
}

// document decodes the one document that text must hold into v, whose dotted path is key.
func (d *decoder) document(text []byte, key string, v reflect.Value) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return // nothing but comments: every default
	case err != nil:
		d.problems, d.unread = append(d.problems, d.syntax(err)), true
		return
	}
	if len(doc.Content) == 1 && !isNull(doc.Content[0]) {
		d.value(key, doc.Content[0], v)
		d.unread = doc.Content[0].Kind != yaml.MappingNode
	}
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.problems, d.unread = append(d.problems, d.syntax(err)), true
	default:
		d.report("", &second, "a second document begins here; a configuration is one document")
	}
}

// syntax turns an error of the YAML library, "yaml: line 3: did not find ...",
// into a problem of that line.
func (d *decoder) syntax(err error) Problem {
	p := Problem{File: d.file, Message: strings.TrimPrefix(err.Error(), "yaml: ")}
	if rest, ok := strings.CutPrefix(p.Message, "line "); ok {
		if number, message, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(number); err == nil {
				p.Line, p.Message = line, message
				if slices.ContainsFunc(countedFromZero, func(s string) bool { return strings.HasPrefix(message, s) }) {
					p.Line++
				}
			}
		}
	}
	p.Message = "not valid YAML: " + p.Message
	return p
}

// countedFromZero begins the messages of the library's grammar, as opposed to
// those of its scanner: it counts their lines from 0.
var countedFromZero = []string{
	"did not find expected node content", "did not find expected '-' indicator", "did not find expected key",
	"did not find expected ','", "did not find expected <document start>", "found duplicate %", "found incompatible YAML document",
	"found undefined tag handle",
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

var (
	durationType = reflect.TypeFor[Duration]()
	sizeType     = reflect.TypeFor[Size]()
	secretType   = reflect.TypeFor[Secret]()
	octalType    = reflect.TypeFor[Octal]()
	versionsType = reflect.TypeFor[Versions]()
	ratioType    = reflect.TypeFor[Ratio]()
	textsType    = reflect.TypeFor[Texts]()
)

// elementDefault returns what an element of a list is before its keys are read.
func elementDefault(t reflect.Type) reflect.Value {
	switch t {
	case reflect.TypeFor[Source]():
		return reflect.ValueOf(DefaultSource())
	case reflect.TypeFor[JWT]():
		return reflect.ValueOf(DefaultJWT())
	case reflect.TypeFor[OwnSecret]():
		return reflect.ValueOf(DefaultOwnSecret())
	case reflect.TypeFor[EventType]():
		return reflect.ValueOf(DefaultEventType())
	case reflect.TypeFor[Mount]():
		return reflect.ValueOf(DefaultMount())
	case reflect.TypeFor[SourcePlugin]():
		return reflect.ValueOf(DefaultSourcePlugin())
	case reflect.TypeFor[TraceExporter]():
		return reflect.ValueOf(DefaultTraceExporter())
	case reflect.TypeFor[Sink]():
		return reflect.ValueOf(DefaultSink())
	}
	return reflect.Zero(t)
}

// value decodes n into v, which is at the dotted path key.
func (d *decoder) value(key string, n *yaml.Node, v reflect.Value) {
	d.at[key] = position{n.Line, n.Column}
	if n.Kind == yaml.AliasNode {
		d.report(key, n, "anchors and aliases are not supported; write the value here")
		return
	}
	switch v.Type() {
	case secretType:
		d.secret(key, n, v)
		return
	case versionsType:
		d.versions(key, n, v)
		return
	case textsType:
		d.texts(key, n, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(key, n, v)
	case reflect.Slice:
		d.list(key, n, v)
	case reflect.Interface:
		d.textOrMap(key, n, v)
	default:
		d.scalar(key, n, v)
	}
}

func (d *decoder) structure(key string, n *yaml.Node, v reflect.Value) {
	if isNull(n) && key != "" {
		return // "journal:" with everything below it commented out
	}
	if n.Kind != yaml.MappingNode {
		d.report(key, n, "must be a section with keys, but is %s", kindOf(n))
		return
	}
	keys := fieldKeys(v.Type())
	inner := sync.OnceValue(func() innerKeys { return sectionOfType(n, v) })
	for name, value := range d.pairs(key, n) {
		i := slices.Index(keys, name.Value)
		if i < 0 {
			d.unknown(key, name, keys, inner)
			continue
		}
		d.value(join(key, name.Value), value, v.Field(i))
	}
}

// pairs yields the keys and values of a mapping; it reports repeated keys and
// keys that are no plain text, and leaves them out.
func (d *decoder) pairs(key string, n *yaml.Node) func(yield func(name, value *yaml.Node) bool) {
	return func(yield func(name, value *yaml.Node) bool) {
		seen := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			if name.Kind != yaml.ScalarNode {
				d.report(key, name, "a key must be text, but is %s", kindOf(name))
				continue
			}
			if line, ok := seen[name.Value]; ok {
				d.report(join(key, name.Value), name, "is set a second time; the first is in line %d", line)
				continue
			}
			seen[name.Value] = name.Line
			if !yield(name, value) {
				return
			}
		}
	}
}

// sectionOfType returns the key of the section that a mapping has for its type, and the keys
// in it: of a sink of type webhook, webhook and url, headers, ...
func sectionOfType(n *yaml.Node, v reflect.Value) (inner innerKeys) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "type" && n.Content[i+1].Kind == yaml.ScalarNode {
			inner.section = n.Content[i+1].Value
		}
	}
	at := slices.Index(fieldKeys(v.Type()), inner.section)
	if at < 0 || v.Field(at).Kind() != reflect.Struct || v.Field(at).Type() == secretType {
		return innerKeys{}
	}
	inner.keys = fieldKeys(v.Field(at).Type())
	return inner
}

type innerKeys struct {
	section string
	keys    []string
}

// meant returns the key of the section that a name probably is.
func (i innerKeys) meant(name string) string {
	if slices.Contains(i.keys, name) {
		return name
	}
	return Nearest(name, i.keys)
}

// unknown reports a key that does not exist, with the key that was probably
// meant: one that belongs into the section of the type, a near one of the same
// section, or the same word elsewhere.
func (d *decoder) unknown(section string, name *yaml.Node, keys []string, innerKeys func() innerKeys) {
	d.wrong[section] = true
	if len(d.problems) >= maxProblems {
		return
	}
	inner, where := innerKeys(), "here"
	if section != "" {
		where = "in " + section
	}
	message := fmt.Sprintf("unknown key %q %s", shorten(name.Value), where)
	elsewhere := slices.DeleteFunc(slices.Clone(allKeys()), func(k string) bool { return lastPart(k) != name.Value })
	switch near := Nearest(name.Value, keys); {
	case slices.Contains(inner.keys, name.Value), near == "" && inner.meant(name.Value) != "":
		message += fmt.Sprintf("; did you mean %s, in the section %s?", join(inner.section, inner.meant(name.Value)), inner.section)
	case near != "":
		message += fmt.Sprintf("; did you mean %q?", near)
	case len(elsewhere) > 0:
		message += fmt.Sprintf("; did you mean %s?", strings.Join(elsewhere, " or "))
	default:
		message += "; known are " + strings.Join(keys, ", ")
	}
	d.report("", name, "%s", message)
}

func (d *decoder) list(key string, n *yaml.Node, v reflect.Value) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.report(key, n, "must be a list (lines that begin with \"- \"), but is %s", kindOf(n))
		return
	}
	if len(n.Content) == 0 {
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		element := list.Index(i)
		element.Set(elementDefault(element.Type()))
		d.value(fmt.Sprintf("%s[%d]", key, i), item, element)
	}
	v.Set(list)
}

// versions decodes a mapping of mount paths to numbers.
func (d *decoder) versions(key string, n *yaml.Node, v reflect.Value) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.report(key, n, "must map mount paths to versions, for example {secret/: 2}, but is %s", kindOf(n))
		return
	}
	m := make(Versions)
	for name, value := range d.pairs(key, n) {
		path := join(key, name.Value)
		d.at[path] = position{value.Line, value.Column}
		if value.Kind != yaml.ScalarNode || value.Value != "1" && value.Value != "2" {
			d.report(path, value, "must be 1 or 2, but is %s", kindOf(value))
			continue
		}
		m[strings.Trim(name.Value, "/")+"/"] = int(value.Value[0] - '0')
	}
	if len(m) > 0 {
		v.Set(reflect.ValueOf(m))
	}
}

// texts decodes a mapping of names to texts. Numbers, true and false are taken as they
// are written.
func (d *decoder) texts(key string, n *yaml.Node, v reflect.Value) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.report(key, n, "must map names to texts, for example {sub: app}, but is %s", kindOf(n))
		return
	}
	m := make(Texts)
	for name, value := range d.pairs(key, n) {
		if value.Kind != yaml.ScalarNode || isNull(value) {
			d.report(key, value, "the value of %q must be text, but is %s", shorten(name.Value), kindOf(value))
			continue
		}
		m[name.Value] = value.Value
	}
	if len(m) > 0 {
		v.Set(reflect.ValueOf(m))
	}
}

// secret decodes a reference, or {} for none. A value written into the file is refused, and its
// text does not appear in the problem.
func (d *decoder) secret(key string, n *yaml.Node, v reflect.Value) {
	if d.values {
		d.secretValue(key, n, v)
		return
	}
	const form = "secrets are not written into the configuration; write {env: NAME} or {file: PATH}"
	if n.Kind != yaml.MappingNode {
		d.report(key, n, form)
		return
	}
	var env, file string
	for name, value := range d.pairs(key, n) {
		target := &env
		switch name.Value {
		case "env":
		case "file":
			target = &file
		default:
			d.report(key, name, "unknown key %q; %s", shorten(name.Value), form)
			continue
		}
		if value.Kind != yaml.ScalarNode || value.ShortTag() != "!!str" || value.Value == "" {
			d.report(join(key, name.Value), value, "must be text, but is %s", kindOf(value))
			continue
		}
		*target = value.Value
	}
	switch {
	case env != "" && file != "":
		d.report(key, n, "env and file are both set; keep one")
	case env != "":
		v.Set(reflect.ValueOf(SecretFromEnv(env)))
	case file != "":
		v.Set(reflect.ValueOf(SecretFromFile(file)))
	case len(n.Content) == 0:
		v.SetZero() // said to be none
	}
}

// secretValue decodes a secret that is given by value, [Redacted] for one that is known
// already, or {} for none. References are refused: who gives the value must not be able to
// have the files and the environment of the program read.
func (d *decoder) secretValue(key string, n *yaml.Node, v reflect.Value) {
	const form = "a secret is given by value here; write {value: SECRET}"
	if n.Kind == yaml.ScalarNode && n.Value == Redacted {
		v.Set(reflect.ValueOf(SecretValue(Redacted)))
		return
	}
	if n.Kind != yaml.MappingNode {
		d.report(key, n, "%s, or %q to keep the one that there is", form, Redacted)
		return
	}
	for name, value := range d.pairs(key, n) {
		switch {
		case name.Value == "env" || name.Value == "file":
			d.report(key, name, "%s; %s would be read on the machine of the hub, which only its configuration file can say", form, name.Value)
		case name.Value != "value":
			d.report(key, name, "unknown key %q; %s", shorten(name.Value), form)
		case value.Kind != yaml.ScalarNode || isNull(value):
			d.report(key, value, "the value must be text")
		case value.Value == "":
			d.report(key, value, "the value is empty; write {} for no secret")
		case len(value.Value) > maxSecretBytes:
			d.report(key, value, "the value is larger than %s", Size(maxSecretBytes))
		default:
			v.Set(reflect.ValueOf(SecretValue(value.Value)))
		}
	}
	if len(n.Content) == 0 {
		v.SetZero() // said to be none
	}
}

func (d *decoder) scalar(key string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.report(key, n, "must be %s, but is %s", wanted(v), kindOf(n))
		return
	}
	tag := n.ShortTag()
	switch {
	case tag == "!!null":
		d.report(key, n, "has no value; give it one, or remove the key to use the default %s", describe(v))
	case v.Type() == durationType:
		got, err := ParseDuration(n.Value)
		d.store(key, n, v, reflect.ValueOf(got), err)
	case v.Type() == sizeType:
		got, err := ParseSize(n.Value)
		d.store(key, n, v, reflect.ValueOf(got), err)
	case v.Type() == ratioType:
		got, err := ParseRatio(n.Value)
		d.store(key, n, v, reflect.ValueOf(got), err)
	case v.Kind() == reflect.Bool:
		if tag != "!!bool" {
			d.report(key, n, "must be true or false, but is %s", kindOf(n))
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case v.Kind() == reflect.Int:
		got, err := strconv.Atoi(n.Value)
		if err != nil || tag != "!!int" {
			err = fmt.Errorf("must be a whole number, but is %s", kindOf(n))
		}
		d.store(key, n, v, reflect.ValueOf(got), err)
	case v.Kind() == reflect.String:
		if tag != "!!str" && (v.Type() != octalType || tag != "!!int") {
			d.report(key, n, "must be text, but is %s; put it into quotes if it is meant", kindOf(n))
			return
		}
		v.SetString(n.Value)
	default:
		panic("config: no decoding for " + v.Type().String()) // a field of a new kind: caught by every test
	}
}

func (d *decoder) store(key string, n *yaml.Node, v, got reflect.Value, err error) {
	if err != nil {
		d.report(key, n, "%v", err)
		return
	}
	v.Set(got)
}

// wanted names the type of a scalar field for a message.
func wanted(v reflect.Value) string {
	switch {
	case v.Type() == durationType:
		return "a duration"
	case v.Type() == sizeType:
		return "a size"
	case v.Type() == ratioType:
		return "a ratio"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.Kind() == reflect.Int:
		return "a whole number"
	}
	return "text"
}

// kindOf names what stands in the file for a message.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section with keys"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	if isNull(n) {
		return "empty"
	}
	return strconv.Quote(shorten(n.Value))
}

// shorten keeps a message readable whatever the file contains.
func shorten(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

func join(section, key string) string {
	if section == "" {
		return key
	}
	return section + "." + key
}

func lastPart(key string) string { return key[1+strings.LastIndexByte(key, '.'):] }

// fieldKeys returns the key of every field of a struct, by field index.
func fieldKeys(t reflect.Type) []string {
	keys := make([]string, t.NumField())
	for i := range keys {
		keys[i] = t.Field(i).Tag.Get("yaml")
	}
	return keys
}

// allKeys returns the dotted path of every field; elements of lists are written
// as "sources[]".
var allKeys = sync.OnceValue(func() []string {
	var keys []string
	var walk func(prefix string, t reflect.Type)
	walk = func(prefix string, t reflect.Type) {
		switch {
		case t.Kind() == reflect.Slice:
			walk(prefix+"[]", t.Elem())
		case t.Kind() == reflect.Struct && t != secretType:
			for i, k := range fieldKeys(t) {
				keys = append(keys, join(prefix, k))
				walk(join(prefix, k), t.Field(i).Type)
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(a, "."), strings.Count(b, ".")), cmp.Compare(a, b))
	})
	return keys
})
