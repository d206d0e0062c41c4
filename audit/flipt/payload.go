package flipt

import (
	"encoding/json"
	"fmt"
	"strings"
)

// The payloads of Flipt's events. Their members are in the order of their JSON names, as in all
// events that Flipt sends. Lists are never null.

// Namespace is the payload of events of the type "namespace".
type Namespace struct {
	Description string `json:"description"`
	Key         string `json:"key"`
	Name        string `json:"name"`
	Protected   bool   `json:"protected"`
}

// Flag is the payload of events of the type "flag".
type Flag struct {
	DefaultVariant string `json:"default_variant,omitempty"` // its key
	Description    string `json:"description"`
	Enabled        bool   `json:"enabled"`
	Key            string `json:"key"`
	Name           string `json:"name"`
	NamespaceKey   string `json:"namespace_key"`
}

// Variant is the payload of events of the type "variant".
type Variant struct {
	Attachment   string `json:"attachment"` // JSON as a text, or empty
	Description  string `json:"description"`
	FlagKey      string `json:"flag_key"`
	ID           string `json:"id"`
	Key          string `json:"key"`
	Name         string `json:"name"`
	NamespaceKey string `json:"namespace_key"`
}

// Segment is the payload of events of the type "segment".
type Segment struct {
	Constraints  []Constraint `json:"constraints"`
	Description  string       `json:"description"`
	Key          string       `json:"key"`
	MatchType    string       `json:"match_type"` // "ALL_MATCH_TYPE", "ANY_MATCH_TYPE"
	Name         string       `json:"name"`
	NamespaceKey string       `json:"namespace_key"`
}

// Constraint is the payload of events of the type "constraint".
type Constraint struct {
	ID           string `json:"id"`
	NamespaceKey string `json:"namespace_key"`
	Operator     string `json:"operator"`
	Property     string `json:"property"`
	SegmentKey   string `json:"segment_key"`
	Type         string `json:"type"` // "STRING_COMPARISON_TYPE", ...
	Value        string `json:"value"`
}

// Rule is the payload of events of the type "rule". The key of several segments are their keys
// with "," between them, and then there is an operator; see [JoinSegments].
type Rule struct {
	Distributions   []Distribution `json:"distributions"`
	FlagKey         string         `json:"flag_key"`
	ID              string         `json:"id"`
	NamespaceKey    string         `json:"namespace_key"`
	Rank            int32          `json:"rank"`
	SegmentKey      string         `json:"segment_key"`
	SegmentOperator string         `json:"segment_operator,omitempty"` // "AND_SEGMENT_OPERATOR", "OR_SEGMENT_OPERATOR"
}

// Distribution is the payload of events of the type "distribution".
type Distribution struct {
	ID        string  `json:"id"`
	Rollout   float32 `json:"rollout"` // percent
	RuleID    string  `json:"rule_id"`
	VariantID string  `json:"variant_id"`
}

// Rollout is the payload of events of the type "rollout". It has either a segment or a
// threshold.
type Rollout struct {
	Description  string            `json:"description"`
	FlagKey      string            `json:"flag_key"`
	ID           string            `json:"id,omitempty"` // from v1.58.4
	NamespaceKey string            `json:"namespace_key"`
	Rank         int32             `json:"rank"`
	Segment      *RolloutSegment   `json:"segment,omitempty"`
	Threshold    *RolloutThreshold `json:"threshold,omitempty"`
}

// RolloutSegment is the condition of a rollout for those in segments.
type RolloutSegment struct {
	Key      string `json:"key"`
	Operator string `json:"operator,omitempty"`
	Value    bool   `json:"value"`
}

// RolloutThreshold is the condition of a rollout for a part of all.
type RolloutThreshold struct {
	Percentage float32 `json:"percentage"`
	Value      bool    `json:"value"`
}

// RuleOrder is the payload of an event "rule", "updated" that puts rules into an order.
type RuleOrder struct {
	FlagKey      string   `json:"flag_key"`
	NamespaceKey string   `json:"namespace_key"`
	RuleIDs      []string `json:"rule_ids"`
}

// RolloutOrder is the payload of an event "rollout", "updated" that puts rollouts into an
// order.
type RolloutOrder struct {
	FlagKey      string   `json:"flag_key"`
	NamespaceKey string   `json:"namespace_key"`
	RolloutIDs   []string `json:"rollout_ids"`
}

