package event

import (
	"errors"
	"fmt"
	"strings"
)

// Limits bound one event. They protect the journal and every consumer, so they
// are checked where an event enters the program.
//
// Each limit is the largest value that is still allowed. Zero and negative values
// are no special case: they allow nothing, so the zero Limits refuse every event.
type Limits struct {
	MaxTypeBytes     int // length of Type
	MaxMetadataKeys  int // number of Metadata fields
	MaxMetadataBytes int // keys and values of Metadata together
	MaxEventBytes    int // everything, as counted by [Event.Size]
}

// DefaultLimits are used unless the configuration says otherwise. The event size
// of 1 MiB fits an audit entry of a list of 13,000 keys.
var DefaultLimits = Limits{
	MaxTypeBytes:     256,
	MaxMetadataKeys:  128,
	MaxMetadataBytes: 64 << 10,
	MaxEventBytes:    1 << 20,
}

// ErrTooLarge is wrapped by every [LimitError].
var ErrTooLarge = errors.New("event exceeds a limit")

// ErrInvalid is wrapped by every [InvalidError].
var ErrInvalid = errors.New("invalid event")

// LimitError says which part of an event is larger than allowed.
type LimitError struct {
	Part      string // "type", "metadata keys", "metadata" or "event"
	Size, Max int    // in bytes, or in keys
}

func (e *LimitError) Error() string {
	unit := ""
	switch e.Part {
	case attrType, "metadata", "event":
		unit = " bytes"
	}
	return fmt.Sprintf("%s: %d is more than the limit of %d%s", e.Part, e.Size, e.Max, unit)
}

// Unwrap makes errors.Is(err, ErrTooLarge) true.
func (e *LimitError) Unwrap() error { return ErrTooLarge }

// InvalidError says which attribute of an event is missing or malformed. Both
// texts may quote the event; they are short, whatever the event holds.
type InvalidError struct {
	Attribute string // for example "time", "metadata k" or "data.note"
	Reason    string // to be read behind the attribute, for example "is empty"
}

func invalid(attribute, reason string) *InvalidError {
	return &InvalidError{clip(attribute, 100), clip(reason, 200)}
}

// clip shortens s to about maxBytes.
func clip(s string, maxBytes int) string {
	if len(s) <= maxBytes {
		return s
	}
	return strings.ToValidUTF8(s[:maxBytes], "") + "..."
}

func (e *InvalidError) Error() string { return e.Attribute + ": " + e.Reason }

// Unwrap makes errors.Is(err, ErrInvalid) true.
func (e *InvalidError) Unwrap() error { return ErrInvalid }

// Size returns the number of bytes that the event's content takes, without the
// overhead of an encoding.
func (e *Event) Size() int {
	n := len(e.ID) + len(e.Type) + len(e.Namespace) + len(e.Source) + len(e.Path) + len(e.Note) +
		len(e.Data) + len(e.DataContentType) + len(e.DataSchema) + len(e.DataRef) +
		e.Metadata.size() + e.Extensions.size()
	for _, id := range e.EntityIDs {
		n += len(id)
	}
	if p := e.Plugin; p != nil {
		n += len(p.MountClass) + len(p.MountAccessor) + len(p.MountPath) + len(p.Plugin) + len(p.PluginVersion) + len(p.Version)
	}
	return n
}

func (f Fields) size() (n int) {
	for i := range f {
		n += len(f[i].Key) + len(f[i].Value)
	}
	return n
}

// Check returns nil for an event that may enter the program, an [*InvalidError]
// for one with a missing or malformed attribute, and a [*LimitError] for one that
// is too large. What passes can be written in every encoding of this package.
//
// Well-formed means:
//   - everything but Data is UTF-8, and nothing but Path, Note, Metadata and the
//     plugin info, which quote others, has control characters;
//   - Type satisfies [CheckType], Namespace is as [CanonicalNamespace] returns it,
//     Path is the text under [MetadataPath] if there is one;
//   - times lie in the years 0 to 9999, which RFC 3339 can express;
//   - Metadata and Extensions are sorted by key, each key once, and typed values
//     are compact JSON other than a string, nested at most 100 levels deep;
//   - extension names are 1 to 64 lower-case letters and digits and are not those
//     of other attributes; typed extensions are true, false or integers of 32 bits;
//   - DataContentType is a media type and DataSchema not [NotificationSchema].
func (l Limits) Check(e *Event) error {
	if e.Time.IsZero() {
		return invalid(attrTime, "is missing")
	}
	if err := l.checkSize(e); err != nil {
		return err
	}
	return e.check()
}

func (l Limits) checkSize(e *Event) error {
	switch {
	case len(e.Type) > l.MaxTypeBytes:
		return &LimitError{attrType, len(e.Type), l.MaxTypeBytes}
	case len(e.Metadata) > l.MaxMetadataKeys:
		return &LimitError{"metadata keys", len(e.Metadata), l.MaxMetadataKeys}
	}
	if n := e.Metadata.size(); n > l.MaxMetadataBytes {
		return &LimitError{"metadata", n, l.MaxMetadataBytes}
	}
	if n := e.Size(); n > l.MaxEventBytes {
		return &LimitError{"event", n, l.MaxEventBytes}
	}
	return nil
}
