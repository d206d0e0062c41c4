package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// problems checks what holds for every configuration, read or made: the ranges
// and choices that the field tags state, and the rules between fields.
func (c *Config) problems() []Problem {
	v := validator{}
	v.ranges("", reflect.ValueOf(c).Elem(), "")
	v.rules(c)
	return v.problems
}

type validator struct{ problems []Problem }

func (v *validator) report(key, format string, args ...any) {
	v.problems = append(v.problems, Problem{Key: key, Message: fmt.Sprintf(format, args...)})
}

func (v *validator) reported(key string) bool {
	return slices.ContainsFunc(v.problems, func(p Problem) bool { return p.Key == key })
}

// ranges walks all fields and checks them against their tags.
func (v *validator) ranges(key string, value reflect.Value, tag reflect.StructTag) {
	switch {
	case value.Type() == secretType:
	case value.Kind() == reflect.Struct:
		for i, name := range fieldKeys(value.Type()) {
			v.ranges(join(key, name), value.Field(i), value.Type().Field(i).Tag)
		}
	case value.Kind() == reflect.Slice:
		for i := range value.Len() {
			v.ranges(fmt.Sprintf("%s[%d]", key, i), value.Index(i), tag)
		}
	case value.Kind() == reflect.String && tag.Get("oneof") != "":
		allowed := strings.Split(tag.Get("oneof"), ",")
		if got := value.String(); !slices.Contains(allowed, got) {
			message := fmt.Sprintf("%q is not one of %s", shorten(got), strings.Join(allowed, ", "))
			if got == "" {
				message = "is missing; write one of " + strings.Join(allowed, ", ")
			}
			if near := Nearest(got, allowed); near != "" {
				message += fmt.Sprintf("; did you mean %q?", near)
			}
			v.report(key, "%s", message)
		}
	case value.CanInt() && tag.Get("min") != "":
		v.bounds(key, value, tag)
	}
}

func (v *validator) bounds(key string, value reflect.Value, tag reflect.StructTag) {
	least, most := bound(value.Type(), tag.Get("min")), bound(value.Type(), tag.Get("max"))
	zero := tag.Get("zero")
	or := ""
	if zero != "" {
		or = fmt.Sprintf(", or 0 for %s", zero)
	}
	switch n := value.Int(); {
	case n == 0 && zero != "":
	case n < least.Int():
		v.report(key, "%s is too small; the least is %s%s", describe(value), describe(least), or)
	case tag.Get("max") != "" && n > most.Int():
		v.report(key, "%s is too large; the most is %s%s", describe(value), describe(most), or)
	}
}

// bound parses the min or max of a tag as a value of type t. The tags are ours
// and every test reads them, so a malformed one panics.
func bound(t reflect.Type, text string) reflect.Value {
	if text == "" {
		return reflect.Zero(t)
	}
	var parsed any
	var err error
	switch t {
	case durationType:
		parsed, err = ParseDuration(text)
	case sizeType:
		parsed, err = ParseSize(text)
	default:
		parsed, err = strconv.Atoi(text)
	}
	if err != nil {
		panic("config: field tag: " + err.Error())
	}
	return reflect.ValueOf(parsed)
}

// describe returns a scalar as it is written in a file.
func describe(v reflect.Value) string {
	if v.Kind() == reflect.String {
		return strconv.Quote(v.String())
	}
	return fmt.Sprint(v.Interface())
}

// maxNode bounds the name of the hub.
const maxNode = 64

func (v *validator) rules(c *Config) {
	if strings.ContainsFunc(c.Node, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || len(c.Node) > maxNode {
		v.report("node", "%q must be at most %d printable ASCII characters without spaces", shorten(c.Node), maxNode)
	}
	v.listen(c.Listen)
	if c.DataDir == "" {
		v.report("data_dir", "is empty; name a directory")
	}
	v.auth(c.Auth)
	if !v.reported("limits.max_event") { // else what is compared with it would only confuse
		if c.Limits.MaxMetadata > c.Limits.MaxEvent {
			v.report("limits.max_metadata", "%s is more than the whole event may have (limits.max_event is %s)", c.Limits.MaxMetadata, c.Limits.MaxEvent)
		}
		v.journal(c.Journal, c.Limits.MaxEvent)
	}
	v.sources(c.Sources, c.Listen.Address)
	v.publish(c.Publish)
	v.traces(c.Traces)
	v.sinks(c.Sinks, c.Delivery)
	v.alertRules(c.Rules)
	v.auditMetrics(c.AuditMetrics)
	v.plugins(c.Plugins)
	v.pluginSources(c.Plugins.Sources, c.Sources)
	v.fieldFilters(c.Sinks, c.Plugins.Sources)
}

// What the journal needs beside its own limits: it takes units of up to four of
// the largest events, but no larger ones than maxUnit, and keeps four of them with
// what is written around each.
const (
	maxUnit     Size = 24 << 20
	unitFraming Size = 4 << 10
)

func (v *validator) journal(j Journal, maxEvent Size) {
	unit := min(4*maxEvent, maxUnit)
	if j.PendingBytes < unit {
		v.report("journal.pending_bytes", "%s is too small for limits.max_event of %s, which needs at least %s", j.PendingBytes, maxEvent, unit)
	}
	if least := 4 * (unit + unitFraming); j.MaxBytes != 0 && j.MaxBytes < least && !v.reported("journal.max_bytes") {
		v.report("journal.max_bytes", "%s is too small for limits.max_event of %s, which needs at least %s, or 0 for no limit", j.MaxBytes, maxEvent, least)
	}
}
