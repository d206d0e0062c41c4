// Package auditlog reads the entries that an audit device of Vault or OpenBao
// writes, one JSON object per line: it checks a line strictly, gives typed access
// to what derivation, tracing and rules need, says whether the request
// succeeded, and finds and redacts entries that were written with log_raw.
//
// It accepts the shapes of Vault 0.11 to 1.21 and OpenBao 2.x: any order of
// members, a text prefix before the object, members that are absent, null or
// empty, unknown members, and the entry types "<name>-request" and
// "<name>-response".
//
// It does not pair requests with responses, follow files, or know what an entry
// means for the secret engine that served it.
package auditlog

import (
	"fmt"
	"strings"
	"time"
	"unsafe"
)

// Reasons why a line is not an audit entry: short constants, fit for the label
// of a metric.
const (
	ReasonEmpty     = "empty"         // nothing but white space
	ReasonNotJSON   = "not-json"      // no JSON object in the line, or not well formed
	ReasonTruncated = "truncated"     // well formed up to the end, which comes too early
	ReasonXML       = "jsonx"         // the XML form of old Vault versions, which is not read
	ReasonUTF8      = "invalid-utf8"  // bytes that are not UTF-8
	ReasonControl   = "control-char"  // NUL or another control character inside a string
	ReasonDuplicate = "duplicate-key" // a member that decides something occurs twice
	ReasonDepth     = "too-deep"      // nested deeper than MaxDepth
	ReasonSchema    = "not-an-entry"  // JSON, but not an audit entry
	ReasonTime      = "bad-time"      // the time is not RFC 3339
)

// MaxDepth is how deep objects and arrays of an entry may be nested. A line that
// goes deeper is refused with [ReasonDepth].
const MaxDepth = 1000

// SyntaxError says why and where a line is not an audit entry. It never quotes
// the line, which may hold secrets.
type SyntaxError struct {
	Reason string // one of the Reason constants
	Detail string // for humans; a constant or the name of a member
	Offset int    // byte offset in the line
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("not an audit entry: %s at byte %d: %s", e.Reason, e.Offset, e.Detail)
}

// Entry is one audit entry. Its strings are safe to keep, but share the memory of
// the whole line: clone what lives much longer than the entry.
type Entry struct {
	Time     time.Time // zero when the entry has none (a device with field exclusion)
	TimeText string    // as written
	Type     string    // "request", "response", or "<name>-request", "<name>-response"
	// IsResponse is true for the second entry of a request, written when it was
	// done.
	IsResponse bool
	Error      string // the error text of the server; not hashed by it

	Auth     Auth // the caller
	Request  Request
	Response Response

	line      []byte
	tokenless bool // no field that holds a token has a value
}

// Auth is who called, or in [Response.Auth] the token that was issued.
type Auth struct {
	Present     bool
	ClientToken string // hashed
	Accessor    string // hashed unless the device has hmac_accessor=false; empty for batch tokens
	DisplayName string
	EntityID    string
	TokenType   string // "service", "batch", "default" (no token known)
	Policies    Value  // array of texts
	Metadata    Value  // object
	TokenTTL    Value  // seconds
	IssueTime   string // RFC 3339
	// PolicyResults says what the policies decided; see [Auth.Denied].
	PolicyResults Value
}

// Denied is true when a policy refused the request (and not, for instance, a bad
// token).
func (a *Auth) Denied() bool {
	allowed, ok := a.PolicyResults.Get("allowed").Bool()
	return ok && !allowed
}

// Request is what was asked.
type Request struct {
	Present             bool
	ID                  string // mostly a UUID; may be any text or empty
	ClientID            string
	Operation           string // "create", "update", "read", "list", "delete", "patch", ...
	Path                string // without namespace, with mount
	MountPoint          string // with namespace and trailing slash; empty before Vault 1.14
	MountType           string // "kv", "system", ...; empty before Vault 1.5
	MountAccessor       string // often missing in the request entry; see [Entry.MountAccessor]
	MountClass          string // "secret" or "auth"
	MountRunningVersion string // version of the plugin
	ClientToken         string // hashed
	ClientTokenAccessor string // hashed
	NamespaceID         string
	NamespacePath       string // with trailing slash; empty for root
	RemoteAddress       string
	RemotePort          Value
	WrapTTL             Value
	Headers             Value // object of arrays of texts
	Data                Data
}

// Response is what was answered. Present is false in request entries.
type Response struct {
	Present       bool
	MountPoint    string
	MountType     string
	MountAccessor string
	MountClass    string
	MountVersion  string // mount_running_plugin_version
	Auth          Auth
	HasSecret     bool   // "secret" is there: a read of kv v1, or a lease
	LeaseID       string // of "secret"
	Data          Data
	Wrap          WrapInfo
	Warnings      Value
	Redirect      string
	Headers       Value
}

