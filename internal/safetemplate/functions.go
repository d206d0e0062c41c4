package safetemplate

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/jsonvalue"
)

// names are the functions that templates may use. Of those of text/template, html and js
// are not needed, and call would call what it should not.
var names = func() map[string]any {
	all := make(map[string]any)
	for name := range new(run).functions() {
		if name[0] != '_' {
			all[name] = true
		}
	}
	for _, builtIn := range []string{"and", "or", "not", "len", "index", "slice"} {
		all[builtIn] = true
	}
	return all
}()

// functions returns the functions of templates for a run. Each counts the texts that it
// makes. The value on which a function works is its last argument, so that it can be what
// stands before a |.
func (r *run) functions() map[string]any {
	return map[string]any{
		writeValue: r.writeValue, writeKey: r.writeKey, writeQuoted: r.writeQuoted, writeText: r.writeText,
		writePath: r.writePath, writeQuery: r.writeQuery, countStep: r.step, rangeOver: r.rangeOver,

		"raw":          func(v any) (Raw, error) { s, err := r.textOf(v); return Raw(s), err },
		"toJson":       r.toJSON,
		"toPrettyJson": r.toPrettyJSON,
		"fromJson":     r.fromJSON,
		"default":      func(otherwise, v any) any { return orElse(v, otherwise) },
		"coalesce":     coalesce,
		"ternary":      func(yes, no any, condition bool) any { return map[bool]any{true: yes, false: no}[condition] },

		"upper":      r.text1(strings.ToUpper),
		"lower":      r.text1(strings.ToLower),
		"trim":       r.text1(strings.TrimSpace),
		"trimPrefix": r.text2(func(prefix, s string) string { return strings.TrimPrefix(s, prefix) }),
		"trimSuffix": r.text2(func(suffix, s string) string { return strings.TrimSuffix(s, suffix) }),
		"hasPrefix":  r.test2(func(prefix, s string) bool { return strings.HasPrefix(s, prefix) }),
		"hasSuffix":  r.test2(func(suffix, s string) bool { return strings.HasSuffix(s, suffix) }),
		"contains":   r.test2(func(part, s string) bool { return strings.Contains(s, part) }),
		"replace":    r.replace,
		"trunc":      r.trunc,
		"truncate":   r.truncate,
		"split":      r.split,
		"join":       r.join,
		"first":      func(v any) (any, error) { return end(v, false) },
		"last":       func(v any) (any, error) { return end(v, true) },
		"keys":       r.keys,
		"list":       func(values ...any) []any { return values },
		"dict":       dict,
		"base64":     r.text1(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }),
		"sha256":     r.text1(func(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }),
		"urlquery":   r.text1(url.QueryEscape),
		"slack":      r.text1(slackText.Replace),

		"date":      date,
		"unix":      func(v any) (int64, error) { t, err := timeOf(v); return t.Unix(), err },
		"unixMilli": func(v any) (int64, error) { t, err := timeOf(v); return t.UnixMilli(), err },

		"int": toInt,
		"add": func(a, b any) (int64, error) { return sum(a, b, 1) },
		"sub": func(a, b any) (int64, error) { return sum(a, b, -1) },

		"eq": equal,
		"ne": func(a, b any) (bool, error) { same, err := equal(a, b); return !same, err },
		"lt": func(a, b any) (bool, error) { c, err := compare(a, b); return c < 0, err },
		"le": func(a, b any) (bool, error) { c, err := compare(a, b); return c <= 0, err },
		"gt": func(a, b any) (bool, error) { c, err := compare(a, b); return c > 0, err },
		"ge": func(a, b any) (bool, error) { c, err := compare(a, b); return c >= 0, err },

		"print":   func(values ...any) (string, error) { return r.print(values, false) },
		"println": func(values ...any) (string, error) { return r.print(values, true) },
		"printf":  r.printf,
	}
}

// slackText escapes what has a meaning in the texts of Slack.
var slackText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// textOf is textOf of what may have to be made first. It is not for free either: a template
// can ask for it again and again.
func (r *run) textOf(v any) (string, error) {
	s, err := textOf(v)
	if err != nil || isText(v) {
		return s, err
	}
	return s, r.charge(len(s))
}

