package plugin

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Info is what a plugin says of itself.
type Info struct {
	// Name, Version (MAJOR.MINOR.PATCH), Description and Contact are shown to people. Name and
	// Version are required. Resume positions belong to the Name.
	Name, Version, Description, Contact string
	// ID and EventSource are those of its events, and required of a plugin that opens streams. IDs
	// are shared with Falco's plugins: 999 is for tests that nobody else will ever see, and
	// 1,073,741,824 to 2,147,483,647 are left alone by Falco's registry. The event source is what
	// the events are about: the type of an event is falco/EVENT-SOURCE.
	ID          uint32
	EventSource string

	// Fields can be extracted from events, if the plugin is an [Extractor].
	Fields []Field
	// ExtractSources are the event sources whose events it extracts from; empty: EventSource, or
	// all if there is none.
	ExtractSources []string
	// AsyncNames are the names of asynchronous events that its streams have beside the others,
	// see [Event].
	AsyncNames []string
	// Resumes: its streams give resume positions.
	Resumes bool
	// Progress: its streams tell how far they are, see [Progresser].
	Progress bool

	// A batch is handed over when it has BatchBytes or BatchEvents, and when BatchTime has passed
	// since [Stream.NextBatch] was called, whatever comes first. Zero values stand for 256 KiB,
	// 4,096 events and 100 ms. BatchBytes is at most 64 MiB.
	BatchBytes, BatchEvents int
	BatchTime               time.Duration
}

// Opener is what a source plugin is: it opens streams of events. P is the type of the params that
// a stream is opened with: any type that encoding/json decodes, or string for any text. Open may
// be called while another stream is open.
type Opener[P any] interface {
	// Open opens a stream. resume is nil, or the resume position of the last batch of an earlier
	// stream that is durable: the stream begins behind it. ctx ends when Open should give up; the
	// stream outlives it.
	Open(ctx context.Context, params P, resume []byte) (Stream, error)
}

// Stream is an open stream of events. Its methods are called by one goroutine at a time, but for
// those of [Progresser] and [Acknowledger].
type Stream interface {
	// NextBatch adds events to b until it is full, nothing more is there, or ctx has ended, which
	// it does after Info.BatchTime and when the stream is closed. What is in b counts whatever it
	// returns: nil or the error of ctx (it is called again), io.EOF itself (the stream has ended),
	// or an error (it has failed), such as one that wraps io.EOF. Without events it waits until ctx
	// ends.
	NextBatch(ctx context.Context, b *Batch) error
	// Close ends the stream. It is called once, and not while NextBatch runs unless that does not
	// return within seconds after its ctx has ended.
	Close() error
}

// Progresser is a stream that tells how far it is, if [Info] says so. Progress is called while
// other methods run.
type Progresser interface {
	// Progress returns a fraction from 0 to 1, and a text for people, which may be empty.
	Progress() (fraction float64, text string)
}

// Acknowledger is a stream that wants to know what is durable. Acknowledge is called while
// NextBatch runs.
type Acknowledger interface {
	// Acknowledge tells that everything up to a resume position is on the disk of the hub. It need
	// not be given again.
	Acknowledge(ctx context.Context, position []byte) error
}

// Extractor is a plugin that extracts the fields that [Info] has. Its methods may be called by
// several goroutines at once.
type Extractor interface {
	// Extract sets the values that e has of the given fields; one that is not set is not there. It
	// is called once for each event. An error means that the plugin is broken: of an event that it
	// does not understand, nothing is set. e is only valid until it returns.
	Extract(ctx context.Context, e *Event, fields []Request) error
}

// Stringer is a plugin that tells what people read of an event.
type Stringer interface {
	String(e *Event) (string, error)
}

// ParamLister is a plugin that lists params that a stream could be opened with.
type ParamLister[P any] interface {
	OpenParams(ctx context.Context) ([]OpenParam[P], error)
}

// OpenParam is one of them.
type OpenParam[P any] struct {
	Params      P
	Description string
}

// Measurer is a plugin with metrics.
type Measurer interface {
	Metrics() []Metric
}

// Metric is a number that a plugin tells of itself.
type Metric struct {
	Name  string // letters, digits and _
	Value float64
	// Monotonic: it only grows, as long as the plugin runs.
	Monotonic bool
}

// Configurer is a plugin that takes another config while it runs. C is the type of its config.
type Configurer[C any] interface {
	// SetConfig changes the config. On an error the old one stays in force.
	SetConfig(ctx context.Context, config C) error
}

// Plugin is a plugin that was declared with [New] or [NewExtractor]. Package serve makes a program
// of it, and package plugintest tests it. It is safe for concurrent use.
type Plugin struct {
	about sourceplugin.Description
	batch limits
	err   error // what is wrong with the declaration
	make  func(ctx context.Context, config string) (any, error)

	open      func(ctx context.Context, instance any, params string, resume []byte) (Stream, error)
	params    func(ctx context.Context, instance any) ([]sourceplugin.OpenParam, error)
	setConfig func(ctx context.Context, instance any, config string) error
}

