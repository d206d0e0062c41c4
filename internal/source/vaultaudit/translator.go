package vaultaudit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/derivation"
)

// Types of the events that stand for the lines of an audit log. Notifications
// derived from them have the types of package derivation.
const (
	TypeRequest     = "audit/request"
	TypeResponse    = "audit/response"
	TypeQuarantined = "audit/quarantined"
)

// Metadata keys of audit events, beside those of package event. A key is present
// only when the entry has a value for it.
const (
	metadataMountPoint  = "mount_point"
	metadataMountType   = "mount_type"
	metadataReason      = "reason"     // quarantined events: one of auditlog's reasons
	metadataRedacted    = "redacted"   // "true" when Data is not what the server wrote
	metadataRequestID   = "request_id" //
	metadataRequestPath = "request_path"
)

// TranslatorConfig says how the lines of one source become events. Only Name is
// required.
type TranslatorConfig struct {
	// Name of the source. Events have the source "vault://<Name>", audit events the
	// path "sys/audit/<Name>", so that reading them needs a grant of its own.
	Name string
	// KeepRaw keeps entries that the device wrote with log_raw as they are, with
	// tokens and secrets in clear. Otherwise they are redacted before they leave
	// the translator.
	KeepRaw bool
	// Salt keys the hashes of redacted values. Empty: a random one, so that equal
	// values have equal hashes only until the program ends.
	Salt []byte
	// KVVersions tells the version, 1 or 2, of kv mounts for which the stream has no
	// evidence (yet), by mount path with namespace, for example "ns1/secret/".
	KVVersions map[string]int
	// VersionHashes tells what the hashes of version numbers stand for, as
	// sys/audit-hash of the device answers for "1", "2", ... Without it they are
	// learnt where the stream allows it.
	VersionHashes map[string]int64
	// HoldUncertain keeps back notifications of which it is not certain that
	// something changed, instead of marking them. They are counted.
	HoldUncertain bool
	// OmitCaller leaves out the extensions that say who made the request.
	OmitCaller bool
	// MaxKeys and MaxStateBytes bound the state; zero means the defaults of
	// package derivation.
	MaxKeys       int
	MaxStateBytes int64
	// Limits that derived events keep; the zero value means event.DefaultLimits.
	// Audit events keep the metadata limits; their size is that of the line.
	Limits event.Limits
	// Now is the clock for lines that have no time and no predecessor; nil means
	// time.Now.
	Now func() time.Time
}

// Translator turns the lines of one audit log into events: for each line the audit
// event with the bytes of the entry, then the notifications derived from it. It
// keeps what it must know of earlier lines in a bounded state. A Translator is
// not safe for concurrent use.
type Translator struct {
	config   TranslatorConfig
	source   string
	path     string
	parser   auditlog.Parser
	deriver  *derivation.Deriver
	redactor *auditlog.Redactor
	raw      bool      // the last entry that told was written with log_raw
	last     time.Time // time of the last entry

	events []event.Event // memory for the next events
	fields []event.Field // memory for their metadata
}

// NewTranslator returns a Translator with empty state.
func NewTranslator(config TranslatorConfig) *Translator {
	if config.Now == nil {
		config.Now = time.Now
	}
	salt := config.Salt
	if len(salt) == 0 {
		salt = make([]byte, sha256.Size)
		rand.Read(salt)
	}
	source := event.SourceVault(config.Name)
	return &Translator{
		config:   config,
		source:   source,
		path:     "sys/audit/" + config.Name,
		redactor: auditlog.NewRedactor(salt),
		deriver: derivation.New(derivation.Options{
			Source:        source,
			KVVersions:    config.KVVersions,
			VersionHashes: config.VersionHashes,
			HoldUncertain: config.HoldUncertain,
			OmitCaller:    config.OmitCaller,
			MaxKeys:       config.MaxKeys,
			MaxStateBytes: config.MaxStateBytes,
			Limits:        config.Limits,
		}),
	}
}

// Translate appends the events of one line to dst: the audit event, then what is
// derived from it; or one quarantined event when the line is no audit entry. The
// events share the memory of the line, which must not be written again, so
// keep them or drop them together.
func (t *Translator) Translate(dst []*event.Event, line []byte) []*event.Event {
	e, err := t.parser.Parse(line)
	if err != nil {
		return append(dst, t.quarantine(line, err))
	}
	t.see(e)
	data, redacted := e.Line(), false
	raw, sure := e.Raw(t.raw)
	if sure {
		t.raw = raw
	}
	if raw && !t.config.KeepRaw {
		data = t.redactor.Redact(make([]byte, 0, len(data)+len(data)/2), e)
		redacted = !bytes.Equal(data, e.Line())
	}
	dst = append(dst, t.audit(e, data, redacted))
	return append(dst, t.deriver.Apply(e)...)
}

// see keeps the time of the stream, and lends it to an entry without one.
func (t *Translator) see(e *auditlog.Entry) {
	if !e.Time.IsZero() {
		t.last = e.Time
		return
	}
	if t.last.IsZero() {
		t.last = t.config.Now()
	}
	e.Time = t.last
}

