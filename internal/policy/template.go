package policy

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Subject is what templates can refer to. The zero Subject resolves none.
type Subject struct {
	EntityID       string            `json:"entity_id,omitempty"`
	EntityName     string            `json:"entity_name,omitempty"`
	EntityMetadata map[string]string `json:"entity_metadata,omitempty"`
	Aliases        map[string]Alias  `json:"aliases,omitempty"` // by mount accessor
	Groups         []Group           `json:"groups,omitempty"`
	TokenMetadata  map[string]string `json:"token_metadata,omitempty"`
	DisplayName    string            `json:"display_name,omitempty"`
	Claims         map[string]string `json:"claims,omitempty"` // of a JWT, those that are texts, numbers or booleans
}

// Alias is a subject's identity at one auth mount.
type Alias struct {
	ID       string            `json:"id,omitempty"`
	Name     string            `json:"name,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// Group is a group that the subject is in.
type Group struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// part is a piece of a pattern: literal text, or what is between "{{" and "}}".
type part struct {
	text     string
	template bool
}

// templateParts returns nil for a pattern without templates.
func templateParts(pattern string) ([]part, error) {
	unbalanced := errors.New(`"{{" and "}}" are not balanced`)
	var parts []part
	rest, has := pattern, false
	for {
		before, after, found := strings.Cut(rest, "{{")
		if strings.Contains(before, "}}") {
			return nil, unbalanced
		}
		if before != "" {
			parts = append(parts, part{text: before})
		}
		if !found {
			break
		}
		has = true
		inner, next, closed := strings.Cut(after, "}}")
		if !closed || strings.Contains(inner, "{{") {
			return nil, unbalanced
		}
		parts = append(parts, part{text: strings.TrimSpace(inner), template: true})
		rest = next
	}
	if !has {
		return nil, nil
	}
	return parts, nil
}

// known says whether a template can have a value for some subject.
func known(template string) bool {
	_, ok := (*Subject)(nil).value(template)
	return ok
}

// value returns the value of a template, "" for none, and whether there can be one.
func (s *Subject) value(template string) (value string, known bool) {
	if s == nil {
		s = new(Subject)
	}
	if t, ok := strings.CutPrefix(template, "identity.entity."); ok {
		switch {
		case t == "id":
			return s.EntityID, true
		case t == "name":
			return s.EntityName, true
		}
		if key, ok := strings.CutPrefix(t, "metadata."); ok {
			return s.EntityMetadata[key], key != ""
		}
		if t, ok := strings.CutPrefix(t, "aliases."); ok {
			accessor, field, _ := strings.Cut(t, ".")
			alias := s.Aliases[accessor]
			switch {
			case accessor == "":
				return "", false
			case field == "id":
				return alias.ID, true
			case field == "name":
				return alias.Name, true
			}
			key, ok := strings.CutPrefix(field, "metadata.")
			return alias.Metadata[key], ok && key != ""
		}
		return "", false
	}
	if t, ok := strings.CutPrefix(template, "identity.groups."); ok {
		by, t, _ := strings.Cut(t, ".")
		// A name ends at the first dot, as in Vault: groups with dots in their names
		// can be referred to by ID.
		which, field, _ := strings.Cut(t, ".")
		if by != "names" && by != "ids" || which == "" || field != "id" && field != "name" {
			return "", false
		}
		for _, g := range s.Groups {
			if by == "names" && g.Name == which || by == "ids" && g.ID == which {
				if field == "id" {
					return g.ID, true
				}
				return g.Name, true
			}
		}
		return "", true
	}
	if template == "token.display_name" {
		return s.DisplayName, true
	}
	if key, ok := strings.CutPrefix(template, "token.metadata."); ok {
		return s.TokenMetadata[key], key != ""
	}
	if key, ok := strings.CutPrefix(template, "jwt.claims."); ok {
		return s.Claims[key], key != ""
	}
	return "", false
}

// resolved is a pattern with the values of its templates.
type resolved struct {
	text   string
	values []span // where in text there are values
}

// span is the bytes from begin to before end.
type span struct{ begin, end int }

// resolve puts the values of subject into the pattern of a rule, behind prefix. The
// reason says why it cannot be done.
func (rule *Rule) resolve(prefix string, subject *Subject) (p resolved, reason string) {
	if rule.parts == nil {
		return resolved{text: prefix + rule.Pattern}, ""
	}
	var b strings.Builder
	b.WriteString(prefix)
	for _, part := range rule.parts {
		if !part.template {
			b.WriteString(part.text)
			continue
		}
		value, _ := subject.value(part.text)
		if value == "" {
			return resolved{}, "{{" + part.text + "}} has no value"
		}
		if !plainSegment(value) && !rule.closes() {
			return resolved{}, "the value of {{" + part.text + "}} is not one plain path segment: " +
				`it has "/", "*", "+", "{{", "}}" or a control character, or is "." or ".."`
		}
		begin := b.Len()
		b.WriteString(value)
		p.values = append(p.values, span{begin, b.Len()})
	}
	p.text = b.String()
	return p, ""
}

// plainSegment says whether a value, put into a pattern, stands for itself and for
// nothing beyond its segment.
func plainSegment(v string) bool {
	return v != "." && v != ".." && utf8.ValidString(v) && !strings.ContainsAny(v, "/*+") &&
		!strings.Contains(v, "{{") && !strings.Contains(v, "}}") && strings.IndexFunc(v, unicode.IsControl) < 0
}
