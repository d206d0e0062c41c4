// Package leak finds what looks like a secret where none belongs: in what describes an
// event (metadata, note, extensions, path), which more people see than may read the secret.
// The payload of an event is not looked at.
//
// What is found is one table, [Detectors]; what is done about it is decided by [Options].
// Nothing that this package returns has a secret or a part of one. It is a net, not a
// proof: a secret without a form of its own, under a harmless name, is not found.
package leak

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tocsin-events/tocsin/event"
)

// Action is what is done about something that was found.
type Action string

// The actions.
const (
	Refuse Action = "refuse" // the event
	Mask   Action = "mask"   // replace the value by [MaskOf]; where it cannot be replaced, refuse
	Allow  Action = "allow"  // leave it
)

// Own is a detector that the table does not have.
type Own struct {
	Name    string // as those of [Detectors]
	Pattern string // regular expression (RE2) of what is found, anywhere in a value
	Action  Action // empty: Options.Action
}

// Options say what is done about what is found.
type Options struct {
	// Action is for all detectors; empty means Refuse.
	Action Action
	// Actions are for detectors of the table, by name.
	Actions map[string]Action
	// Own are further detectors, at most MaxOwn.
	Own []Own
	// Except are globs of event types that are not looked at.
	Except []string
}

// Bounds of [Options.Own].
const (
	MaxOwn          = 32
	MaxPatternBytes = 1000
)

// MaskOf is what a value is replaced by in which a detector found something.
func MaskOf(detector string) string { return "<masked:" + detector + ">" }

// Rules judge events. They are safe for concurrent use.
type Rules struct {
	starts [256][]start // forms by their first byte, without those that are allowed
	pairs  pairs        // what they begin with
	named  *rule        // the detector that goes by names; nil when it is allowed
	own    []ownRule
	all    []*rule
	except []event.Glob
}

// rule is a detector and what is done about what it finds.
type rule struct {
	name, what      string
	action          Action
	refused, masked atomic.Uint64
}

type start struct {
	form
	rule *rule
}

type ownRule struct {
	pattern *regexp.Regexp
	rule    *rule
}

// New returns the rules. The error names what is wrong with the options.
func New(o Options) (*Rules, error) {
	if o.Action == "" {
		o.Action = Refuse
	}
	if err := checkAction(o.Action); err != nil {
		return nil, err
	}
	for name, action := range o.Actions {
		if _, ok := named(name); !ok {
			return nil, fmt.Errorf("there is no detector %q", name)
		}
		if err := checkAction(action); err != nil {
			return nil, fmt.Errorf("detector %s: %w", name, err)
		}
	}
	r := new(Rules)
	for i := range Detectors {
		d := &Detectors[i]
		one := &rule{name: d.Name, what: d.Finds, action: o.Action}
		if action, ok := o.Actions[d.Name]; ok {
			one.action = action
		}
		if one.action == Allow {
			continue
		}
		r.all = append(r.all, one)
		if d.Name == NameDetector {
			r.named = one
		}
		for _, f := range d.forms {
			r.starts[f.start[0]] = append(r.starts[f.start[0]], start{f, one})
			r.pairs.add(f.start[0], f.start[1])
		}
	}
	if err := r.addOwn(o); err != nil {
		return nil, err
	}
	for _, glob := range o.Except {
		r.except = append(r.except, event.CompileGlob(glob))
	}
	return r, nil
}

func checkAction(a Action) error {
	switch a {
	case Refuse, Mask, Allow:
		return nil
	}
	return fmt.Errorf("%q is no action; there are refuse, mask and allow", a)
}

func named(name string) (Detector, bool) {
	i := slices.IndexFunc(Detectors, func(d Detector) bool { return d.Name == name })
	if i < 0 {
		return Detector{}, false
	}
	return Detectors[i], true
}

func (r *Rules) addOwn(o Options) error {
	if len(o.Own) > MaxOwn {
		return fmt.Errorf("there are %d detectors of one's own, at most %d are possible", len(o.Own), MaxOwn)
	}
	var names []string
	for _, own := range o.Own {
		if err := CheckOwn(own.Name, own.Pattern); err != nil {
			return fmt.Errorf("detector %q: %w", own.Name, err)
		}
		if slices.Contains(names, own.Name) {
			return fmt.Errorf("detector %q: the name is taken", own.Name)
		}
		names = append(names, own.Name)
		one := &rule{name: own.Name, what: "a secret of its own kind", action: own.Action}
		if one.action == "" {
			one.action = o.Action
		}
		if err := checkAction(one.action); err != nil {
			return fmt.Errorf("detector %q: %w", own.Name, err)
		}
		if one.action != Allow {
			r.all = append(r.all, one)
			r.own = append(r.own, ownRule{regexp.MustCompile(own.Pattern), one})
		}
	}
	for i := range r.own { // also of what other detectors leave behind
		for _, other := range r.all {
			if r.own[i].pattern.MatchString(MaskOf(other.name)) {
				return fmt.Errorf("detector %q: its pattern fits %q, which stands where a secret was; make it narrower", r.own[i].rule.name, MaskOf(other.name))
			}
		}
	}
	return nil
}