// Learn folds an audit event that was read back from the journal into the state,
// as Translate did when the event was made, and yields nothing. Events of other
// types are ignored.
func (t *Translator) Learn(e *event.Event) {
	if e.Type != TypeRequest && e.Type != TypeResponse {
		return
	}
	entry, err := t.parser.Parse(e.Data)
	if err != nil {
		return // the data went to the object store, or never was an entry
	}
	t.see(entry)
	if _, redacted := e.Metadata.Text(metadataRedacted); redacted {
		t.raw = true
	} else if raw, sure := entry.Raw(t.raw); sure {
		t.raw = raw
	}
	t.deriver.Apply(entry)
}

// Gap tells that lines before the next one may be missing. What was known to be
// so becomes uncertain until later lines show it again.
func (t *Translator) Gap() { t.deriver.Gap() }

// Stats returns what was not handed out as a notification, since the start.
func (t *Translator) Stats() derivation.Stats { return t.deriver.Stats() }

// Longest texts in the metadata of an audit event. A longer one is left out; it
// still stands in the data.
const (
	maxMetadataPath = 32 << 10
	maxMetadataText = 4 << 10
)

func (t *Translator) audit(e *auditlog.Entry, data []byte, redacted bool) *event.Event {
	kind, what := TypeRequest, "request"
	if e.IsResponse {
		kind, what = TypeResponse, "response"
	}
	if e.Type != "request" && e.Type != "response" {
		what = e.Type
	}
	r := &e.Request
	var id string
	if derivation.IsUUID(r.ID) {
		id = event.DeriveID("audit", what, r.ID)
	} else {
		sum := sha256.Sum256(e.Line())
		id = event.DeriveID("audit", what, r.ID, e.TimeText, hex.EncodeToString(sum[:]))
	}
	ev := t.newEvent()
	*ev = event.Event{
		ID:              id,
		Type:            kind,
		Source:          t.source,
		Namespace:       derivation.Namespace(r.NamespacePath),
		Path:            t.path,
		Time:            e.Time,
		Data:            data,
		DataContentType: "application/json",
	}
	// In the order of the keys, as Fields must be.
	m := t.newFields()
	m = appendText(m, metadataMountPoint, e.MountPoint(), maxMetadataText)
	m = appendText(m, metadataMountType, e.MountType(), maxMetadataText)
	m = appendText(m, event.MetadataOperation, r.Operation, maxMetadataText)
	m = append(m, event.Field{Key: event.MetadataPath, Value: t.path})
	if redacted {
		m = append(m, event.Field{Key: metadataRedacted, Value: "true"})
	}
	m = appendText(m, metadataRequestID, r.ID, maxMetadataText)
	m = appendText(m, metadataRequestPath, r.Path, maxMetadataPath)
	ev.Metadata = t.setFields(m)
	return ev
}

func appendText(m event.Fields, key, value string, limit int) event.Fields {
	if value == "" || len(value) > limit {
		return m
	}
	return append(m, event.Field{Key: key, Value: value})
}

// Events and metadata come from slabs, so that a line costs few allocations.
const (
	slabEvents = 64
	slabFields = slabEvents * auditFields
	// auditFields is the largest number of metadata fields of an audit event.
	auditFields = 7
)

func (t *Translator) newEvent() *event.Event {
	if len(t.events) == 0 {
		t.events = make([]event.Event, slabEvents)
	}
	ev := &t.events[0]
	t.events = t.events[1:]
	return ev
}

func (t *Translator) newFields() event.Fields {
	if cap(t.fields) < auditFields {
		t.fields = make([]event.Field, 0, slabFields)
	}
	return t.fields[:0:auditFields]
}

// setFields takes the fields that were appended to newFields for good.
func (t *Translator) setFields(m event.Fields) event.Fields {
	t.fields = t.fields[len(m):cap(t.fields)][:0]
	return m[:len(m):len(m)]
}

// snapshotVersion is the first byte of a snapshot.
const snapshotVersion = 1

// ErrSnapshot is wrapped by the errors of Restore.
var ErrSnapshot = errors.New("unusable snapshot of the translator")

// Snapshot returns the state as bytes for Restore, also of later versions of the
// program.
func (t *Translator) Snapshot() ([]byte, error) {
	inner, err := t.deriver.Snapshot()
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(inner)+16)
	b = append(b, snapshotVersion, 0)
	if t.raw {
		b[1] = 1
	}
	var last int64
	if !t.last.IsZero() {
		last = t.last.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(last))
	return append(b, inner...), nil
}

// Restore replaces the state by that of a snapshot. On error, which wraps
// [ErrSnapshot], the state is empty and the translator can be used.
func (t *Translator) Restore(b []byte) error {
	t.raw, t.last = false, time.Time{}
	const head = 2 + 8
	if len(b) < head || b[0] != snapshotVersion || b[1] > 1 {
		t.deriver.Reset()
		return fmt.Errorf("restore translator: %w: %d bytes of unknown layout", ErrSnapshot, len(b))
	}
	if err := t.deriver.Restore(b[head:]); err != nil {
		return fmt.Errorf("restore translator: %w: %w", ErrSnapshot, err)
	}
	t.raw = b[1] == 1
	if last := int64(binary.BigEndian.Uint64(b[2:])); last != 0 {
		t.last = time.Unix(0, last).UTC()
	}
	return nil
}

// trimNewline removes the line end of a line.
func trimNewline(line []byte) []byte {
	n := len(line)
	for n > 0 && (line[n-1] == '\n' || line[n-1] == '\r') {
		n--
	}
	return line[:n]
}
