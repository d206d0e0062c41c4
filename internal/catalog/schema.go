package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tocsin-events/tocsin/event"
)

// Mode says what becomes of an event that does not adhere to the schema of its type.
type Mode string

// The modes.
const (
	Warn         Mode = "warn"   // it is stored, and the publisher told
	RefuseEvents Mode = "refuse" // it is not stored
)

// Declared is what the configuration says about a type of events, or about all that a glob
// matches.
type Declared struct {
	Type        string
	Description string
	Metadata    map[string]string // what keys mean
	// SchemaFile has a JSON Schema, "" for none: of the data, or, of events without data,
	// of the object of their metadata. References lead to files in its directory or below.
	SchemaFile string
	Mode       Mode // empty: Warn
}

// declaredType is a Declared that can be used.
type declaredType struct {
	Declared
	glob   event.Glob
	schema *schema // nil for none
}

// describe adds what the configuration says to what is known otherwise.
func (d *declaredType) describe(t *Type) {
	if d.Description != "" {
		t.Description = d.Description
	}
	for name, meaning := range d.Metadata {
		t.key(name).Meaning = meaning
	}
	if d.schema != nil {
		t.Schema = &Schema{Mode: d.Mode, For: d.Type}
	}
}

// Bounds of schemas.
const (
	maxSchemaBytes = 256 << 10 // of a file
	maxSchemaFiles = 64        // that belong to one
	maxSchemaDepth = 100
)

// CheckSchema says what is wrong with a schema file, as [Open] would.
func CheckSchema(file string) error {
	_, err := newSchema(file)
	return err
}

func compile(d Declared) (*declaredType, error) {
	if d.Mode == "" {
		d.Mode = Warn
	}
	compiled := &declaredType{Declared: d, glob: event.CompileGlob(d.Type)}
	if d.SchemaFile == "" {
		return compiled, nil
	}
	var err error
	if compiled.schema, err = newSchema(d.SchemaFile); err != nil {
		return nil, fmt.Errorf("schema of event type %q: %w", d.Type, err)
	}
	return compiled, nil
}

// schema checks values. It has several validators, because each counts its steps.
type schema struct {
	text       json.RawMessage
	validators chan *validator
}

// newSchema reads and compiles a schema.
func newSchema(file string) (*schema, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	l := &loader{root: root, dir: filepath.Dir(path)}
	s := &schema{validators: make(chan *validator, max(1, runtime.GOMAXPROCS(0)))}
	for range cap(s.validators) {
		l.files = 0
		v, err := newValidator(l, path)
		if own, ok := errors.AsType[*jsonschema.LoadURLError](err); ok && strings.HasSuffix(own.URL, "/"+filepath.Base(path)) && l.files <= 1 {
			err = own.Err // of the file itself, which is named anyway
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, schemaProblem(err))
		}
		s.validators <- v
	}
	text, err := l.read(filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	s.text = compact.Bytes()
	return s, nil
}

// loader loads the files of schemas from one directory and those below it.
type loader struct {
	root  *os.Root
	dir   string
	files int
}

// Load implements [jsonschema.URLLoader].
func (l *loader) Load(address string) (any, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("is not a URL")
	}
	if u.Scheme != "file" {
		return nil, fmt.Errorf("schemas are not loaded over the network; put it beside the schema into %s and refer to the file", l.dir)
	}
	name, ok := strings.CutPrefix(filepath.FromSlash(u.Path), l.dir+string(filepath.Separator))
	if !ok {
		return nil, fmt.Errorf("is not in %s, from which alone schemas are loaded", l.dir)
	}
	if l.files++; l.files > maxSchemaFiles {
		return nil, fmt.Errorf("is one file too much: at most %d belong together", maxSchemaFiles)
	}
	text, err := l.read(name)
	if err != nil {
		return nil, err
	}
	return parseSchema(name, text)
}

func (l *loader) read(name string) ([]byte, error) {
	f, err := l.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a file", name), err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSchemaBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSchemaBytes {
		return nil, fmt.Errorf("%s is larger than %d KiB", name, maxSchemaBytes>>10)
	}
	return text, nil
}

