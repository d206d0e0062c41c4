package flipt

import (
	"encoding/json"
	"reflect"
	"testing"
)

// Behaviours 11 to 13, 40, 41: every recorded payload fits into a type of this package, which
// writes the same bytes.
func TestPayloadsOfRecordedEvents(t *testing.T) {
	kinds := map[string]reflect.Type{
		"namespace": reflect.TypeFor[Namespace](), "flag": reflect.TypeFor[Flag](), "variant": reflect.TypeFor[Variant](),
		"segment": reflect.TypeFor[Segment](), "constraint": reflect.TypeFor[Constraint](), "rule": reflect.TypeFor[Rule](),
		"distribution": reflect.TypeFor[Distribution](), "rollout": reflect.TypeFor[Rollout](), "token": reflect.TypeFor[Token](),
	}
	seen := make(map[string]bool)
	for _, r := range bodies(t) {
		var e struct {
			Type, Action string
			Payload      json.RawMessage
		}
		if err := json.Unmarshal([]byte(r.Body), &e); err != nil {
			t.Fatal(err)
		}
		if string(e.Payload) == "null" {
			continue
		}
		var m map[string]any
		_ = json.Unmarshal(e.Payload, &m)
		kind := kinds[e.Type]
		_, rules := m["rule_ids"]
		_, rollouts := m["rollout_ids"]
		switch {
		case rules:
			kind = reflect.TypeFor[RuleOrder]()
		case rollouts:
			kind = reflect.TypeFor[RolloutOrder]()
		case e.Action == "deleted" && e.Type != "token" && m["rank"] == nil:
			kind = reflect.TypeFor[Deleted]()
		}
		seen[kind.Name()] = true
		v := reflect.New(kind)
		if err := json.Unmarshal(e.Payload, v.Interface()); err != nil {
			t.Fatal(err)
		}
		if got := mustJSON(t, v.Interface()); got != string(e.Payload) {
			t.Errorf("%s %s:\n got %s\nwant %s", e.Type, e.Action, got, e.Payload)
		}
	}
	if len(seen) != 12 {
		t.Errorf("only %v", seen)
	}
}

// The messages of an API, as protobuf generates them.
type (
	enum         string
	message      struct{ fields map[string]any }
	distribution struct{ *message }
	constraint   struct{ *message }
	variant      struct{ key string }
	flag         struct {
		*message
		variant *variant
	}
	segment struct {
		*message
		constraints []*constraint
	}
	rule struct {
		*message
		distributions []*distribution
	}
	conditions struct{ *message }
	threshold  struct{ *message }
	rollout    struct {
		*message
		segment   *conditions
		threshold *threshold
	}
)

func (e enum) String() string { return string(e) }

func get[T any](m *message, name string) (v T) {
	v, _ = m.fields[name].(T)
	return v
}

func (m *message) GetId() string                  { return get[string](m, "id") }
func (m *message) GetKey() string                 { return get[string](m, "key") }
func (m *message) GetName() string                { return get[string](m, "name") }
func (m *message) GetDescription() string         { return get[string](m, "description") }
func (m *message) GetEnabled() bool               { return get[bool](m, "enabled") }
func (m *message) GetProtected() bool             { return get[bool](m, "protected") }
func (m *message) GetNamespaceKey() string        { return get[string](m, "namespace_key") }
func (m *message) GetFlagKey() string             { return get[string](m, "flag_key") }
func (m *message) GetSegmentKey() string          { return get[string](m, "segment_key") }
func (m *message) GetSegmentKeys() []string       { return get[[]string](m, "segment_keys") }
func (m *message) GetSegmentOperator() enum       { return get[enum](m, "segment_operator") }
func (m *message) GetAttachment() string          { return get[string](m, "attachment") }
func (m *message) GetType() enum                  { return get[enum](m, "type") }
func (m *message) GetMatchType() enum             { return get[enum](m, "match_type") }
func (m *message) GetProperty() string            { return get[string](m, "property") }
func (m *message) GetOperator() string            { return get[string](m, "operator") }
func (m *message) GetValue() bool                 { return get[bool](m, "value") }
func (m *message) GetRuleId() string              { return get[string](m, "rule_id") }
func (m *message) GetVariantId() string           { return get[string](m, "variant_id") }
func (m *message) GetRollout() float32            { return get[float32](m, "rollout") }
func (m *message) GetPercentage() float32         { return get[float32](m, "percentage") }
func (m *message) GetRank() int32                 { return get[int32](m, "rank") }
func (c *constraint) GetValue() string            { return get[string](c.message, "value") }
func (v *variant) GetKey() string                 { return v.key }
func (f *flag) GetDefaultVariant() *variant       { return f.variant }
func (s *segment) GetConstraints() []*constraint  { return s.constraints }
func (r *rule) GetDistributions() []*distribution { return r.distributions }
func (r *rollout) GetSegment() *conditions        { return r.segment }
func (r *rollout) GetThreshold() *threshold       { return r.threshold }

