// Package tracecontext says to which trace a request of Vault or OpenBao belongs and
// what the id of its span is. It reads and writes the header fields of W3C Trace Context
// (levels 1 and 2).
//
// The ids belong to the audit entry, so whoever has the entry has them: the tracer, which
// makes the span, and the derivation of notifications, which point to it.
package tracecontext

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// TraceID and SpanID are the identifiers of W3C Trace Context. The zero value is no id.
type (
	TraceID [16]byte
	SpanID  [8]byte
)

// String returns 32 lower-case hex digits.
func (id TraceID) String() string { return hex.EncodeToString(id[:]) }

// IsZero is true for no id.
func (id TraceID) IsZero() bool { return id == TraceID{} }

// String returns 16 lower-case hex digits.
func (id SpanID) String() string { return hex.EncodeToString(id[:]) }

// IsZero is true for no id.
func (id SpanID) IsZero() bool { return id == SpanID{} }

// Flags are the trace flags.
type Flags byte

// The flags that exist. Others are not passed on.
const (
	Sampled Flags = 1 << iota // the caller records this trace
	Random                    // the last seven bytes of the trace id are random

	knownFlags = Sampled | Random
)

// Context is the place of a request in a trace.
type Context struct {
	TraceID TraceID
	SpanID  SpanID // of the request itself
	Parent  SpanID // of its caller; zero: the request begins the trace
	Flags   Flags
	State   string // tracestate of the caller, empty without one
}

// Joined is true when the request is part of its caller's trace.
func (c *Context) Joined() bool { return !c.Parent.IsZero() }

// Traceparent returns the header field that names the span of the request as the parent.
func (c *Context) Traceparent() string {
	b := make([]byte, 0, traceparentBytes)
	return string(AppendTraceparent(b, c.TraceID, c.SpanID, c.Flags))
}

// FromEntry returns the context of the request that an audit entry of a source is about.
//
// If the entry shows the header field traceparent of the request, in clear, once and
// valid, the request joins that trace: trace id, parent and flags are those of the caller,
// and so is a valid tracestate. (The server shows it when sys/config/auditing/request-headers
// says so.) Otherwise the trace id is the 16 bytes of the request id, or a hash of a request
// id that is no UUID.
//
// The span id is a hash of source, request id, and kind of the entry, so that a request
// entry that stays without a response has another one than a response: the span of a
// request that was answered has the id that its response entry gives. Where the request id
// is no UUID, and so not unique, the time of the entry goes into the hash too, and where
// there is none, all that tells entries apart.
func FromEntry(source string, e *auditlog.Entry) Context {
	r := &e.Request
	c := Context{Flags: Sampled | Random}
	id, isUUID := auditlog.ParseUUID(r.ID)
	c.TraceID = id
	if !isUUID || c.TraceID.IsZero() {
		h := hasher{}
		h.add("trace")
		if h.add(r.ID); r.ID == "" {
			h.add(source, e.Type, e.TimeText, r.Operation, r.NamespacePath, r.Path)
		}
		sum := h.sum()
		c.TraceID = TraceID(sum[:16])
	}

	h := hasher{}
	h.add("span", source, r.ID)
	if e.IsResponse {
		h.add("response")
	} else {
		h.add("request")
	}
	if !isUUID {
		h.add(e.TimeText)
		if r.ID == "" {
			h.add(e.Type, r.Operation, r.NamespacePath, r.Path)
		}
	}
	sum := h.sum()
	c.SpanID = SpanID(sum[:8])
	if c.SpanID.IsZero() {
		c.SpanID[7] = 1
	}

	if r.Headers.Present() {
		c.join(r.Headers)
	}
	return c
}

// join takes over what the caller sent.
func (c *Context) join(headers auditlog.Value) {
	var parent auditlog.Value
	var parents int
	var state auditlog.Value
	for name, v := range headers.Members() {
		switch name {
		case "traceparent":
			parent = v
			parents++
		case "tracestate":
			state = v
		}
	}
	if parents != 1 {
		return
	}
	var field string
	n := 0
	for v := range parent.Elements() {
		text, ok := v.Text()
		if n++; n > 1 || !ok {
			return
		}
		field = text
	}
	p, ok := ParseTraceparent(field)
	if !ok {
		return
	}
	c.TraceID, c.Parent, c.Flags = p.TraceID, p.Parent, p.Flags
	fields := make([]string, 0, 4)
	for v := range state.Elements() {
		text, ok := v.Text()
		if !ok || len(fields) == maxStateMembers {
			return
		}
		fields = append(fields, text)
	}
	c.State, _ = ParseTracestate(fields...)
}

// hasher hashes texts so that ("ab", "c") and ("a", "bc") differ.
type hasher struct {
	buf [256]byte
	n   int
	big []byte // instead of buf when that is too small
}

func (h *hasher) add(texts ...string) {
	for _, text := range texts {
		if h.big == nil && h.n+len(text)+4 > len(h.buf) {
			h.big = append(make([]byte, 0, h.n+len(text)+256), h.buf[:h.n]...)
		}
		if h.big != nil {
			h.big = append(binary.BigEndian.AppendUint32(h.big, uint32(len(text))), text...)
			continue
		}
		binary.BigEndian.PutUint32(h.buf[h.n:], uint32(len(text)))
		h.n += 4 + copy(h.buf[h.n+4:], text)
	}
}

func (h *hasher) sum() [sha256.Size]byte {
	if h.big != nil {
		return sha256.Sum256(h.big)
	}
	return sha256.Sum256(h.buf[:h.n])
}
