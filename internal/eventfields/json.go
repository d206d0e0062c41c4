package eventfields

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// jsonFields are those of Falco's plugin json, under both of the names that each of them has.
func jsonFields() []definition {
	var list []definition
	for _, prefix := range []string{"json", "jevt"} {
		also := ""
		if prefix == "jevt" {
			also = " The same as json."
		}
		text := func(name, description string, get func(*Reader, *query) []field.Element) definition {
			if also != "" {
				description = also[1:] + name + "."
			}
			return plain(prefix+"."+name, sourceplugin.String, description, get)
		}
		value := text("value", "The value in a JSON payload at a place, a JSON pointer such as /user/name, whose first slash may be left out. A text is without its quotes, what is no text as JSON. It is what Falco's plugin json gives: null is a value, and of members with the same name the first one counts.", nil)
		value.Arg = sourceplugin.ArgRule{Required: true, Key: true}
		value.bind = func(r *Reader, q *query) {
			if q.arg == "" { // the plugin has no value for no place
				q.get = func(*Reader, *query) []field.Element { return nil }
				return
			}
			q.node = r.pick.want(0, pointer(q.arg)...)
			q.get = func(r *Reader, q *query) []field.Element {
				if !r.read(q) {
					return nil
				}
				return q.json(r.pick.raw(q.node))
			}
		}
		list = append(list, value,
			text("obj", "A JSON payload as a whole, with line breaks and indentation.", indented),
			text("rawtime", "When it happened, in nanoseconds since 1970, of an event whose payload is JSON.",
				func(r *Reader, q *query) []field.Element {
					if !r.read(q) {
						return nil
					}
					q.buf = strconv.AppendInt(q.buf[:0], r.nanos, 10)
					return q.bytes()
				}))
	}
	return list
}

// indented answers with a JSON payload that people can read.
func indented(r *Reader, q *query) []field.Element {
	if !r.read(q) {
		return nil
	}
	data := r.data(q)
	b := bytes.NewBuffer(q.buf[:0])
	if json.Indent(b, unsafe.Slice(unsafe.StringData(data), len(data)), "", "  ") != nil {
		return nil
	}
	q.buf = b.Bytes()
	return q.bytes()
}
