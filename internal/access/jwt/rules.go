package jwt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

// claimRef says where a claim is.
type claimRef struct {
	name string   // as configured
	path []string // names of members, or numbers of elements
}

// parseClaimRef parses the name of a claim: the whole text is one name, unless it
// begins with a slash and so is a JSON pointer (RFC 6901).
func parseClaimRef(text string) (claimRef, error) {
	if text == "" {
		return claimRef{}, errors.New("a claim has no name")
	}
	rest, isPointer := strings.CutPrefix(text, "/")
	if !isPointer {
		return claimRef{text, []string{text}}, nil
	}
	path := strings.Split(rest, "/")
	for i, part := range path {
		for j := range len(part) {
			if part[j] == '~' && (j+1 == len(part) || part[j+1] != '0' && part[j+1] != '1') {
				return claimRef{}, fmt.Errorf("%q is not a JSON pointer: write ~ as ~0", text)
			}
		}
		path[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
	}
	return claimRef{text, path}, nil
}

// find returns the claim, if it is there.
func (r claimRef) find(claims map[string]any) (value any, ok bool) {
	value = claims
	for _, part := range r.path {
		switch in := value.(type) {
		case map[string]any:
			if value, ok = in[part]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.ParseUint(part, 10, 16)
			if err != nil || int(i) >= len(in) || strconv.FormatUint(i, 10) != part {
				return nil, false
			}
			value = in[i]
		default:
			return nil, false
		}
	}
	return value, true
}

// metadata is a claim to be known under another name.
type metadata struct {
	claim claimRef
	name  string
}

func compileMetadata(names map[string]string) ([]metadata, error) {
	var list []metadata
	used := make(map[string]string)
	for _, claim := range slices.Sorted(maps.Keys(names)) {
		ref, err := parseClaimRef(claim)
		if err != nil {
			return nil, err
		}
		name := names[claim]
		if name == "" {
			return nil, fmt.Errorf("%s: is to be known under an empty name", claim)
		}
		if other, ok := used[name]; ok {
			return nil, fmt.Errorf("%s and %s are both to be known as %q", other, claim, name)
		}
		used[name] = claim
		list = append(list, metadata{ref, name})
	}
	return list, nil
}

// rule is a compiled [Rule].
type rule struct {
	when     []condition
	policies []string
}

type condition struct {
	claim   claimRef
	pattern event.Glob
}

func compileRule(r Rule) (rule, error) {
	if len(r.When) == 0 {
		return rule{}, errors.New("when: is empty, so it would apply to every token; use default_policies for that")
	}
	if len(r.Policies) == 0 {
		return rule{}, errors.New("policies: is empty")
	}
	if err := checkPolicies(r.Policies); err != nil {
		return rule{}, fmt.Errorf("policies: %w", err)
	}
	compiled := rule{policies: slices.Clone(r.Policies)}
	for _, claim := range slices.Sorted(maps.Keys(r.When)) {
		ref, err := parseClaimRef(claim)
		if err != nil {
			return rule{}, fmt.Errorf("when: %w", err)
		}
		compiled.when = append(compiled.when, condition{ref, event.CompileGlob(r.When[claim])})
	}
	return compiled, nil
}

// applies says whether all conditions are met.
func (r rule) applies(claims map[string]any) bool {
	for _, c := range r.when {
		value, ok := c.claim.find(claims)
		if !ok || !c.matches(value) {
			return false
		}
	}
	return true
}

func (c condition) matches(value any) bool {
	if list, ok := value.([]any); ok {
		return slices.ContainsFunc(list, func(element any) bool {
			text, ok := scalar(element)
			return ok && c.pattern.Match(text)
		})
	}
	text, ok := scalar(value)
	return ok && c.pattern.Match(text)
}
