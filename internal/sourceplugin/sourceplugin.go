// Package sourceplugin says what the hub asks of a plugin that opens a stream of events or
// extracts fields of events, in whatever way it runs: inside the process, as a child process, or
// as a native library below one. It has the types and no behaviour but checks.
package sourceplugin

import (
	"context"
	"errors"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// Errors that tell what is wrong with a plugin, to be found with errors.Is.
var (
	// ErrNotSupported means that a plugin does not have what it was asked for.
	ErrNotSupported = errors.New("the plugin does not support this")
	// ErrExited means that its process has ended, before or during the call.
	ErrExited = errors.New("the process of the plugin has ended")
	// ErrTimeout means that it did not answer in time.
	ErrTimeout = errors.New("the plugin did not answer in time")
	// ErrProtocol means that it has sent what is not allowed.
	ErrProtocol = errors.New("the plugin broke the protocol")
)

// Plugin is a plugin that has been given its config. Its methods may be called by several
// goroutines at once. Errors that are the plugin's own have its text.
type Plugin interface {
	// Describe returns what the plugin says of itself. It is known since the start, so there is
	// no error; it must not be changed.
	Describe() *Description
	// OpenParams lists params that Open could be called with; ErrNotSupported if it cannot tell.
	OpenParams(ctx context.Context) ([]OpenParam, error)
	// Open starts a stream; ErrNotSupported for a plugin that only extracts.
	Open(ctx context.Context, o Open) (Stream, error)
	// Strings returns what people read of each event.
	Strings(ctx context.Context, events []Event) ([]string, error)
	// Extract returns the values of all fields of all events: those of event i are
	// Counts[i*len(fields) : (i+1)*len(fields)]. A field that an event does not have is no error.
	Extract(ctx context.Context, events []Event, fields []FieldRequest) (Values, error)
	// Metrics returns the plugin's own metrics, without any if it has none.
	Metrics(ctx context.Context) ([]Metric, error)
	// SetConfig gives it another config. On an error the old one stays in force.
	SetConfig(ctx context.Context, config string) error
	// Close closes what is open and ends it. What runs returns an error.
	Close(ctx context.Context) error
}

// Open is what a stream is opened with.
type Open struct {
	Params string
	// Resume is the position of the last batch that is durable, as the plugin gave it; nil at the
	// first time. Plugins that give no positions never see one.
	Resume []byte
	// MaxEventBytes is what an event may have at most, with its header. Larger ones are left out
	// and counted. 0: what the plugin's process can take.
	MaxEventBytes int
}

// Stream is an open stream of events. Next is called by one goroutine at a time; the others may
// be called at the same time as it.
type Stream interface {
	// Next fills b, whose memory it may use again. An error tells how it goes on after the
	// events of b, which count whatever the error is: nil (call again; without events after a
	// moment without any, as long as ctx allows), io.EOF (the stream has ended), or a failure.
	Next(ctx context.Context, b *Batch) error
	// Acknowledge tells that everything up to a position is durable. The plugin may forget it.
	Acknowledge(ctx context.Context, position []byte) error
	// Progress tells how far it is; ErrNotSupported if it cannot tell.
	Progress(ctx context.Context) (Progress, error)
	// Close ends it. Next, if it runs, returns.
	Close(ctx context.Context) error
}

// Batch is what Stream.Next fills: events in order.
type Batch struct {
	// Events holds them one behind the other. Who fills it has checked that scapevent.Next finds
	// Count of them and nothing else, that each has an id of a plugin, and a time.
	Events []byte
	Count  int
	// Position, if not nil, lets Open resume behind the batch.
	Position []byte
	// Dropped counts events that the plugin gave but that are left out of this batch because they
	// are too large, and DroppedReason says why.
	Dropped       int
	DroppedReason string
}

// Reset empties b and keeps the memory of its events.
func (b *Batch) Reset() { *b = Batch{Events: b.Events[:0]} }

// Event is an event that the plugin is asked about. It need not be one that it gave.
type Event struct {
	scapevent.Event
	Number uint64 // counted from 1 within the stream; 0 if nobody knows
	Source string // event source
}

// Progress is how far a stream is.
type Progress struct {
	Fraction float64 // 0 to 1
	Text     string  // for people; may be empty
}

// Capabilities are what a plugin can do.
type Capabilities struct {
	Source, Extract, Async, OpenParams, Strings, Progress, Metrics, SetConfig, Resume bool
}

// Description is what a plugin says of itself.
type Description struct {
	Name, Version, Description, Contact string
	// ID is that of its events, EventSource the name of what they are about. Both or neither.
	ID          uint32
	EventSource string
	// RequiredAPI is the version of Falco's plugin API that a native plugin asks for.
	RequiredAPI string
	// ConfigSchema is a JSON Schema of the config; empty: any text.
	ConfigSchema string
	// ParamsSchema is a JSON Schema of the params of Open; empty: any text.
	ParamsSchema string
	Capabilities Capabilities
	// ExtractSources are the event sources whose events it extracts from; empty: all.
	ExtractSources []string
	// AsyncNames are the names of asynchronous events that it may send.
	AsyncNames []string
	Fields     []Field
}

// Field is something that can be extracted from an event.
type Field struct {
	Name, Display, Description string
	Type                       FieldType
	List                       bool
	Arg                        ArgRule
	Properties                 []string // "hidden", "info", ...
	AddOutput                  bool
}

// ArgRule says what may be in the brackets behind the name of a field.
type ArgRule struct{ Required, Index, Key bool }

// FieldType is the type of a field, with the numbers of Falco's API.
type FieldType uint8

// The types of fields.
const (
	Uint64  FieldType = 8
	String  FieldType = 9
	RelTime FieldType = 20 // nanoseconds
	AbsTime FieldType = 21 // nanoseconds since 1970
	Bool    FieldType = 25
	IPAddr  FieldType = 40 // 4 or 16 bytes
	IPNet   FieldType = 41 // as text: address/bits
)

// FieldRequest asks for a field. Index counts in Description.Fields.
type FieldRequest struct {
	Index      int
	Arg        string // what is in the brackets
	ArgIndex   uint64 // the same as a number, if it is one and the field takes an index
	ArgPresent bool
}

// Values are extracted values, encoded back to back. The zero value has none.
type Values struct {
	// Counts has, for each event and in it for each request, how many elements the value has: 1
	// for what is no list, 0 for no value.
	Counts []uint32
	// Lengths has how long each of these elements is in Bytes: 8 little-endian bytes for numbers
	// and times, 1 for bools, else the text or the address.
	Lengths []uint32
	Bytes   []byte
	// Offsets has, for each element, where it is in its event, counted from the header: start and
	// length. {0, 0} is a computed one. Nil if the plugin cannot tell.
	Offsets []uint32
}

// OpenParam is a text that Open can be called with.
type OpenParam struct {
	Value, Description, Separator string
}

// Metric is a number that a plugin tells of itself.
type Metric struct {
	Name      string
	Monotonic bool
	Value     float64
}
