package trace

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// Names of attributes that are not those of the entry. The first group is that of the
// semantic conventions of OpenTelemetry.
const (
	attrClientAddress = "client.address"
	attrClientPort    = "client.port"
	attrUserID        = "user.id"
	attrUserName      = "user.name"
	attrStatusCode    = "http.response.status_code"
	attrErrorType     = "error.type"

	attrIncomplete = "tocsin.incomplete" // "request_only" or "response_only"
	attrImported   = "tocsin.imported"   // true of a request of an old log
	attrAuditIDs   = "tocsin.audit.ids"  // ids of the audit events
	attrEventIDs   = "tocsin.event.ids"  // ids of the events derived from the request
)

const (
	// maxDepth is how many names a dotted name has at most; what is below is one text.
	maxDepth    = 8
	maxKeyBytes = 256
	// maxKeys bounds the names that are remembered.
	maxKeys = 4096
)

// key is what is known of a dotted name.
type key struct {
	name   string
	parent *key   // of the object that it is in
	last   string // the part of the name behind the last object's
	next   *key   // what came behind it the last time; entries are much alike
	keep   bool   // the attribute is wanted
	enter  bool   // something below it may be wanted
	token  bool   // a token: only its hash may be shown
	redact []*Redaction
	seen   uint64 // number of the span that had it last
}

// flattener makes attributes of entries. It is meant to be fast: names are looked up
// without being built anew, texts are those of the line, and attributes come from slabs.
type flattener struct {
	o          AttributeOptions
	redactions []Redaction
	keys       map[string]*key
	walker     auditlog.Walker
	list       auditlog.Walker // of the elements of an array
	path       []byte          // a dotted name
	previous   *key            // what was looked up last
	span       uint64          // number of the current span

	attributes []Attribute // of the current span; behind them is room for the next
	texts      []string    // likewise, for lists
	dropped    int
}

func newFlattener(o AttributeOptions, redactions []Redaction) *flattener {
	return &flattener{o: o, redactions: redactions, keys: make(map[string]*key)}
}

// Attributes and lists of texts come in slabs of these sizes: just below 32 KiB, and few, because
// a slab holds on to the memory of all the entries whose texts are in it.
const (
	slabAttributes = 448
	slabTexts      = 128
)

// newSlabs lets go of the slabs.
func (f *flattener) newSlabs() { f.attributes, f.texts = nil, nil }

// begin starts the attributes of a span.
func (f *flattener) begin() {
	f.span++
	f.dropped = 0
	f.previous = f.key("") // before the first
	if cap(f.attributes)-len(f.attributes) < f.o.MaxAttributes {
		f.attributes = make([]Attribute, 0, max(slabAttributes, f.o.MaxAttributes))
	}
	f.attributes = f.attributes[len(f.attributes):]
}

// end returns the attributes of the span, and how many there would have been beyond the
// limit.
func (f *flattener) end() (attributes []Attribute, dropped int) {
	n := len(f.attributes)
	return f.attributes[:n:n], f.dropped
}

// entry adds the attributes of an entry.
func (f *flattener) entry(e *auditlog.Entry) {
	f.walker.Reset(e)
	f.object(nil, 0)
}

// object adds what is in the object at the cursor.
func (f *flattener) object(parent *key, depth int) {
	w := &f.walker
	for w.Open(); ; {
		name, ok := w.Member()
		if !ok {
			return
		}
		if k := f.member(parent, name); k != nil {
			f.value(k, depth+1)
			continue
		}
		w.Skip()
		f.dropped++
	}
}

func (f *flattener) value(k *key, depth int) {
	w := &f.walker
	switch kind := w.Kind(); {
	case kind == auditlog.Object && k.enter && depth < maxDepth:
		f.object(k, depth)
	case !k.keep:
		w.Skip()
	case kind == auditlog.Text:
		text := w.Text()
		if text == "" || k.token && !auditlog.IsHashed(text) || f.o.OmitHashed && auditlog.IsHashed(text) {
			return
		}
		f.add(k, Value{Kind: Text, Text: f.text(k, text)})
	case kind == auditlog.Number:
		f.add(k, number(w.Skip().Raw()))
	case kind == auditlog.Bool:
		b, _ := w.Skip().Bool()
		f.add(k, BoolValue(b))
	case kind == auditlog.Array:
		f.array(k)
	case kind == auditlog.Object:
		if raw := w.Skip().Raw(); len(raw) > 2 {
			f.add(k, Value{Kind: Text, Text: f.text(k, raw)})
		}
	default:
		w.Skip()
	}
}

