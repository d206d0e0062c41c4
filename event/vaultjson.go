package event

import "fmt"

// ExtensionSequence is the CloudEvents attribute that holds an event's position
// in the journal. [ParseCloudEvent] and [ParseVaultJSON] leave it in
// [Event.Extensions], so a client can resume after the event.
const ExtensionSequence = "sequence"

// AppendVaultJSON appends the message that Vault's subscribe endpoint sends for e
// with json=true, ended by a newline, and returns the extended buffer. Key order,
// omitted members, escaping, the type "*" and the misspelt "datacontentype" are
// Vault's, byte for byte; the real type is data.event_type. A sequence other than
// "" adds a member of that name after "time", which Vault's clients ignore.
//
// The message has no place for Recorded, Data and its attributes, DataRef and
// Extensions, nor for a Path that is not also in Metadata. Nil Metadata is left
// out, empty Metadata is {}. Times that RFC 3339 cannot express are sent as the
// nearest one that it can, bytes that are not UTF-8 as U+FFFD.
//
// It does not allocate except to grow dst, and is safe for concurrent use. The
// event must have passed [Limits.Check]; in particular, typed values of Metadata
// are copied as they are.
func AppendVaultJSON(dst []byte, e *Event, sequence string) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, e.ID)
	dst = append(dst, `,"source":`...)
	dst = appendString(dst, e.Source)
	dst = append(dst, `,"specversion":"1.0","type":"*","data":{"event":`...)
	start := len(dst)
	dst = appendMember(dst, `,"id":`, e.ID)
	if e.Metadata != nil {
		dst = append(dst, `,"metadata":`...)
		dst = appendFields(dst, e.Metadata, true)
	}
	if len(e.EntityIDs) > 0 {
		dst = append(dst, `,"entity_ids":`...)
		dst = appendStrings(dst, e.EntityIDs)
	}
	dst = appendMember(dst, `,"note":`, e.Note)
	dst = closeObject(dst, start)
	dst = appendMember(dst, `,"namespace":`, e.Namespace)
	dst = appendMember(dst, `,"event_type":`, e.Type)
	if e.Plugin != nil {
		dst = append(dst, `,"plugin_info":`...)
		dst = appendPlugin(dst, e.Plugin)
	}
	dst = append(dst, `},"datacontentype":"application/cloudevents","time":"`...)
	dst = appendTime(dst, e.Time)
	dst = append(dst, '"')
	dst = appendMember(dst, `,"sequence":`, sequence)
	return append(dst, "}\n"...)
}

// ParseVaultJSON reads one message of a subscribe endpoint, as [AppendVaultJSON]
// or a Vault server writes it. Members that it does not know are ignored (so both
// spellings of datacontentype are accepted), null is the same as absent, and a
// member that occurs twice is an error. Path is the text under "path" in the
// metadata; a "sequence" member becomes the extension [ExtensionSequence].
//
// The event has an ID and a Type; Source and Time are empty when the message has
// none. It shares no memory with b. Typed metadata values keep the escapes of the
// message. Time and memory are linear in len(b), values nested more than 100
// levels deep are refused. Every error is an [*InvalidError].
func ParseVaultJSON(b []byte) (*Event, error) {
	e := new(Event)
	if err := parseVaultEnvelope(b, e); err != nil {
		return nil, asInvalid("message", err)
	}
	return e, nil
}

func parseVaultEnvelope(b []byte, e *Event) error {
	r, err := newJSONReader(b)
	if err != nil {
		return err
	}
	r.mem = newMemory(len(b))
	var innerID string
	err = r.object(func(name []byte) (err error) {
		switch string(name) {
		case "id":
			e.ID, err = r.text("id")
		case "source":
			e.Source, err = r.text("source")
		case "time":
			e.Time, err = r.time("time")
		case ExtensionSequence:
			var seq string
			if seq, err = r.text(ExtensionSequence); seq != "" {
				e.Extensions.Set(ExtensionSequence, seq)
			}
		case "data":
			if r.null() {
				return nil
			}
			err = r.object(func(name []byte) (err error) {
				switch string(name) {
				case "event":
					innerID, err = r.details("data.event", e, true)
				case "namespace":
					e.Namespace, err = r.text("data.namespace")
				case "event_type":
					e.Type, err = r.text("data.event_type")
				case "plugin_info":
					e.Plugin, err = r.plugin("data.plugin_info", true)
				default:
					_, err = r.value(maxDataDepth)
				}
				return err
			})
		default:
			_, err = r.value(maxDataDepth)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := r.end(); err != nil {
		return err
	}
	switch {
	case e.ID == "":
		e.ID = innerID
	case innerID != "" && innerID != e.ID:
		return invalid("data.event.id", fmt.Sprintf("is %q, not the id %q of the message", innerID, e.ID))
	}
	return e.finishVault()
}

// finishVault completes an event that was read from one of Vault's encodings:
// it checks what must be there and derives what is only implied.
func (e *Event) finishVault() error {
	switch {
	case e.ID == "":
		return invalid("id", "is empty")
	case e.Type == "":
		return invalid("event_type", "is empty")
	}
	e.Namespace = CanonicalNamespace(e.Namespace)
	e.Path, _ = e.Metadata.Text(MetadataPath)
	return nil
}