// Deleted is the payload of an event that tells a deletion: what identifies the thing.
type Deleted struct {
	FlagKey      string `json:"flag_key,omitempty"`
	ID           string `json:"id,omitempty"`
	Key          string `json:"key,omitempty"`
	NamespaceKey string `json:"namespace_key,omitempty"`
	RuleID       string `json:"rule_id,omitempty"`
	SegmentKey   string `json:"segment_key,omitempty"`
	VariantID    string `json:"variant_id,omitempty"`
}

// Token is the payload of events of the type "token": what is known about a static token,
// never the token itself.
type Token struct {
	Description string `json:"io.flipt.auth.token.description,omitempty"`
	Name        string `json:"io.flipt.auth.token.name"`
	Namespace   string `json:"io.flipt.auth.token.namespace,omitempty"`
}

// MarshalJSON writes the segment.
func (s Segment) MarshalJSON() ([]byte, error) {
	type plain Segment
	s.Constraints = list(s.Constraints)
	return json.Marshal(plain(s))
}

// MarshalJSON writes the rule.
func (r Rule) MarshalJSON() ([]byte, error) {
	type plain Rule
	r.Distributions = list(r.Distributions)
	return json.Marshal(plain(r))
}

// MarshalJSON writes the order.
func (o RuleOrder) MarshalJSON() ([]byte, error) {
	type plain RuleOrder
	o.RuleIDs = list(o.RuleIDs)
	return json.Marshal(plain(o))
}

// MarshalJSON writes the order.
func (o RolloutOrder) MarshalJSON() ([]byte, error) {
	type plain RolloutOrder
	o.RolloutIDs = list(o.RolloutIDs)
	return json.Marshal(plain(o))
}

// list returns a list that is not null in JSON.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// JoinSegments returns key and operator of a rule or a rollout for segments: one key is as it
// is and needs no operator, several are joined with ",".
func JoinSegments(keys []string, operator string) (key, op string) {
	if len(keys) < 2 {
		operator = ""
	}
	return strings.Join(keys, ","), operator
}

// The constructors below take the messages of Flipt's API, or anything with the same getters:
// generated protobuf code has them. They copy; a nil message gives nil where its getters allow
// nil.

// NewNamespace returns the payload for a namespace.
func NewNamespace(n interface {
	GetKey() string
	GetName() string
	GetDescription() string
	GetProtected() bool
}) *Namespace {
	return &Namespace{Key: n.GetKey(), Name: n.GetName(), Description: n.GetDescription(), Protected: n.GetProtected()}
}

// FlagMessage is a flag of Flipt's API, with variants of the type V.
type FlagMessage[V KeyMessage] interface {
	GetKey() string
	GetName() string
	GetDescription() string
	GetEnabled() bool
	GetNamespaceKey() string
	GetDefaultVariant() V
}

// KeyMessage is a message with a key. The zero value means that there is none.
type KeyMessage interface {
	comparable
	GetKey() string
}

// NewFlag returns the payload for a flag.
func NewFlag[V KeyMessage](f FlagMessage[V]) *Flag {
	flag := &Flag{Key: f.GetKey(), Name: f.GetName(), Description: f.GetDescription(), Enabled: f.GetEnabled(), NamespaceKey: f.GetNamespaceKey()}
	var none V
	if v := f.GetDefaultVariant(); v != none {
		flag.DefaultVariant = v.GetKey()
	}
	return flag
}

// NewVariant returns the payload for a variant.
func NewVariant(v interface {
	GetId() string
	GetFlagKey() string
	GetKey() string
	GetName() string
	GetDescription() string
	GetAttachment() string
	GetNamespaceKey() string
}) *Variant {
	return &Variant{
		ID: v.GetId(), FlagKey: v.GetFlagKey(), Key: v.GetKey(), Name: v.GetName(),
		Description: v.GetDescription(), Attachment: v.GetAttachment(), NamespaceKey: v.GetNamespaceKey(),
	}
}

// ConstraintMessage is a constraint of Flipt's API; T is its enumeration of types.
type ConstraintMessage[T fmt.Stringer] interface {
	GetId() string
	GetSegmentKey() string
	GetType() T
	GetProperty() string
	GetOperator() string
	GetValue() string
	GetNamespaceKey() string
}

// NewConstraint returns the payload for a constraint.
func NewConstraint[T fmt.Stringer](c ConstraintMessage[T]) *Constraint {
	return &Constraint{
		ID: c.GetId(), SegmentKey: c.GetSegmentKey(), Type: c.GetType().String(), Property: c.GetProperty(),
		Operator: c.GetOperator(), Value: c.GetValue(), NamespaceKey: c.GetNamespaceKey(),
	}
}

