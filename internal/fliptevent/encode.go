package fliptevent

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// AppendWebhook appends e in the form of a webhook body.
func AppendWebhook(dst []byte, e *Event) []byte {
	w := writer{dst: dst, escape: true}
	w.text("version", e.Version)
	w.text("type", e.Type)
	w.text("action", e.Action)
	w.raw("metadata", e.metadata())
	w.raw("payload", e.Payload)
	w.text("timestamp", e.Timestamp)
	if e.hasStatus() {
		w.text("status", e.Status)
	}
	return w.end(e)
}

// AppendLogLine appends e in the form of the log file, without a newline.
func AppendLogLine(dst []byte, e *Event) []byte {
	if !e.hasStatus() {
		return AppendWebhook(dst, e) // so was the log of 0.1
	}
	return e.appendLog(writer{dst: dst})
}

// AppendConsole appends e in the form that the log has for people (encoding console), without
// a newline: with a space behind every colon and comma outside of metadata and payload.
func AppendConsole(dst []byte, e *Event) []byte {
	return e.appendLog(writer{dst: dst, spaced: true})
}

func (e *Event) appendLog(w writer) []byte {
	w.text("version", e.Version)
	w.text("type", e.Type)
	w.text("action", e.Action)
	w.text("status", e.Status)
	w.raw("metadata", e.metadata())
	w.raw("payload", e.Payload)
	w.text("timestamp", e.Timestamp)
	return w.end(e)
}

// metadata returns the JSON of the member.
func (e *Event) metadata() []byte {
	if e.Metadata != nil {
		return e.Metadata
	}
	if e.Actor == nil {
		return []byte("{}")
	}
	w := writer{dst: []byte(`{"actor":`)}
	a := e.Actor
	w.present("authentication", a.Authentication)
	if len(a.More) > 0 { // a map, which is sorted
		for _, t := range a.More {
			if t.Name < "ip" {
				w.text(t.Name, t.Value)
			}
		}
		w.present("ip", a.IP)
		for _, t := range a.More {
			if t.Name > "ip" {
				w.text(t.Name, t.Value)
			}
		}
	} else {
		w.present("ip", a.IP)
	}
	w.present("email", a.Email)
	w.present("name", a.Name)
	w.present("picture", a.Picture)
	return append(w.close(), '}')
}

// writer writes one object.
type writer struct {
	dst    []byte
	open   bool
	escape bool // <, > and &
	spaced bool
}

func (w *writer) name(name string) {
	switch {
	case !w.open:
		w.open = true
		w.dst = append(w.dst, '{')
	case w.spaced:
		w.dst = append(w.dst, ", "...)
	default:
		w.dst = append(w.dst, ',')
	}
	w.dst = append(appendString(w.dst, name, w.escape), ':')
	if w.spaced {
		w.dst = append(w.dst, ' ')
	}
}

func (w *writer) text(name, value string) {
	w.name(name)
	w.dst = appendString(w.dst, value, w.escape)
}

func (w *writer) present(name, value string) {
	if value != "" {
		w.text(name, value)
	}
}

func (w *writer) raw(name string, value []byte) {
	w.name(name)
	if value == nil {
		w.dst = append(w.dst, "null"...)
		return
	}
	w.dst = appendRaw(w.dst, value, w.escape)
}

func (w *writer) close() []byte {
	if !w.open {
		w.dst = append(w.dst, '{')
	}
	return append(w.dst, '}')
}

func (w *writer) end(e *Event) []byte {
	for _, m := range e.Unknown {
		w.raw(m.Name, m.Value)
	}
	return w.close()
}

// appendString appends a text as JSON, as encoding/json does.
func appendString(dst []byte, s string, escape bool) []byte {
	plain := true
	for i := 0; i < len(s) && plain; i++ {
		c := s[i]
		plain = ' ' <= c && c < utf8.RuneSelf && c != '"' && c != '\\' && !(escape && (c == '<' || c == '>' || c == '&'))
	}
	if plain {
		return append(append(append(dst, '"'), s...), '"')
	}
	var b bytes.Buffer
	j := json.NewEncoder(&b)
	j.SetEscapeHTML(escape)
	_ = j.Encode(s) // a text can always be encoded
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// appendRaw appends JSON in which <, > and & are escaped or not, whichever way they are in
// raw. They stand in texts only. All else stays as it is.
func appendRaw(dst, raw []byte, escape bool) []byte {
	const special = `<>&\`
	if !bytes.ContainsAny(raw, special) {
		return append(dst, raw...)
	}
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case escape && (c == '<' || c == '>' || c == '&'):
			dst = append(dst, `\u00`...)
			dst = append(dst, hexDigits[c>>4], hexDigits[c&15])
			continue
		case c == '\\' && i+1 < len(raw):
			if !escape && i+6 <= len(raw) {
				if j := strings.Index(`\u003c\u003e\u0026`, string(raw[i:i+6])); j >= 0 && j%6 == 0 {
					dst = append(dst, "<>&"[j/6])
					i += 5
					continue
				}
			}
			dst = append(dst, c)
			i++
			c = raw[i]
		}
		dst = append(dst, c)
	}
	return dst
}

const hexDigits = "0123456789abcdef"
