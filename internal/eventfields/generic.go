package eventfields

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// plain makes a definition of a field without argument that needs no preparation.
func plain(name string, t sourceplugin.FieldType, description string, get func(*Reader, *query) []field.Element) definition {
	return definition{
		Field: sourceplugin.Field{Name: name, Type: t, Description: description},
		bind:  func(_ *Reader, q *query) { q.get = get },
	}
}

// genericFields are those of Falco that events of all sources have.
func genericFields() []definition {
	const (
		text, number = sourceplugin.String, sourceplugin.Uint64
		at, took     = sourceplugin.AbsTime, sourceplugin.RelTime
	)
	return []definition{
		plain("evt.num", number, "The number of the event among those of its event source that were looked at, counted from 1.",
			func(r *Reader, q *query) []field.Element { return q.number(r.number) }),
		plain("evt.time", text, "When it happened, as the time of a clock with nanoseconds, in the time zone of the rules.",
			func(r *Reader, q *query) []field.Element { return r.clockText(q, false, true) }),
		plain("evt.time.s", text, "The same without nanoseconds.",
			func(r *Reader, q *query) []field.Element { return r.clockText(q, false, false) }),
		plain("evt.time.iso8601", text, "When it happened, with date, nanoseconds and offset, in UTC.",
			func(r *Reader, q *query) []field.Element {
				q.buf = time.Unix(0, r.nanos).UTC().AppendFormat(q.buf[:0], "2006-01-02T15:04:05.000000000-0700")
				return r.stamped(q)
			}),
		plain("evt.datetime", text, "When it happened, with date and nanoseconds, in the time zone of the rules.",
			func(r *Reader, q *query) []field.Element { return r.clockText(q, true, true) }),
		plain("evt.datetime.s", text, "The same without nanoseconds.",
			func(r *Reader, q *query) []field.Element { return r.clockText(q, true, false) }),
		plain("evt.rawtime", at, "When it happened, in nanoseconds since 1970.",
			func(r *Reader, q *query) []field.Element { return q.number(uint64(r.nanos)) }),
		plain("evt.rawtime.s", at, "The whole seconds of evt.rawtime.",
			func(r *Reader, q *query) []field.Element { return q.number(uint64(r.nanos / 1e9)) }),
		plain("evt.rawtime.ns", at, "What evt.rawtime has beside whole seconds, in nanoseconds.",
			func(r *Reader, q *query) []field.Element { return q.number(uint64(r.nanos % 1e9)) }),
		plain("evt.reltime", took, "How long it happened after the first event of its event source that was looked at, in nanoseconds.",
			func(r *Reader, q *query) []field.Element { return q.number(r.since()) }),
		plain("evt.reltime.s", took, "The whole seconds of evt.reltime.",
			func(r *Reader, q *query) []field.Element { return q.number(r.since() / 1e9) }),
		plain("evt.reltime.ns", took, "What evt.reltime has beside whole seconds, in nanoseconds.",
			func(r *Reader, q *query) []field.Element { return q.number(r.since() % 1e9) }),
		plain("evt.pluginname", text, "The name of the plugin that the event came from; \"tocsin\" for events of the event source tocsin.",
			func(r *Reader, q *query) []field.Element {
				if r.source == falcoevent.EventSource {
					return q.text(falcoevent.EventSource)
				}
				name, _ := r.e.Metadata.Text(falcoevent.MetadataPlugin)
				return q.filled(name)
			}),
		plain("evt.plugininfo", text, "The event in a few words: what its plugin says of it, else how long its payload is and how it begins; type and path for events of the event source tocsin.", summary),
		plain("evt.source", text, "The event source: that of the plugin, or \"tocsin\".",
			func(r *Reader, q *query) []field.Element { return q.text(r.source) }),
		plain("evt.is_async", sourceplugin.Bool, "Whether it is an asynchronous event of a plugin.",
			func(r *Reader, q *query) []field.Element {
				_, async := asyncName(r.e.Type)
				return q.truth(async)
			}),
		plain("evt.asynctype", text, "The name of an asynchronous event.",
			func(r *Reader, q *query) []field.Element {
				name, async := asyncName(r.e.Type)
				if !async {
					return nil
				}
				return q.text(name)
			}),
		plain("evt.hostname", text, "The name of the machine that looks at the event, or what "+EnvHostname+" says.",
			func(r *Reader, q *query) []field.Element { return q.filled(r.o.Hostname) }),
	}
}