// text1 makes a function of texts one of values.
func (r *run) text1(f func(string) string) func(any) (string, error) {
	return func(v any) (string, error) {
		s, err := textOf(v)
		if err != nil {
			return "", err
		}
		if err := r.charge(2*len(s) + 64); err != nil {
			return "", err
		}
		s = f(s)
		return s, r.charge(len(s))
	}
}

func (r *run) text2(f func(string, string) string) func(string, any) (string, error) {
	return func(a string, v any) (string, error) {
		return r.text1(func(s string) string { return f(a, s) })(v)
	}
}

func (r *run) test2(f func(string, string) bool) func(any, any) (bool, error) {
	return func(a, v any) (bool, error) {
		part, err := textOf(a)
		if err != nil {
			return false, err
		}
		if isMissing(v) {
			return false, nil
		}
		s, err := r.textOf(v)
		return err == nil && f(part, s), err
	}
}

// orElse is v, unless that is missing, null or "".
func orElse(v, otherwise any) any {
	switch v := v.(type) {
	case nil, jsonvalue.Null:
		return otherwise
	case map[string]any:
		if v == nil {
			return otherwise
		}
	case string:
		if v == "" {
			return otherwise
		}
	}
	return v
}

func coalesce(values ...any) any {
	for _, v := range values {
		if v = orElse(v, nil); v != nil {
			return v
		}
	}
	return nil
}

func (r *run) toJSON(v any) (Literal, error) {
	if raw, ok := v.(Raw); ok {
		v = string(raw)
	}
	b, err := appendJSON(nil, v)
	if err != nil {
		return "", err
	}
	return Literal(b), r.charge(len(b))
}

func (r *run) toPrettyJSON(v any) (Literal, error) {
	s, err := r.toJSON(v)
	if err != nil {
		return "", err
	}
	// Each level indents by two more, so that what is deep could become very long.
	depth, deepest, lines := 0, 0, 0
	for i := range len(s) {
		switch s[i] {
		case '{', '[':
			depth++
			lines++
		case '}', ']':
			depth--
			lines++
		case ',':
			lines++
		}
		deepest = max(deepest, depth)
	}
	if err := r.charge(len(s) + lines*(2*deepest+1)); err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(s), "", "  "); err != nil {
		return "", errNotWritable
	}
	return Literal(b.String()), nil
}

func (r *run) fromJSON(v any) (any, error) {
	s, err := textOf(v)
	if err != nil {
		return nil, err
	}
	if err := r.charge(16 * len(s)); err != nil { // of small values, this much memory
		return nil, err
	}
	return jsonvalue.Decode([]byte(s))
}

func (r *run) replace(old, with string, v any) (string, error) {
	s, err := textOf(v)
	if err != nil {
		return "", err
	}
	n := len(s)
	if more := len(with) - len(old); more > 0 {
		n += strings.Count(s, old) * more
	}
	if err := r.charge(n); err != nil {
		return "", err
	}
	return strings.ReplaceAll(s, old, with), nil
}

// trunc returns at most n characters.
func (r *run) trunc(n any, v any) (string, error) { return r.cut(n, v, "") }

// truncate does, too, and shows with three dots that there were more.
func (r *run) truncate(n any, v any) (string, error) { return r.cut(n, v, "...") }

func (r *run) cut(n any, v any, mark string) (string, error) {
	most, err := toInt(n)
	if err != nil {
		return "", err
	}
	s, err := textOf(v)
	if err != nil || int64(len(s)) <= most {
		return s, err
	}
	if most < 0 {
		return "", errors.New("a text cannot have less than 0 characters")
	}
	if int64(utf8.RuneCountInString(s)) <= most {
		return s, nil
	}
	if int64(len(mark)) > most {
		mark = mark[:most]
	}
	keep := most - int64(len(mark))
	for i := range s {
		if keep == 0 {
			s = s[:i] + mark
			break
		}
		keep--
	}
	return s, r.charge(len(s))
}

func (r *run) split(by string, v any) ([]any, error) {
	s, err := textOf(v)
	if err != nil {
		return nil, err
	}
	n := strings.Count(s, by) + 1
	if err := r.charge(32 * n); err != nil {
		return nil, err
	}
	parts := make([]any, 0, n)
	for part := range strings.SplitSeq(s, by) {
		parts = append(parts, part)
	}
	return parts, nil
}

