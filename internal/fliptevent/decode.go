package fliptevent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// MaxBytes bounds what is decoded.
	MaxBytes = 8 << 20
	// maxDepth is how deep an event may be nested.
	maxDepth = 100
	// maxUnknown bounds the members that no version of Flipt has.
	maxUnknown = 64
	// maxActor bounds the texts about an actor.
	maxActor = 256
)

// ErrNotAnEvent is wrapped by the errors of [Decode]: the bytes are no event of Flipt.
var ErrNotAnEvent = errors.New("not an audit event of Flipt")

func notAnEvent(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotAnEvent, fmt.Sprintf(format, args...))
}

// Decode reads one event in either form: the body of a webhook or a line of the log, with or
// without space between its parts, and with the members T and M that the log has on the standard
// output. The event has all that [Event.Complete] asks for. Its JSON is on
// one line, whatever b is.
//
// Nothing is guessed: a member that is there twice, one of the wrong type, text that is not
// UTF-8 and what is not JSON are errors that wrap [ErrNotAnEvent]. They quote nothing of b but
// names.
func Decode(b []byte) (*Event, error) {
	if len(b) > MaxBytes {
		return nil, notAnEvent("it has %d bytes, more than %d", len(b), MaxBytes)
	}
	if !utf8.Valid(b) {
		return nil, notAnEvent("it is not UTF-8")
	}
	if err := checkDepth(b); err != nil {
		return nil, err
	}
	e := new(Event)
	var seen []string
	status, logged := false, false
	err := members(b, func(name string, value []byte) (err error) {
		if slices.Contains(seen, name) {
			return notAnEvent("it has %q twice", clip(name))
		}
		seen = append(seen, name)
		switch name {
		case "version":
			e.Version, err = text(name, value)
		case "type":
			e.Type, err = text(name, value)
		case "action":
			e.Action, err = text(name, value)
		case "timestamp":
			e.Timestamp, err = text(name, value)
		case "status":
			e.Status, err = text(name, value)
			status = true
		case "metadata":
			e.Metadata = onOneLine(value)
			e.Actor, err = actorOf(value)
		case "payload":
			e.Payload = onOneLine(value)
		case "T", "M": // time and message of a log on the standard output
			if value[0] != '"' {
				return notAnEvent("%q is not a text", name)
			}
			logged = true
		default:
			if len(e.Unknown) == maxUnknown {
				return notAnEvent("it has more than %d members that are unknown", maxUnknown)
			}
			e.Unknown = append(e.Unknown, Member{name, onOneLine(value)})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if logged && !(slices.Contains(seen, "T") && slices.Contains(seen, "M")) {
		return nil, notAnEvent("it has one of T and M")
	}
	if missing := e.Complete(); missing != "" {
		return nil, notAnEvent("it has no %s", missing)
	}
	if !status && e.Version != Version1 {
		return nil, notAnEvent("version %q has a status", clip(e.Version))
	}
	return e, nil
}

// DecodeLine reads one line of a log of Flipt: what [Decode] reads, or, when the log goes to
// the standard output for people, that behind the time and the word AUDIT. The second
// result is the JSON object within line.
func DecodeLine(line []byte) (*Event, []byte, error) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '{' {
		// TIME \t AUDIT \t {...}
		_, rest, found := bytes.Cut(line, []byte("\t"))
		object, ok := bytes.CutPrefix(rest, []byte("AUDIT\t"))
		if !found || !ok {
			return nil, nil, notAnEvent("the line is neither a JSON object nor an AUDIT line")
		}
		line = object
	}
	e, err := Decode(line)
	return e, line, err
}

// members calls member for each member of the JSON object b.
func members(b []byte, member func(name string, value []byte) error) error {
	d := json.NewDecoder(bytes.NewReader(b))
	token, err := d.Token()
	if err != nil {
		return notAnEvent("it is not JSON")
	}
	if token != json.Delim('{') {
		return notAnEvent("it is not a JSON object")
	}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return notAnEvent("it is not JSON")
		}
		name, _ := token.(string)
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return notAnEvent("the value of %q is not JSON", clip(name))
		}
		if err := member(name, raw); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return notAnEvent("it is not JSON")
	}
	if len(bytes.TrimSpace(b[d.InputOffset():])) > 0 {
		return notAnEvent("something stands behind it")
	}
	return nil
}

func text(name string, value []byte) (s string, err error) {
	if value[0] != '"' {
		return "", notAnEvent("%q is not a text", clip(name))
	}
	if err := json.Unmarshal(value, &s); err != nil {
		return "", notAnEvent("%q is not a text", clip(name))
	}
	return s, nil
}

// actorOf reads the member metadata.
func actorOf(metadata []byte) (actor *Actor, err error) {
	if metadata[0] == 'n' {
		return nil, nil
	}
	if metadata[0] != '{' {
		return nil, notAnEvent("metadata is not an object")
	}
	seen := false
	err = members(metadata, func(name string, value []byte) error {
		if name != "actor" {
			return nil // it is kept verbatim
		}
		if seen {
			return notAnEvent("metadata has %q twice", name)
		}
		seen = true
		switch value[0] {
		case 'n':
			return nil
		case '{':
		default:
			return notAnEvent("the actor is not an object")
		}
		actor = new(Actor)
		return actor.decode(value)
	})
	return actor, err
}

func (a *Actor) decode(object []byte) error {
	var seen []string
	err := members(object, func(name string, value []byte) error {
		if len(seen) == maxActor {
			return notAnEvent("the actor has more than %d members", maxActor)
		}
		if slices.Contains(seen, name) {
			return notAnEvent("the actor has %q twice", clip(name))
		}
		seen = append(seen, name)
		field := a.field(name)
		if value[0] != '"' {
			if field != nil {
				return notAnEvent("%q of the actor is not a text", clip(name))
			}
			return nil // of a later version; it is kept verbatim
		}
		s, err := text(name, value)
		if err != nil {
			return err
		}
		if field != nil {
			*field = s
		} else {
			a.More = append(a.More, Text{name, s})
		}
		return nil
	})
	slices.SortFunc(a.More, func(x, y Text) int { return strings.Compare(x.Name, y.Name) })
	return err
}

func (a *Actor) field(name string) *string {
	switch name {
	case "authentication":
		return &a.Authentication
	case "ip":
		return &a.IP
	case "email":
		return &a.Email
	case "name":
		return &a.Name
	case "picture":
		return &a.Picture
	}
	return nil
}

// About returns what is known of an actor under a name that Flipt gives to all its methods:
// "email", "name" or "picture". Early events have it under the name of the method.
func (a *Actor) About(name string) string {
	if s := *a.field(name); s != "" {
		return s
	}
	for _, t := range a.More {
		if rest, ok := strings.CutPrefix(t.Name, "io.flipt.auth."); ok {
			if _, field, _ := strings.Cut(rest, "."); field == name {
				return t.Value
			}
		}
	}
	return ""
}

// onOneLine returns JSON without the line breaks that stand between its parts.
func onOneLine(value []byte) []byte {
	if bytes.IndexByte(value, '\n') < 0 && bytes.IndexByte(value, '\r') < 0 {
		return value
	}
	var b bytes.Buffer
	if json.Compact(&b, value) != nil {
		return value
	}
	return b.Bytes()
}

// checkDepth bounds how deep brackets are nested, outside of texts.
func checkDepth(b []byte) error {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			if depth++; depth > maxDepth {
				return notAnEvent("it is nested more than %d levels deep", maxDepth)
			}
		case c == '}', c == ']':
			depth--
		}
	}
	return nil
}

// clip shortens what an error quotes.
func clip(s string) string {
	const most = 40
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