// nanosOf returns t in nanoseconds since 1970. What is outside their range is the nearest that is
// in it.
func nanosOf(t time.Time) int64 {
	s := t.Unix()
	switch {
	case s < 0:
		return 0
	case s >= math.MaxInt64/1_000_000_000:
		return math.MaxInt64
	}
	return s*1e9 + int64(t.Nanosecond())
}

// since is the time since the first event, never negative.
func (r *Reader) since() uint64 { return uint64(max(r.nanos-r.first, 0)) }

// asyncName returns the name of an asynchronous event of a plugin.
func asyncName(eventType string) (name string, async bool) {
	rest, ok := strings.CutPrefix(eventType, falcoevent.TypePrefix)
	if !ok {
		return "", false
	}
	_, name, async = strings.Cut(rest, "/")
	return falcoevent.Unescaped(name), async
}

// clock is a time in the time zone of the rules. Days and hours are looked up only when the
// minute changes.
type clock struct {
	known     bool
	minute    int64 // since 1970
	text      [len("2006-01-02 15:04:")]byte
	hour, day uint8 // of the day; of the week, Monday is 1
	ofDay     uint16
}

// local returns the clock at the time of the event.
func (r *Reader) local() *clock {
	c := &r.clock
	if minute := r.nanos / 60e9; !c.known || c.minute != minute {
		// Offsets of time zones are whole minutes nowadays; those of before 1972 need not be exact.
		t := time.Unix(minute*60, 0).In(r.o.Location)
		c.known, c.minute = true, minute
		t.AppendFormat(c.text[:0], "2006-01-02 15:04:")
		c.hour, c.ofDay = uint8(t.Hour()), uint16(t.Hour()*60+t.Minute())
		if c.day = uint8(t.Weekday()); c.day == 0 {
			c.day = 7
		}
	}
	return c
}

// clockText answers with the time of a clock.
func (r *Reader) clockText(q *query, date, nanos bool) []field.Element {
	c := r.local()
	text := c.text[:]
	if !date {
		text = text[len("2006-01-02 "):]
	}
	q.buf = append(q.buf[:0], text...)
	rest := r.nanos % 60e9
	q.buf = appendDigits(q.buf, rest/1e9, 2)
	if nanos {
		q.buf = append(q.buf, '.')
		q.buf = appendDigits(q.buf, rest%1e9, 9)
	}
	return r.stamped(q)
}

// stamped answers with the text in the buffer, and beside it with the time in nanoseconds, which
// is what Falco's JSON has for these fields.
func (r *Reader) stamped(q *query) []field.Element {
	q.one[0].Number = uint64(r.nanos)
	return q.bytes()
}

func appendDigits(dst []byte, n int64, digits int) []byte {
	at := len(dst)
	dst = append(dst, "000000000"[:digits]...)
	for i := at + digits - 1; i >= at; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}

// summary answers with the event in a few words.
func summary(r *Reader, q *query) []field.Element {
	if r.source == falcoevent.EventSource {
		q.buf = append(append(q.buf[:0], r.e.Type...), ' ')
		q.buf = append(append(q.buf, r.e.Namespace...), r.e.Path...)
		return q.bytes()
	}
	if r.o.Summary != nil {
		if text, ok := r.o.Summary(r.ctx, r.e); ok {
			return q.text(text)
		}
	}
	q.buf = appendShort(q.buf[:0], r.data(q))
	return q.bytes()
}

// shownBytes is how much of a payload is shown without the plugin's help.
const shownBytes = 50

// appendShort appends how long a payload is and how it begins, as Falco does it.
func appendShort(dst []byte, data string) []byte {
	dst = strconv.AppendInt(append(dst, "datalen="...), int64(len(data)), 10)
	dst = append(dst, " data="...)
	shown := data[:min(len(data), shownBytes)]
	for i := range len(shown) {
		if shown[i] < ' ' || shown[i] > '~' {
			return append(dst, "<binary>"...)
		}
	}
	dst = append(dst, shown...)
	if len(data) > len(shown) {
		dst = append(dst, "..."...)
	}
	return dst
}
