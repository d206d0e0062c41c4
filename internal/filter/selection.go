package filter

import (
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

// Bounds of a [Selection].
const (
	MaxTypes      = 256
	MaxPairs      = 1024
	MaxNamespaces = 256
	MaxGlobBytes  = 512
)

// ownTypes is how the types of the hub's events about sinks begin.
const ownTypes = "tocsin/sink-"

// Selection says which events are for a sink. All parts of it must hold; an empty one holds
// always.
type Selection struct {
	// Types are globs over event types, of which one must match. Without any, all types are
	// selected but those that begin with tocsin/sink-: events about a sink that fails would
	// be sent to it.
	Types []string
	// Pairs are pairs noun:verb, of which one must be that of the type: its last two parts,
	// so that flag:created selects flipt/flag/created. A * in the place of the noun or the
	// verb stands for any.
	Pairs []string
	// Namespaces are globs over namespaces, of which one must match; "root" is the root
	// namespace. Slashes at the ends do not matter.
	Namespaces []string
	// Filter is an expression as of [Compile].
	Filter string
}

// Compile returns a function that says whether an event is selected. It is safe for
// concurrent use and does not allocate. Fields of plugins are refused. An error names what is
// wrong in which part.
func (s Selection) Compile() (func(*event.Event) bool, error) {
	c, err := s.compile(Compile)
	if err != nil {
		return nil, err
	}
	return c.Match, nil
}

// CompileFields is Compile for who can extract fields of plugins, as [CompileFields] is.
func (s Selection) CompileFields(allowed func(field string, equals *string) error) (*Compiled, error) {
	return s.compile(func(text string) (*Filter, error) { return CompileFields(text, allowed) })
}

// Compiled is a selection made ready. It is immutable and safe for concurrent use.
type Compiled struct {
	types      texts
	pairs      *pairs
	namespaces texts
	filter     *Filter
}

func (s Selection) compile(filter func(text string) (*Filter, error)) (*Compiled, error) {
	types, err := compileTypes(s.Types)
	if err != nil {
		return nil, err
	}
	pairs, err := compilePairs(s.Pairs)
	if err != nil {
		return nil, err
	}
	namespaces, err := compileNamespaces(s.Namespaces)
	if err != nil {
		return nil, err
	}
	expression, err := filter(s.Filter)
	if err != nil {
		return nil, err
	}
	return &Compiled{types, pairs, namespaces, expression}, nil
}

func (c *Compiled) preselect(e *event.Event) bool {
	return c.types.match(e.Type) && (c.pairs == nil || c.pairs.match(e.Type)) && c.namespaces.match(strings.TrimSuffix(e.Namespace, "/"))
}

// Fields returns the fields of plugins that are asked for, as they are written.
func (c *Compiled) Fields() []string { return c.filter.Fields() }

// Match says whether an event is selected, whose fields of plugins have no values. It does not
// allocate.
func (c *Compiled) Match(e *event.Event) bool { return c.preselect(e) && c.filter.Match(e) }

// MatchRow says whether an event is selected, whose fields are in row; see [Filter.MatchRow].
func (c *Compiled) MatchRow(e *event.Event, row Row) bool {
	return c.preselect(e) && c.filter.MatchRow(e, row)
}

// texts are globs, of which those without a * are looked up.
type texts struct {
	all   bool
	not   string // all that does not begin with this, if it is not empty
	exact map[string]struct{}
	globs []event.Glob
}

func (t *texts) match(s string) bool {
	if t.all {
		return t.not == "" || !strings.HasPrefix(s, t.not)
	}
	if _, ok := t.exact[s]; ok {
		return true
	}
	for i := range t.globs {
		if t.globs[i].Match(s) {
			return true
		}
	}
	return false
}

func (t *texts) add(glob string) {
	switch {
	case strings.Trim(glob, "*") == "" && glob != "":
		t.all, t.not = true, ""
	case strings.Contains(glob, "*"):
		t.globs = append(t.globs, event.CompileGlob(glob))
	default:
		if t.exact == nil {
			t.exact = make(map[string]struct{})
		}
		t.exact[glob] = struct{}{}
	}
}

func compileTypes(globs []string) (texts, error) {
	if len(globs) == 0 {
		return texts{all: true, not: ownTypes}, nil
	}
	var t texts
	if err := checkGlobs("types", globs, MaxTypes); err != nil {
		return t, err
	}
	for _, glob := range globs {
		t.add(glob)
	}
	return t, nil
}

func compileNamespaces(globs []string) (texts, error) {
	if len(globs) == 0 {
		return texts{all: true}, nil
	}
	var t texts
	if err := checkGlobs("namespaces", globs, MaxNamespaces); err != nil {
		return t, err
	}
	for _, glob := range globs {
		if glob = strings.Trim(glob, "/"); glob == "root" {
			glob = ""
		}
		t.add(glob)
	}
	return t, nil
}

func checkGlobs(part string, globs []string, most int) error {
	if len(globs) > most {
		return &SelectionError{Part: part, Index: -1, Reason: fmt.Sprintf("has %d elements, at most %d are allowed", len(globs), most)}
	}
	for i, glob := range globs {
		switch {
		case strings.TrimSpace(glob) == "":
			reason := "is empty and selects nothing"
			if part == "namespaces" {
				reason += `; the root namespace is "root"`
			}
			return &SelectionError{part, i, reason}
		case len(glob) > MaxGlobBytes:
			return &SelectionError{part, i, fmt.Sprintf("has %d bytes, at most %d are allowed", len(glob), MaxGlobBytes)}
		}
	}
	return nil
}

// SelectionError says why a part of a selection is refused.
type SelectionError struct {
	Part   string // types, pairs or namespaces
	Index  int    // of the element, -1: the part itself
	Reason string
}

func (e *SelectionError) Error() string {
	if e.Index < 0 {
		return e.Part + " " + e.Reason
	}
	return fmt.Sprintf("%s[%d] %s", e.Part, e.Index, e.Reason)
}

// pairs are pairs of noun and verb.
type pairs struct {
	all   bool
	nouns map[string]struct{} // with any verb
	verbs map[string]struct{} // with any noun
	exact map[string]struct{} // noun/verb
}

func compilePairs(list []string) (*pairs, error) {
	if len(list) == 0 {
		return nil, nil
	}
	if len(list) > MaxPairs {
		return nil, &SelectionError{Part: "pairs", Index: -1, Reason: fmt.Sprintf("has %d elements, at most %d are allowed", len(list), MaxPairs)}
	}
	p := &pairs{nouns: make(map[string]struct{}), verbs: make(map[string]struct{}), exact: make(map[string]struct{})}
	for i, pair := range list {
		noun, verb, ok := strings.Cut(pair, ":")
		switch {
		case len(pair) > MaxGlobBytes:
			return nil, &SelectionError{"pairs", i, fmt.Sprintf("has %d bytes, at most %d are allowed", len(pair), MaxGlobBytes)}
		case !ok || noun == "" || verb == "" || strings.ContainsAny(pair, "/ \t\r\n") || strings.Contains(verb, ":"):
			return nil, &SelectionError{"pairs", i, fmt.Sprintf("%q is not a pair noun:verb, such as flag:created or *:deleted", pair)}
		case noun != "*" && strings.Contains(noun, "*") || verb != "*" && strings.Contains(verb, "*"):
			return nil, &SelectionError{"pairs", i, fmt.Sprintf("%q has a * that is only a part of the noun or verb, which it cannot be; use types for that, such as flipt/fl*/created", pair)}
		case noun == "*" && verb == "*":
			p.all = true
		case noun == "*":
			p.verbs[verb] = struct{}{}
		case verb == "*":
			p.nouns[noun] = struct{}{}
		default:
			p.exact[noun+"/"+verb] = struct{}{}
		}
	}
	return p, nil
}

func (p *pairs) match(eventType string) bool {
	if p.all {
		return true
	}
	last := strings.LastIndexByte(eventType, '/')
	before := strings.LastIndexByte(eventType[:max(last, 0)], '/')
	noun, verb := eventType[before+1:max(last, before+1)], eventType[last+1:]
	if _, ok := p.verbs[verb]; ok {
		return true
	}
	if last < 0 {
		return false // it has no noun
	}
	if _, ok := p.nouns[noun]; ok {
		return true
	}
	_, ok := p.exact[eventType[before+1:]]
	return ok
}
