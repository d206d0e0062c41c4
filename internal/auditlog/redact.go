package auditlog

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strings"
	"time"
	"unsafe"
)

// hashPrefix begins every value that an audit device has hashed.
const hashPrefix = "hmac-sha256:"

// IsHashed is true for a text that has the form of a value hashed by an audit
// device.
func IsHashed(s string) bool {
	if len(s) != len(hashPrefix)+2*sha256.Size || !strings.HasPrefix(s, hashPrefix) {
		return false
	}
	bad := false
	for _, b := range []byte(s[len(hashPrefix):]) {
		bad = bad || !isLowerHex[b]
	}
	return !bad
}

var isLowerHex = func() (t [256]bool) {
	for _, b := range "0123456789abcdef" {
		t[b] = true
	}
	return t
}()

// Raw tells whether the entry was written with log_raw, so that it has tokens and
// secrets in clear, and whether that is sure.
//
// A token that is not hashed says yes, a hashed one says no, both surely. An entry
// without any token (a login, the probe of a new device) counts as raw when other
// entries of the stream were, or when its data has plain texts and none that is
// hashed. Headers do not count: they are hashed or not by a setting of their own.
func (e *Entry) Raw(streamIsRaw bool) (raw, sure bool) {
	if !e.tokenless {
		for _, token := range [...]string{e.Auth.ClientToken, e.Request.ClientToken, e.Response.Auth.ClientToken, e.Response.Wrap.Token} {
			if token != "" && !IsHashed(token) {
				return true, true
			}
		}
		return false, true
	}
	if streamIsRaw {
		return true, false
	}
	plain, hashed := false, false
	for _, data := range [...]string{e.Request.Data.raw, e.Response.Data.raw} {
		eachText(data, func(_, _ int, text string) {
			hashed = hashed || IsHashed(text)
			plain = plain || !IsHashed(text) && !isTime(text)
		})
	}
	return plain && !hashed, false
}

// eachText calls f for every text in a checked JSON value that is not the name of
// a member, with its place including the quotes.
func eachText(json string, f func(from, to int, text string)) {
	var c scanner
	c.reset(json)
	for c.i < len(json) {
		if json[c.i] != '"' {
			c.i++
			continue
		}
		from := c.i
		raw, escaped, ok := c.text()
		if !ok {
			return
		}
		to := c.i
		if c.peek() == ':' {
			continue
		}
		if escaped {
			raw = unescape(raw)
		}
		f(from, to, raw)
	}
}

// isTime is true for the texts that devices leave plain inside data.
func isTime(s string) bool {
	if len(s) < len("2006-01-02T15:04:05Z") || !isDigit(s[0]) {
		return false
	}
	_, err := time.Parse(time.RFC3339Nano, s)
	return err == nil
}

// Redactor hashes what an audit device with log_raw has left in clear. It is not
// safe for concurrent use.
type Redactor struct {
	mac hash.Hash
	sum []byte
}

// NewRedactor returns a Redactor whose hashes are keyed with salt. Equal values
// have equal hashes under one salt.
func NewRedactor(salt []byte) *Redactor {
	return &Redactor{mac: hmac.New(sha256.New, salt)}
}

// Redact appends the JSON text of e to dst, with everything replaced by
// "hmac-sha256:<hex>" that a device without log_raw would have hashed: tokens,
// accessors and every text inside the data of request and response, except
// timestamps. Beyond that it hashes what may hold a copy of them and cannot be
// told apart: header values except trace context, error texts that are not known
// ones of the server, and every text in a member of auth, request or response
// that this program does not know. All other bytes, and the order of the
// members, are kept. A value that is hashed already stays as it is.
func (r *Redactor) Redact(dst []byte, e *Entry) []byte {
	w := rewriter{r: r, dst: dst}
	w.c.reset(e.text())
	w.object(func(name string) action {
		switch name {
		case "auth":
			return w.auth
		case "request":
			return w.request
		case "response":
			return w.response
		case "error":
			return w.errorText
		case "time", "type", "forwarded", "forwarded_from":
			return w.copy
		}
		return w.hash
	})
	return append(w.dst, w.c.s[w.done:]...)
}

// Hash appends the hash of b, which need not be an entry, to dst.
func (r *Redactor) Hash(dst, b []byte) []byte {
	return r.append(dst, unsafe.String(unsafe.SliceData(b), len(b)))
}

