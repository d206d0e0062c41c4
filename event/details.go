package event

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The details of an event are what Vault knows about it beside id, type and
// namespace: metadata, entity ids, note and plugin info. This file reads and
// writes them with Vault's member names.

func (e *Event) hasDetails() bool {
	return e.Metadata != nil || len(e.EntityIDs) > 0 || e.Note != "" || e.Plugin != nil
}

// appendDetails appends the details as one JSON object.
func appendDetails(dst []byte, e *Event) []byte {
	start := len(dst)
	if e.Metadata != nil {
		dst = append(dst, `,"metadata":`...)
		dst = appendFields(dst, e.Metadata, false)
	}
	if len(e.EntityIDs) > 0 {
		dst = append(dst, `,"entity_ids":`...)
		dst = appendStrings(dst, e.EntityIDs)
	}
	dst = appendMember(dst, `,"note":`, e.Note)
	if e.Plugin != nil {
		dst = append(dst, `,"plugin_info":`...)
		dst = appendPlugin(dst, e.Plugin)
	}
	return closeObject(dst, start)
}

// parseDetails reads the JSON text that [appendDetails] writes. Members that it
// does not know are errors: nothing that a producer says is lost in silence.
func parseDetails(attribute string, text []byte, e *Event, mem *memory) error {
	r, err := newJSONReader(text)
	if err != nil {
		return asInvalid(attribute, err)
	}
	r.mem = mem
	id, err := r.details(attribute, e, false)
	switch {
	case err != nil:
	case id != "":
		err = invalid(attribute+".id", "is not known here")
	default:
		err = r.end()
	}
	return asInvalid(attribute, err)
}

// details consumes an object with details, which may hold an id. With lax,
// unknown members are skipped.
func (r *jsonReader) details(attribute string, e *Event, lax bool) (id string, err error) {
	if r.null() {
		return "", nil
	}
	if r.peek() != '{' {
		return "", invalid(attribute, "is not an object")
	}
	err = r.object(func(name []byte) (err error) {
		switch string(name) {
		case "id":
			id, err = r.text("id")
		case "metadata":
			e.Metadata, err = r.metadata("metadata")
		case "entity_ids":
			e.EntityIDs, err = r.texts("entity_ids")
		case "note":
			e.Note, err = r.text("note")
		case "plugin_info":
			if !lax {
				e.Plugin, err = r.plugin("plugin_info", lax)
				break
			}
			fallthrough
		default:
			err = r.unknown(name, lax)
		}
		return within(attribute, err)
	})
	return id, err
}

func (r *jsonReader) unknown(member []byte, lax bool) error {
	if !lax {
		return invalid(string(member), "is not known here")
	}
	_, err := r.value(maxDataDepth)
	return err
}

// plugin consumes plugin info; null is nil.
func (r *jsonReader) plugin(attribute string, lax bool) (*PluginInfo, error) {
	if r.null() {
		return nil, nil
	}
	if r.peek() != '{' {
		return nil, invalid(attribute, "is not an object")
	}
	p := new(PluginInfo)
	err := r.object(func(name []byte) (err error) {
		if string(name) == "is_local" {
			p.IsLocal, err = r.flag("is_local")
			return within(attribute, err)
		}
		field := p.text(name)
		if field == nil {
			return within(attribute, r.unknown(name, lax))
		}
		*field, err = r.text("")
		if inner, ok := errors.AsType[*InvalidError](err); ok {
			err = invalid(attribute+"."+string(name), inner.Reason)
		}
		return err
	})
	return p, err
}

// text returns the text field that Vault calls name, nil when there is none.
func (p *PluginInfo) text(name []byte) *string {
	switch string(name) {
	case "mount_class":
		return &p.MountClass
	case "mount_accessor":
		return &p.MountAccessor
	case "mount_path":
		return &p.MountPath
	case "plugin":
		return &p.Plugin
	case "plugin_version":
		return &p.PluginVersion
	case "version":
		return &p.Version
	}
	return nil
}

// flag consumes a boolean; null is false.
func (r *jsonReader) flag(attribute string) (bool, error) {
	raw, err := r.value(maxDataDepth)
	switch {
	case err != nil:
		return false, err
	case string(raw) == "true":
		return true, nil
	case string(raw) == "false" || string(raw) == "null":
		return false, nil
	}
	return false, invalid(attribute, "is not true or false")
}

// texts consumes an array of strings; null and [] are nil.
func (r *jsonReader) texts(attribute string) (list []string, err error) {
	if r.null() {
		return nil, nil
	}
	if r.peek() != '[' {
		return nil, invalid(attribute, "is not an array")
	}
	err = r.array(func() error {
		if r.peek() != '"' {
			return invalid(attribute, "has an element that is not a string")
		}
		s, err := r.string()
		list = append(list, s)
		return cmp.Or(err, r.mem.counted())
	})
	return list, err
}

// metadata consumes an object as named values; null is nil, {} is empty and not
// nil.
func (r *jsonReader) metadata(attribute string) (Fields, error) {
	if r.null() {
		return nil, nil
	}
	if r.peek() != '{' {
		return nil, invalid(attribute, "is not an object")
	}
	f := r.mem.metadata[:0]
	err := r.members(func(name []byte) error {
		x := Field{Key: r.mem.text(name)}
		if r.peek() == '"' {
			var err error
			if x.Value, err = r.string(); err != nil {
				return asInvalid(attribute+"."+x.Key, err)
			}
		} else {
			raw, err := r.value(maxValueDepth)
			if err != nil {
				return err
			}
			r.mem.scratch = appendCompact(r.mem.scratch[:0], raw)
			x.Value, x.JSON = r.mem.text(r.mem.scratch), true
		}
		f = append(f, x)
		return r.mem.counted()
	})
	r.mem.metadata = f
	if err != nil {
		return nil, err
	}
	if twice := f.sort(); twice != "" {
		return nil, invalid(attribute+"."+twice, "occurs twice")
	}
	return r.mem.keep(f), nil
}

// sort puts fields that were appended into order, and returns a key that occurs twice,
// if one does. Inserting each with Set would take quadratic time, which a hostile
// message could use.
func (f Fields) sort() (twice string) {
	byKey := func(a, b Field) int { return strings.Compare(a.Key, b.Key) }
	if !slices.IsSortedFunc(f, byKey) {
		slices.SortStableFunc(f, byKey)
	}
	for i := 1; i < len(f); i++ {
		if f[i-1].Key == f[i].Key {
			return f[i].Key
		}
	}
	return ""
}

// checkValue returns nil when text is what [Field.Value] may be when JSON is set.
func checkValue(text string) error {
	b := []byte(text)
	r, err := newJSONReader(b)
	if err != nil {
		return err
	}
	if _, err := r.value(maxValueDepth); err != nil {
		return err
	}
	if err := r.end(); err != nil {
		return err
	}
	switch {
	case text[0] == '"':
		return fmt.Errorf("is a JSON string, which must be given as text")
	case len(appendCompact(nil, b)) != len(b):
		return fmt.Errorf("is not compact JSON")
	}
	return nil
}