// array adds a list of texts as such, and other lists as their JSON text.
func (f *flattener) array(k *key) {
	v := f.walker.Skip()
	if cap(f.texts)-len(f.texts) < f.o.MaxElements {
		f.texts = make([]string, 0, max(slabTexts, f.o.MaxElements))
	}
	texts, more := f.texts[len(f.texts):], 0
	w := &f.list
	w.ResetTo(v)
	for w.Open(); w.Element(); {
		if w.Kind() != auditlog.Text {
			f.add(k, Value{Kind: Text, Text: f.text(k, v.Raw())})
			return
		}
		text := w.Text()
		switch {
		case k.token && !auditlog.IsHashed(text) || f.o.OmitHashed && auditlog.IsHashed(text):
		case len(texts) == f.o.MaxElements:
			more++
		default:
			texts = append(texts, f.text(k, text))
		}
	}
	if more > 0 {
		texts[len(texts)-1] = rest
	}
	f.addList(k, texts)
}

// addList adds a list of texts that stands behind those in use.
func (f *flattener) addList(k *key, texts []string) {
	if n := len(texts); n > 0 {
		f.texts = texts
		f.add(k, Value{Kind: Texts, Texts: texts[:n:n]})
	}
}

// add adds an attribute unless its name was there before.
func (f *flattener) add(k *key, v Value) {
	switch {
	case k.seen == f.span:
	case len(f.attributes) == f.o.MaxAttributes:
		f.dropped++
	default:
		k.seen = f.span
		f.attributes = append(f.attributes, Attribute{Key: k.name, Value: v})
	}
}

// put adds an attribute that does not stand in the entry.
func (f *flattener) put(name string, v Value) {
	if k := f.key(name); k.keep {
		if v.Kind == Text {
			v.Text = f.text(k, v.Text)
		}
		f.add(k, v)
	}
}

// putText adds a text that is not empty.
func (f *flattener) putText(name, text string) {
	if text != "" {
		f.put(name, TextValue(text))
	}
}

// putTexts adds a copy of a list that is not empty.
func (f *flattener) putTexts(name string, list []string) {
	k := f.key(name)
	if len(list) == 0 || !k.keep {
		return
	}
	if cap(f.texts)-len(f.texts) < len(list) {
		f.texts = make([]string, 0, max(slabTexts, len(list)))
	}
	f.addList(k, append(f.texts[len(f.texts):], list...))
}

// number reads a JSON number.
func number(raw string) Value {
	if n, err := strconv.ParseInt(raw, 10, 64); err == nil {
		return IntValue(n)
	}
	x, err := strconv.ParseFloat(raw, 64)
	if err != nil {
		return TextValue(raw)
	}
	return Value{Kind: Float, Num: math.Float64bits(x)}
}

// text redacts and shortens.
func (f *flattener) text(k *key, text string) string {
	for _, r := range k.redact {
		text = r.Pattern.ReplaceAllString(text, r.Replace)
	}
	return shorten(text, f.o.MaxText)
}

// shorten cuts a text to about maxBytes, at a character.
func shorten(text string, maxBytes int) string {
	if len(text) <= maxBytes {
		return text
	}
	cut := maxBytes
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + rest
}

// message is the text of an error, as the message of a span.
func (f *flattener) message(text string) string {
	if text == "" {
		return ""
	}
	return f.text(f.key("error"), strings.TrimSpace(text))
}

// member returns what is known of a member of an object; nil when its name is too long.
func (f *flattener) member(parent *key, name string) *key {
	if f.previous != nil {
		if k := f.previous.next; k != nil && k.parent == parent && k.last == name {
			f.previous = k
			return k
		}
	}
	f.path = f.path[:0]
	if parent != nil {
		f.path = append(append(f.path, parent.name...), '.')
	}
	f.path = append(f.path, name...)
	if len(f.path) > maxKeyBytes {
		return nil
	}
	k, ok := f.keys[string(f.path)]
	if !ok {
		k = f.newKey(string(f.path))
	}
	k.parent, k.last = parent, k.name[len(k.name)-len(name):]
	if f.previous != nil {
		f.previous.next = k
	}
	f.previous = k
	return k
}

// key returns what is known of a dotted name.
func (f *flattener) key(name string) *key {
	if k, ok := f.keys[name]; ok {
		return k
	}
	return f.newKey(name)
}

func (f *flattener) newKey(name string) *key {
	if len(f.keys) >= maxKeys+f.o.MaxAttributes { // so many that each of many spans is not searched in vain
		// Names come from the entries, so there may be any number. Those of the current
		// span are needed to recognise a name that occurs twice.
		f.previous = nil
		for name, old := range f.keys {
			if old.next = nil; old.seen != f.span {
				delete(f.keys, name)
			}
		}
	}
	k := &key{name: name}
	f.decide(k)
	f.keys[name] = k
	return k
}