// rewriter copies a checked line and replaces texts on the way.
type rewriter struct {
	r    *Redactor
	c    scanner
	dst  []byte
	done int // what of the line is in dst
}

// action handles the value at the cursor.
type action func()

func (w *rewriter) object(member func(name string) action) {
	if w.c.peek() != '{' {
		w.hash()
		return
	}
	for w.c.open(); ; {
		name, ok := w.c.member()
		if !ok {
			return
		}
		member(name)()
	}
}

func (w *rewriter) copy() { w.c.skip() }

// hash replaces every text in the value.
func (w *rewriter) hash() {
	w.c.peek()
	from := w.c.i
	value, _ := w.c.skip()
	eachText(value, func(start, end int, text string) {
		if !IsHashed(text) && !isTime(text) {
			w.replace(from+start, from+end, text)
		}
	})
}

func (w *rewriter) replace(from, to int, text string) {
	w.dst = append(w.dst, w.c.s[w.done:from]...)
	w.dst = append(w.dst, '"')
	w.dst = w.r.append(w.dst, text)
	w.dst = append(w.dst, '"')
	w.done = to
}

func (r *Redactor) append(dst []byte, text string) []byte {
	r.mac.Reset()
	r.mac.Write([]byte(text))
	r.sum = r.mac.Sum(r.sum[:0])
	return hex.AppendEncode(append(dst, hashPrefix...), r.sum)
}

func (w *rewriter) auth() {
	w.object(func(name string) action {
		switch name {
		case "display_name", "policies", "token_policies", "identity_policies", "external_namespace_policies",
			"no_default_policy", "metadata", "entity_id", "entity_created", "policy_results", "num_uses",
			"remaining_uses", "token_ttl", "token_type", "token_issue_time":
			return w.copy
		}
		return w.hash
	})
}

func (w *rewriter) request() {
	w.object(func(name string) action {
		switch name {
		case "id", "client_id", "operation", "mount_point", "mount_type", "mount_accessor", "mount_running_version",
			"mount_running_sha256", "mount_class", "mount_is_external_plugin", "namespace", "path", "policy_override",
			"remote_address", "remote_port", "wrap_ttl", "replication_cluster", "client_certificate_serial_number",
			"request_uri":
			return w.copy
		case "headers":
			return w.headers
		}
		return w.hash
	})
}

func (w *rewriter) response() {
	w.object(func(name string) action {
		switch name {
		case "auth":
			return w.auth
		case "wrap_info":
			return w.wrapInfo
		case "headers":
			return w.headers
		case "mount_point", "mount_type", "mount_accessor", "mount_running_plugin_version", "mount_running_sha256",
			"mount_class", "mount_is_external_plugin", "secret", "warnings", "redirect":
			return w.copy
		}
		return w.hash
	})
}

func (w *rewriter) wrapInfo() {
	w.object(func(name string) action {
		switch name {
		case "ttl", "creation_time", "creation_path":
			return w.copy
		}
		return w.hash
	})
}

// headers keeps the trace context, which tracing needs and which is no secret.
func (w *rewriter) headers() {
	w.object(func(name string) action {
		switch strings.ToLower(name) {
		case "traceparent", "tracestate", "correlation-id", "x-correlation-id":
			return w.copy
		}
		return w.hash
	})
}

// errorText keeps the texts of the server that say nothing about the request's
// data.
func (w *rewriter) errorText() {
	w.c.peek()
	from := w.c.i
	value, _ := w.c.skip()
	text, ok := Value{value}.Text()
	if ok && text != "" && !isKnownError(text) && !IsHashed(text) {
		w.replace(from, w.c.i, text)
	}
}

func isKnownError(text string) bool {
	text = strings.TrimSpace(text)
	text = strings.TrimPrefix(text, "1 error occurred:")
	switch strings.TrimLeft(text, " \t\n*") {
	case "permission denied", "invalid request", "unsupported path", "unsupported operation", "invalid credentials",
		"internal error", "missing client token", "invalid token", "bad token", "wrapping token is not valid or does not exist",
		"request path is rate limited", "rate limit quota exceeded", "lease count quota exceeded", "no handler for route":
		return true
	}
	return false
}