var detectorName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// CheckOwn returns nil when there can be a detector of this name and pattern beside those
// of the table.
func CheckOwn(name, pattern string) error {
	if !detectorName.MatchString(name) {
		return errors.New("the name must be 1 to 40 lower-case letters, digits and -, and begin with a letter")
	}
	if _, taken := named(name); taken {
		return errors.New("the name is taken by a built-in detector")
	}
	if pattern == "" || len(pattern) > MaxPatternBytes {
		return fmt.Errorf("the pattern must have 1 to %d bytes", MaxPatternBytes)
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		if bad, ok := errors.AsType[*syntax.Error](err); ok {
			return fmt.Errorf("the pattern is no regular expression of RE2: %s: %q", bad.Code, bad.Expr)
		}
		return fmt.Errorf("the pattern is no regular expression of RE2: %w", err)
	}
	if re.MatchString("") {
		return errors.New("the pattern fits the empty text, and so everything")
	}
	return nil
}

// Error says that an event has what looks like a secret. Its text has no part of it.
type Error struct {
	Attribute string // in which it was found, for example `metadata "note"`
	Detector  string // by which
	what      string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: looks like %s (detector %s); leave it out, events do not carry secrets", e.Attribute, e.what, e.Detector)
}

// Check returns an [*Error] for an event that has to be refused, and masks values that are
// to be masked. What it does not mask is what decides about rights or identity (path,
// source), what says where other bytes are (dataref, dataschema), and names: an event with
// a secret there is refused also where the action is Mask. Of an event that is refused some
// values may be masked.
func (r *Rules) Check(e *event.Event) error {
	c := check{rules: r, event: e}
	c.fixed("path", e.Path)
	c.fixed("source", e.Source)
	c.fixed("dataref", e.DataRef)
	c.fixed("dataschema", e.DataSchema)
	c.fields("metadata", e.Metadata)
	c.fields("extension", e.Extensions)
	if found := r.text(e.Note); found != nil && c.act("note", "", found, false) {
		e.Note = MaskOf(found.name)
	}
	for i, id := range e.EntityIDs {
		if found := r.text(id); found != nil && c.act("entity_ids", "", found, false) {
			e.EntityIDs[i] = MaskOf(found.name)
		}
	}
	if c.err == nil {
		return nil // without a type the interface would not be nil
	}
	return c.err
}

// Masked returns a text, or [MaskOf] the detector that finds something in it, whatever the
// action. It is for texts that are no events, and counts nothing.
func (r *Rules) Masked(text string) string {
	if found := r.text(text); found != nil {
		return MaskOf(found.name)
	}
	return text
}

// check is the state of one [Rules.Check].
type check struct {
	rules *Rules
	event *event.Event
	err   *Error // the first
}

// fixed looks at a text that cannot be replaced.
func (c *check) fixed(attribute, text string) {
	if found := c.rules.text(text); found != nil {
		c.act(attribute, "", found, true)
	}
}

func (c *check) fields(attribute string, fields event.Fields) {
	for i := range fields {
		f := &fields[i]
		if f.Key == event.MetadataPath && f.Value == c.event.Path && !f.JSON {
			continue // was looked at
		}
		if len(f.Key) >= shortestName {
			if found := c.rules.text(f.Key); found != nil {
				c.act("a name in "+attribute, "", found, true)
				continue
			}
		}
		found := c.rules.field(f)
		if found == nil {
			continue
		}
		if c.act(attribute, f.Key, found, false) {
			f.Value, f.JSON = MaskOf(found.name), false
		}
	}
}

// shortestName is the length from which on a name may be a secret itself.
const shortestName = 20

// act does about a finding what is to be done, and says whether the value is to be
// replaced.
func (c *check) act(attribute, key string, found *rule, fixed bool) (mask bool) {
	if c.err != nil || c.rules.excepted(c.event.Type) {
		return false
	}
	if found.action == Mask && !fixed {
		found.masked.Add(1)
		return true
	}
	if key != "" {
		attribute = fmt.Sprintf("%s %q", attribute, clip(key))
	}
	found.refused.Add(1)
	c.err = &Error{Attribute: attribute, Detector: found.name, what: found.what}
	return false
}

// clip keeps an error readable, whatever a name is like.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

func (r *Rules) excepted(eventType string) bool {
	return slices.ContainsFunc(r.except, func(g event.Glob) bool { return g.Match(eventType) })
}

// Count is how often a detector has refused or masked.
type Count struct {
	Detector        string
	Refused, Masked uint64
}

// Counts returns how often the detectors that are not allowed have found something, in the
// order of the table.
func (r *Rules) Counts() []Count {
	counts := make([]Count, len(r.all))
	for i, one := range r.all {
		counts[i] = Count{one.name, one.refused.Load(), one.masked.Load()}
	}
	return counts
}

// MaskedValue returns a text that stands under a name, or [MaskOf] the detector that finds
// something in the text or by the name, whatever the action. It is for texts that are no
// events, and counts nothing.
func (r *Rules) MaskedValue(name, text string) string {
	if found := r.value(name, text); found != nil {
		return MaskOf(found.name)
	}
	return text
}