// New declares a source plugin: start is called with its config, and returns what opens streams,
// which may also be an [Extractor], [Stringer], [ParamLister], [Measurer], [Configurer] and
// io.Closer.
//
// C and P are the types of the config and of the params: usually structs with json tags, of which
// a JSON Schema is made (tags "jsonschema" and "jsonschema_description" as in
// github.com/invopop/jsonschema). A member without omitempty is required; unknown ones are
// refused. If *C or *P has a method SetDefaults(), it is called before a text is decoded. T is a
// concrete type, because what it implements is known before it is made.
//
// What is wrong with the declaration is told by [Plugin.Check], and when it is run.
func New[C, P any, T Opener[P]](info Info, start func(ctx context.Context, config C) (T, error)) *Plugin {
	p := declare[C, T](info, start)
	p.about.Capabilities.Source = true
	p.about.Capabilities.Resume = info.Resumes
	p.about.Capabilities.Progress = info.Progress
	p.about.Capabilities.Async = len(info.AsyncNames) > 0
	params, err := newText[P]("params")
	p.fault(err)
	p.about.ParamsSchema = params.schema
	p.open = func(ctx context.Context, instance any, text string, resume []byte) (Stream, error) {
		value, err := params.decode(text)
		if err != nil {
			return nil, err
		}
		return instance.(T).Open(ctx, value, resume)
	}
	if is[ParamLister[P], T]() {
		p.about.Capabilities.OpenParams = true
		p.params = func(ctx context.Context, instance any) ([]sourceplugin.OpenParam, error) {
			list, err := instance.(ParamLister[P]).OpenParams(ctx)
			if err != nil {
				return nil, err
			}
			out := make([]sourceplugin.OpenParam, len(list))
			for i, o := range list {
				value, err := params.encode(o.Params)
				if err != nil {
					return nil, err
				}
				out[i] = sourceplugin.OpenParam{Value: value, Description: o.Description}
			}
			return out, nil
		}
	}
	p.fault(checkInfo(&p.about))
	return p
}

// NewExtractor declares a plugin that extracts fields of the events of others: see [New].
func NewExtractor[C any, T Extractor](info Info, start func(ctx context.Context, config C) (T, error)) *Plugin {
	p := declare[C, T](info, start)
	if info.Resumes || info.Progress || len(info.AsyncNames) > 0 {
		p.fault(errors.New("of Info, Resumes, Progress and AsyncNames are about streams, which it does not open"))
	}
	p.fault(checkInfo(&p.about))
	return p
}

// Check returns what is wrong with the declaration.
func (p *Plugin) Check() error { return p.err }

func (p *Plugin) fault(err error) { p.err = errors.Join(p.err, err) }

// declare is what New and NewExtractor have in common.
func declare[C, T any](info Info, construct func(ctx context.Context, config C) (T, error)) *Plugin {
	p := &Plugin{about: sourceplugin.Description{
		Name: info.Name, Version: info.Version, Description: info.Description, Contact: info.Contact,
		ID: info.ID, EventSource: info.EventSource, AsyncNames: info.AsyncNames, ExtractSources: info.ExtractSources,
	}}
	if info.BatchBytes < 0 || info.BatchBytes > maxBatchBytes || info.BatchEvents < 0 || info.BatchTime < 0 {
		p.fault(fmt.Errorf("Info.BatchBytes is %d, BatchEvents %d and BatchTime %v: they must not be negative, and BatchBytes at most %d", info.BatchBytes, info.BatchEvents, info.BatchTime, maxBatchBytes))
	}
	p.batch = limits{events: info.BatchEvents, bytes: info.BatchBytes, wait: info.BatchTime}
	p.batch.setDefaults()
	if construct == nil {
		p.fault(errors.New("the function that makes the plugin is nil"))
	}
	if reflect.TypeFor[T]().Kind() == reflect.Interface {
		p.fault(errors.New("the function that makes the plugin returns an interface; let it return the type itself, of which is known what it implements"))
	}
	config, err := newText[C]("config")
	p.fault(err)
	p.about.ConfigSchema = config.schema
	p.make = func(ctx context.Context, text string) (any, error) {
		value, err := config.decode(text)
		if err != nil {
			return nil, err
		}
		return construct(ctx, value)
	}
	can := &p.about.Capabilities
	can.Extract, can.Strings, can.Metrics = is[Extractor, T](), is[Stringer, T](), is[Measurer, T]()
	for _, f := range info.Fields {
		p.about.Fields = append(p.about.Fields, f.host())
	}
	if len(info.ExtractSources) == 0 && info.EventSource != "" && can.Extract {
		p.about.ExtractSources = []string{info.EventSource}
	}
	if is[Configurer[C], T]() {
		can.SetConfig = true
		p.setConfig = func(ctx context.Context, instance any, text string) error {
			value, err := config.decode(text)
			if err != nil {
				return err
			}
			return instance.(Configurer[C]).SetConfig(ctx, value)
		}
	}
	return p
}

// is says whether values of type T implement I.
func is[I, T any]() bool {
	return reflect.TypeFor[T]().Implements(reflect.TypeFor[I]())
}