func (r *run) join(by string, v any) (string, error) {
	list, err := listOf(v)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i, e := range list {
		s, err := textOf(e)
		if err != nil {
			return "", err
		}
		if err := r.charge(len(by) + len(s)); err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteString(by)
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

func listOf(v any) ([]any, error) {
	switch v := v.(type) {
	case []any:
		return v, nil
	case []string:
		list := make([]any, len(v))
		for i, s := range v {
			list[i] = s
		}
		return list, nil
	case nil, jsonvalue.Null:
		return nil, nil
	}
	return nil, errors.New("is not a list")
}

func end(v any, last bool) (any, error) {
	list, err := listOf(v)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	if last {
		return list[len(list)-1], nil
	}
	return list[0], nil
}

func (r *run) keys(v any) ([]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("is not an object")
	}
	if err := r.charge(32 * len(m)); err != nil {
		return nil, err
	}
	list := make([]any, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k)
	}
	return list, nil
}

func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, errors.New("dict needs a value for each key")
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		k, err := textOf(pairs[i])
		if err != nil {
			return nil, err
		}
		m[k] = pairs[i+1]
	}
	return m, nil
}

func timeOf(v any) (time.Time, error) {
	switch v := v.(type) {
	case time.Time:
		return v, nil
	case nil:
		return time.Time{}, errIsMissing
	case string:
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return t, errors.New("is not a time like 2026-01-02T15:04:05Z")
		}
		return t, nil
	case int64:
		return time.Unix(v, 0).UTC(), nil
	}
	return time.Time{}, errors.New("is not a time")
}

// date formats a time as Go does, in UTC.
func date(layout string, v any) (string, error) {
	if len(layout) > 1000 {
		return "", errors.New("the layout of the time is too long")
	}
	t, err := timeOf(v)
	if err != nil {
		return "", err
	}
	return t.UTC().Format(layout), nil
}

func toInt(v any) (int64, error) {
	switch v := v.(type) {
	case int:
		return int64(v), nil
	case int64:
		return v, nil
	case float64:
		if v > -1<<53 && v < 1<<53 {
			return int64(v), nil
		}
	case bool:
		if v {
			return 1, nil
		}
		return 0, nil
	case string:
		if i, err := strconv.ParseInt(v, 10, 64); err == nil {
			return i, nil
		}
	case nil:
		return 0, errIsMissing
	}
	return 0, errors.New("is not a whole number")
}

func sum(a, b any, sign int64) (int64, error) {
	x, err := toInt(a)
	if err != nil {
		return 0, err
	}
	y, err := toInt(b)
	return x + sign*y, err
}

// numeric is a value as a number.
func numeric(v any) (i int64, f float64, isInt, ok bool) {
	switch v := v.(type) {
	case int:
		return int64(v), float64(v), true, true
	case int64:
		return v, float64(v), true, true
	case uint64:
		return int64(v), float64(v), v < 1<<63, true
	case float64:
		return 0, v, false, true
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		return 0, f, false, err == nil || errors.Is(err, strconv.ErrRange)
	}
	return 0, 0, false, false
}

// compare compares numbers with numbers, texts with texts and times with times.
func compare(a, b any) (int, error) {
	if isMissing(a) || isMissing(b) {
		return 0, errIsMissing
	}
	if i, f, isInt, ok := numeric(a); ok {
		j, g, alsoInt, ok := numeric(b)
		switch {
		case !ok:
		case isInt && alsoInt:
			return ordered(i < j, i > j), nil
		default:
			return ordered(f < g, f > g), nil
		}
	}
	if t, ok := a.(time.Time); ok {
		if u, ok := b.(time.Time); ok {
			return t.Compare(u), nil
		}
	}
	if isText(a) && isText(b) {
		s, _ := textOf(a)
		t, _ := textOf(b)
		return strings.Compare(s, t), nil
	}
	return 0, errors.New("a text and a number, or what has no order, cannot be compared; write numbers in quotes to compare with texts, or use int")
}

func ordered(less, more bool) int {
	switch {
	case less:
		return -1
	case more:
		return 1
	}
	return 0
}

