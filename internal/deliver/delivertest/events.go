package delivertest

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/position"
)

// Events returns n ordinary events, different from those of every other call with another
// first: an audit entry, a notification, and one of an application, in turn.
func Events(first, n int) []deliver.Item {
	items := make([]deliver.Item, n)
	for i := range items {
		k := first + i
		e := &event.Event{
			ID: event.DeriveID("delivertest", strconv.Itoa(k)), Source: event.SourceVault("node-1"), Type: "kv-v2/data-write",
			Path: fmt.Sprintf("secret/data/app-%d", k%7), Namespace: []string{"", "team-a/"}[k%2],
			Time:     time.Date(2026, 3, 4, 5, 6, 7, k%1000*1000, time.UTC),
			Recorded: time.Date(2026, 3, 4, 5, 6, 8, 0, time.UTC),
		}
		e.Metadata.Set("path", e.Path)
		e.Metadata.Set("operation", "data-write")
		e.Metadata.SetJSON("current_version", strconv.Itoa(k))
		switch k % 3 {
		case 0:
			e.Type = "audit/request"
			e.Data = fmt.Appendf(nil, `{"time":"2026-03-04T05:06:07Z","type":"request","request":{"id":"%d","path":%q,"operation":"update"}}`, k, e.Path)
			e.DataContentType = "application/json"
		case 1:
			e.Source, e.Type = "/orders", "shop/order-paid"
			e.Data, e.DataContentType = fmt.Appendf(nil, "order %d\nis paid", k), "text/plain; charset=utf-8"
		}
		items[i] = placed(e, k)
	}
	return items
}

// placed gives an event a place in a journal.
func placed(e *event.Event, k int) deliver.Item {
	return deliver.Item{Event: e, At: position.Position{Seq: uint64(k/100 + 1), Index: uint32(k % 100), Ordinal: uint64(k)}}
}

