package audit

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// encoder makes of an event what a queue keeps.
type encoder struct {
	redactor *redactor
	maxBytes int
	refuse   bool // rather than leave out what is too large
	diffOnly bool
	log      *slog.Logger
}

// ErrTooLarge is wrapped by the error about an event that is larger than allowed, when the
// logger was told to refuse it.
var ErrTooLarge = fmt.Errorf("%w: it is too large", ErrInvalid)

var writers = sync.Pool{New: func() any { return new(writer) }}

// maxPooled bounds the memory that is kept for the next event.
const maxPooled = 64 << 10

func (w *writer) release() {
	if cap(w.buf) > maxPooled {
		w.buf = nil
	}
	clear(w.truncated)
	*w = writer{buf: w.buf[:0], truncated: w.truncated[:0], keys: w.keys[:0]}
	writers.Put(w)
}

// write writes the members of an event behind its sequence into w. The event is complete, and
// is changed.
func (c *encoder) write(w *writer, e *Event) error {
	if err := e.check(); err != nil {
		return err
	}
	if err := c.states(w, e); err != nil {
		return err
	}
	c.hide(w, e)
	c.context(w, e)
	w.limits = usualLimits
	told := len(w.truncated)
	w.event(e)
	switch {
	case len(w.buf) <= c.maxBytes && (!c.refuse || len(w.truncated) == told):
		return nil
	case c.refuse && len(w.buf) <= c.maxBytes:
		return fmt.Errorf("%w: %s has %d bytes", ErrTooLarge, w.truncated[told].Path, w.truncated[told].Bytes)
	case c.refuse:
		return fmt.Errorf("%w: %d bytes of JSON, at most %d are allowed", ErrTooLarge, len(w.buf), c.maxBytes)
	}
	for _, m := range w.largest() {
		m.remove()
		w.truncated = append(w.truncated[:told], Truncation{m.path, m.bytes})
		told++
		w.buf = w.buf[:0]
		if w.event(e); len(w.buf) <= c.maxBytes {
			return nil
		}
	}
	w.limits, w.truncated, w.buf = tightLimits, w.truncated[:told], w.buf[:0]
	w.event(e)
	return nil
}

// member is one of the members that may be as large as they like.
type member struct {
	path   string
	bytes  int
	remove func()
}

// largest returns the members that there are, the largest first.
func (w *writer) largest() []member {
	var all []member
	add := func(path string, bytes int, remove func()) {
		if bytes == 0 {
			return
		}
		i := 0
		for i < len(all) && all[i].bytes >= bytes {
			i++
		}
		all = append(all[:i], append([]member{{path, bytes, remove}}, all[i:]...)...)
	}
	add("/payload", len(w.payload), func() { w.payload = nil })
	add("/before", len(w.before), func() { w.before = nil })
	add("/after", len(w.after), func() { w.after = nil })
	if w.changes != nil {
		add("/changes", len(appendChanges(nil, w.changes)), func() { w.changes = nil })
	}
	return all
}

