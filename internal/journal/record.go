package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/tocsin-events/tocsin/event"
)

// A record is one JetStream message and holds the events of one group commit.
// All integers are little-endian.
//
//	header (48 bytes)
//	  0  u8   version, 1
//	  1  u8   codec of the body: 0 none, 1 S2 block
//	  2  u16  zero
//	  4  u32  number of events
//	  8  u64  ordinal of the first event
//	 16  i64  time of recording, nanoseconds since 1970 UTC
//	 24  u32  number of metadata and extension fields of all events together
//	 28  u32  number of entity ids of all events together
//	 32  u32  number of events with plugin information
//	 36  u32  zero
//	 40  u32  length of the texts
//	 44  u32  length of the data
//	body, compressed as a whole
//	  data    the payloads, one after the other
//	  texts   per event: id, type, namespace, path, source, rest
//	  index   one entry of 40 bytes per event
//
// An index entry has the lengths of id, type, namespace, path, source, rest and
// data as u32 (the last is noData for a nil payload), then the event's time as
// i64 seconds and u32 nanoseconds. So an event can be selected by its first five
// texts without touching anything else. The rest is a flags byte, then note, data
// content type, schema and ref as (uvarint length, bytes), then what the flags
// announce: metadata, extensions (uvarint count; per field key as above, value
// with its length shifted left by one and bit 0 set for JSON), entity ids
// (uvarint count, texts) and the six texts of the plugin.
//
// This layout is read for ever: a new one gets a new version byte and leaves the
// code below alone.
const (
	recordVersion1 = 1

	codecNone = 0
	codecS2   = 1

	recordHeaderSize = 48
	indexEntrySize   = 40
	noData           = math.MaxUint32

	// maxRecordBody bounds what decoding a record may allocate for its body,
	// whatever the record says.
	maxRecordBody = 64 << 20
)

const (
	restMetadata = 1 << iota
	restExtensions
	restEntityIDs
	restPlugin
	restPluginLocal
)

var (
	errRecordShort   = errors.New("record is cut short")
	errRecordCorrupt = errors.New("record is corrupt")
)

// recordVersionError says that a record is of a layout that this program does
// not know.
type recordVersionError byte

func (v recordVersionError) Error() string {
	return fmt.Sprintf("record has layout version %d, this program reads up to %d; a newer version of tocsin wrote it", byte(v), recordVersion1)
}

// block collects events until they become a record. The payloads, most of it, are
// put where they stay; only the other two parts are moved behind them when the
// record is complete.
type block struct {
	record                  []byte // room for the header, then data
	text, index             []byte
	size                    int // of the uncompressed body
	count                   int
	fields, ids, withPlugin uint32
	result                  *result
}

// reset empties the block and keeps its memory.
func (b *block) reset() {
	*b = block{record: b.record[:0], text: b.text[:0], index: b.index[:0]}
}

// StoredBytes returns how many bytes e takes in its stored form, at most, as
// [Journal.MaxUnitBytes] counts them.
func StoredBytes(e *event.Event) int {
	const perText, perField = 5, 10
	n := indexEntrySize + 1 + 4*perText + 3*perText + e.Size() + perText*len(e.EntityIDs) +
		perField*(len(e.Metadata)+len(e.Extensions))
	if e.Plugin != nil {
		n += 6 * perText
	}
	return n
}

// add puts e at the end of the block.
func (b *block) add(e *event.Event) {
	if b.count == 0 {
		b.record = append(b.record[:0], make([]byte, recordHeaderSize)...)
	}
	head := len(b.text)
	b.text = append(b.text, e.ID...)
	b.text = append(b.text, e.Type...)
	b.text = append(b.text, e.Namespace...)
	b.text = append(b.text, e.Path...)
	b.text = append(b.text, e.Source...)
	rest := len(b.text)
	b.addRest(e)

	le := binary.LittleEndian
	i := le.AppendUint32(b.index, uint32(len(e.ID)))
	i = le.AppendUint32(i, uint32(len(e.Type)))
	i = le.AppendUint32(i, uint32(len(e.Namespace)))
	i = le.AppendUint32(i, uint32(len(e.Path)))
	i = le.AppendUint32(i, uint32(rest-head-len(e.ID)-len(e.Type)-len(e.Namespace)-len(e.Path)))
	i = le.AppendUint32(i, uint32(len(b.text)-rest))
	if e.Data == nil {
		i = le.AppendUint32(i, noData)
	} else {
		i = le.AppendUint32(i, uint32(len(e.Data)))
	}
	i = le.AppendUint64(i, uint64(e.Time.Unix()))
	b.index = le.AppendUint32(i, uint32(e.Time.Nanosecond()))
	b.record = append(b.record, e.Data...)
	b.size += indexEntrySize + len(b.text) - head + len(e.Data)
	b.count++
}

