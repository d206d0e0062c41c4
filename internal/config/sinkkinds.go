package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Field documents a setting, from the tags of the configuration.
type Field struct {
	Key string `json:"key"`
	// Type is "text", "number", "true or false", "duration", "size", "secret", "texts" (names
	// and texts), "section", or "list" (of sections, or of what Element says).
	Type    string   `json:"type"`
	Element string   `json:"element,omitempty"`
	Doc     string   `json:"doc"`
	Default string   `json:"default,omitempty"`
	OneOf   []string `json:"one_of,omitempty"`
	Min     string   `json:"min,omitempty"`
	Max     string   `json:"max,omitempty"`
	Zero    string   `json:"zero,omitempty"` // what 0 means, where that is not between Min and Max
	Fields  []Field  `json:"fields,omitempty"`
}

// SinkKind is one kind of sinks.
type SinkKind struct {
	Type SinkType `json:"type"`
	// File says that only the configuration file can have sinks of this type.
	File   bool    `json:"only_in_file,omitempty"`
	Fields []Field `json:"fields"` // of the section that is called like the type
}

// SinkKinds returns the settings that all sinks have, and those of each kind.
func SinkKinds() (common []Field, kinds []SinkKind) {
	for _, f := range fieldsOf(reflect.ValueOf(DefaultSink())) {
		if kind := SinkType(f.Key); DefaultSink().isSection(f.Key) {
			kinds = append(kinds, SinkKind{Type: kind, File: kind == SinkTypeStdout, Fields: f.Fields})
		} else {
			common = append(common, f)
		}
	}
	return common, kinds
}

// isSection says whether a key is that of the section of a type.
func (s Sink) isSection(key string) bool { return s.Type == "" && !s.concerned(key) }

func fieldsOf(defaults reflect.Value) []Field {
	var fields []Field
	for i, key := range fieldKeys(defaults.Type()) {
		tag, v := defaults.Type().Field(i).Tag, defaults.Field(i)
		f := Field{Key: key, Type: typeName(v.Type()), Doc: tag.Get("doc"), Min: tag.Get("min"), Max: tag.Get("max"), Zero: tag.Get("zero")}
		if list := tag.Get("oneof"); list != "" {
			f.OneOf = strings.Split(list, ",")
		}
		switch {
		case f.Type == "section":
			f.Fields = fieldsOf(v)
		case isList(v.Type()):
			f.Fields = fieldsOf(elementDefault(v.Type().Elem()))
		case f.Type == "list":
			f.Element = typeName(v.Type().Elem())
		}
		if !v.IsZero() && f.Fields == nil {
			f.Default = fmt.Sprint(v.Interface())
		}
		fields = append(fields, f)
	}
	return fields
}

func typeName(t reflect.Type) string {
	switch t {
	case durationType:
		return "duration"
	case sizeType:
		return "size"
	case secretType:
		return "secret"
	case textsType:
		return "texts"
	}
	switch t.Kind() {
	case reflect.Struct:
		return "section"
	case reflect.Slice:
		return "list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "number"
	}
	return "text"
}
