package load

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"
)

// Code says what kind of error or warning it is. The codes are those of Falco.
type Code string

// The errors.
const (
	ErrFileRead         Code = "LOAD_ERR_FILE_READ"
	ErrYAMLParse        Code = "LOAD_ERR_YAML_PARSE"
	ErrYAMLValidate     Code = "LOAD_ERR_YAML_VALIDATE"
	ErrCompileCondition Code = "LOAD_ERR_COMPILE_CONDITION"
	ErrCompileOutput    Code = "LOAD_ERR_COMPILE_OUTPUT"
	ErrValidate         Code = "LOAD_ERR_VALIDATE"
)

// The warnings.
const (
	WarnUnknownSource      Code = "LOAD_UNKNOWN_SOURCE"
	WarnUnsafeNACheck      Code = "LOAD_UNSAFE_NA_CHECK"
	WarnNoEventType        Code = "LOAD_NO_EVTTYPE"
	WarnUnknownFilter      Code = "LOAD_UNKNOWN_FILTER"
	WarnUnusedMacro        Code = "LOAD_UNUSED_MACRO"
	WarnUnusedList         Code = "LOAD_UNUSED_LIST"
	WarnUnknownItem        Code = "LOAD_UNKNOWN_ITEM"
	WarnDeprecatedItem     Code = "LOAD_DEPRECATED_ITEM"
	WarnAppendNoValues     Code = "LOAD_APPEND_NO_VALUES"
	WarnExceptionNameTwice Code = "LOAD_EXCEPTION_NAME_NOT_UNIQUE"
	WarnInvalidMacroName   Code = "LOAD_INVALID_MACRO_NAME"
	WarnInvalidListName    Code = "LOAD_INVALID_LIST_NAME"
	WarnCompileCondition   Code = "LOAD_COMPILE_CONDITION"
	WarnUnknownKey         Code = "LOAD_UNKNOWN_KEY"
)

// Describe returns a sentence about a code.
func (c Code) Describe() string {
	switch c {
	case ErrFileRead:
		return "File read error"
	case ErrYAMLParse:
		return "YAML parse error"
	case ErrYAMLValidate:
		return "Error validating internal structure of YAML file"
	case ErrCompileCondition:
		return "Error compiling condition"
	case ErrCompileOutput:
		return "Error compiling output"
	case ErrValidate:
		return "Error validating rule/macro/list/exception objects"
	case WarnUnknownSource:
		return "A rule has a unknown event source. This can occur when reading rules content without having a corresponding plugin loaded, etc. The rule will be silently ignored."
	case WarnUnsafeNACheck:
		return "A condition compares a field with <NA>, which says nothing about whether the event has the field. The operator exists does."
	case WarnNoEventType:
		return "A rule condition matches too many evt.type values. This has a significant performance penalty. Make the condition more specific by adding an evt.type field or further restricting the number of evt.type values in the condition."
	case WarnUnknownFilter:
		return "A rule asks for a field that there is not. It is skipped, because it has skip-if-unknown-filter."
	case WarnUnusedMacro:
		return "No rule and no other macro uses the macro."
	case WarnUnusedList:
		return "No rule, no macro and no other list uses the list."
	case WarnUnknownItem:
		return "An unknown top-level object is in the rules content. It will be ignored."
	case WarnDeprecatedItem:
		return "A deprecated item is employed by lists, macros, or rules."
	case WarnAppendNoValues:
		return "An exception is appended or overridden without values."
	case WarnExceptionNameTwice:
		return "A rule has several exceptions of one name."
	case WarnInvalidMacroName:
		return "A macro is defined with an invalid name"
	case WarnInvalidListName:
		return "A list is defined with an invalid name"
	case WarnCompileCondition:
		return "A condition or an output may not mean what it seems to mean."
	case WarnUnknownKey:
		return "An item in the rules content contains an unrecognized key. The key will be ignored. This may indicate a typo or a property placed on the wrong item type."
	}
	return ""
}

// Report is what came of loading, for each file in the order in which they were read. Its JSON
// has the shape of Falco's option -V.
type Report struct {
	Files []*FileReport
}

// OK says that there are no errors.
func (r *Report) OK() bool {
	for _, f := range r.Files {
		if !f.Successful() {
			return false
		}
	}
	return true
}

// Warnings returns how many warnings there are.
func (r *Report) Warnings() int {
	n := 0
	for _, f := range r.Files {
		n += len(f.Warnings) + f.LeftOut
	}
	return n
}

