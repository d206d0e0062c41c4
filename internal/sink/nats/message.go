package nats

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

// Headers of messages, as the NATS binding of CloudEvents names the attributes. What is not
// printable ASCII in them is percent-encoded, as there.
const (
	headerID          = "ce-id"
	headerType        = "ce-type"
	headerSource      = "ce-source"
	headerTime        = "ce-time"
	headerSpecVersion = "ce-specversion"
	headerContentType = "content-type"
	headerReplay      = "tocsin-replay"
	headerRedriven    = "tocsin-redriven"
)

// maxHeaderValue bounds one header. Streams take 64 KiB of headers, and events may have an
// id or a source of any length: a longer source is left out, of a longer id there is a hash.
const maxHeaderValue = 4 << 10

// message makes the message of an event.
func (s *Sink) message(b *deliver.Batch, i int) (*nats.Msg, error) {
	item := b.Items[i]
	e := item.Event
	data, err := s.o.Format.Append(nil, item)
	if err != nil {
		return nil, err
	}
	m := &nats.Msg{Subject: string(s.subject.Append(nil, e)), Data: data, Header: make(nats.Header, 8)}
	set := func(name, value string) {
		if value = percent(value); value != "" && len(value) <= maxHeaderValue {
			m.Header[name] = []string{value}
		}
	}
	m.Header[nats.MsgIdHdr] = []string{messageID(e, b.Replay)}
	set(headerID, e.ID)
	set(headerType, e.Type)
	set(headerSource, e.Source)
	set(headerTime, e.Time.UTC().Format(time.RFC3339Nano))
	set(headerContentType, s.o.Format.ContentType(e))
	if s.o.Format == format.Raw && e.Data != nil {
		set(headerSpecVersion, "1.0") // the message is a CloudEvent, its attributes are the headers
	}
	set(headerReplay, b.Replay)
	if b.Redriven {
		set(headerRedriven, "true")
	}
	return m, nil
}

// messageID is by what a stream knows that it has a message. Ids of events are unique
// together with their source; without it, a stream would take the events of one source for
// repeats of those of another. A replay is meant to arrive although the event has.
func messageID(e *event.Event, replay string) string {
	id := percent(e.ID) + " " + percent(e.Source)
	if replay != "" {
		id += " " + percent(replay)
	}
	if len(id) > maxHeaderValue {
		return event.DeriveID("nats", e.ID, e.Source, replay)
	}
	return id
}

// percent encodes a text for a header, as the HTTP binding of CloudEvents does (section
// 3.1.3.2): printable ASCII stays, but for the space, the quotation mark and the percent sign.
func percent(s string) string {
	plain := func(c byte) bool { return ' ' < c && c < 0x7f && c != '"' && c != '%' }
	i := 0
	for i < len(s) && plain(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}
	var b strings.Builder
	b.WriteString(s[:i])
	for ; i < len(s) && b.Len() <= 4*maxHeaderValue; i++ {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