// addLike adds an event that is Alike to the one that was added last, of which it takes all that
// they have in common.
func (b *block) addLike(e *event.Event) {
	le := binary.LittleEndian
	last := b.index[len(b.index)-indexEntrySize:]
	length := 0 // of its texts
	for at := 0; at < 24; at += 4 {
		length += int(le.Uint32(last[at:]))
	}
	head := len(b.text)
	common := b.text[head-length+int(le.Uint32(last)) : head]
	b.text = append(b.text, e.ID...)
	b.text = append(b.text, common...)
	i := append(b.index, last...)
	entry := i[len(b.index):]
	le.PutUint32(entry, uint32(len(e.ID)))
	if e.Data == nil {
		le.PutUint32(entry[24:], noData)
	} else {
		le.PutUint32(entry[24:], uint32(len(e.Data)))
	}
	le.PutUint64(entry[28:], uint64(e.Time.Unix()))
	le.PutUint32(entry[36:], uint32(e.Time.Nanosecond()))
	b.index = i
	b.record = append(b.record, e.Data...)
	b.size += indexEntrySize + len(b.text) - head + len(e.Data)
	b.count++
	b.fields += uint32(len(e.Metadata) + len(e.Extensions))
	b.ids += uint32(len(e.EntityIDs))
	if e.Plugin != nil {
		b.withPlugin++
	}
}

func (b *block) addRest(e *event.Event) {
	var flags byte
	if e.Metadata != nil {
		flags |= restMetadata
	}
	if e.Extensions != nil {
		flags |= restExtensions
	}
	if e.EntityIDs != nil {
		flags |= restEntityIDs
	}
	if e.Plugin != nil {
		flags |= restPlugin
		if e.Plugin.IsLocal {
			flags |= restPluginLocal
		}
	}
	t := append(b.text, flags)
	t = appendText(t, e.Note)
	t = appendText(t, e.DataContentType)
	t = appendText(t, e.DataSchema)
	t = appendText(t, e.DataRef)
	if e.Metadata != nil {
		t = b.appendFields(t, e.Metadata)
	}
	if e.Extensions != nil {
		t = b.appendFields(t, e.Extensions)
	}
	if e.EntityIDs != nil {
		t = binary.AppendUvarint(t, uint64(len(e.EntityIDs)))
		for _, id := range e.EntityIDs {
			t = appendText(t, id)
		}
		b.ids += uint32(len(e.EntityIDs))
	}
	if p := e.Plugin; p != nil {
		for _, s := range [...]string{p.MountClass, p.MountAccessor, p.MountPath, p.Plugin, p.PluginVersion, p.Version} {
			t = appendText(t, s)
		}
		b.withPlugin++
	}
	b.text = t
}

func (b *block) appendFields(t []byte, fields event.Fields) []byte {
	t = binary.AppendUvarint(t, uint64(len(fields)))
	for i := range fields {
		t = appendText(t, fields[i].Key)
		n := uint64(len(fields[i].Value)) << 1
		if fields[i].JSON {
			n |= 1
		}
		t = append(binary.AppendUvarint(t, n), fields[i].Value...)
	}
	b.fields += uint32(len(fields))
	return t
}

func appendText(t []byte, s string) []byte {
	return append(binary.AppendUvarint(t, uint64(len(s))), s...)
}