// states encodes Before, After and Payload, and compares.
func (c *encoder) states(w *writer, e *Event) (err error) {
	for _, m := range [...]struct {
		name, path string
		value      any
		to         *[]byte
	}{{"Before", "/before", e.Before, &w.before}, {"After", "/after", e.After, &w.after}, {"Payload", "/payload", e.Payload, &w.payload}} {
		if *m.to, err = encodeMember(m.name, m.value); err == nil {
			continue
		}
		if c.refuse {
			return err
		}
		// What somebody has sent may be in it, and must not keep the event out.
		c.log.Warn("a part of an audit event cannot be encoded and is left out", "event", e.Service+"/"+e.Target.Type+"/"+e.Action, "error", err)
		w.truncate(m.path, 0)
	}
	switch {
	case e.Changes != nil:
		w.changes = bounded(e.Changes)
		c.redactor.changes(w.changes)
	case w.before != nil && w.after != nil && len(w.before)+len(w.after) > 16*c.maxBytes:
		w.truncate("/changes", len(w.before)+len(w.after)) // the comparison would take too much memory
	case w.before != nil && w.after != nil:
		before, err := decodeTree(w.before)
		if err != nil {
			return fmt.Errorf("%w: Before: %w", ErrInvalid, err) // it was encoded: not reached
		}
		after, err := decodeTree(w.after)
		if err != nil {
			return fmt.Errorf("%w: After: %w", ErrInvalid, err) // the same
		}
		changes := diffTrees(before, after)
		w.changes = &changes
		c.redactor.changes(w.changes)
	}
	if c.diffOnly && w.changes != nil {
		w.before, w.after = nil, nil
	}
	w.before, w.after, w.payload = c.redactor.json(w.before), c.redactor.json(w.after), c.redactor.json(w.payload)
	return nil
}

// bounded returns a copy with at most [MaxChanges] paths.
func bounded(c *Changes) *Changes {
	d := differ{changes: Changes{More: c.More}}
	add := func(to *[]string, from []string) {
		for _, path := range from {
			d.path = append(d.path[:0], path...)
			d.add(to)
		}
	}
	add(&d.changes.Added, c.Added)
	add(&d.changes.Removed, c.Removed)
	add(&d.changes.Changed, c.Changed)
	return &d.changes
}

// hide replaces what looks like a secret in the texts of an event.
func (c *encoder) hide(w *writer, e *Event) {
	r := c.redactor
	e.Reason = r.text(e.Reason)
	e.Target.ID, e.Target.Path, e.Target.Name = r.text(e.Target.ID), r.text(e.Target.Path), r.text(e.Target.Name)
	copied := false
	w.keys = w.keys[:0]
	for k, v := range e.Metadata {
		w.keys = append(w.keys, k)
		name, text := r.text(k), r.value(k, v)
		if name == k && text == v {
			continue
		}
		if !copied { // the map belongs to the caller
			m := make(map[string]string, len(e.Metadata))
			for k, v := range e.Metadata {
				m[k] = v
			}
			e.Metadata, copied = m, true
		}
		delete(e.Metadata, k)
		e.Metadata[name] = text
	}
	if copied {
		w.keys = w.keys[:0] // they may be others
	}
}

// context leaves out what is not as it has to be, because it would mean something else when
// it was cut.
func (c *encoder) context(w *writer, e *Event) {
	if e.Traceparent != "" && !isTraceparent(e.Traceparent) {
		w.truncate("/traceparent", len(e.Traceparent))
		e.Traceparent = ""
	}
	if e.Tracestate != "" && (e.Traceparent == "" || len(e.Tracestate) > maxTracestate || !isPrintable(e.Tracestate)) {
		w.truncate("/tracestate", len(e.Tracestate))
		e.Tracestate = ""
	}
	if ns := strings.Trim(e.Target.Namespace, "/"); ns != "" && (len(ns) > maxNamespaceBytes || !isVisible(ns)) {
		w.truncate("/target/namespace", len(ns))
		e.Target.Namespace = ""
	}
}

// isPrintable reports whether there are only printable ASCII characters and spaces.
func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// isTraceparent reports whether a text is a header field of W3C Trace Context, section
// 3.2, of version 00 or a later one.
func isTraceparent(s string) bool {
	const length = 55
	if len(s) < length || len(s) > 512 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	zero := func(s string) bool { return strings.Trim(s, "0") == "" }
	for _, part := range [...]string{s[:2], s[3:35], s[36:52], s[53:55]} {
		for i := range len(part) {
			if c := part[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	switch {
	case s[:2] == "ff", zero(s[3:35]), zero(s[36:52]):
		return false
	case len(s) > length && (s[:2] == "00" || s[length] != '-'):
		return false
	}
	return isPrintable(s)
}
