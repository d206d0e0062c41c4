// Package jsonvalue reads JSON into values whose numbers are exact.
package jsonvalue

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
)

// Null is the null of JSON: it is always nil, but unlike a nil of type any it is there. A
// template finds it false, and its fields missing.
type Null map[string]any

var errNoValue = errors.New("is not a single JSON value")

// Decode makes a value of JSON: a [Null], bool, string, []any, map[string]any, and of a number
// an int64, or a float64 if that has it exactly, or else a json.Number. Of members with the
// same key the last counts.
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
