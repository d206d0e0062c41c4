package event

import (
	"iter"
	"slices"
	"strings"
)

// Field is one named value: a text, or, when JSON is set, the compact JSON text
// of a value of another type.
type Field struct {
	Key   string
	Value string
	JSON  bool
}

// Fields is a small set of named values, sorted by key, each key once. The zero
// value is empty and ready for use. It is a slice so that decoding a million
// events does not make a million maps; use its methods, which keep the order.
type Fields []Field

// Text returns the text value under key; "" and false when the key is missing or
// its value is not a text.
func (f Fields) Text(key string) (string, bool) {
	i, ok := f.find(key)
	if !ok || f[i].JSON {
		return "", false
	}
	return f[i].Value, true
}

// Get returns the field under key, whatever its type.
func (f Fields) Get(key string) (Field, bool) {
	i, ok := f.find(key)
	if !ok {
		return Field{}, false
	}
	return f[i], true
}

// Set puts a text value under key, replacing what was there.
func (f *Fields) Set(key, value string) { f.put(Field{Key: key, Value: value}) }

// SetJSON puts a value given as JSON text under key. The text must be valid,
// compact JSON, which [Limits.Check] verifies and the encodings rely on, and not a
// JSON string: what that denotes is put with [Fields.Set].
func (f *Fields) SetJSON(key, json string) { f.put(Field{Key: key, Value: json, JSON: true}) }

// Delete removes key.
func (f *Fields) Delete(key string) {
	if i, ok := f.find(key); ok {
		*f = slices.Delete(*f, i, i+1)
	}
}

// All yields the fields in key order.
func (f Fields) All() iter.Seq[Field] { return slices.Values(f) }

// Clone returns a copy that shares no memory with f except the strings.
func (f Fields) Clone() Fields { return slices.Clone(f) }

func (f *Fields) put(v Field) {
	if n := len(*f); n == 0 || (*f)[n-1].Key < v.Key { // in order, as most are put
		*f = append(*f, v)
		return
	}
	i, ok := f.find(v.Key)
	if ok {
		(*f)[i] = v
		return
	}
	*f = slices.Insert(*f, i, v)
}

func (f Fields) find(key string) (int, bool) {
	return slices.BinarySearchFunc(f, key, func(a Field, k string) int { return strings.Compare(a.Key, k) })
}