// complete returns the block as an uncompressed record, which is the block's own
// memory. Nothing can be added after it.
func (b *block) complete(ordinal uint64, recorded time.Time) []byte {
	le := binary.LittleEndian
	h := append(b.record[:0], recordVersion1, codecNone, 0, 0)
	h = le.AppendUint32(h, uint32(b.count))
	h = le.AppendUint64(h, ordinal)
	h = le.AppendUint64(h, uint64(recorded.UnixNano()))
	h = le.AppendUint32(h, b.fields)
	h = le.AppendUint32(h, b.ids)
	h = le.AppendUint32(h, b.withPlugin)
	h = le.AppendUint32(h, 0)
	h = le.AppendUint32(h, uint32(len(b.text)))
	le.AppendUint32(h, uint32(len(b.record)-recordHeaderSize))
	b.record = append(b.record, b.text...)
	b.record = append(b.record, b.index...)
	return b.record
}

// giveBody returns the body of a completed block for others to keep. A small one
// is copied, so that it does not hold the memory of a large one.
func (b *block) giveBody() []byte {
	body := b.record[recordHeaderSize:]
	if len(body) < cap(b.record)/2 {
		return bytes.Clone(body)
	}
	b.record = make([]byte, 0, cap(b.record))
	return body
}

// Compression is worth its time and space only for a body of some size that
// shrinks by an eighth.
const minCompressedBody = 512

// EncodeEvent returns an event in its stored form, a record of one, for those who keep
// events beside the journal. What the limits allow can always be encoded.
func EncodeEvent(e *event.Event) []byte {
	var b block
	b.add(e)
	recorded := e.Recorded
	if recorded.IsZero() {
		recorded = time.Unix(0, 0)
	}
	plain := b.complete(0, recorded)
	if packed, ok := compress(nil, plain); ok {
		return packed
	}
	return plain
}

// DecodeEvent is the inverse of [EncodeEvent]. It never changes b, which must not be changed
// either. The error wraps [ErrVersion] when a newer version of the program wrote it.
func DecodeEvent(b []byte) (*event.Event, error) {
	rec, err := parseRecord(0, b)
	if err == nil && rec.header.count != 1 {
		err = fmt.Errorf("%w: %d events, want one", errRecordCorrupt, rec.header.count)
	}
	if err == nil {
		err = rec.load()
	}
	if version := recordVersionError(0); errors.As(err, &version) {
		err = fmt.Errorf("%w: %w", ErrVersion, err)
	}
	if err != nil {
		return nil, fmt.Errorf("decode event: %w", err)
	}
	e := &rec.events[0]
	if e.Recorded.Equal(time.Unix(0, 0)) {
		e.Recorded = time.Time{}
	}
	return e, nil
}

// compress appends the compressed form of the uncompressed record plain to dst.
// It returns false, and a dst of no use, when that does not pay.
func compress(dst, plain []byte) ([]byte, bool) {
	body := plain[recordHeaderSize:]
	if len(body) < minCompressedBody || !compressible(body) {
		return dst, false
	}
	dst = append(dst, plain[:recordHeaderSize]...)
	dst[len(dst)-recordHeaderSize+1] = codecS2
	start := len(dst)
	if need := start + s2.MaxEncodedLen(len(body)); cap(dst) < need {
		dst = append(make([]byte, 0, need), dst...)
	}
	out := s2.Encode(dst[start:cap(dst)], body)
	dst = dst[:start+len(out)]
	return dst, len(out) < len(body)-len(body)/8
}

// compressible looks at a part of the body, since encrypted or compressed
// payloads would cost the full price of an attempt. The index at the end always
// shrinks and says nothing.
func compressible(body []byte) bool {
	const sample = 16 << 10
	if len(body) <= 2*sample {
		return true
	}
	third := body[len(body)/3:][:sample]
	n := s2.EstimateBlockSize(third)
	return n >= 0 && n < sample-sample/8
}

// recordHeader is the decoded front of a record.
type recordHeader struct {
	codec               byte
	count               int
	ordinal             uint64
	recorded            time.Time
	fields, ids, plugin int
	text, data          int
}

// bodySize is the length of the uncompressed body.
func (h *recordHeader) bodySize() int { return h.count*indexEntrySize + h.text + h.data }

