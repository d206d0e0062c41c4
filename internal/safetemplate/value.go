package safetemplate

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/jsonvalue"
)

// Values that templates work with: nil (missing), those of package jsonvalue, time.Time, and
// types that implement [Valuer]. A nil map[string]any is missing, too: but its fields can be
// asked for, and are missing as well.
type (
	// Literal is JSON. Outside of quotes it is written as it is, inside of them as text.
	Literal string
	// Raw is written as it is, wherever.
	Raw string
)

// Valuer is what a value of another type is written as.
type Valuer interface {
	TemplateValue() (any, error)
}

// isMissing says whether there is no value at all.
func isMissing(v any) bool {
	if v == nil {
		return true
	}
	m, ok := v.(map[string]any)
	return ok && m == nil
}

// appendJSON appends a value as JSON.
func appendJSON(dst []byte, v any) ([]byte, error) {
	if len(dst) > MaxTextBytes {
		return dst, errTooLarge
	}
	switch v := v.(type) {
	case nil:
		return dst, errIsMissing
	case jsonvalue.Null:
		return append(dst, "null"...), nil
	case Raw:
		return append(dst, v...), nil
	case Literal:
		return append(dst, v...), nil
	case string:
		return appendString(dst, v), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case uint64:
		return strconv.AppendUint(dst, v, 10), nil
	case float64:
		return appendFloat(dst, v)
	case json.Number:
		return append(dst, v...), nil
	case time.Time:
		return append(append(append(dst, '"'), formatTime(v)...), '"'), nil
	case time.Duration:
		return appendString(dst, v.String()), nil
	case []any:
		return appendList(dst, len(v), func(i int) any { return v[i] })
	case []string:
		return appendList(dst, len(v), func(i int) any { return v[i] })
	case map[string]any:
		if v == nil {
			return dst, errIsMissing
		}
		return appendObject(dst, v)
	case Valuer:
		value, err := v.TemplateValue()
		if err != nil {
			return dst, err
		}
		if _, again := value.(Valuer); again {
			return dst, errNotWritable
		}
		return appendJSON(dst, value)
	}
	switch rv := reflect.ValueOf(v); rv.Kind() {
	case reflect.Int8, reflect.Int16, reflect.Int32:
		return strconv.AppendInt(dst, rv.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return strconv.AppendUint(dst, rv.Uint(), 10), nil
	case reflect.String:
		return appendString(dst, rv.String()), nil
	}
	return dst, errNotWritable
}

var errNotWritable = errors.New("is no value that can be written; choose one of its fields")

func appendList(dst []byte, n int, at func(int) any) (_ []byte, err error) {
	dst = append(dst, '[')
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendJSON(dst, at(i)); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

func appendObject(dst []byte, v map[string]any) (_ []byte, err error) {
	dst = append(dst, '{')
	for i, k := range slices.Sorted(maps.Keys(v)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, k), ':')
		if dst, err = appendJSON(dst, v[k]); err != nil {
			return dst, fmt.Errorf("%w", err)
		}
	}
	return append(dst, '}'), nil
}

func appendFloat(dst []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return dst, errors.New("JSON has no such number")
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, 64), nil
}

// formatTime returns a time as texts and JSON have it.
func formatTime(t time.Time) string { return t.Format(time.RFC3339Nano) }

// textOf returns a value as text: texts as they are, all else as JSON, without quotes.
func textOf(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", errIsMissing
	case string:
		return v, nil
	case Literal:
		return string(v), nil
	case Raw:
		return string(v), nil
	case time.Time:
		return formatTime(v), nil
	case time.Duration:
		return v.String(), nil
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.String {
		return rv.String(), nil
	}
	b, err := appendJSON(nil, v)
	return string(b), err
}

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte {
	return append(appendEscaped(append(dst, '"'), s), '"')
}

// appendEscaped appends s as it stands in a JSON string. What is not UTF-8 becomes U+FFFD.
// U+2028 and U+2029, which end lines in JavaScript, are escaped, too.
func appendEscaped(dst []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	begin := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c != 0x7f && c < utf8.RuneSelf {
			i++
			continue
		}
		r, n := rune(c), 1
		if c >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:])
			if (r != utf8.RuneError || n > 1) && r != '\u2028' && r != '\u2029' {
				i += n
				continue
			}
		}
		dst = append(dst, s[begin:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case r < utf8.RuneSelf:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		case r == utf8.RuneError:
			dst = append(dst, "\uFFFD"...)
		default:
			dst = append(dst, '\\', 'u', '2', '0', '2', hexDigits[r&15])
		}
		i += n
		begin = i
	}
	return append(dst, s[begin:]...)
}