// WrapInfo is there when the answer was wrapped; the wrapped data and auth are
// then not in the entry.
type WrapInfo struct {
	Present         bool
	Token           string // hashed
	Accessor        string // hashed
	WrappedAccessor string // hashed
	CreationPath    string
	TTL             Value
}

// Data is the data object of a request or a response. Text values are hashed as
// "hmac-sha256:<64 hex digits>" unless the device or the mount is configured
// otherwise; names, numbers and booleans are plain.
type Data struct {
	Value
	n     int // number of members
	known []member
}

type member struct {
	name  string
	value Value
}

// Len returns the number of members.
func (d *Data) Len() int { return d.n }

// Get returns the member with this name; the zero Value when there is none.
func (d *Data) Get(name string) Value {
	for i := range d.known {
		if d.known[i].name == name {
			return d.known[i].value
		}
	}
	if isKnownData(name) {
		return Value{}
	}
	return d.Value.Get(name)
}

func (d *Data) has(name string) bool { return d.Get(name).Kind() != Absent }

// isKnownData is true for the names that decide something in this program. They
// are indexed while parsing, and a line in which one occurs twice is refused.
func isKnownData(name string) bool {
	switch name {
	case "error", "data", "http_status_code", "http_raw_body",
		"version", "versions", "metadata", "options", "deletion_time", "subkeys", "keys",
		"current_version", "oldest_version",
		"max_versions", "cas_required", "delete_version_after", "custom_metadata", "metadata_cas_required", "metadata_cas",
		"type", "path", "from", "to":
		return true
	}
	return false
}

// Line returns the JSON text of the entry, without prefix and surrounding white
// space. It is the parser's copy, shared with the strings of the entry: it stays
// valid and must not be changed.
func (e *Entry) Line() []byte { return e.line }

func (e *Entry) text() string { return unsafe.String(unsafe.SliceData(e.line), len(e.line)) }

// MountAccessor returns the accessor of the mount, from wherever the entry has it.
func (e *Entry) MountAccessor() string {
	if a := e.Response.MountAccessor; a != "" {
		return a
	}
	return e.Request.MountAccessor
}

// MountType returns the type of the mount, from wherever the entry has it.
func (e *Entry) MountType() string {
	if t := e.Request.MountType; t != "" {
		return t
	}
	return e.Response.MountType
}

// MountPoint returns the path of the mount with its namespace, from wherever the
// entry has it.
func (e *Entry) MountPoint() string {
	if p := e.Request.MountPoint; p != "" {
		return p
	}
	return e.Response.MountPoint
}

// Outcome says how a request ended.
type Outcome uint8

// The ways in which a request ends.
const (
	Succeeded      Outcome = iota // the server did what was asked, or found nothing to do
	Unanswered                    // a request entry without error: the end is not known yet
	FailedError                   // the entry has an error text
	FailedResponse                // the response is an error response without error text
	FailedStatus                  // the response sets an HTTP status of 400 or above
)

// Failed is true for the three kinds of failure.
func (o Outcome) Failed() bool { return o >= FailedError }

// Outcome tells success from failure. The member "error" alone does not: a check
// of it misses two thirds of the failures. A request failed when any of these
// holds:
//
//   - the entry has a non-empty "error";
//   - response.data is an error answer, which the server recognises by its having
//     only the member "error", or only "error" and "data", and there is no
//     response.secret (a kv v1 secret may itself have a field "error");
//   - response.data.http_status_code is 400 or above.
//
// A request entry without error is [Unanswered]. A read that found nothing is a
// success without data.
func (e *Entry) Outcome() Outcome {
	if e.Error != "" {
		return FailedError
	}
	if !e.IsResponse {
		return Unanswered
	}
	d := &e.Response.Data
	if d.n == 0 {
		return Succeeded
	}
	if d.has("error") && !e.Response.HasSecret && (d.n == 1 || d.n == 2 && d.has("data")) {
		return FailedResponse
	}
	if code, ok := d.Get("http_status_code").Int(); ok && code >= 400 {
		return FailedStatus
	}
	return Succeeded
}

// Says reports whether one of the errors of the entry is exactly this one of the server, such
// as "permission denied". The server lists errors under each other; those of plugins may
// contain the same words without meaning the same.
func (e *Entry) Says(text string) bool {
	if !strings.Contains(e.Error, text) {
		return false
	}
	for line := range strings.SplitSeq(e.Error, "\n") {
		if strings.TrimPrefix(strings.TrimSpace(line), "* ") == text {
			return true
		}
	}
	return false
}

// OverQuota reports whether the request was refused because of a quota of the server.
func (e *Entry) OverQuota() bool {
	for _, text := range [...]string{"rate limit quota exceeded", "lease count quota exceeded"} {
		if strings.HasSuffix(strings.TrimSpace(e.Error), text) {
			return true
		}
	}
	return false
}
