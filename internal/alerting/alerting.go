// Package alerting raises alerts about the events of the journal: a cursor that judges them by
// rules. Alerts are events themselves, of the types "alert/<slug of the rule>", in the same
// journal.
//
// # What it promises
//
// The cursor passes an event only after its alerts are durable, and what windows and throttles
// remember is stored together with the cursor. After a crash the events behind the stored cursor
// are judged again, with the memory of that moment, and make the same alerts with the same ids;
// those that are in the journal already are not appended again.
//
// Events of alerts are not judged, so that no rule feeds itself.
//
// # Other rules
//
// Files are looked at now and then. Changed ones are compiled beside the rules that run, and take
// their place between two events of the journal: no event is judged by both or by neither, and
// windows and throttles of rules that stay keep what they know. With a mistake in the files
// everything stays as it is, and is told: as an event, in the health, in the log. At a start the
// last files that were right judge then, which are stored beside the cursor.
package alerting

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/throttle"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// Journal is what Alerting needs of the journal, which [*journal.Journal] has.
type Journal interface {
	Append(ctx context.Context, events ...*event.Event) (journal.Position, error)
	Accepts() bool
	Read(after journal.Position) *journal.Reader
	End() journal.Position
	MaxUnitBytes() int
	State(ctx context.Context, bucket string) (jetstream.KeyValue, error)
	Objects(ctx context.Context, bucket string) (jetstream.ObjectStore, error)
}

// Defaults of [Options].
const (
	DefaultPatience = time.Minute
	DefaultReload   = 2 * time.Second
)

// Options are what an Alerting works with. Journal, Fields and Source are required.
type Options struct {
	Journal Journal
	// Builtin are files of rules that are read before those of Paths, which are files and
	// directories.
	Builtin []load.File
	Paths   []string
	// Rules is how they are compiled. Plugins is filled in from Fields.
	Rules rule.Options
	// Fields extracts the fields of plugins, and knows which there are.
	Fields *fields.Registry
	// Payload returns a payload that is kept outside of its event.
	Payload func(ctx context.Context, ref string) ([]byte, error)
	// FromStart begins with the oldest event of the journal if nothing is stored, instead of with
	// the first that comes after New.
	FromStart bool
	// Reload is how often the files are looked at; negative: never.
	Reload time.Duration
	// Patience is how long events wait for plugins that do not run.
	Patience time.Duration
	// Source is that of the alerts, Hostname the name of the machine in them.
	Source, Hostname string
	Limits           event.Limits              // default [event.DefaultLimits]
	Record           func(trail.Record)        // gets what operators should know; default: nobody
	Metrics          *metrics.Metrics          // default: private
	Registry         prometheus.Registerer     // nil: the counters are nowhere
	Logger           *slog.Logger              // default: none
	now              func() time.Time          // in tests
	saved            func(at journal.Position) // in tests
}

// Alerting judges the events of a journal. Make it with [New], then call Run once.
type Alerting struct {
	o       Options
	log     *slog.Logger
	lag     *metrics.Component
	maker   maker
	stats   stats
	state   record
	loading sync.Mutex       // for who loads
	looked  signature        // of the files before they were read first
	end     journal.Position // of the journal before anything was judged

	mu     sync.Mutex
	status status
	next   *compiled // that is to take the place of the active one
	pause  context.CancelFunc
	kept   kept // the last files that were right, as far as that is known

	warnings struct{ gap, alert, save throttle.Throttle }
	saving   atomic.Pointer[string] // why the progress cannot be stored

	// Of the goroutine that judges.
	active   *compiled
	run      *rule.Run
	at       journal.Position // behind the last event whose alerts are durable
	last     time.Time        // when that was recorded
	restored []byte           // memory of before the start, until there are rules
	unkept   bool             // kept is to be stored
	repeats  map[string]bool  // ids of alerts behind the stored cursor
	scanned  journal.Position // up to there
	out      []*event.Event
	raised   []raised // what out is about
	outBytes int
	starved  time.Time // since then an event waits for a plugin, or its payload; zero: none does
	payload  bool      // it is the payload that it waits for, no plugin
	lenient  bool      // it has waited for long enough
	waiting  time.Time // since then rules wait for plugins that are not known; zero: none does
	gaveUp   bool      // they have waited for long enough
	midway   bool      // the memory of run is ahead of at
	dirty    bool      // something is to be stored
	unsaved  int       // alerts since the progress was stored
	missed   missed    // that is not told yet
	savedAt  time.Time
	pauseFor time.Duration // until it is stored again
}

// New returns an Alerting that has read its files, and does nothing before [Alerting.Run]. Mistakes
// in the files are no error: see [Alerting.Health].
func New(o Options) (*Alerting, error) {
	if o.Patience <= 0 {
		o.Patience = DefaultPatience
	}
	if o.Reload == 0 {
		o.Reload = DefaultReload
	}
	if o.Limits == (event.Limits{}) {
		o.Limits = event.DefaultLimits
	}
	if o.Record == nil {
		o.Record = func(trail.Record) {}
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.now == nil {
		o.now = time.Now
	}
	a := &Alerting{
		o: o, log: o.Logger, lag: o.Metrics.Component("rules", "rules"),
		maker: maker{source: o.Source, hostname: o.Hostname, limits: o.Limits},
		state: record{journal: o.Journal},
	}
	a.stats.init()
	a.end = o.Journal.End()
	if o.Registry != nil {
		if err := o.Registry.Register(collector{a}); err != nil {
			return nil, fmt.Errorf("register the metrics of rules: %w", err)
		}
	}
	a.loading.Lock()
	defer a.loading.Unlock()
	a.looked = look(o.Paths)
	a.load(reasonStart)
	return a, nil
}

// Run judges until ctx ends. Then it stores how far it has come. It returns an error only when it
// can never go on. It must be called once.
func (a *Alerting) Run(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("judge events by rules: %w", err)
		}
		a.over(err)
		if a.run != nil {
			a.run.Close()
		}
	}()
	var watching sync.WaitGroup
	defer watching.Wait()
	watchCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := a.begin(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	watching.Go(func() { a.watch(watchCtx) })
	err = a.judge(ctx)
	a.tellMissed(true)
	if ctx.Err() == nil && !errors.Is(err, journal.ErrClosed) {
		return err
	}
	if a.dirty {
		a.save(context.WithoutCancel(ctx))
	}
	return nil
}

// errEnded is why a set of rules is not used any more.
var errEnded = errors.New("the hub is being stopped")