// decide applies the options to a name.
func (f *flattener) decide(k *key) {
	name := k.name
	for i := range f.redactions {
		if globMatch(f.redactions[i].Key, name) {
			k.redact = append(k.redact, &f.redactions[i])
		}
	}
	switch name {
	case "auth.client_token", "request.client_token", "response.auth.client_token", "response.wrap_info.token":
		k.token = true
	case "time", "type", "":
		return // the span has the time, and is of both types
	}
	k.token = k.token || isSecretHeader(name)
	data := below(name, "request.data") || below(name, "response.data")
	allowed := matchesAny(f.o.Allow, name)
	switch {
	case data:
		k.enter = allowed || reachesAny(f.o.Allow, name)
		k.keep = allowed
	case len(f.o.Allow) == 0, !below(name, "auth") && !below(name, "request") && !below(name, "response"):
		k.enter, k.keep = true, true
	default:
		k.enter = true
		k.keep = allowed
	}
	if matchesAny(f.o.Deny, name) {
		k.keep = false
	}
}

// secretHeaders are the headers whose values let somebody in. A server shows them hashed or
// not, as it was told to when they were made part of its log.
var secretHeaders = []string{
	"authorization", "proxy-authorization", "cookie", "set-cookie", "x-vault-token", "x-vault-recovery-token", "x-api-key",
	"x-amz-security-token", "x-goog-iam-authorization-token", "x-forwarded-access-token", "x-auth-request-access-token",
}

func isSecretHeader(name string) bool {
	header, ok := strings.CutPrefix(name, "request.headers.")
	if !ok {
		header, ok = strings.CutPrefix(name, "response.headers.")
	}
	return ok && slices.Contains(secretHeaders, strings.ToLower(header))
}

// below is true for a name and for those that begin with it and a dot.
func below(name, top string) bool {
	return strings.HasPrefix(name, top) && (len(name) == len(top) || name[len(top)] == '.')
}

func matchesAny(globs []string, name string) bool {
	for _, g := range globs {
		if globMatch(g, name) {
			return true
		}
	}
	return false
}

// reachesAny is true when a glob may match something below name.
func reachesAny(globs []string, name string) bool {
	for _, g := range globs {
		literal, _, star := strings.Cut(g, "*")
		switch {
		case strings.HasPrefix(literal, name) && len(literal) > len(name) && literal[len(name)] == '.':
			return true
		case star && (strings.HasPrefix(name, literal) || strings.HasPrefix(literal, name)):
			return true
		}
	}
	return false
}

// conventions adds the attributes of the semantic conventions.
func (f *flattener) conventions(e *auditlog.Entry) {
	f.putText(attrClientAddress, e.Request.RemoteAddress)
	if port, ok := e.Request.RemotePort.Int(); ok && port > 0 {
		f.put(attrClientPort, IntValue(port))
	}
	caller := callerOf(e)
	f.putText(attrUserID, caller.EntityID)
	f.putText(attrUserName, caller.DisplayName)
	code, kind := status(e)
	if code != 0 {
		f.put(attrStatusCode, IntValue(code))
	}
	f.putText(attrErrorType, kind)
}

// callerOf returns who made a request; for a login, which nobody has made before it, who
// logged in.
func callerOf(e *auditlog.Entry) *auditlog.Auth {
	if e.Auth.EntityID == "" && e.Auth.DisplayName == "" {
		return &e.Response.Auth
	}
	return &e.Auth
}

// status tells the HTTP status of the answer, 0 where it cannot be known, and what kind of
// failure it was, empty if it was none. The entry has the status only if the plugin set it;
// otherwise it follows from the error texts of the server.
func status(e *auditlog.Entry) (code int64, kind string) {
	outcome := e.Outcome()
	if n, ok := e.Response.Data.Get("http_status_code").Int(); ok && n >= 100 && n <= 599 {
		code = n
	}
	switch outcome {
	case auditlog.FailedStatus:
		if code == 0 {
			return 0, "_OTHER"
		}
		return code, strconv.FormatInt(code, 10)
	case auditlog.FailedResponse:
		if code == 0 {
			code = 400 // what the server answers unless an error says otherwise
		}
		return code, "error_response"
	case auditlog.FailedError:
	default:
		return code, ""
	}
	for _, known := range errorKinds {
		if e.Says(known.text) {
			return known.code, known.kind
		}
	}
	if e.OverQuota() {
		return 429, "rate_limited"
	}
	return code, "_OTHER"
}

// errorKinds are the errors of the server that have one HTTP status.
var errorKinds = []struct {
	text string
	code int64
	kind string
}{
	{"permission denied", 403, "permission_denied"},
	{"unsupported operation", 405, "unsupported_operation"},
	{"unsupported path", 404, "unsupported_path"},
	{"invalid request", 400, "invalid_request"},
	{"internal error", 500, "internal_error"},
}

// checkGlob bounds the time that a glob takes.
func checkGlob(glob string) error {
	if glob == "" || len(glob) > maxKeyBytes || strings.Count(glob, "*") > 8 {
		return fmt.Errorf("%q is not a name of attributes with at most eight *", shorten(glob, 40))
	}
	return nil
}
