package kafka

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

// maxTopicBytes is how long the name of a topic may be.
const maxTopicBytes = 249

// topicTemplate is a name of a topic with placeholders.
type topicTemplate struct {
	parts []string // texts and placeholders
	fixed string   // if there are no placeholders
}

var (
	placeholder = regexp.MustCompile(`\{[^{}]*\}`)
	topicText   = regexp.MustCompile(`^[A-Za-z0-9._-]*$`)
)

// CheckTopic says what is wrong with a name of a topic, which may have the placeholders {type}
// and {source}.
func CheckTopic(text string) error {
	_, err := parseTopic(text)
	return err
}

func parseTopic(text string) (topicTemplate, error) {
	var t topicTemplate
	if text == "" {
		return t, errors.New("no topic; name one, as audit or vault.{type}")
	}
	if len(text) > maxTopicBytes {
		return t, fmt.Errorf("the topic has %d characters, at most %d are possible", len(text), maxTopicBytes)
	}
	wrong := fmt.Errorf("%.100q is no topic; it can have letters, digits, ., _, - and the placeholders {type} and {source}", text)
	at := 0
	for _, found := range placeholder.FindAllStringIndex(text, -1) {
		t.parts = append(t.parts, text[at:found[0]], text[found[0]:found[1]])
		at = found[1]
	}
	t.parts = append(t.parts, text[at:])
	for i, part := range t.parts {
		if i%2 == 0 && !topicText.MatchString(part) || i%2 == 1 && part != "{type}" && part != "{source}" {
			return t, wrong
		}
	}
	if len(t.parts) == 1 {
		t.fixed = text
		if text == "." || text == ".." {
			return t, wrong
		}
	}
	return t, nil
}

// variable reports whether events decide about the topic.
func (t topicTemplate) variable() bool { return t.fixed == "" }

// of returns the topic of an event. What a topic cannot have becomes a dot; a name that is too
// long ends with a hash, so that it stays another one than others.
func (t topicTemplate) of(e *event.Event) string {
	if t.fixed != "" {
		return t.fixed
	}
	var b strings.Builder
	for _, part := range t.parts {
		switch part {
		case "{type}":
			part = safe(e.Type)
		case "{source}":
			part = safe(e.Source)
		}
		b.WriteString(part)
	}
	name := b.String()
	switch {
	case name == "." || name == ".." || name == "":
		return "event"
	case len(name) > maxTopicBytes:
		sum := sha256.Sum256([]byte(name))
		const digits = 16
		return name[:maxTopicBytes-digits-1] + "-" + hex.EncodeToString(sum[:digits/2])
	}
	return name
}

func safe(text string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-' || r == '.' {
			return r
		}
		return '.'
	}, text)
}

// record makes the record of an event, whose value begins with lead.
func (s *Sink) record(topic string, lead []byte, item deliver.Item, b *deliver.Batch) (*kgo.Record, error) {
	e := item.Event
	value, kind, err := s.encoder.append(append(make([]byte, 0, 512+len(e.Data)), lead...), item)
	if err != nil {
		return nil, err
	}
	r := &kgo.Record{Topic: topic, Value: value, Headers: headers(item, b, kind.contentType)}
	switch s.o.Key {
	case KeyPath:
		if e.Path != "" || e.Namespace != "" {
			r.Key = []byte(e.Namespace + e.Path)
		}
	case KeyType:
		r.Key = []byte(kind.name)
	}
	return r, nil
}

// Headers beside those of the Kafka protocol binding of CloudEvents.
const (
	headerReplay   = "tocsin-replay"   // the name of the replay that the record is for
	headerRedriven = "tocsin-redriven" // "true" for what was a dead letter
)

// headers returns the attributes of an event as the Kafka protocol binding of CloudEvents 1.0.2
// has them in its binary mode. In its structured mode, which the content type tells, they are a
// copy of what is in the value.
func headers(item deliver.Item, b *deliver.Batch, contentType string) []kgo.RecordHeader {
	e := item.Event
	h := make([]kgo.RecordHeader, 0, 12)
	add := func(name, value string) {
		if value != "" {
			h = append(h, kgo.RecordHeader{Key: name, Value: []byte(value)})
		}
	}
	add("ce_specversion", "1.0")
	add("ce_id", e.ID)
	add("ce_source", e.Source)
	add("ce_type", e.Type)
	add("ce_time", e.Time.Format(time.RFC3339Nano))
	add("ce_subject", e.Path)
	add("ce_namespace", e.Namespace)
	add("ce_dataschema", e.DataSchema)
	add("ce_dataref", e.DataRef)
	if !item.At.IsZero() {
		add("ce_sequence", item.At.String())
	}
	add("content-type", contentType)
	add(headerReplay, b.Replay)
	if b.Redriven {
		add(headerRedriven, "true")
	}
	return h
}

// batchBytes is how large a batch with only this record is, before compression.
func batchBytes(r *kgo.Record) int {
	const batch = 65 // header of a batch, format 2, and its length
	n := 1 + 1 + 1 + kbin.VarintLen(int32(len(r.Key))) + len(r.Key) + kbin.VarintLen(int32(len(r.Value))) + len(r.Value) + kbin.VarintLen(int32(len(r.Headers)))
	for _, h := range r.Headers {
		n += kbin.VarintLen(int32(len(h.Key))) + len(h.Key) + kbin.VarintLen(int32(len(h.Value))) + len(h.Value)
	}
	return batch + kbin.VarintLen(int32(n)) + n
}
