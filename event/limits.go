package event

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits bound one event. They protect the journal and every consumer, so they
// are checked where an event enters the program.
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
	return fmt.Sprintf("%s: %d is more than the limit of %d", e.Part, e.Size, e.Max)
}

// Unwrap makes errors.Is(err, ErrTooLarge) true.
func (e *LimitError) Unwrap() error { return ErrTooLarge }

// InvalidError says which attribute of an event is missing or malformed.
type InvalidError struct {
	Attribute string
	Reason    string
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
// is too large.
func (l Limits) Check(e *Event) error {
	switch {
	case e.ID == "":
		return &InvalidError{"id", "is empty"}
	case e.Source == "":
		return &InvalidError{"source", "is empty"}
	case e.Time.IsZero():
		return &InvalidError{"time", "is missing"}
	case len(e.Type) > l.MaxTypeBytes:
		return &LimitError{"type", len(e.Type), l.MaxTypeBytes}
	case len(e.Metadata) > l.MaxMetadataKeys:
		return &LimitError{"metadata keys", len(e.Metadata), l.MaxMetadataKeys}
	}
	if n := e.Metadata.size(); n > l.MaxMetadataBytes {
		return &LimitError{"metadata", n, l.MaxMetadataBytes}
	}
	if n := e.Size(); n > l.MaxEventBytes {
		return &LimitError{"event", n, l.MaxEventBytes}
	}
	if err := CheckType(e.Type); err != nil {
		return err
	}
	if e.Namespace != "" && (strings.HasPrefix(e.Namespace, "/") || !strings.HasSuffix(e.Namespace, "/")) {
		return &InvalidError{"namespace", "must end in a slash and not begin with one"}
	}
	for _, s := range []struct{ name, text string }{{"id", e.ID}, {"source", e.Source}, {"namespace", e.Namespace}, {"path", e.Path}} {
		if !utf8.ValidString(s.text) {
			return &InvalidError{s.name, "is not UTF-8"}
		}
	}
	for i := range e.Extensions {
		if !validAttributeName(e.Extensions[i].Key) {
			return &InvalidError{"extension " + e.Extensions[i].Key, "the name must be 1 to 64 lower-case letters and digits"}
		}
	}
	return nil
}

// CheckType returns nil when t may be the type of an event: not empty, UTF-8,
// without spaces and control characters, and without "*", which would make it a
// glob.
func CheckType(t string) error {
	switch {
	case t == "":
		return &InvalidError{"type", "is empty"}
	case !utf8.ValidString(t):
		return &InvalidError{"type", "is not UTF-8"}
	}
	for _, r := range t {
		if r <= ' ' || r == 0x7f || r == '*' {
			return &InvalidError{"type", fmt.Sprintf("contains %q", r)}
		}
	}
	return nil
}

func validAttributeName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