func isText(v any) bool {
	switch v.(type) {
	case string, Literal, Raw:
		return true
	}
	return false
}

// equal says whether a is one of the others. What is missing is equal to nothing.
func equal(a any, others ...any) (bool, error) {
	if len(others) == 0 {
		return false, errors.New("eq needs something to compare with")
	}
	for _, b := range others {
		if isMissing(a) || isMissing(b) {
			continue
		}
		if isNull(a) && isNull(b) || isScalar(a) && isScalar(b) && a == b {
			return true, nil
		}
		if isNull(a) || isNull(b) || isBool(a) && isBool(b) {
			continue
		}
		if c, err := compare(a, b); err != nil {
			return false, err
		} else if c == 0 {
			return true, nil
		}
	}
	return false, nil
}

func isNull(v any) bool { _, ok := v.(jsonvalue.Null); return ok }

func isBool(v any) bool { _, ok := v.(bool); return ok }

func isScalar(v any) bool {
	switch v.(type) {
	case string, bool, int, int64, float64, json.Number, Literal, Raw:
		return true
	}
	return false
}

func (r *run) print(values []any, line bool) (string, error) {
	var b strings.Builder
	for i, v := range values {
		s, err := textOf(v)
		if err != nil {
			return "", err
		}
		if err := r.charge(len(s) + 1); err != nil {
			return "", err
		}
		if i > 0 && line {
			b.WriteByte(' ')
		}
		b.WriteString(s)
	}
	if line {
		b.WriteByte('\n')
	}
	return b.String(), nil
}

const verbs = "vsqdxXobcteEfFgG"

// printf formats as fmt.Sprintf, but for * and [n]. Objects and lists are JSON.
func (r *run) printf(format string, values ...any) (string, error) {
	var b strings.Builder
	next := 0
	for {
		i := strings.IndexByte(format, '%')
		if i < 0 {
			break
		}
		b.WriteString(format[:i])
		rest := format[i+1:]
		n := len(rest) - len(strings.TrimLeft(rest, "+-# 0123456789."))
		if n == len(rest) || n > 12 || !strings.ContainsRune(verbs+"%", rune(rest[n])) {
			return "", errors.New("printf: behind % comes one of " + verbs + "%, with flags, width and precision before it")
		}
		spec, verb := "%"+rest[:n+1], rest[n]
		format = rest[n+1:]
		if verb == '%' {
			b.WriteByte('%')
			continue
		}
		if next == len(values) {
			return "", errors.New("printf: there are more verbs than values")
		}
		for _, digits := range strings.FieldsFunc(spec, func(r rune) bool { return r < '0' || r > '9' }) {
			if n, err := strconv.Atoi(digits); err != nil || n > 1000 {
				return "", errors.New("printf: a width of more than 1000")
			}
		}
		s, err := r.format(spec, verb, values[next])
		if err != nil {
			return "", err
		}
		next++
		b.WriteString(s)
	}
	if next < len(values) {
		return "", errors.New("printf: there are more values than verbs")
	}
	b.WriteString(format)
	return b.String(), r.charge(len(format))
}

// format formats one value.
func (r *run) format(spec string, verb byte, v any) (string, error) {
	if isMissing(v) {
		return "", errIsMissing
	}
	wrong := fmt.Errorf("printf: %%%c does not fit to the value", verb)
	i, f, isInt, isNumber := numeric(v)
	switch verb {
	case 'd', 'o', 'b', 'c':
		if !isInt {
			return "", wrong
		}
		return fmt.Sprintf(spec, i), r.charge(1100)
	case 'e', 'E', 'f', 'F', 'g', 'G':
		if !isNumber {
			return "", wrong
		}
		return fmt.Sprintf(spec, f), r.charge(1500)
	case 't':
		if !isBool(v) {
			return "", wrong
		}
		return fmt.Sprintf(spec, v), r.charge(1100)
	case 'x', 'X':
		if isInt {
			return fmt.Sprintf(spec, i), r.charge(1100)
		}
	}
	s, err := textOf(v)
	if err != nil {
		return "", err
	}
	if err := r.charge(10*len(s) + 1100); err != nil {
		return "", err
	}
	return fmt.Sprintf(spec, s), nil
}
