// Package plugin reads the streams of events that plugins open, and puts their events into the
// journal. One [Source] is one plugin: it is started, read, supervised, and started again. How
// a plugin runs, as a child process or otherwise, is not known here.
//
// # What is kept
//
// A batch that a plugin gives is submitted to the journal at once, several batches are on their
// way at a time, and each stays in memory until it is durable; while the journal does not accept
// events the plugin waits. A plugin that gives resume positions loses nothing: the position of the
// last durable batch is stored beside the journal, then acknowledged to the plugin, and handed to
// it when its stream is opened again. What the plugin repeats then has the same ids, because they
// belong to the place in the stream and the payload. A plugin without positions begins wherever it
// begins; what it held when it ended is lost.
//
// # What can go wrong
//
// A plugin that ends, fails, does not answer, or breaks the rules of the protocol is ended, and
// started again after a pause that grows. That is told in the log, by [Source.Health], by
// [Source.Status], and to Deps.Record; other sources notice nothing.
package plugin

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/throttle"
)

// Restart says when a plugin is started again.
type Restart string

// When a plugin is started again.
const (
	Always    Restart = "always"     // also when its stream has ended
	OnFailure Restart = "on-failure" // not when its stream has ended
	Never     Restart = "never"
)

// Config is what a source is told. Name and the timeouts are required.
type Config struct {
	Name            string
	Namespace, Path string // of its events; an empty path is "falco/<event source>/<name>"
	Params          string // of its stream
	ExtractOnly     bool   // no stream is opened
	Restart         Restart
	MaxPause        time.Duration // before it is started again
	MaxEvent        int           // bytes with the header; larger ones are dropped
	StartTimeout    time.Duration // of the start, and of opening the stream
	CallTimeout     time.Duration // of everything else
	StopTimeout     time.Duration // in which what was read becomes durable when Run is to end
	SteadyAfter     time.Duration // how long it has to run to count as one that runs well; 0: DefaultSteadyAfter
	Limits          event.Limits  // of the journal
	Secrets         []string      // that the plugin knows; its texts are shown without them
}

// Journal is where events go; *[journal.Journal] is one.
type Journal interface {
	Submit(ctx context.Context, events ...*event.Event) (*journal.Receipt, error)
	State(ctx context.Context, bucket string) (jetstream.KeyValue, error)
	MaxUnitBytes() int
}

// Deps are what a source works with. Launch and Journal are required.
type Deps struct {
	// Launch starts the plugin and gives it its config. The context is valid for as long as the
	// plugin runs, not only during the call; a start that takes too long has it cancelled. A plugin
	// that has a method Exited() <-chan struct{} is known to have ended when that is closed.
	Launch  func(ctx context.Context) (sourceplugin.Plugin, error)
	Journal Journal
	// Keep stores a payload that is too large for an event and returns a reference to it; nil:
	// such events are dropped.
	Keep func(ctx context.Context, data []byte) (ref string, err error)
	// Claims are shared by all sources of a hub.
	Claims *Claims
	// Record is told what is worth an event of the hub; nil: nobody is.
	Record  func(Incident)
	Metrics *metrics.Metrics
	Logger  *slog.Logger
}

// Incident is something that happened to a source.
type Incident struct {
	What     string // "plugin-source-failed", "plugin-source-recovered" or "plugin-source-ended"
	Name     string // of the source
	Plugin   string // what the plugin calls itself; may be empty
	Version  string
	Kind     Kind   // of a failure
	Reason   string // of a failure, for people
	Failures int    // since it has last run well
	Since    time.Time
}

// State is what a source does.
type State string

// States of sources.
const (
	Idle     State = "idle"     // Run was not called
	Starting State = "starting" // the plugin, or its stream
	Running  State = "running"
	Waiting  State = "waiting" // to be started again
	Stuck    State = "stuck"   // the plugin is to end and does not
	Ended    State = "ended"   // the stream has; it is not opened again, though a plugin that extracts fields runs
	Failed   State = "failed"  // and is not started again
	Stopped  State = "stopped" // with the hub
)

// Status is how a source is. Texts of the plugin are short, on one line and harmless.
type Status struct {
	Name          string
	State         State
	Since         time.Time // of the state
	Plugin        string    // what it calls itself; empty before it was started once
	Version       string
	ID            uint32
	EventSource   string
	ExtractOnly   bool
	Resumable     bool
	Events        uint64 // durable since the hub was started
	Dropped       uint64 // too large, or not allowed in the journal
	LastEvent     time.Time
	Saved         time.Time              // when a resume position was stored last
	Progress      *sourceplugin.Progress // nil: it does not tell
	Starts        uint64
	Failures      int // since it has last run well
	LastError     string
	LastErrorKind Kind
	LastErrorAt   time.Time
	NextStart     time.Time // while it waits
}

// Source is one plugin and its stream. Run may be called once; the other methods at any time.
type Source struct {
	config Config
	deps   Deps
	log    *slog.Logger
	counts *metrics.Component
	strays strays

	dropping, unsaved, unacknowledged, unkept, pushed, failing throttle.Throttle

	// Of the goroutine of Run: the failure that the log has had last, what the plugin that ran last
	// can do, and whether its stream has ended for good, so that it runs only to extract fields.
	told           Failure
	extracts, over bool

	mu       sync.Mutex
	status   Status
	current  sourceplugin.Plugin // nil while it does not run
	values   []sourceplugin.Metric
	trouble  *Failure // why it does not run well
	steady   bool     // it has run well since it was started
	since    time.Time
	recorded time.Time // when a failure was last recorded
}

// New returns a source that does nothing before Run.
func New(c Config, d Deps) *Source {
	if c.Limits == (event.Limits{}) {
		c.Limits = event.DefaultLimits
	}
	if c.SteadyAfter <= 0 {
		c.SteadyAfter = DefaultSteadyAfter
	}
	if d.Metrics == nil {
		d.Metrics = metrics.New(nil)
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if d.Claims == nil {
		d.Claims = new(Claims)
	}
	if d.Record == nil {
		d.Record = func(Incident) {}
	}
	return &Source{
		config: c, deps: d, log: d.Logger.With("source", c.Name), counts: d.Metrics.Component("source", c.Name),
		status: Status{Name: c.Name, State: Idle, Since: time.Now(), ExtractOnly: c.ExtractOnly},
	}
}

// Name returns the name of the source.
func (s *Source) Name() string { return s.config.Name }

// Status returns how it is.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	if st.Progress != nil {
		p := *st.Progress
		st.Progress = &p
	}
	return st
}

// Plugin returns the plugin while it runs, to ask it about events.
func (s *Source) Plugin() (sourceplugin.Plugin, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.current != nil
}

// Health returns what is wrong, without any text of the plugin.
func (s *Source) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trouble == nil {
		return nil
	}
	return errors.New(s.trouble.Kind.health())
}

func (s *Source) set(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setLocked(state)
}

func (s *Source) setLocked(state State) {
	if s.status.State != state {
		s.status.State, s.status.Since = state, time.Now()
	}
	if state != Waiting {
		s.status.NextStart = time.Time{}
	}
}