// parseSchema reads the text of a file.
func parseSchema(name string, text []byte) (any, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		before := text[:min(int(syntax.Offset), len(text))]
		line := 1 + bytes.Count(before, []byte("\n"))
		column := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
		return nil, fmt.Errorf("%s:%d:%d: not valid JSON: %w", name, line, column, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: not valid JSON: %w", name, err)
	}
	if err := checkSchema(doc, ""); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return doc, nil
}

// checkSchema refuses what could not be bounded.
func checkSchema(v any, at string) error {
	if strings.Count(at, "/") > maxSchemaDepth {
		return fmt.Errorf("is nested more than %d levels deep", maxSchemaDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			if _, isText := member.(string); isText && (name == "$dynamicRef" || name == "$recursiveRef") {
				return fmt.Errorf("%s/%s: is not supported; use $ref", at, name)
			}
			if err := checkSchema(member, at+"/"+escapePointer(name)); err != nil {
				return err
			}
		}
	case []any:
		for i, element := range v {
			if err := checkSchema(element, fmt.Sprintf("%s/%d", at, i)); err != nil {
				return err
			}
		}
	case json.Number:
		if !isSmall(v) {
			return fmt.Errorf("%s: the number is too large or too long", at)
		}
	}
	return nil
}

// schemaProblem puts what the library says about a schema into one line.
func schemaProblem(err error) error {
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(lines[i]), "- "))
	}
	return fmt.Errorf("%s", strings.Join(lines, "; "))
}

// validator is one compiled schema. It is not safe for concurrent use.
type validator struct {
	schema *jsonschema.Schema
	steps  int // left
}

// maxSteps bounds a validation: it is about the number of times that a part of the schema
// is compared with a part of the value, where long texts count more. It is far beyond what
// events and schemas of a usual kind need, and takes some 50 ms.
const maxSteps = 100_000

// outOfSteps is how a validation ends that takes too long.
type outOfSteps struct{}

func newValidator(l jsonschema.URLLoader, address string) (*validator, error) {
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(l)
	compiled, err := compiler.Compile(address)
	if err != nil {
		return nil, err
	}
	v := &validator{schema: compiled}
	v.count(reflect.ValueOf(compiled), make(map[*jsonschema.Schema]bool))
	return v, nil
}

var (
	schemaType = reflect.TypeFor[*jsonschema.Schema]()
)

// count makes every schema that can be reached from a value count when it is used. The
// library offers no place for that; but it looks at the format first, before everything that
// leads to other schemas.
func (v *validator) count(of reflect.Value, done map[*jsonschema.Schema]bool) {
	switch of.Kind() {
	case reflect.Interface:
		if !of.IsNil() {
			v.count(of.Elem(), done)
		}
	case reflect.Slice:
		for i := range of.Len() {
			v.count(of.Index(i), done)
		}
	case reflect.Map:
		for _, key := range of.MapKeys() {
			v.count(of.MapIndex(key), done)
		}
	case reflect.Pointer:
		if of.Type() != schemaType {
			return
		}
		s := of.Interface().(*jsonschema.Schema)
		if s == nil || done[s] || s.Bool != nil {
			return
		}
		done[s] = true
		fields := of.Elem()
		for i := range fields.NumField() {
			if fields.Type().Field(i).IsExported() {
				v.count(fields.Field(i), done)
			}
		}
		v.hook(s)
	}
}

// hook puts the counting before the format of a schema.
func (v *validator) hook(s *jsonschema.Schema) {
	format := s.Format
	perText, perMember, perValue := 0, 1, 1+len(s.Required)/8
	if s.Pattern != nil || format != nil || s.Const != nil {
		perText = 1
	}
	perMember += len(s.PatternProperties)
	if s.Enum != nil {
		perValue += len(s.Enum.Values) / 8
	}
	counting := &jsonschema.Format{Name: "counted", Validate: func(value any) error {
		v.steps -= perValue
		switch value := value.(type) {
		case string:
			v.steps -= perText * len(value) / 16
		case map[string]any:
			v.steps -= perMember * len(value) / 4
		case []any:
			v.steps -= len(value) / 4
		}
		if v.steps < 0 {
			panic(outOfSteps{})
		}
		if format == nil {
			return nil
		}
		return format.Validate(value)
	}}
	if format != nil {
		counting.Name = format.Name
	}
	s.Format = counting
}

