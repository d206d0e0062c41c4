package vaultaudit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	// TypeLost stands for lines that are missing in its place of the stream.
	TypeLost = "audit/lost"
)

// Metadata keys of audit events, beside those of package event. A key is present
// only when the entry has a value for it.
const (
	metadataDevice      = "device" // over which the line came, where it is not called like the server
	metadataImported    = "imported"
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
	device   string          // over which the lines come; empty: the only one
	imported bool            // the lines are those of an old log
	raw      map[string]bool // devices whose last entry that told was written with log_raw
	last     time.Time       // time of the last entry

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
		raw:      make(map[string]bool),
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
	return t.translate(dst, line, nil)
}

// Device tells over which audit device of the server the next lines come; the empty
// name is that of the server itself. Devices hash with salts of their own.
func (t *Translator) Device(name string) {
	if t.device != name {
		t.device = name
		t.deriver.Device(name)
	}
}

// translate is Translate with the question of translateLine.
func (t *Translator) translate(dst []*event.Event, line []byte, take func(id string, text []byte) bool) []*event.Event {
	e, err := t.parser.Parse(line)
	if err != nil {
		q := t.quarantine(line, err)
		if take != nil && !take(q.ID, nil) {
			return dst
		}
		return append(dst, q)
	}
	id, unique := entryID(e)
	if take != nil {
		var text []byte
		if unique {
			text = e.Line()
		}
		if !take(id, text) {
			return dst
		}
	}
	t.see(e)
	data, redacted := e.Line(), false
	raw := t.isRaw(e)
	if raw && !t.config.KeepRaw {
		data = t.redactor.Redact(make([]byte, 0, len(data)+len(data)/2), e)
		redacted = !bytes.Equal(data, e.Line())
	}
	dst = append(dst, t.audit(e, id, data, redacted))
	return append(dst, t.deriver.Apply(e)...)
}

// isRaw reports whether an entry was written with log_raw, or, when it does not tell,
// whether the last one of its device was.
func (t *Translator) isRaw(e *auditlog.Entry) bool {
	was := t.raw[t.device]
	raw, sure := e.Raw(was)
	if sure && raw != was {
		t.setRaw(raw)
	}
	return raw
}

func (t *Translator) setRaw(raw bool) {
	if raw {
		t.raw[t.device] = true
	} else {
		delete(t.raw, t.device)
	}
}

// entryID returns the id of the audit event of an entry. It is unique when it belongs
// to the kind of the entry and the id of the request: then it is the same over every
// device.
func entryID(e *auditlog.Entry) (id string, unique bool) {
	what := "request"
	if e.IsResponse {
		what = "response"
	}
	if e.Type != "request" && e.Type != "response" {
		what = e.Type
	}
	r := &e.Request
	if derivation.IsUUID(r.ID) {
		return event.DeriveID("audit", what, r.ID), true
	}
	sum := sha256.Sum256(e.Line())
	return event.DeriveID("audit", what, r.ID, e.TimeText, hex.EncodeToString(sum[:])), false
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
// types are ignored, and so is what was imported, of which Translate keeps a state
// apart.
func (t *Translator) Learn(e *event.Event) {
	if _, imported := e.Metadata.Text(metadataImported); imported {
		return
	}
	switch e.Type {
	case TypeLost:
		t.Gap()
		return
	case TypeQuarantined:
		if lostEntry(e) {
			t.Gap()
		}
		return
	case TypeRequest, TypeResponse:
	default:
		return
	}
	entry, err := t.parser.Parse(e.Data)
	if err != nil {
		return // the data went to the object store, or never was an entry
	}
	device, _ := e.Metadata.Text(metadataDevice)
	t.Device(device)
	t.see(entry)
	if _, redacted := e.Metadata.Text(metadataRedacted); redacted {
		t.setRaw(true)
	} else {
		t.isRaw(entry)
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

func (t *Translator) audit(e *auditlog.Entry, id string, data []byte, redacted bool) *event.Event {
	kind, r := TypeRequest, &e.Request
	if e.IsResponse {
		kind = TypeResponse
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
	m = appendText(m, metadataDevice, t.device, maxMetadataText)
	if t.imported {
		m = append(m, event.Field{Key: metadataImported, Value: "true"})
	}
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
	auditFields = 9
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

// snapshotVersion is the first byte of a snapshot. The second says whether the device
// without a name is raw; then come the time of the last entry in 8 bytes, the number of
// other devices that are raw and their names, each with its length in front, and the
// snapshot of the deriver. Version 1 knew one device.
const snapshotVersion = 2

// ErrSnapshot is wrapped by the errors of Restore.
var ErrSnapshot = errors.New("unusable snapshot of the translator")

// Snapshot returns the state as bytes for Restore, also of later versions of the
// program.
func (t *Translator) Snapshot() ([]byte, error) {
	inner, err := t.deriver.Snapshot()
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(inner)+64)
	b = append(b, snapshotVersion, 0)
	if t.raw[""] {
		b[1] = 1
	}
	var last int64
	if !t.last.IsZero() {
		last = t.last.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(last))
	var names []string
	for _, name := range slices.Sorted(maps.Keys(t.raw)) {
		if name != "" {
			names = append(names, name)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
	}
	return append(b, inner...), nil
}

// Restore replaces the state by that of a snapshot. On error, which wraps
// [ErrSnapshot], the state is empty and the translator can be used.
func (t *Translator) Restore(b []byte) error {
	t.raw, t.last, t.device = make(map[string]bool), time.Time{}, ""
	const head = 2 + 8
	if len(b) < head || b[0] < 1 || b[0] > snapshotVersion || b[1] > 1 {
		t.deriver.Reset()
		return fmt.Errorf("restore translator: %w: %d bytes of unknown layout", ErrSnapshot, len(b))
	}
	names, inner, ok := []string(nil), b[head:], true
	if b[0] > 1 {
		names, inner, ok = cutNames(inner)
	}
	if !ok {
		t.deriver.Reset()
		return fmt.Errorf("restore translator: %w: the names of devices are cut off", ErrSnapshot)
	}
	if err := t.deriver.Restore(inner); err != nil {
		return fmt.Errorf("restore translator: %w: %w", ErrSnapshot, err)
	}
	if b[1] == 1 {
		t.raw[""] = true
	}
	for _, name := range names {
		t.raw[name] = true
	}
	if last := int64(binary.BigEndian.Uint64(b[2:])); last != 0 {
		t.last = time.Unix(0, last).UTC()
	}
	return nil
}

// cutNames reads texts with their number and lengths in front.
func cutNames(b []byte) (names []string, rest []byte, ok bool) {
	count, n := binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b)) {
		return nil, nil, false
	}
	for b = b[n:]; count > 0; count-- {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, nil, false
		}
		names = append(names, string(b[n:n+int(size)]))
		b = b[n+int(size):]
	}
	return names, b, true
}

// trimNewline removes the line end of a line.
func trimNewline(line []byte) []byte {
	n := len(line)
	for n > 0 && (line[n-1] == '\n' || line[n-1] == '\r') {
		n--
	}
	return line[:n]
}