// parseRecordHeader checks everything that can be checked without the body. Its
// numbers are bounded by maxRecordBody, so the sums below cannot overflow and what
// they make us allocate is bounded too.
func parseRecordHeader(b []byte) (recordHeader, error) {
	if len(b) == 0 {
		return recordHeader{}, errRecordShort
	}
	if b[0] != recordVersion1 {
		return recordHeader{}, recordVersionError(b[0])
	}
	if len(b) < recordHeaderSize {
		return recordHeader{}, errRecordShort
	}
	le := binary.LittleEndian
	count, text, data := uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[40:])), uint64(le.Uint32(b[44:]))
	fields, ids, plugin := uint64(le.Uint32(b[24:])), uint64(le.Uint32(b[28:])), uint64(le.Uint32(b[32:]))
	switch {
	case b[1] != codecNone && b[1] != codecS2:
		return recordHeader{}, fmt.Errorf("%w: codec %d", errRecordCorrupt, b[1])
	case b[2] != 0 || b[3] != 0 || le.Uint32(b[36:]) != 0:
		return recordHeader{}, fmt.Errorf("%w: reserved bytes are set", errRecordCorrupt)
	case count == 0:
		return recordHeader{}, fmt.Errorf("%w: no events", errRecordCorrupt)
	case text > maxRecordBody || data > maxRecordBody || count > maxRecordBody/indexEntrySize ||
		count*indexEntrySize+text+data > maxRecordBody:
		return recordHeader{}, fmt.Errorf("%w: more than %d bytes", errRecordCorrupt, maxRecordBody)
	// A field takes at least two bytes of text, an id one, a plugin six.
	case 2*fields > text || ids > text || plugin > count || 6*plugin > text:
		return recordHeader{}, fmt.Errorf("%w: more fields than text", errRecordCorrupt)
	}
	ordinal := le.Uint64(b[8:])
	if ordinal > math.MaxUint64-count {
		return recordHeader{}, fmt.Errorf("%w: ordinal %d", errRecordCorrupt, ordinal)
	}
	return recordHeader{
		codec: b[1], count: int(count), ordinal: ordinal,
		recorded: time.Unix(0, int64(le.Uint64(b[16:]))).UTC(),
		fields:   int(fields), ids: int(ids), plugin: int(plugin),
		text: int(text), data: int(data),
	}, nil
}

// recordBody returns the uncompressed body of a record with header h. For codec
// none it shares b's memory.
func recordBody(h *recordHeader, b []byte) ([]byte, error) {
	body := b[recordHeaderSize:]
	if h.codec == codecS2 {
		n, err := s2.DecodedLen(body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errRecordCorrupt, err)
		}
		if n != h.bodySize() {
			return nil, fmt.Errorf("%w: body of %d bytes, want %d", errRecordCorrupt, n, h.bodySize())
		}
		if body, err = s2.Decode(nil, body); err != nil {
			return nil, fmt.Errorf("%w: %w", errRecordCorrupt, err)
		}
	}
	if len(body) != h.bodySize() {
		return nil, fmt.Errorf("%w: body of %d bytes, want %d", errRecordCorrupt, len(body), h.bodySize())
	}
	return body, nil
}

// decodeEvents returns the events of a body. Their texts are parts of one string,
// their payloads parts of body.
func decodeEvents(h *recordHeader, body []byte) ([]event.Event, error) {
	index := body[h.data+h.text:]
	d := decoder{
		text:    string(body[h.data : h.data+h.text]),
		data:    body[:h.data],
		fields:  make([]event.Field, 0, h.fields),
		ids:     make([]string, 0, h.ids),
		plugins: make([]event.PluginInfo, 0, h.plugin),
	}
	events := make([]event.Event, h.count)
	for i := range events {
		e := &events[i]
		e.Recorded = h.recorded
		d.entry(e, index[i*indexEntrySize:][:indexEntrySize])
		if d.err != nil {
			return nil, fmt.Errorf("event %d: %w", i, d.err)
		}
	}
	if d.text != "" || len(d.data) != 0 || len(d.fields) != h.fields || len(d.ids) != h.ids || len(d.plugins) != h.plugin {
		return nil, fmt.Errorf("%w: the index does not account for the whole body", errRecordCorrupt)
	}
	return events, nil
}

