package plugin

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

// text converts between a type and the texts that configs and params are.
type text[T any] struct {
	what   string // "config"
	plain  bool   // any text
	schema string // empty: any text
}

// newText returns the text of a type. The error is about a type that cannot be one.
func newText[T any](what string) (t *text[T], err error) {
	t = &text[T]{what: what, plain: reflect.TypeFor[T]().Kind() == reflect.String}
	if t.plain {
		return t, nil
	}
	defer func() {
		if r := recover(); r != nil { // for types that have no schema
			err = fmt.Errorf("the type of the %s, %v: no JSON Schema can be made of it: %v", what, reflect.TypeFor[T](), r)
		}
	}()
	r := jsonschema.Reflector{Anonymous: true, ExpandedStruct: reflect.TypeFor[T]().Kind() == reflect.Struct && textSchema(reflect.TypeFor[T]()) == nil, Mapper: textSchema}
	b, err := json.Marshal(r.ReflectFromType(reflect.TypeFor[T]()))
	if err != nil {
		return t, fmt.Errorf("the type of the %s, %v: %w", what, reflect.TypeFor[T](), err)
	}
	t.schema = string(b)
	return t, nil
}

// textSchema returns the schema of types that are written as a text, such as netip.Addr, nil for
// others.
func textSchema(t reflect.Type) *jsonschema.Schema {
	p := reflect.PointerTo(t)
	_, own := p.MethodByName("JSONSchema")
	if own || !p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) || p.Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	return &jsonschema.Schema{Type: "string"}
}

// decode reads a text strictly. An empty one is an empty object.
func (t *text[T]) decode(s string) (T, error) {
	var value T
	if t.plain {
		reflect.ValueOf(&value).Elem().SetString(s)
		return value, nil
	}
	if d, ok := any(&value).(interface{ SetDefaults() }); ok {
		d.SetDefaults()
	}
	if strings.TrimSpace(s) == "" {
		s = "{}"
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.DisallowUnknownFields()
	if err := d.Decode(&value); err != nil {
		return value, fmt.Errorf("%s: %w", t.what, t.explain(err, s))
	}
	if _, err := d.Token(); err != io.EOF {
		return value, fmt.Errorf("%s: there is something behind the JSON value", t.what)
	}
	return value, nil
}

// encode is the opposite of decode.
func (t *text[T]) encode(value T) (string, error) {
	if t.plain {
		return reflect.ValueOf(value).String(), nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return "", fmt.Errorf("%s: %w", t.what, err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// explain says what is wrong with s without the value, which may be a secret.
func (t *text[T]) explain(err error, s string) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		at := wrong.Field
		if at == "" {
			at = "it"
		}
		kind, _, _ := strings.Cut(wrong.Value, " ") // "number 7"
		return fmt.Errorf("%s must be a %v, not a %s", at, wrong.Type, kind)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it is not JSON: byte %d: %w", syntax.Offset, syntax)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it is not JSON: it ends too early")
	}
	if unknown, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return errors.New("unknown field " + unknown)
	}
	return fmt.Errorf("%s has a value that its type refuses", t.refused(s))
}

// refused returns the key of the first member that a type with a decoding of its own refuses,
// whose errors tell neither the key nor that they have the value.
func (t *text[T]) refused(s string) string {
	var members map[string]json.RawMessage
	if json.Unmarshal([]byte(s), &members) != nil {
		return "it"
	}
	for _, key := range slices.Sorted(maps.Keys(members)) {
		one, err := json.Marshal(map[string]json.RawMessage{key: members[key]})
		if err == nil && json.Unmarshal(one, new(T)) != nil {
			return key
		}
	}
	return "it"
}