// Final returns what people want to know: everything once, in the order of the files, and of the
// warnings about what was collected only those that are true after the last file.
func (r *Report) Final() (errors, warnings []*Diagnostic) {
	type key struct {
		code    Code
		at      Place
		message string
	}
	seen := make(map[key]bool)
	add := func(list []*Diagnostic, d *Diagnostic) []*Diagnostic {
		k := key{d.Code, d.At, d.Message}
		if seen[k] {
			return list
		}
		seen[k] = true
		return append(list, d)
	}
	for i, f := range r.Files {
		for _, d := range f.Errors {
			errors = add(errors, d)
		}
		for _, d := range f.Warnings {
			if !d.Compiled || i == len(r.Files)-1 {
				warnings = add(warnings, d)
			}
		}
	}
	files := make(map[string]int)
	for i, f := range slices.Backward(r.Files) {
		files[f.Name] = i
	}
	byPlace := func(a, b *Diagnostic) int {
		return cmp.Or(cmp.Compare(files[a.At.File], files[b.At.File]), cmp.Compare(a.At.Offset, b.At.Offset))
	}
	slices.SortStableFunc(errors, byPlace)
	slices.SortStableFunc(warnings, byPlace)
	return errors, warnings
}

// Notes returns the notes about all files, each once.
func (r *Report) Notes() []*Diagnostic {
	if len(r.Files) == 0 {
		return nil
	}
	return r.Files[len(r.Files)-1].Notes
}

// Err returns the first error, nil if there is none.
func (r *Report) Err() error {
	for _, f := range r.Files {
		if len(f.Errors) > 0 {
			return f.Errors[0]
		}
	}
	return nil
}

// FileReport is what came of loading a file. As in Falco, all rules that were collected so far are
// compiled after each file, so warnings may be about files before it.
type FileReport struct {
	Name             string
	Errors, Warnings []*Diagnostic
	// LeftOut is how many warnings more there were.
	LeftOut int
	// Notes are about what is as Falco has it, but may not be what was meant. Falco does not tell
	// them, so they have no code.
	Notes []*Diagnostic
	// SchemaValid says that the file fits the JSON Schema of files of rules; what does not is in
	// SchemaWarnings.
	SchemaValid    bool
	SchemaWarnings []string
}

// Successful says that the file has no errors.
func (f *FileReport) Successful() bool { return len(f.Errors) == 0 }

// Diagnostic is an error or a warning.
type Diagnostic struct {
	Code Code
	// Message may be empty, as in Falco, for codes that say all: see Text.
	Message string
	Hint    string // what to do, for people; may be empty
	// At is where it is. Line is 0 for what is about a whole file.
	At Place
	// Line is the line of the file, Width how many characters of it are meant.
	Line  string
	Width int
	// Item is what it is about: rule "X"; may be empty.
	Item string
	// Compiled says that it was found when all that was collected so far was compiled.
	Compiled bool

	// Locations and Snippet are where Falco says that it is: from the file down.
	Locations []Location
	Snippet   string
}

// Text returns the message, or what the code means.
func (d *Diagnostic) Text() string {
	if d.Message == "" {
		return d.Code.Describe()
	}
	return d.Message
}

// Error makes a Diagnostic an error: place and message.
func (d *Diagnostic) Error() string {
	var b strings.Builder
	b.WriteString(d.At.String())
	b.WriteString(": ")
	if d.Item != "" {
		b.WriteString(d.Item)
		b.WriteString(": ")
	}
	b.WriteString(d.Text())
	if d.Hint != "" {
		b.WriteString("; ")
		b.WriteString(d.Hint)
	}
	return b.String()
}

// Location is where something is, as Falco counts: from 0.
type Location struct {
	ItemName string   `json:"item_name"`
	ItemType string   `json:"item_type"`
	Position Position `json:"position"`
}

// Position is a place in a file, or in a condition, whose beginning is its name then.
type Position struct {
	Column int    `json:"column"`
	Line   int    `json:"line"`
	Name   string `json:"name"`
	Offset int    `json:"offset"`
}

// MarshalJSON writes the report as Falco does.
func (r *Report) MarshalJSON() ([]byte, error) {
	files := make([]any, 0, len(r.Files))
	for _, f := range r.Files {
		files = append(files, map[string]any{
			"name": f.Name, "successful": f.Successful(),
			"schema_valid": f.SchemaValid, "schema_warnings": orEmpty(f.SchemaWarnings),
			"errors": diagnostics(f.Errors), "warnings": diagnostics(f.Warnings),
		})
	}
	return marshal(map[string]any{"falco_load_results": files})
}

// marshal writes JSON with its characters as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

func diagnostics(list []*Diagnostic) []any {
	result := make([]any, 0, len(list))
	for _, d := range list {
		result = append(result, map[string]any{
			"code": d.Code, "codedesc": d.Code.Describe(), "message": d.Message,
			"context": map[string]any{"locations": d.Locations, "snippet": d.Snippet},
		})
	}
	return result
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
