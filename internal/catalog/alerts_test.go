package catalog

import (
	"testing"

	"github.com/tocsin-events/tocsin/event"
)

func TestAlertTypes(t *testing.T) {
	c := &Catalog{rules: func() map[string]string { return map[string]string{"alert/a-rule": "What it means."} }}
	all := func(string) bool { return true }
	got, ok := c.Lookup("alert/a-rule", all)
	if !ok || got.Origin != Configured || got.Description != "What it means." || len(got.Metadata) != len(alertKeys) {
		t.Errorf("got %+v, %v", got, ok)
	}
	if _, err := event.ParseCloudEvent(got.Example); err != nil {
		t.Error(err)
	}
	if _, ok := c.Lookup("alert/another", all); ok {
		t.Error("there is an alert of no rule")
	}
	glob := event.CompileGlob("alert/*")
	types, _ := c.List(Query{Glob: &glob, Sees: all, Limit: 10})
	if len(types) != 1 || types[0].Name != "alert/a-rule" {
		t.Errorf("got %+v", types)
	}
}
