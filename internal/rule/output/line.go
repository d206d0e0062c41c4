package output

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/severity"
)

// Alert is what is in a line about an alert.
type Alert struct {
	Hostname string
	Priority severity.Severity
	Rule     string
	Source   string
	Tags     []string // sorted
	Time     time.Time
	// ISO8601 has the message begin with the date and the time in UTC, as with the setting
	// time_format_iso_8601 of Falco, instead of a clock time.
	ISO8601 bool
	// Message is the text of the template; Fields are its fields.
	Message string
	Fields  []Field
}

// The fields of the time that begins a line; it is among the fields in JSON.
const (
	timeField    = "evt.time"
	isoTimeField = "evt.time.iso8601"
)

// AppendMessage appends TIME: PRIORITY MESSAGE, with the clock time of a location unless ISO8601.
func (a *Alert) AppendMessage(dst []byte, location *time.Location) []byte {
	if a.ISO8601 {
		dst = a.Time.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000000-0700")
	} else {
		dst = a.Time.In(location).AppendFormat(dst, "15:04:05.000000000")
	}
	dst = append(dst, ": "...)
	dst = append(dst, a.Priority.String()...)
	dst = append(dst, ' ')
	return append(dst, a.Message...)
}

// AppendText appends the alert as a line of text, as Falco writes it: the message with the escapes
// of JSON, so that it is one line, and a line feed.
func (a *Alert) AppendText(dst []byte, location *time.Location) []byte {
	from := len(dst)
	dst = jsontext.AppendString(dst, string(a.AppendMessage(nil, location)))
	dst = slices.Delete(dst, from, from+1) // the quotes
	dst[len(dst)-1] = '\n'
	return dst
}

// AppendJSON appends the alert as a line of JSON in Falco's form: an object with hostname, output,
// output_fields, priority, rule, source, tags and time, and a line feed. The time is in UTC, except
// in the output.
func (a *Alert) AppendJSON(dst []byte, location *time.Location) []byte {
	dst = append(dst, `{"hostname":`...)
	dst = jsontext.AppendString(dst, a.Hostname)
	dst = append(dst, `,"output":`...)
	dst = jsontext.AppendString(dst, string(a.AppendMessage(nil, location)))
	dst = append(dst, `,"output_fields":{`...)
	for i, f := range a.sortedFields() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = jsontext.AppendString(dst, f.Name)
		dst = append(dst, ':')
		dst = append(dst, f.JSON...)
	}
	dst = append(dst, `},"priority":`...)
	dst = jsontext.AppendString(dst, a.Priority.String())
	dst = append(dst, `,"rule":`...)
	dst = jsontext.AppendString(dst, a.Rule)
	dst = append(dst, `,"source":`...)
	dst = jsontext.AppendString(dst, a.Source)
	dst = append(dst, `,"tags":`...)
	if len(a.Tags) == 0 {
		dst = append(dst, "[]"...)
	} else {
		dst = jsontext.AppendStrings(dst, a.Tags)
	}
	dst = append(dst, `,"time":"`...)
	dst = a.Time.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000000Z")
	return append(dst, "\"}\n"...)
}

// sortedFields returns the fields by name, with that of the time.
func (a *Alert) sortedFields() []Field {
	fields, name := slices.Clone(a.Fields), timeField
	if a.ISO8601 {
		name = isoTimeField
	}
	if !slices.ContainsFunc(fields, func(f Field) bool { return f.Name == name }) {
		fields = append(fields, Field{Name: name, JSON: appendNanos(nil, a.Time)})
	}
	slices.SortFunc(fields, func(f, g Field) int { return strings.Compare(f.Name, g.Name) })
	return fields
}

func appendNanos(dst []byte, t time.Time) []byte {
	return strconv.AppendInt(dst, t.UnixNano(), 10)
}
