package event

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// check returns nil for an event that is well-formed as [Limits.Check] says,
// whatever its size. Time may be missing.
func (e *Event) check() error {
	switch {
	case e.ID == "":
		return invalid(attrID, "is empty")
	case e.Source == "":
		return invalid(attrSource, "is empty")
	}
	if err := CheckType(e.Type); err != nil {
		return err
	}
	if err := firstOf(
		checkText(attrID, e.ID), checkText(attrSource, e.Source), checkText(attrNamespace, e.Namespace), checkText(attrDataRef, e.DataRef),
		checkText(attrDataContentType, e.DataContentType), checkText(attrDataSchema, e.DataSchema),
		checkTime(attrTime, e.Time), checkTime(attrRecordedTime, e.Recorded),
	); err != nil {
		return err
	}
	path, ok := e.Metadata.Text(MetadataPath)
	switch {
	case e.Namespace != CanonicalNamespace(e.Namespace):
		return invalid(attrNamespace, "must end in a slash, not begin with one, and not be root/")
	case !utf8.ValidString(e.Path):
		return invalid("path", "is not UTF-8")
	case ok && path != e.Path:
		return invalid("path", "is not the path in the metadata")
	case e.DataContentType != "" && !validMediaType(e.DataContentType):
		return invalid(attrDataContentType, fmt.Sprintf("%q is not a media type", e.DataContentType))
	case e.DataSchema == NotificationSchema:
		return invalid(attrDataSchema, "is reserved for events without a payload")
	}
	if err := e.checkDetails(); err != nil {
		return err
	}
	return checkExtensions(e.Extensions)
}

// firstOf returns the first error.
func firstOf(errs ...*InvalidError) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkText returns nil when text may be the value of a CloudEvents attribute, or is
// empty.
func checkText(attribute, text string) *InvalidError {
	if text == "" || isPrintableASCII(text) {
		return nil
	}
	if reason := badAttributeText(text); reason != "" {
		return invalid(attribute, reason)
	}
	return nil
}

// checkTime returns nil when RFC 3339 can express t.
func checkTime(attribute string, t time.Time) *InvalidError {
	if t.IsZero() || !t.Before(minTime) && !t.After(maxTime) {
		return nil
	}
	return invalid(attribute, fmt.Sprintf("is in the year %d, outside 0 to 9999", t.UTC().Year()))
}

func (e *Event) checkDetails() error {
	if err := checkOrder("metadata", e.Metadata); err != nil {
		return err
	}
	for i := range e.Metadata {
		switch f := &e.Metadata[i]; {
		case !utf8.ValidString(f.Key):
			return invalid("metadata", fmt.Sprintf("has a key that is not UTF-8: %q", f.Key))
		case f.JSON:
			if err := checkValue(f.Value); err != nil {
				return invalid("metadata "+f.Key, err.Error())
			}
		case !utf8.ValidString(f.Value):
			return invalid("metadata "+f.Key, "is not UTF-8")
		}
	}
	for _, id := range e.EntityIDs {
		if !utf8.ValidString(id) {
			return invalid("entity_ids", "has an id that is not UTF-8")
		}
	}
	if !utf8.ValidString(e.Note) {
		return invalid("note", "is not UTF-8")
	}
	if p := e.Plugin; p != nil {
		for _, s := range [...]string{p.MountClass, p.MountAccessor, p.MountPath, p.Plugin, p.PluginVersion, p.Version} {
			if !utf8.ValidString(s) {
				return invalid("plugin_info", fmt.Sprintf("%q is not UTF-8", s))
			}
		}
	}
	return nil
}

// checkOrder returns nil when the keys of f ascend.
func checkOrder(attribute string, f Fields) error {
	for i := 1; i < len(f); i++ {
		if f[i-1].Key >= f[i].Key {
			return invalid(attribute, fmt.Sprintf("%q and %q are not in order, or equal", f[i-1].Key, f[i].Key))
		}
	}
	return nil
}

// attributeNameRule is CloudEvents 1.0.2 section 3.1, with an upper bound.
const attributeNameRule = "the name must be 1 to 64 lower-case letters and digits"

func checkExtensions(f Fields) error {
	for i := range f {
		x := &f[i]
		switch {
		case !validAttributeName(x.Key):
			return invalid("extension "+strconv.Quote(x.Key), attributeNameRule)
		case attributeOf(x.Key) != isExtension:
			return invalid("extension "+x.Key, "has the name of an attribute that is no extension")
		case x.JSON && !validExtensionValue(x.Value):
			return invalid("extension "+x.Key, "is not a string, a boolean, or an integer of 32 bits")
		case !x.JSON:
			if reason := badAttributeText(x.Value); reason != "" {
				return invalid("extension "+x.Key, reason)
			}
		}
	}
	return checkOrder("extensions", f)
}

// validExtensionValue reports whether json is a value that the CloudEvents type
// system has beside strings.
func validExtensionValue(json string) bool {
	if json == "true" || json == "false" {
		return true
	}
	n, err := strconv.ParseInt(json, 10, 32)
	return err == nil && strconv.FormatInt(n, 10) == json
}

func validAttributeName[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// badAttributeText says why s cannot be a CloudEvents string (section 2.4), ""
// when it can.
func badAttributeText(s string) string {
	if isPrintableASCII(s) {
		return ""
	}
	if !utf8.ValidString(s) {
		return "is not UTF-8"
	}
	for _, r := range s {
		if isControl(r) {
			return fmt.Sprintf("has the control character %U", r)
		}
	}
	return ""
}

// isPrintableASCII is the short cut for nearly every attribute. It looks at eight
// bytes at once: none may have its high bit set, be below a space, or be DEL.
func isPrintableASCII(s string) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(s) >= 8 {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		del := w ^ 0x7f*ones
		if (w|(w-' '*ones)|(del-ones))&highs != 0 {
			return false
		}
		s = s[8:]
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func isControl(r rune) bool { return r < ' ' || 0x7f <= r && r <= 0x9f }

// validMediaType reports whether s begins with the type and subtype of RFC 2046
// and holds nothing but parameters behind them.
func validMediaType(s string) bool {
	if s == "application/json" { // nearly always
		return true
	}
	mediaType, _, _ := strings.Cut(s, ";")
	major, minor, _ := strings.Cut(strings.TrimRight(mediaType, " \t"), "/")
	return isToken(major) && isToken(minor)
}

// tokenByte has the bytes of a token of RFC 2045 section 5.1.
var tokenByte = func() (t [256]bool) {
	for c := '!'; c < 0x7f; c++ {
		t[c] = !strings.ContainsRune(`()<>@,;:\"/[]?=`, c)
	}
	return t
}()

// isToken reports whether s is a token.
func isToken(s string) bool {
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return s != ""
}

// CheckType returns nil when t may be the type of an event: not empty, UTF-8,
// without spaces and control characters, and without "*", which would make it a
// glob. The error is an [*InvalidError].
func CheckType(t string) error {
	if t == "" {
		return invalid(attrType, "is empty")
	}
	if reason := badAttributeText(t); reason != "" {
		return invalid(attrType, reason)
	}
	for i := range len(t) {
		if t[i] == ' ' || t[i] == '*' {
			return invalid(attrType, fmt.Sprintf("contains %q", t[i]))
		}
	}
	return nil
}
