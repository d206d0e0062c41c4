package api

import (
	"net/http"
	"slices"
	"testing"

	"github.com/tocsin-events/tocsin/internal/eventfields"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
)

// Which fields rules may ask for is told to those who may read it.
func TestRuleFields(t *testing.T) {
	plugin := fieldstest.New()
	plugin.About.Fields = append(plugin.About.Fields, plugin.About.Fields[0])
	plugin.About.Fields[len(plugin.About.Fields)-1].Name = "event.type"
	registry := fields.New(fields.Options{})
	registry.Add(fieldstest.NewSource("fake", plugin))
	registry.Add(fieldstest.NewSource("later", nil))
	n := startNode(t, func(o *Options) { o.Fields = registry })
	has := func(list []eventfields.Listed, name string) bool {
		return slices.ContainsFunc(list, func(f eventfields.Listed) bool { return f.Name == name })
	}
	all := decoded[RuleFields](t, n.must(ask{method: "GET", path: "/api/v1/rule-fields"}))
	if !has(all.Fields, "audit.request.path") || !has(all.Fields, "fake.text") || len(all.Problems) != 1 || !slices.Equal(all.NotStarted, []string{"later"}) {
		t.Errorf("%+v", all)
	}
	of := decoded[RuleFields](t, n.must(ask{method: "GET", path: "/api/v1/rule-fields?source=" + fieldstest.EventSource}))
	if has(of.Fields, "audit.request.path") || !has(of.Fields, "fake.text") || !has(of.Fields, "event.type") {
		t.Errorf("%+v", of)
	}
	n.putPolicy("", "look", `path "sys/rule-fields" { capabilities = ["read"] }`)
	n.putPolicy("", "other", `path "sys/rules" { capabilities = ["read"] }`)
	look, other := n.newToken(`{"policies":["look"],"ttl":"1h"}`), n.newToken(`{"policies":["other"],"ttl":"1h"}`)
	for _, tc := range []struct {
		q    ask
		want int
	}{
		{ask{method: "GET", path: "/api/v1/rule-fields?other=1"}, http.StatusBadRequest},
		{ask{method: "POST", path: "/api/v1/rule-fields"}, http.StatusMethodNotAllowed},
		{ask{method: "GET", path: "/api/v1/rule-fields", token: look}, http.StatusOK},
		{ask{method: "GET", path: "/api/v1/rule-fields", token: other}, http.StatusForbidden},
		{ask{method: "GET", path: "/api/v1/rule-fields", token: "-"}, http.StatusForbidden},
	} {
		if status, b := n.do(tc.q); status != tc.want {
			t.Errorf("%+v: %d %v", tc.q, status, b)
		}
	}
}
