// Package derivation turns audit entries into notifications: the events that
// Vault's kv plugin would have sent for the same requests (types kv-v1/... and
// kv-v2/..., with its metadata), and those of one table for tokens, leases,
// policies, mounts, logins, identity, and the secret engines whose changes the
// stream shows (see Rules and docs/event-types.md).
//
// An audit entry does not say everything: whether a kv mount has version 1 or 2,
// whether a deletion deleted something, which version is the oldest. A Deriver
// learns it from the stream and remembers it in a bounded state. What cannot be
// known is left out of the metadata, never invented. An event of which it is not
// certain that something changed is sent nevertheless, with the extension
// attribute certainty=assumed, unless Options.HoldUncertain says otherwise: to
// miss an event is worse than to send one too many.
//
// What is certain rests on two facts about one audit device. A request is carried
// out between the moment its request line is written and the moment its response
// line is written, so an operation whose response line stands before another's
// request line came first. And kv v2 numbers the versions of a key one by one. In
// all other cases operations on one key count as concurrent, and what depends on
// their order is not certain until a later entry shows it.
//
// The package reads no files and knows nothing of journals; package vaultaudit
// feeds it.
package derivation

import (
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// Names of extension attributes of derived events. They are left out when the
// entry has no value for them. Those that tell about the caller, up to the request id,
// and tracestate, which the caller has written, are left out under Options.OmitCaller.
const (
	ExtAuthAccessor  = "authaccessor"  // accessor of the token, as the device hashed it
	ExtDisplayName   = "displayname"   // display name of the token
	ExtEntityID      = "entityid"      // identity entity of the caller
	ExtRemoteAddress = "remoteaddress" // from where
	ExtRequestID     = "requestid"     // the id that both audit entries and the client's answer have
	ExtCertainty     = "certainty"     // "assumed" when it is not certain that something changed
	ExtTraceparent   = "traceparent"   // the span of the request, as package trace makes it
	ExtTracestate    = "tracestate"    // of the caller whose trace the request is part of
	ExtVersionCount  = "versioncount"  // how many versions a request named whose numbers are hashed
)

// Assumed is the value of [ExtCertainty].
const Assumed = "assumed"

// Defaults and bounds of the state.
const (
	DefaultMaxKeys       = 100_000
	DefaultMaxStateBytes = 64 << 20
	maxMounts            = 10_000
	maxFlights           = 65_536
	maxHashes            = 10_000
)

// Options of a Deriver. Only Source is required.
type Options struct {
	// Source of the events.
	Source string
	// KVVersions tells the version, 1 or 2, of kv mounts, by mount path with
	// namespace and trailing slash. The stream does not overrule it.
	KVVersions map[string]int
	// VersionHashes tells what hashes ("hmac-sha256:...") of small numbers stand for.
	VersionHashes map[string]int64
	// HoldUncertain drops uncertain events and counts them in [Stats].
	HoldUncertain bool
	// OmitCaller leaves out the extensions that say who made the request. The trace
	// context stays: it leads to the span, which only those see who may see spans. (The
	// trace id of a request that joins no other trace is its request id.)
	OmitCaller bool
	// MaxKeys and MaxStateBytes bound what is remembered of kv v2 keys; the least
	// recently used are forgotten first. Zero means the default.
	MaxKeys       int
	MaxStateBytes int64
	// Limits that events keep; the zero value means event.DefaultLimits.
	Limits event.Limits
}

// Stats counts what became no event, since the Deriver was made.
type Stats struct {
	Held     uint64 // uncertain events held back
	TooLarge uint64 // events whose metadata exceeds the limits: keys of tens of kilobytes
	Lost     uint64 // version numbers that showed that entries are missing in the stream
}

// Deriver derives notifications from the audit entries of one server, given in
// the order of its log. They may come over several devices, see [Deriver.Device]. It
// is not safe for concurrent use.
type Deriver struct {
	o      Options
	limits event.Limits
	stats  Stats

	seq     uint64 // entries seen
	epoch   uint64 // number of gaps in the stream
	mounts  mountTable
	keys    keyTable
	flights flightTable
	hashes  dictionary
	open    open

	out []*event.Event
}

// New returns a Deriver with empty state.
func New(o Options) *Deriver {
	if o.MaxKeys <= 0 {
		o.MaxKeys = DefaultMaxKeys
	}
	if o.MaxStateBytes <= 0 {
		o.MaxStateBytes = DefaultMaxStateBytes
	}
	if o.Limits == (event.Limits{}) {
		o.Limits = event.DefaultLimits
	}
	d := &Deriver{o: o, limits: o.Limits}
	d.Reset()
	return d
}

// Reset forgets everything that was learnt.
func (d *Deriver) Reset() {
	d.seq, d.epoch = 0, 0
	d.mounts.reset()
	d.keys.reset(d.o.MaxKeys, d.o.MaxStateBytes)
	d.keys.evicted = func(mountID uint64) {
		if m := d.mounts.byID[mountID]; m != nil {
			m.complete = false
		}
	}
	d.flights.reset()
	d.hashes.reset(d.o.VersionHashes)
	d.open.reset()
}

// Device tells over which audit device of the server the next entries come, by a name
// that stays the same: each hashes with a salt of its own. Without it they are of one
// device without a name, whose hashes Options.VersionHashes tells.
func (d *Deriver) Device(name string) { d.hashes.use(name) }

// Gap tells that entries before the next one may be missing: whatever was known
// about keys is uncertain until later entries show it again.
func (d *Deriver) Gap() {
	d.epoch++
	d.mounts.gap()
	d.flights.reset()
	d.keys.clearFlights()
}

// Stats returns the counters.
func (d *Deriver) Stats() Stats { return d.stats }

// Apply takes the next entry of the log and returns the events derived from it,
// mostly none or one. The slice is valid until the next call, the events stay
// valid. Strings of the events share the memory of the entry.
func (d *Deriver) Apply(e *auditlog.Entry) []*event.Event {
	d.seq++
	d.out = d.out[:0]
	clear(d.out[:cap(d.out)])
	d.expireFlights(nanos(e))
	switch kv := isKV(e); {
	case kv && e.IsResponse:
		d.kvResponse(e)
	case kv:
		d.kvRequest(e)
	case e.IsResponse:
		d.system(e)
	}
	d.applyRules(e)
	return d.out
}

func isKV(e *auditlog.Entry) bool {
	switch e.MountType() {
	case "kv", "generic":
		return true
	}
	return false
}

// nanos is the time of an entry in nanoseconds since 1970.
func nanos(e *auditlog.Entry) int64 { return e.Time.UnixNano() }

// IsUUID is true for the text form of a UUID, 8-4-4-4-12 hex digits.
func IsUUID(s string) bool {
	_, ok := auditlog.ParseUUID(s)
	return ok
}

// Namespace returns the canonical form of a namespace path of an entry.
func Namespace(path string) string {
	if path == "" || path[0] != '/' && path[len(path)-1] == '/' && path != "root/" && !hasDoubleEnd(path) {
		return path
	}
	return event.CanonicalNamespace(path)
}

func hasDoubleEnd(path string) bool {
	return len(path) > 1 && path[len(path)-2] == '/'
}

// eventID returns the id that the event of this type from this request has for
// ever. Requests whose id is not unique are told apart by time and path.
func eventID(e *auditlog.Entry, kind string) string {
	r := &e.Request
	if IsUUID(r.ID) {
		return event.DeriveID("notification", r.ID, kind)
	}
	return event.DeriveID("notification", r.ID, kind, e.TimeText, r.NamespacePath, r.Path)
}

// draft is an event about to be sent.
type draft struct {
	kind         string
	metadata     event.Fields // sorted
	plugin       *event.PluginInfo
	assumed      bool
	versionCount string
}

// send completes a draft and puts it out.
func (d *Deriver) send(e *auditlog.Entry, f draft) {
	if f.assumed && d.o.HoldUncertain {
		d.stats.Held++
		return
	}
	ev := &event.Event{
		ID:        eventID(e, f.kind),
		Type:      f.kind,
		Namespace: Namespace(e.Request.NamespacePath),
		Source:    d.o.Source,
		Metadata:  f.metadata,
		Plugin:    f.plugin,
		Time:      e.Time,
	}
	ev.Path, _ = f.metadata.Text(event.MetadataPath)
	ev.Extensions = d.extensions(e, f)
	if d.limits.Check(ev) != nil {
		d.stats.TooLarge++
		return
	}
	d.out = append(d.out, ev)
}

func (d *Deriver) extensions(e *auditlog.Entry, f draft) event.Fields {
	x := make(event.Fields, 0, 9)
	add := func(name, value string) {
		if value != "" && len(value) <= maxExtensionBytes {
			x = append(x, event.Field{Key: name, Value: value})
		}
	}
	// In the order of the names, as Fields must be.
	caller := &e.Auth
	if e.Response.Auth.Present && !caller.Present {
		caller = &e.Response.Auth
	}
	if !d.o.OmitCaller && auditlog.IsHashed(caller.Accessor) {
		add(ExtAuthAccessor, caller.Accessor)
	}
	if f.assumed {
		add(ExtCertainty, Assumed)
	}
	if !d.o.OmitCaller {
		add(ExtDisplayName, caller.DisplayName)
		add(ExtEntityID, caller.EntityID)
		add(ExtRemoteAddress, e.Request.RemoteAddress)
		add(ExtRequestID, e.Request.ID)
	}
	c := tracecontext.FromEntry(d.o.Source, e)
	add(ExtTraceparent, c.Traceparent())
	if !d.o.OmitCaller {
		add(ExtTracestate, c.State)
	}
	add(ExtVersionCount, f.versionCount)
	return x
}

// maxExtensionBytes is the longest extension value; a longer one is left out.
const maxExtensionBytes = 4 << 10
