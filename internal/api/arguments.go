package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of bodies.
const (
	maxBody      = 1 << 20 // bytes
	maxJSONDepth = 32
	// maxJSONValues bounds the members and elements of all levels together, because
	// each takes many times its bytes in memory.
	maxJSONValues = 20_000
)

// arguments are the members of a body, or the parameters of a query. Numbers are
// json.Number.
type arguments map[string]any

// readArguments reads the body of what changes something, and else the query.
func (a *API) readArguments(c *call, route *route, w http.ResponseWriter) error {
	if c.operation != opUpdate && c.operation != opPatch {
		c.arguments = queryArguments(c.r.URL.Query())
		return nil
	}
	most := route.maxBody
	if most == 0 {
		most = maxBody
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, c.r.Body, most))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &refusal{status: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("the body has more than %d bytes", most)}
	}
	if err != nil {
		return badRequest("the body cannot be read: %v", err)
	}
	c.arguments, err = parseArguments(body)
	return err
}

func queryArguments(query url.Values) arguments {
	a := make(arguments, len(query))
	for name, values := range query {
		if len(values) == 1 {
			a[name] = values[0]
			continue
		}
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		a[name] = list
	}
	return a
}

// parseArguments parses a body; an empty one and null have no members. Of members
// with the same name the last counts. The error is a [*refusal].
func parseArguments(body []byte) (arguments, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return arguments{}, nil
	}
	if err := boundJSON(body); err != nil {
		return nil, badRequest("error parsing JSON: %v", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var a arguments
	if err := decoder.Decode(&a); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			err = errors.New("the body is not an object")
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the body ends in the middle")
		}
		return nil, badRequest("error parsing JSON: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, badRequest("error parsing JSON: there is more behind the object")
	}
	if a == nil {
		a = arguments{}
	}
	return a, nil
}

// boundJSON checks the bounds without parsing.
func boundJSON(body []byte) error {
	depth, values := 0, 0
	quoted, escaped := false, false
	for _, b := range body {
		if quoted {
			switch {
			case escaped:
				escaped = false
			case b == '\\':
				escaped = true
			case b == '"':
				quoted = false
			}
			continue
		}
		switch b {
		case '"':
			quoted = true
		case '{', '[':
			depth++
			values++
		case '}', ']':
			depth--
		case ',':
			values++
		}
		if depth > maxJSONDepth {
			return fmt.Errorf("it is nested more than %d levels deep", maxJSONDepth)
		}
		if values > maxJSONValues {
			return fmt.Errorf("it has more than %d values", maxJSONValues)
		}
	}
	return nil
}

// unknown returns warnings about arguments that are none of fields. Texts of the
// client are repeated only as far as they help.
func (a arguments) unknown(fields []string) []string {
	const most, mostBytes = 10, 64
	var names []string
	more := 0
	for _, name := range slices.Sorted(maps.Keys(a)) {
		switch {
		case slices.Contains(fields, name):
		case len(names) == most:
			more++
		default:
			names = append(names, strconv.Quote(name[:min(len(name), mostBytes)]))
		}
	}
	if names == nil {
		return nil
	}
	text := "ignored, because they are not known here: " + strings.Join(names, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return []string{text}
}

// reader takes arguments as the types that they should have. A missing one and null
// are the zero value. After the first of a wrong type, err is set.
type reader struct {
	arguments arguments
	err       *refusal
}

func (c *call) reader() *reader { return &reader{arguments: c.arguments} }

// failed returns the error as an error, for it must not be a nil pointer in one.
func (r *reader) failed() error {
	if r.err != nil {
		return r.err
	}
	return nil
}

func (r *reader) fail(name, format string, args ...any) {
	if r.err == nil {
		r.err = badRequest("field %q: %s", name, fmt.Sprintf(format, args...))
	}
}

// text returns a text; numbers and booleans are taken as they are written.
func (r *reader) text(name string) string {
	s, ok := scalar(r.arguments[name])
	if !ok {
		r.fail(name, "is %s, it must be a text", kind(r.arguments[name]))
	}
	return s
}

// texts returns a list of texts; one text stands for a list of it.
func (r *reader) texts(name string) []string {
	v := r.arguments[name]
	if v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	texts := make([]string, len(list))
	for i, v := range list {
		if texts[i], ok = scalar(v); !ok {
			r.fail(name, "element %d is %s, it must be a text", i+1, kind(v))
			return nil
		}
	}
	return texts
}

// table returns an object whose members are texts.
func (r *reader) table(name string) map[string]string {
	v := r.arguments[name]
	if v == nil {
		return nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		r.fail(name, "is %s, it must be an object", kind(v))
		return nil
	}
	table := make(map[string]string, len(object))
	for key, v := range object {
		if table[key], ok = scalar(v); !ok {
			r.fail(name, "member %q is %s, it must be a text", key, kind(v))
			return nil
		}
	}
	return table
}

// duration returns a time that is not negative, see [parseDuration].
func (r *reader) duration(name string) time.Duration {
	s, ok := scalar(r.arguments[name])
	if !ok {
		r.fail(name, "is %s, it must be a duration such as \"1h\" or a number of seconds", kind(r.arguments[name]))
		return 0
	}
	d, err := parseDuration(s)
	if err != nil {
		r.fail(name, "%v", err)
	}
	return d
}

// whole returns a number without fraction that is not negative.
func (r *reader) whole(name string) int {
	s, ok := scalar(r.arguments[name])
	if !ok {
		r.fail(name, "is %s, it must be a number", kind(r.arguments[name]))
		return 0
	}
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		r.fail(name, "%.40q is not a whole number from 0 to %d", s, math.MaxInt32)
		return 0
	}
	return int(n)
}

// boolean returns missing if there is none.
func (r *reader) boolean(name string, missing bool) bool {
	s, ok := scalar(r.arguments[name])
	if !ok {
		r.fail(name, "is %s, it must be true or false", kind(r.arguments[name]))
		return missing
	}
	if s == "" {
		return missing
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		r.fail(name, "%.40q is neither true nor false", s)
	}
	return b
}

// scalar returns a text, number or boolean as text; "" for null.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// kind names what a value is that is not a scalar, or not an object.
func kind(v any) string {
	switch v.(type) {
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "a text, number or boolean"
}

// parseDuration parses a duration as Vault's clients write it: a number of seconds,
// or a duration of Go, or whole days such as "7d"; "" is none. It is not negative.
func parseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if n, numErr := strconv.ParseInt(s, 10, 64); numErr == nil {
		d, err = times(n, time.Second)
	} else if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, numErr := strconv.ParseInt(days, 10, 64); numErr == nil {
			d, err = times(n, 24*time.Hour)
		}
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("%.40q is no duration such as \"1h\" and no number of seconds", s)
	case d < 0:
		return 0, fmt.Errorf("%.40q is negative", s)
	}
	return d, nil
}

func times(n int64, unit time.Duration) (time.Duration, error) {
	if n > math.MaxInt64/int64(unit) {
		return 0, errors.New("too long")
	}
	if n < 0 {
		return -1, nil
	}
	return time.Duration(n) * unit, nil
}
