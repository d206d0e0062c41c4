package catalog

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// mostProblems is how many problems of one event are told.
const mostProblems = 3

// Explain says where a value is not as it should be, and how it should be. What it says
// comes from the schema, but for the names of members, which tell where. It does not have
// what the library says itself, because that has values.
func Explain(failed *jsonschema.ValidationError) string {
	var problems []problem
	collect(failed, &problems)
	slices.SortFunc(problems, func(a, b problem) int { return cmp.Or(strings.Compare(a.at, b.at), strings.Compare(a.text, b.text)) })
	problems = slices.Compact(problems)
	var texts []string
	for _, p := range problems[:min(len(problems), mostProblems)] {
		texts = append(texts, p.at+" "+p.text)
	}
	text := strings.Join(texts, "; ")
	if more := len(problems) - mostProblems; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// problem is at a JSON Pointer (RFC 6901), "/" for the whole.
type problem struct{ at, text string }

func collect(e *jsonschema.ValidationError, into *[]problem) {
	text, deeper := problemText(e.ErrorKind)
	if deeper && len(e.Causes) > 0 {
		for _, cause := range e.Causes {
			collect(cause, into)
		}
		return
	}
	*into = append(*into, problem{pointer(e.InstanceLocation), text})
}

// problemText says how the value should be; deeper is true where the causes say it better.
func problemText(of jsonschema.ErrorKind) (text string, deeper bool) {
	switch k := of.(type) {
	case *kind.Schema, *kind.Group, *kind.Reference, *kind.AllOf:
		return "is not as it should be", true
	case *kind.Type:
		return "must be " + strings.Join(k.Want, " or ") + ", is " + k.Got, false
	case *kind.Enum:
		return "must be one of " + wanted(k.Want...), false
	case *kind.Const:
		return "must be " + wanted(k.Want), false
	case *kind.Format:
		return "must have the format " + clip(k.Want), false
	case *kind.Pattern:
		return "must match the pattern " + clip(k.Want), false
	case *kind.Required:
		return "misses " + quoted(k.Missing), false
	case *kind.DependentRequired:
		return "misses " + quoted(k.Missing), false
	case *kind.Dependency:
		return "misses " + quoted(k.Missing), false
	case *kind.AdditionalProperties:
		slices.Sort(k.Properties)
		return "must not have " + quoted(k.Properties), false
	case *kind.PropertyNames:
		return "has a member whose name is not allowed", false
	case *kind.MinLength:
		return fmt.Sprintf("must have at least %d characters, has %d", k.Want, k.Got), false
	case *kind.MaxLength:
		return fmt.Sprintf("must have at most %d characters, has %d", k.Want, k.Got), false
	case *kind.MinItems:
		return fmt.Sprintf("must have at least %d elements, has %d", k.Want, k.Got), false
	case *kind.MaxItems:
		return fmt.Sprintf("must have at most %d elements, has %d", k.Want, k.Got), false
	case *kind.MinProperties:
		return fmt.Sprintf("must have at least %d members, has %d", k.Want, k.Got), false
	case *kind.MaxProperties:
		return fmt.Sprintf("must have at most %d members, has %d", k.Want, k.Got), false
	case *kind.AdditionalItems:
		return "has more elements than allowed", false
	case *kind.UniqueItems:
		return fmt.Sprintf("must not have equal elements, as those at %d and %d", k.Duplicates[0], k.Duplicates[1]), false
	case *kind.Minimum:
		return "must be at least " + k.Want.RatString(), false
	case *kind.Maximum:
		return "must be at most " + k.Want.RatString(), false
	case *kind.ExclusiveMinimum:
		return "must be more than " + k.Want.RatString(), false
	case *kind.ExclusiveMaximum:
		return "must be less than " + k.Want.RatString(), false
	case *kind.MultipleOf:
		return "must be a multiple of " + k.Want.RatString(), false
	case *kind.AnyOf:
		return "fits none of the alternatives (anyOf)", false
	case *kind.OneOf:
		return "must fit exactly one of the alternatives (oneOf)", false
	case *kind.Not:
		return "is what it must not be (not)", false
	case *kind.FalseSchema:
		return "is not allowed", false
	}
	return "is not allowed by " + clip(strings.Join(of.KeywordPath(), "/")), false
}

// wanted prints values of a schema.
func wanted(values ...any) string {
	const most = 8
	var texts []string
	for _, v := range values[:min(len(values), most)] {
		text, err := json.Marshal(v)
		if err != nil {
			text = []byte("?")
		}
		texts = append(texts, clip(string(text)))
	}
	if more := len(values) - most; more > 0 {
		texts = append(texts, fmt.Sprintf("%d others", more))
	}
	return strings.Join(texts, ", ")
}

// quoted prints names.
func quoted(names []string) string {
	const most = 5
	var texts []string
	for _, name := range names[:min(len(names), most)] {
		texts = append(texts, fmt.Sprintf("%q", clip(name)))
	}
	if more := len(names) - most; more > 0 {
		texts = append(texts, fmt.Sprintf("%d others", more))
	}
	return strings.Join(texts, ", ")
}

// clip keeps a text short.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// pointer is the JSON Pointer of a place.
func pointer(location []string) string {
	if len(location) == 0 {
		return "/"
	}
	var b strings.Builder
	for i, name := range location {
		if i == 16 {
			b.WriteString("/...")
			break
		}
		b.WriteByte('/')
		b.WriteString(escapePointer(clip(name)))
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, b.String())
}

func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}
