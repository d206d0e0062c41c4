// Package fieldtext is how people write the fields of plugins, and read them: a request for a
// field such as "http.header[accept]", and a value that was extracted as text or as JSON.
package fieldtext

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/spelling"
)

// ErrUnknownField is wrapped by the error for a field that a plugin does not have.
var ErrUnknownField = errors.New("unknown field")

// maxRequest bounds the text of a request.
const maxRequest = 4 << 10

// Parse reads a request for one of these fields: NAME or NAME[ARG], as rules of Falco have it.
// The argument is as it is, or in quotes if there are quotes, brackets or blanks in it; a
// backslash before a quote or a backslash in quotes stands for that character. What fields allow
// is checked: see [Usage].
func Parse(text string, fields []sourceplugin.Field) (sourceplugin.FieldRequest, error) {
	var r sourceplugin.FieldRequest
	name, arg, present, err := Split(text)
	if err != nil {
		return r, err
	}
	r.Index = slices.IndexFunc(fields, func(f sourceplugin.Field) bool { return f.Name == name })
	if r.Index < 0 {
		return r, unknown(name, fields)
	}
	f := &fields[r.Index]
	switch {
	case !present && f.Arg.Required:
		return r, fmt.Errorf("field %s needs an argument in brackets: %s", f.Name, Usage(f))
	case !present:
		return r, nil
	case !f.Arg.Index && !f.Arg.Key:
		return r, fmt.Errorf("field %s takes no argument: write it without [%s]", f.Name, arg)
	}
	r.Arg, r.ArgPresent = arg, true
	if f.Arg.Index {
		index, ok := parseIndex(arg)
		if !ok && !f.Arg.Key {
			return r, fmt.Errorf("field %s takes a number as its argument, without leading zeros, not %q", f.Name, arg)
		}
		r.ArgIndex = index
	}
	return r, nil
}

// Split cuts a request for a field, of whatever plugin, into its name and its argument. The error
// names the request.
func Split(text string) (name, arg string, present bool, err error) {
	if len(text) > maxRequest {
		return "", "", false, fmt.Errorf("the field has %d characters, more than %d", len(text), maxRequest)
	}
	if name, arg, present, err = split(text); err != nil {
		err = fmt.Errorf("field %q: %w", text, err)
	}
	return name, arg, present, err
}

func split(text string) (name, arg string, present bool, err error) {
	name, rest, present := strings.Cut(text, "[")
	if name == "" {
		return "", "", false, errors.New("its name is missing")
	}
	if !present {
		if strings.ContainsAny(name, "]\"'") {
			return "", "", false, errors.New("an argument is written in brackets: NAME[ARGUMENT]")
		}
		return name, "", false, nil
	}
	inner, closed := strings.CutSuffix(rest, "]")
	switch {
	case !closed:
		return "", "", false, errors.New("it does not end with ]")
	case inner == "":
		return "", "", false, errors.New("there is nothing in the brackets")
	case inner[0] == '"' || inner[0] == '\'':
		arg, err = unquote(inner)
	case strings.ContainsAny(inner, "[]\"' \t\r\n"):
		err = errors.New("an argument with brackets, quotes or blanks must be in quotes")
	default:
		arg = inner
	}
	if err == nil && strings.IndexByte(arg, 0) >= 0 {
		err = errors.New("its argument has a NUL byte")
	}
	return name, arg, true, err
}

func unquote(text string) (string, error) {
	quote := text[0]
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == quote && i == len(text)-1:
			return b.String(), nil
		case c == quote:
			return "", errors.New("there is something behind the closing quote")
		case c == '\\' && i+1 < len(text) && (text[i+1] == quote || text[i+1] == '\\'):
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", errors.New("the closing quote is missing")
}

// parseIndex reads digits that begin with no zero, unless they are one.
func parseIndex(arg string) (uint64, bool) {
	if len(arg) > 1 && arg[0] == '0' || strings.HasPrefix(arg, "+") {
		return 0, false
	}
	n, err := strconv.ParseUint(arg, 10, 64)
	return n, err == nil
}

func unknown(name string, fields []sourceplugin.Field) error {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	if near := spelling.Nearest(name, names); near != "" {
		return fmt.Errorf("%w %q; did you mean %q?", ErrUnknownField, name, near)
	}
	const listed = 10
	switch {
	case len(names) == 0:
		return fmt.Errorf("%w %q; the plugin has none", ErrUnknownField, name)
	case len(names) > listed:
		return fmt.Errorf("%w %q; there are %s and %d more", ErrUnknownField, name, strings.Join(names[:listed], ", "), len(names)-listed)
	}
	return fmt.Errorf("%w %q; there are %s", ErrUnknownField, name, strings.Join(names, ", "))
}

// Format returns the text that [Parse] makes r of.
func Format(r sourceplugin.FieldRequest, fields []sourceplugin.Field) string {
	return Join(fields[r.Index].Name, r.Arg, r.ArgPresent)
}

// Join is the inverse of [Split].
func Join(name, arg string, present bool) string {
	if !present {
		return name
	}
	if arg == "" || strings.ContainsAny(arg, "[]\"' \t\r\n") {
		arg = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(arg) + `"`
	}
	return name + "[" + arg + "]"
}

// Usage tells how a field is written: NAME, NAME[KEY], NAME[INDEX] or NAME[KEY|INDEX] for one
// that needs an argument, with [KEY]? and the like for one that need not have it.
func Usage(f *sourceplugin.Field) string {
	var arg string
	switch {
	case f.Arg.Key && f.Arg.Index:
		arg = "[KEY|INDEX]"
	case f.Arg.Key:
		arg = "[KEY]"
	case f.Arg.Index:
		arg = "[INDEX]"
	default:
		return f.Name
	}
	if !f.Arg.Required {
		arg += "?"
	}
	return f.Name + arg
}

// TypeName is the name of the type of a field, as Falco has it, with "list of" before it.
func TypeName(f *sourceplugin.Field) string {
	name, ok := typeNames[f.Type]
	if !ok {
		name = fmt.Sprintf("type %d", f.Type)
	}
	if f.List {
		return "list of " + name
	}
	return name
}

var typeNames = map[sourceplugin.FieldType]string{
	sourceplugin.Uint64:  "uint64",
	sourceplugin.String:  "string",
	sourceplugin.RelTime: "reltime",
	sourceplugin.AbsTime: "abstime",
	sourceplugin.Bool:    "bool",
	sourceplugin.IPAddr:  "ipaddr",
	sourceplugin.IPNet:   "ipnet",
}
