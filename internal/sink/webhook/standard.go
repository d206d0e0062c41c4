package webhook

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

// appendStandard appends an event in the form that Standard Webhooks recommends, with what
// else there is to say about it beside type, timestamp and data.
func appendStandard(dst []byte, item deliver.Item) []byte {
	e := item.Event
	dst = append(dst, `{"type":"`...)
	dst = AppendType(dst, e.Type)
	dst = append(dst, `","timestamp":"`...)
	dst = e.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","id":`...)
	dst = appendText(dst, e.ID)
	dst = append(dst, `,"source":`...)
	dst = appendText(dst, e.Source)
	dst = append(dst, `,"event_type":`...)
	dst = appendText(dst, e.Type)
	dst = appendMember(dst, `,"namespace":`, e.Namespace)
	dst = appendMember(dst, `,"path":`, e.Path)
	dst = appendMember(dst, `,"sequence":`, item.At.String())
	if e.Data != nil && len(e.Metadata) > 0 {
		dst = append(dst, `,"metadata":`...)
		dst = e.Metadata.AppendJSON(dst)
	}
	dst = append(dst, `,"data":`...)
	dst, _ = format.Raw.AppendValue(dst, item) // every event has one
	return append(dst, '}')
}

// AppendType appends the type of an event in the form of Standard Webhooks: words of ASCII
// letters, digits and _ with full stops between them. A slash becomes a full stop, whatever
// else does not fit an _: "kv-v2/data-write" is "kv_v2.data_write".
func AppendType(dst []byte, eventType string) []byte {
	start := len(dst)
	word := true // a word begins here
	for _, r := range eventType {
		switch {
		case r == '/' || r == '.':
			if word {
				dst = append(dst, '_') // an empty word
			}
			dst = append(dst, '.')
			word = true
			continue
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_':
			dst = append(dst, byte(r))
		default:
			dst = append(dst, '_')
		}
		word = false
	}
	if word && len(dst) >= start {
		dst = append(dst, '_')
	}
	return dst
}

func appendMember(dst []byte, name, text string) []byte {
	if text == "" {
		return dst
	}
	return appendText(append(dst, name...), text)
}

// appendText appends a text as a JSON string.
func appendText(dst []byte, text string) []byte {
	if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f || r == '"' || r == '\\' }) {
		return append(append(append(dst, '"'), text...), '"')
	}
	quoted, _ := json.Marshal(text) // of a string: cannot fail
	return append(dst, quoted...)
}