func of(fields map[string]any) *message { return &message{fields} }

// Behaviours 11 to 13: constructors take messages of an API.
func TestConstructors(t *testing.T) {
	two := map[string]any{"id": "r", "flag_key": "f", "namespace_key": "n", "rank": int32(2), "segment_keys": []string{"a", "b"}, "segment_operator": enum("AND_SEGMENT_OPERATOR"), "value": true}
	one := map[string]any{"id": "r", "flag_key": "f", "namespace_key": "n", "rank": int32(1), "segment_keys": []string{"a"}, "segment_operator": enum("OR_SEGMENT_OPERATOR")}
	for _, c := range []struct {
		made any
		want string
	}{
		{NewNamespace(of(map[string]any{"key": "k", "name": "n", "description": "d", "protected": true})), `{"description":"d","key":"k","name":"n","protected":true}`},
		{NewFlag(&flag{of(map[string]any{"key": "k", "enabled": true, "namespace_key": "n"}), nil}), `{"description":"","enabled":true,"key":"k","name":"","namespace_key":"n"}`},
		{NewFlag(&flag{of(map[string]any{"key": "k"}), &variant{"v"}}), `{"default_variant":"v","description":"","enabled":false,"key":"k","name":"","namespace_key":""}`},
		{NewVariant(of(map[string]any{"id": "i", "key": "k", "flag_key": "f", "attachment": "{}"})), `{"attachment":"{}","description":"","flag_key":"f","id":"i","key":"k","name":"","namespace_key":""}`},
		{NewConstraint(&constraint{of(map[string]any{"id": "i", "type": enum("STRING_COMPARISON_TYPE"), "value": "x", "operator": "eq", "property": "p", "segment_key": "s", "namespace_key": "n"})}),
			`{"id":"i","namespace_key":"n","operator":"eq","property":"p","segment_key":"s","type":"STRING_COMPARISON_TYPE","value":"x"}`},
		{NewSegment(&segment{of(map[string]any{"key": "s", "match_type": enum("ALL_MATCH_TYPE")}), nil}), `{"constraints":[],"description":"","key":"s","match_type":"ALL_MATCH_TYPE","name":"","namespace_key":""}`},
		{NewSegment(&segment{of(map[string]any{"key": "s"}), []*constraint{{of(map[string]any{"id": "c", "type": enum("T")})}}}),
			`{"constraints":[{"id":"c","namespace_key":"","operator":"","property":"","segment_key":"","type":"T","value":""}],"description":"","key":"s","match_type":"","name":"","namespace_key":""}`},
		{NewDistribution(&distribution{of(map[string]any{"id": "d", "rule_id": "r", "variant_id": "v", "rollout": float32(33.33)})}), `{"id":"d","rollout":33.33,"rule_id":"r","variant_id":"v"}`},
		{NewRule(&rule{of(one), nil}), `{"distributions":[],"flag_key":"f","id":"r","namespace_key":"n","rank":1,"segment_key":"a"}`},
		{NewRule(&rule{of(two), []*distribution{{of(map[string]any{"id": "d"})}}}),
			`{"distributions":[{"id":"d","rollout":0,"rule_id":"","variant_id":""}],"flag_key":"f","id":"r","namespace_key":"n","rank":2,"segment_key":"a,b","segment_operator":"AND_SEGMENT_OPERATOR"}`},
		{NewRule(&rule{of(map[string]any{"segment_key": "a"}), nil}), `{"distributions":[],"flag_key":"","id":"","namespace_key":"","rank":0,"segment_key":"a"}`},
		{NewRollout(&rollout{of(one), &conditions{of(one)}, nil}), `{"description":"","flag_key":"f","id":"r","namespace_key":"n","rank":1,"segment":{"key":"a","value":false}}`},
		{NewRollout(&rollout{of(two), &conditions{of(two)}, nil}), `{"description":"","flag_key":"f","id":"r","namespace_key":"n","rank":2,"segment":{"key":"a,b","operator":"AND_SEGMENT_OPERATOR","value":true}}`},
		{NewRollout(&rollout{of(one), nil, &threshold{of(map[string]any{"percentage": float32(12.5), "value": true})}}), `{"description":"","flag_key":"f","id":"r","namespace_key":"n","rank":1,"threshold":{"percentage":12.5,"value":true}}`},
		{RuleOrder{FlagKey: "f"}, `{"flag_key":"f","namespace_key":"","rule_ids":[]}`},
		{RolloutOrder{FlagKey: "f"}, `{"flag_key":"f","namespace_key":"","rollout_ids":[]}`},
		{Deleted{Key: "k"}, `{"key":"k"}`},
	} {
		if got := mustJSON(t, c.made); got != c.want {
			t.Errorf(" got %s\nwant %s", got, c.want)
		}
	}
}
