package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/leak"
)

// Publish is the section "publish".
type Publish struct {
	Deduplicate Deduplicate `yaml:"deduplicate" doc:"How long the repeat of an event, one with the same source and id, is recognised and not stored again. See docs/publishing.md."`
	Secrets     Secrets     `yaml:"secrets" doc:"What looks like a secret in what describes an event: metadata, note, extensions, path. The data of events is not looked at. See docs/publishing-rules.md."`
	Types       []EventType `yaml:"types" doc:"Descriptions and JSON Schemas of event types, for the catalogue and to check what is published. Of several elements for a type, one with its exact name counts, else the first that matches. Each has:"`
}

// Deduplicate is the section "publish.deduplicate".
type Deduplicate struct {
	Window Duration `yaml:"window" min:"1s" max:"7d" doc:"This long after an event was stored, at least."`
	MaxIDs int      `yaml:"max_ids" min:"1000" max:"50000000" doc:"As long as no more events than this came after it. Each takes about 40 bytes of memory while it is remembered."`
}

// Secrets is the section "publish.secrets".
type Secrets struct {
	Action      SecretAction `yaml:"action" oneof:"refuse,mask,allow" doc:"refuse does not accept such an event, mask replaces the value (where it decides about rights or identity the event is refused), allow accepts it as it is."`
	Actions     Texts        `yaml:"actions" doc:"Other actions for some of the built-in detectors, by name. Example: {jwt: mask, secret-name: allow}."`
	ExceptTypes []string     `yaml:"except_types" doc:"Event types that are not looked at; * stands for any characters."`
	Detectors   []OwnSecret  `yaml:"detectors" doc:"Further detectors. Each has:"`
}

// SecretAction says what is done about a secret.
type SecretAction string

// OwnSecret is one element of "publish.secrets.detectors".
type OwnSecret struct {
	Name    string       `yaml:"name" doc:"Names it in errors and masks. Lower-case letters, digits and -."`
	Pattern string       `yaml:"pattern" doc:"Regular expression (RE2) of what is found, anywhere in a value."`
	Action  SecretAction `yaml:"action" oneof:"default,refuse,mask,allow" doc:"default is publish.secrets.action."`
}

// EventType is one element of "publish.types".
type EventType struct {
	Type        string     `yaml:"type" doc:"The event type; * stands for any characters."`
	Description string     `yaml:"description" doc:"What the event says, for people."`
	Metadata    Texts      `yaml:"metadata" doc:"What metadata keys mean: key to text."`
	SchemaFile  string     `yaml:"schema_file" doc:"File with a JSON Schema of the data, or, of events without data, of the object of their metadata. It may refer to files in its directory. Read at the start."`
	Mode        SchemaMode `yaml:"mode" oneof:"warn,refuse" doc:"What becomes of an event that does not adhere to the schema: warn stores it and tells the publisher, refuse does not."`
}

// SchemaMode is "warn" or "refuse".
type SchemaMode string

// DefaultOwnSecret returns what the fields of a detector are when its element does not
// mention them.
func DefaultOwnSecret() OwnSecret { return OwnSecret{Action: "default"} }

// DefaultEventType returns what the fields of an event type are when its element does not
// mention them.
func DefaultEventType() EventType { return EventType{Mode: "warn"} }

func defaultPublish() Publish {
	return Publish{
		Deduplicate: Deduplicate{Window: Duration(10 * time.Minute), MaxIDs: 1_000_000},
		Secrets:     Secrets{Action: "refuse"},
	}
}

// maxEventTypes bounds the globs that a published event is compared with.
const maxEventTypes = 200

func (v *validator) publish(p Publish) {
	v.secrets(p.Secrets)
	if len(p.Types) > maxEventTypes {
		v.report("publish.types", "has %d elements, at most %d are possible", len(p.Types), maxEventTypes)
	}
	seen := make(map[string]int)
	for i, t := range p.Types {
		key := fmt.Sprintf("publish.types[%d]", i)
		first, twice := seen[t.Type]
		switch {
		case t.Type == "":
			v.report(key, "has no type; add \"type:\" with an event type or a pattern of some")
			continue
		case event.CheckType(strings.ReplaceAll(t.Type, "*", "x")) != nil:
			v.report(key+".type", "%q is no event type: it has spaces or control characters", shorten(t.Type))
		case twice:
			v.report(key+".type", "%q is already described by publish.types[%d]", shorten(t.Type), first)
		case t.Description == "" && len(t.Metadata) == 0 && t.SchemaFile == "":
			v.report(key, "says nothing about %q; add a description or a schema_file", shorten(t.Type))
		}
		if !twice {
			seen[t.Type] = i
		}
	}
}

func (v *validator) secrets(s Secrets) {
	var known []string
	for _, d := range leak.Detectors {
		known = append(known, d.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Actions)) {
		action := s.Actions[name]
		if !slices.Contains(known, name) {
			message := fmt.Sprintf("there is no detector %q", shorten(name))
			if near := Nearest(name, known); near != "" {
				message += fmt.Sprintf("; did you mean %q?", near)
			} else {
				message += "; there are " + strings.Join(known, ", ")
			}
			v.report("publish.secrets.actions", "%s", message)
		}
		if !slices.Contains([]string{"refuse", "mask", "allow"}, action) {
			v.report("publish.secrets.actions", "%q of %q is not one of refuse, mask, allow", shorten(action), shorten(name))
		}
	}
	if len(s.Detectors) > leak.MaxOwn {
		v.report("publish.secrets.detectors", "has %d elements, at most %d are possible", len(s.Detectors), leak.MaxOwn)
	}
	problems := len(v.problems)
	names := make(map[string]int)
	for i, d := range s.Detectors {
		key := fmt.Sprintf("publish.secrets.detectors[%d]", i)
		if first, twice := names[d.Name]; twice {
			v.report(key+".name", "%q is already the name of publish.secrets.detectors[%d]", shorten(d.Name), first)
			continue
		}
		names[d.Name] = i
		if err := leak.CheckOwn(d.Name, d.Pattern); err != nil {
			v.report(key, "%v", err)
		}
	}
	if len(v.problems) == problems && !v.reported("publish.secrets.action") && !v.reported("publish.secrets.actions") {
		if _, err := leak.New(s.Options()); err != nil { // what can only be said of all together
			v.report("publish.secrets.detectors", "%v", err)
		}
	}
}

// Options returns the section in the form that the rest of the program uses.
func (s Secrets) Options() leak.Options {
	o := leak.Options{Action: leak.Action(s.Action), Except: s.ExceptTypes}
	for name, action := range s.Actions {
		if o.Actions == nil {
			o.Actions = make(map[string]leak.Action)
		}
		o.Actions[name] = leak.Action(action)
	}
	for _, d := range s.Detectors {
		own := leak.Own{Name: d.Name, Pattern: d.Pattern}
		if d.Action != "default" {
			own.Action = leak.Action(d.Action)
		}
		o.Own = append(o.Own, own)
	}
	return o
}
