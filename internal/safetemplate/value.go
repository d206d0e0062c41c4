package safetemplate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Values that templates work with: nil (missing), Null, bool, int64, float64,
// json.Number (where the others are not exact), string, time.Time, []any and
// map[string]any. A nil map[string]any is missing, too: but its fields can be asked for,
// and are missing as well. Others are those that follow, and types that implement
// [Valuer].
type (
	// Null is the null of JSON: it is always nil. It is false for if and with, and its fields
	// are missing.
	Null map[string]any
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

var errNoValue = errors.New("is not a single JSON value")

// Decode makes a value of JSON. Numbers are exact: those that neither int64 nor float64
// has exactly are a json.Number.
func Decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, errNoValue
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errNoValue
	}
	return convert(v), nil
}

func convert(v any) any {
	switch v := v.(type) {
	case nil:
		return Null(nil)
	case json.Number:
		return number(v)
	case []any:
		for i := range v {
			v[i] = convert(v[i])
		}
	case map[string]any:
		for k, e := range v {
			v[k] = convert(e)
		}
	}
	return v
}

// number returns the simplest type that has a number exactly.
func number(n json.Number) any {
	s := string(n)
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return i
	}
	if !strings.ContainsAny(s, ".eE") {
		return n
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return n
	}
	digits, exponent, ok := decimal(s)
	again, exponentAgain, _ := decimal(strconv.FormatFloat(f, 'e', -1, 64))
	if !ok || digits != again || exponent != exponentAgain {
		return n
	}
	return f
}

// decimal returns the digits of a number without zeros around them, and the power of ten
// of the last of them.
func decimal(s string) (digits string, exponent int, ok bool) {
	s = strings.TrimPrefix(s, "-")
	mantissa := s
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		e, err := strconv.ParseInt(strings.TrimPrefix(s[i+1:], "+"), 10, 32)
		if err != nil {
			return "", 0, false
		}
		mantissa, exponent = s[:i], int(e)
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	exponent -= len(fraction)
	trimmed := strings.TrimRight(digits, "0")
	if trimmed == "" {
		return "", 0, true
	}
	return trimmed, exponent + len(digits) - len(trimmed), true
}

// appendJSON appends a value as JSON.
func appendJSON(dst []byte, v any) ([]byte, error) {
	if len(dst) > MaxTextBytes {
		return dst, errTooLarge
	}
	switch v := v.(type) {
	case nil:
		return dst, errIsMissing
	case Null:
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