// Hostile returns events that hold what producers can put into them, and what formats,
// protocols and terminals trip over. All of them pass [event.Limits.Check].
func Hostile() []deliver.Item {
	nasty := []string{
		"", " ", "\x00", "\n", "\r\n", "a\nb: c\r\n\r\nHTTP/1.1 200 OK", "\x1b[2J\x1b]0;title\a", "\u007f\u0080\u009b31m",
		`"`, `\`, `"},{"id":"forged"`, `'; DROP TABLE events;--`, "</script><script>alert(1)</script>", "<!--", "]]>",
		"{{.ID}}", `{{"`, "${jndi:ldap://127.0.0.1/x}", "%s%n%x", "$(id)", "`id`", "=cmd|'/c calc'!A1",
		"\u2028\u2029", "\u202egnp.exe", "\u0000\ufeff", "\ufffd", "\U0010ffff", "e\u0301", "\U0001f468\u200d\U0001f469", "*", ">", ".", "..", "a..b", "a.*.>",
		"../../etc/passwd", "/", "//", "a//b/", "%2e%2e%2f", "?a=b#c", "https://user:pass@169.254.169.254/latest",
		strings.Repeat("x", 5000), "\\u0000 \\ud800", "null", "{}", "[]", "-0", "1e999",
	}
	// Metadata, paths and data may hold any of these.
	var events []*event.Event
	add := func(change func(*event.Event)) {
		k := len(events)
		e := &event.Event{
			ID: event.DeriveID("delivertest", "hostile", strconv.Itoa(k)), Source: "/hostile", Type: "hostile/event",
			Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		}
		change(e)
		events = append(events, e)
	}
	for _, text := range nasty {
		add(func(e *event.Event) {
			e.Path, e.Note, e.EntityIDs = text, text, []string{"a", "b" + text}
			e.Metadata.Set("path", text)
			e.Metadata.Set("k"+text, text)
			e.Plugin = &event.PluginInfo{MountPath: text, Plugin: "kv"}
			e.Data, e.DataContentType = []byte(text), "text/plain"
		})
	}
	for _, name := range []string{`quoted"id`, "{{.Type}}", "id with spaces", "ü\u4e16", "a/../b", "*.>", "a:b,c;d=e", strings.Repeat("i", 300)} {
		add(func(e *event.Event) { e.ID = name })
		add(func(e *event.Event) { e.Source = name })
		add(func(e *event.Event) { e.Namespace = event.CanonicalNamespace(name) })
	}
	for _, data := range []string{
		"null", `"\ud800"`, `"\u0000</script>\u2028"`, "{\n \"a\" : [1,\r\n2]\t}", `{"a":1,"a":2}`, `1e999`, `-0`,
		strings.Repeat("[", 100) + strings.Repeat("]", 100), `{"__proto__":{"x":1}}`, " ", "{broken", "",
	} {
		add(func(e *event.Event) { e.Data, e.DataContentType = []byte(data), "application/json" })
		add(func(e *event.Event) { e.Data = []byte(data) })
	}
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	add(func(e *event.Event) { e.Data, e.DataContentType = binary, "application/octet-stream" })
	add(func(e *event.Event) { e.Data, e.DataContentType = binary, "text/plain; charset=latin1" })
	add(func(e *event.Event) { e.Data, e.DataContentType = binary, `multipart/x; boundary="a b"` })
	add(func(e *event.Event) { e.DataRef, e.DataContentType = "/v1/payloads/1?a=b&c=%0a", "application/json" })
	add(func(e *event.Event) { e.DataSchema = "https://example.com/s?x={{y}}" })
	add(func(e *event.Event) { e.Type = strings.Repeat("t", event.DefaultLimits.MaxTypeBytes) })
	add(func(e *event.Event) { e.Type = "with.dots/and-dashes/and_more" })
	add(func(e *event.Event) { e.Time = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC) })
	add(func(e *event.Event) { e.Time = time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC) })
	add(func(e *event.Event) { e.Time = time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("", -11*60*60-30*60)) })
	add(func(e *event.Event) { e.Metadata = event.Fields{} })
	add(func(e *event.Event) {
		for i := range event.DefaultLimits.MaxMetadataKeys {
			e.Metadata.Set(fmt.Sprintf("key %d", i), strings.Repeat(`"<\`+"\n", 100))
		}
	})
	add(func(e *event.Event) {
		e.Metadata.SetJSON("deep", strings.Repeat(`{"a":`, 99)+"[]"+strings.Repeat("}", 99))
		e.Metadata.SetJSON("number", "-1.5e-300")
		e.Metadata.SetJSON("no", "null")
	})
	add(func(e *event.Event) {
		for i := range 40 {
			e.Extensions.Set(fmt.Sprintf("ext%d", i), `value "`+strings.Repeat("<", i)+"\u202e")
		}
		e.Extensions.SetJSON("flag", "true")
		e.Extensions.SetJSON("number", "-2147483648")
		e.Extensions.Set(event.ExtensionSequence, "0000")
	})
	items := make([]deliver.Item, len(events))
	for i, e := range events {
		items[i] = placed(e, 1_000_000+i)
	}
	items[0].At = position.Position{} // one that is in no journal
	return items
}

// largeEvent is one with so many bytes of data, all of them characters that must be quoted
// somewhere, or none of them.
func largeEvent(k, n int, quotes bool) deliver.Item {
	e := &event.Event{
		ID: event.DeriveID("delivertest", "large", strconv.Itoa(k), strconv.Itoa(n)), Source: "/large", Type: "large/event",
		Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), DataContentType: "application/json",
	}
	const lead, tail = `{"text":"`, `"}`
	unit := "0123456789abcdef"
	if quotes {
		unit = `\"<\u2028>&\n\\x`
	}
	e.Data = make([]byte, 0, n)
	e.Data = append(e.Data, lead...)
	for len(e.Data)+len(unit)+len(tail) <= n {
		e.Data = append(e.Data, unit...)
	}
	for len(e.Data)+len(tail) < n {
		e.Data = append(e.Data, '.')
	}
	e.Data = append(e.Data, tail...)
	return placed(e, 2_000_000+k)
}