// decoder takes events from the front of text and data. After the first error it
// returns zero values.
type decoder struct {
	text    string
	data    []byte
	fields  []event.Field
	ids     []string
	plugins []event.PluginInfo
	err     error
}

func (d *decoder) entry(e *event.Event, entry []byte) {
	le := binary.LittleEndian
	e.ID = d.take(uint64(le.Uint32(entry[0:])))
	e.Type = d.take(uint64(le.Uint32(entry[4:])))
	e.Namespace = d.take(uint64(le.Uint32(entry[8:])))
	e.Path = d.take(uint64(le.Uint32(entry[12:])))
	e.Source = d.take(uint64(le.Uint32(entry[16:])))
	rest := decoder{text: d.take(uint64(le.Uint32(entry[20:]))), fields: d.fields, ids: d.ids, plugins: d.plugins, err: d.err}
	rest.rest(e)
	d.fields, d.ids, d.plugins, d.err = rest.fields, rest.ids, rest.plugins, rest.err

	if n := le.Uint32(entry[24:]); n != noData {
		if uint64(n) > uint64(len(d.data)) {
			d.fail()
			return
		}
		e.Data, d.data = d.data[:n:n], d.data[n:]
	}
	nanos := le.Uint32(entry[36:])
	if nanos >= uint32(time.Second) {
		d.fail()
		return
	}
	e.Time = time.Unix(int64(le.Uint64(entry[28:])), int64(nanos)).UTC()
}

func (d *decoder) rest(e *event.Event) {
	flags := d.take(1)
	if d.err != nil {
		return
	}
	e.Note, e.DataContentType, e.DataSchema, e.DataRef = d.takeText(), d.takeText(), d.takeText(), d.takeText()
	if flags[0]&restMetadata != 0 {
		e.Metadata = d.takeFields()
	}
	if flags[0]&restExtensions != 0 {
		e.Extensions = d.takeFields()
	}
	if flags[0]&restEntityIDs != 0 {
		e.EntityIDs = d.takeIDs()
	}
	if flags[0]&restPlugin != 0 {
		if len(d.plugins) == cap(d.plugins) {
			d.fail()
			return
		}
		d.plugins = append(d.plugins, event.PluginInfo{
			MountClass: d.takeText(), MountAccessor: d.takeText(), MountPath: d.takeText(),
			Plugin: d.takeText(), PluginVersion: d.takeText(), Version: d.takeText(),
			IsLocal: flags[0]&restPluginLocal != 0,
		})
		e.Plugin = &d.plugins[len(d.plugins)-1]
	}
	if d.text != "" {
		d.fail()
	}
}

// takeFields must not grow the shared slice, or earlier events would keep the old
// one alive: the header announced how many fields there are.
func (d *decoder) takeFields() event.Fields {
	n := d.takeUvarint()
	if n > uint64(cap(d.fields)-len(d.fields)) {
		d.fail()
		return nil
	}
	start := len(d.fields)
	for range n {
		key := d.takeText()
		size := d.takeUvarint()
		d.fields = append(d.fields, event.Field{Key: key, Value: d.take(size >> 1), JSON: size&1 != 0})
	}
	return event.Fields(d.fields[start:len(d.fields):len(d.fields)])
}

func (d *decoder) takeIDs() []string {
	n := d.takeUvarint()
	if n > uint64(cap(d.ids)-len(d.ids)) {
		d.fail()
		return nil
	}
	start := len(d.ids)
	for range n {
		d.ids = append(d.ids, d.takeText())
	}
	return d.ids[start:len(d.ids):len(d.ids)]
}

func (d *decoder) takeText() string { return d.take(d.takeUvarint()) }

func (d *decoder) takeUvarint() uint64 {
	var v uint64
	for i := 0; i < len(d.text) && i < binary.MaxVarintLen64; i++ {
		c := d.text[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.text = d.text[i+1:]
			return v
		}
	}
	d.fail()
	return 0
}

func (d *decoder) take(n uint64) string {
	if n > uint64(len(d.text)) {
		d.fail()
		return ""
	}
	s := d.text[:n]
	d.text = d.text[n:]
	return s
}

func (d *decoder) fail() {
	d.text = ""
	if d.err == nil {
		d.err = errRecordCorrupt
	}
}