// SegmentMessage is a segment of Flipt's API; M is its enumeration of match types, C its type
// of constraints.
type SegmentMessage[M fmt.Stringer, C any] interface {
	GetKey() string
	GetName() string
	GetDescription() string
	GetConstraints() []C
	GetMatchType() M
	GetNamespaceKey() string
}

// NewSegment returns the payload for a segment.
func NewSegment[M, T fmt.Stringer, C ConstraintMessage[T]](s SegmentMessage[M, C]) *Segment {
	constraints := make([]Constraint, 0, len(s.GetConstraints()))
	for _, c := range s.GetConstraints() {
		constraints = append(constraints, *NewConstraint[T](c))
	}
	return &Segment{
		Key: s.GetKey(), Name: s.GetName(), Description: s.GetDescription(), Constraints: constraints,
		MatchType: s.GetMatchType().String(), NamespaceKey: s.GetNamespaceKey(),
	}
}

// DistributionMessage is a distribution of Flipt's API.
type DistributionMessage interface {
	GetId() string
	GetRuleId() string
	GetVariantId() string
	GetRollout() float32
}

// NewDistribution returns the payload for a distribution.
func NewDistribution(d DistributionMessage) *Distribution {
	return &Distribution{ID: d.GetId(), RuleID: d.GetRuleId(), VariantID: d.GetVariantId(), Rollout: d.GetRollout()}
}

// RuleMessage is a rule of Flipt's API; O is its enumeration of operators, D its type of
// distributions.
type RuleMessage[O fmt.Stringer, D any] interface {
	GetId() string
	GetFlagKey() string
	GetSegmentKey() string
	GetSegmentKeys() []string
	GetSegmentOperator() O
	GetDistributions() []D
	GetRank() int32
	GetNamespaceKey() string
}

// NewRule returns the payload for a rule.
func NewRule[O fmt.Stringer, D DistributionMessage](r RuleMessage[O, D]) *Rule {
	rule := &Rule{
		ID: r.GetId(), FlagKey: r.GetFlagKey(), SegmentKey: r.GetSegmentKey(), Rank: r.GetRank(), NamespaceKey: r.GetNamespaceKey(),
		Distributions: make([]Distribution, 0, len(r.GetDistributions())),
	}
	for _, d := range r.GetDistributions() {
		rule.Distributions = append(rule.Distributions, *NewDistribution(d))
	}
	if keys := r.GetSegmentKeys(); len(keys) > 0 {
		rule.SegmentKey, rule.SegmentOperator = JoinSegments(keys, r.GetSegmentOperator().String())
	}
	return rule
}

// RolloutSegmentMessage is the condition by segments in Flipt's API.
type RolloutSegmentMessage[O fmt.Stringer] interface {
	comparable
	GetSegmentKey() string
	GetSegmentKeys() []string
	GetSegmentOperator() O
	GetValue() bool
}

// RolloutThresholdMessage is the condition by a threshold in Flipt's API.
type RolloutThresholdMessage interface {
	comparable
	GetPercentage() float32
	GetValue() bool
}

// RolloutMessage is a rollout of Flipt's API. The zero values of S and T mean that there is
// none.
type RolloutMessage[S, T any] interface {
	GetId() string
	GetNamespaceKey() string
	GetFlagKey() string
	GetRank() int32
	GetDescription() string
	GetSegment() S
	GetThreshold() T
}

// NewRollout returns the payload for a rollout.
func NewRollout[O fmt.Stringer, S RolloutSegmentMessage[O], T RolloutThresholdMessage](r RolloutMessage[S, T]) *Rollout {
	rollout := &Rollout{ID: r.GetId(), NamespaceKey: r.GetNamespaceKey(), FlagKey: r.GetFlagKey(), Rank: r.GetRank(), Description: r.GetDescription()}
	var noSegment S
	var noThreshold T
	if s := r.GetSegment(); s != noSegment {
		rollout.Segment = &RolloutSegment{Key: s.GetSegmentKey(), Value: s.GetValue()}
		if keys := s.GetSegmentKeys(); len(keys) > 0 {
			rollout.Segment.Key, rollout.Segment.Operator = JoinSegments(keys, s.GetSegmentOperator().String())
		}
	} else if t := r.GetThreshold(); t != noThreshold {
		rollout.Threshold = &RolloutThreshold{Percentage: t.GetPercentage(), Value: t.GetValue()}
	}
	return rollout
}