// check returns what is wrong with a value, "" for nothing.
func (s *schema) check(value any) (problem string) {
	v := <-s.validators
	defer func() {
		s.validators <- v
		if reason := recover(); reason != nil { // also of the library: what others send must not end the program
			problem = "cannot be checked within " + fmt.Sprint(maxSteps) + " steps"
			if _, ok := reason.(outOfSteps); !ok {
				problem = "cannot be checked"
			}
		}
	}()
	v.steps = maxSteps
	if failed, ok := errors.AsType[*jsonschema.ValidationError](v.schema.Validate(value)); ok {
		return Explain(failed)
	}
	return ""
}

// Bounds of values that are checked.
const (
	maxValues       = 50_000
	maxValueDepth   = 64
	maxNumberBytes  = 64
	maxNumberDigits = 308 // before or behind the point
)

// isSmall says whether calculating with a number is quick: "1e1000000" has a million digits.
func isSmall(n json.Number) bool {
	text := strings.ToLower(string(n))
	_, exponent, ok := strings.Cut(text, "e")
	if len(text) > maxNumberBytes {
		return false
	}
	if !ok {
		return true
	}
	exponent = strings.TrimLeft(strings.TrimLeft(exponent, "+-"), "0")
	return len(exponent) < 3 || len(exponent) == 3 && exponent <= fmt.Sprint(maxNumberDigits)
}

// decode reads a JSON value that can be checked.
func decode(text []byte) (value any, problem string) {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, "is not JSON"
	}
	left := maxValues
	return value, bounded(value, 0, &left)
}

func bounded(v any, depth int, left *int) string {
	*left--
	switch {
	case depth > maxValueDepth:
		return fmt.Sprintf("is nested more than %d levels deep, too deep to be checked", maxValueDepth)
	case *left < 0:
		return fmt.Sprintf("has more than %d values, too many to be checked", maxValues)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			if problem := bounded(member, depth+1, left); problem != "" {
				return problem
			}
		}
	case []any:
		for _, element := range v {
			if problem := bounded(element, depth+1, left); problem != "" {
				return problem
			}
		}
	case json.Number:
		if !isSmall(v) {
			return "has a number that is too large or too long to be checked"
		}
	}
	return ""
}

// SchemaError says that an event does not adhere to the schema of its type. It has no values
// of the event, only where they are and what they should be.
type SchemaError struct {
	For     string // the type or glob of the configuration
	Part    string // "data" or "metadata"
	Problem string
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("%s: does not adhere to the schema for %q: %s", e.Part, e.For, e.Problem)
}

// Check returns a [*SchemaError] for an event that does not adhere to the schema of its
// type, or, if that is only to be warned of, its text. The event must be well-formed.
func (c *Catalog) Check(e *event.Event) (warning string, err error) {
	if len(c.exact) == 0 && len(c.globs) == 0 {
		return "", nil
	}
	d := c.declaredFor(e.Type)
	if d == nil || d.schema == nil {
		return "", nil
	}
	part, problem := d.schema.checkEvent(e)
	if problem == "" {
		return "", nil
	}
	err = &SchemaError{For: d.Type, Part: part, Problem: problem}
	if d.Mode == RefuseEvents {
		c.stats.refused.Add(1)
		return "", err
	}
	c.stats.warned.Add(1)
	return err.Error(), nil
}

// checkEvent checks what the schema is about: the data, or the metadata of an event without.
func (s *schema) checkEvent(e *event.Event) (part, problem string) {
	switch {
	case e.Data == nil && e.DataRef != "":
		return "data", "is kept elsewhere (dataref), where it is not checked"
	case e.Data == nil:
		object := make(map[string]any, len(e.Metadata))
		left := maxValues
		for i := range e.Metadata {
			f := &e.Metadata[i]
			if !f.JSON {
				object[f.Key] = f.Value
				continue
			}
			value, problem := decode([]byte(f.Value))
			if problem != "" {
				return "metadata", "a value " + problem
			}
			object[f.Key] = value
		}
		if problem := bounded(object, 0, &left); problem != "" {
			return "metadata", problem
		}
		return "metadata", s.check(object)
	case !isJSON(contentType(e)):
		return "data", "is not JSON, by its content type"
	}
	value, problem := decode(e.Data)
	if problem == "" {
		problem = s.check(value)
	}
	return "data", problem
}

func isJSON(contentType string) bool {
	name := strings.ToLower(contentType)
	return name == "application/json" || name == "text/json" || strings.HasSuffix(name, "+json")
}
