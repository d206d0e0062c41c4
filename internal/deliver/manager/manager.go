// Package manager has the sinks of a hub: those of its configuration file, and those that
// are added, changed and removed while it runs. Each has a [deliver.Delivery] of its own;
// what one does, or cannot do, concerns no other.
//
// Definitions that are added at run time are stored in the journal, their secrets encrypted.
// The names of the file come first: such a sink cannot be changed at run time, and a stored
// one of the same name rests until the name is no longer in the file.
//
// The place in the journal and the dead letters belong to the name. A sink that is replaced
// goes on where the one before was; of one that is removed both can be kept, for a later
// one of the same name, or dropped.
package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/store"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/strongbox"
	"github.com/tocsin-events/tocsin/internal/trail"
)

var (
	// ErrNoSink means that there is no sink of a name.
	ErrNoSink = errors.New("no such sink")
	// ErrInFile means that a sink is defined in the configuration file.
	ErrInFile = errors.New("the sink is defined in the configuration file of the hub")
	// ErrBroken means that a sink cannot run as it is defined.
	ErrBroken = errors.New("the sink does not run")
	// ErrTooMany means that there may be no more sinks.
	ErrTooMany = errors.New("there are as many sinks as delivery.max_sinks allows")
	// ErrConflict means that something is not possible as the sink is now.
	ErrConflict = errors.New("not possible now")
	// ErrRange means that a range of events or dead letters is none.
	ErrRange = errors.New("no such range")
	// ErrNoSample means that there is no example of an event type.
	ErrNoSample = errors.New("there is no example of the event type")
	// ErrUnavailable means that the journal does not work at the moment. Whether a change was
	// stored is then not known.
	ErrUnavailable = errors.New("the journal does not store anything at the moment")
)

// Options configure a Manager. All but Sinks, Sample, Fields, Health, Registry and Logger are
// required.
type Options struct {
	Journal  *journal.Journal
	DataDir  string
	Delivery config.Delivery
	Sinks    []config.Sink // of the file
	// Make makes a sink of its description, in which Concurrency is set; it reads files, but
	// does not connect. Who gave the description decides where it may connect to.
	Make func(config.Sink, Origin) (deliver.Sink, error)
	// Sample returns an example of an event type, if there is one.
	Sample func(eventType string) (*event.Event, bool)
	// Fields has plugins extract the fields that filters ask for; nil: there are no plugins.
	Fields *fields.Registry
	// Node names the hub in events that test sinks.
	Node string
	// Record is told what is to be in the trail of the hub.
	Record   func(trail.Record)
	Health   *health.Registry
	Registry prometheus.Registerer
	Logger   *slog.Logger
}

// Origin is where the definition of a sink is.
type Origin string

// The origins.
const (
	File    Origin = "file"    // the configuration file
	API     Origin = "api"     // added at run time
	Removed Origin = "removed" // nowhere: what a removed sink has left
)

// Info is what is known of a sink.
type Info struct {
	Name             string
	Origin           Origin
	Definition       config.Sink // of a removed one only the name
	Created, Updated time.Time   // of those that were added at run time
	// Problem is why the sink cannot run as it is defined; nil: it can.
	Problem error
	// Status is that of its delivery. Of a sink with a problem, and of a removed one, it has
	// the place in the journal and the dead letters only.
	Status deliver.Status
	Policy deliver.Policy
	// Health is what is wrong, for people; nil: nothing.
	Health error
}

// Manager has the sinks. It is safe for concurrent use.
type Manager struct {
	o       Options
	log     *slog.Logger
	journal deliver.Journal
	metrics *collector

	changing sync.Mutex // one change of definitions at a time
	box      *strongbox.Box

	mu     sync.RWMutex
	sinks  map[string]*sink
	hidden map[string]record // stored ones whose names are in the file
	state  runState
}

type runState int

const (
	made runState = iota
	running
	stopped
)

// sink is one sink. Its fields do not change but for what mu guards; another definition
// makes another sink.
type sink struct {
	name             string
	origin           Origin
	config           config.Sink
	created, updated time.Time
	sealed           bool // has secrets in its record
	store            *store.Store
	policy           deliver.Policy
	delivery         *deliver.Delivery // nil: it has a problem
	fields           *fields.Use       // that its filter asks for; nil: none
	made             deliver.Sink
	before           deliver.Counts // of the deliveries that this one replaced
	reporter         *reporter
	unregister       func() // its health check

	cancel context.CancelFunc // nil: it was not run
	done   chan struct{}

	mu      sync.Mutex
	problem error
}

func (s *sink) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

func (s *sink) setTrouble(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = err
}

// health is the check of the sink.
func (s *sink) health() error {
	if err := s.trouble(); err != nil {
		return err
	}
	if s.fields != nil {
		if err := s.fields.Problem(); err != nil {
			return fmt.Errorf("events.filter: %w; events that depend on it stay in the journal until the filter or the plugin is changed", err)
		}
	}
	return s.delivery.Health()
}

// Open makes the sinks; nothing is sent before [Manager.Start]. The error says which sink of
// the file cannot be made. One that was added at run time and cannot be made is kept, and
// says so in its health.
func Open(ctx context.Context, o Options) (_ *Manager, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fields == nil {
		o.Fields = fields.New(fields.Options{})
	}
	if o.Health == nil {
		o.Health = new(health.Registry)
	}
	m := &Manager{o: o, log: o.Logger, journal: store.FromJournal(o.Journal), sinks: make(map[string]*sink), hidden: make(map[string]record)}
	m.metrics = newCollector(m)
	defer func() {
		if err != nil {
			m.closeAll()
		}
	}()
	for i, c := range o.Sinks {
		s := m.newSink(c.Name, File, c)
		if err := m.build(s); err != nil {
			return nil, fmt.Errorf("sinks[%d] (%s): %w", i, c.Name, err)
		}
		m.sinks[c.Name] = s
	}
	records, failed, err := m.loadRecords(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the sinks that were added at run time: %w", err)
	}
	for name, r := range records {
		if m.sinks[name] != nil {
			m.hidden[name] = r
			m.log.Warn("A sink that was added at run time rests, because the configuration file has one of the same name.", "sink", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		if _, hidden := m.hidden[name]; !hidden {
			m.addStored(ctx, name, records[name], nil)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		if m.sinks[name] == nil {
			m.addStored(ctx, name, record{}, failed[name])
		}
	}
	for _, s := range m.all() {
		s.unregister = o.Health.Register("sink "+s.name, health.Degradation, s.health)
	}
	if o.Registry != nil {
		if err := o.Registry.Register(m.metrics); err != nil {
			return nil, fmt.Errorf("register the metrics of sinks: %w", err)
		}
	}
	m.begin(ctx)
	return m, nil
}

// begin decides where new sinks begin, before anything can be published. One for which that
// cannot be stored begins when it can be.
func (m *Manager) begin(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for _, s := range m.sinks {
		if s.delivery == nil {
			continue
		}
		if err := s.delivery.Begin(ctx); err != nil {
			m.log.Warn("The place of a sink in the journal cannot be read or stored yet.", "sink", s.name, "error", err)
		}
	}
}

// addStored makes a sink of what is stored about it.
func (m *Manager) addStored(ctx context.Context, name string, r record, problem error) {
	c := config.Sink{Name: name}
	if problem == nil {
		c, problem = m.unseal(ctx, name, r)
	}
	s := m.newSink(name, API, c)
	s.created, s.updated, s.sealed = r.Created, r.Updated, len(r.Sealed) > 0
	if problem == nil {
		problem = m.build(s)
	}
	if problem != nil {
		s.problem = fmt.Errorf("%w: %w; write it again, or remove it", ErrBroken, problem)
		m.log.Error("A sink that was added at run time does not run.", "sink", name, "error", problem)
	}
	m.sinks[name] = s
}

func (m *Manager) newSink(name string, origin Origin, c config.Sink) *sink {
	s := &sink{name: name, origin: origin, config: c,
		store: store.New(store.Options{Journal: m.o.Journal, Sink: name, MaxBytes: int64(m.o.Delivery.DeadLetters)})}
	s.reporter = newReporter(m, s)
	return s
}

// build makes the delivery of a sink. The error is about its definition.
func (m *Manager) build(s *sink) error {
	c := s.config
	if s.origin == API && c.Type == config.SinkTypeFile {
		if err := m.checkPath(c.File.Path); err != nil {
			return err
		}
		if other := m.writes(c.File.Path, s.name); other != "" {
			return config.Error{{File: "definition", Key: "sink.file.path", Message: fmt.Sprintf("is already written by the sink %s; give each a file of its own", other)}}
		}
	}
	selected, err := c.Events.Selection().CompileFields(m.o.Fields.Check)
	if err != nil {
		return fmt.Errorf("events.%w", err)
	}
	s.policy = policyOf(&c, &m.o.Delivery)
	c.Concurrency = s.policy.Concurrency
	o := deliver.Options{
		Name: s.name, Match: selected.Match, Policy: s.policy, From: deliver.From(c.From),
		Journal: m.journal, Store: s.store,
		Logger:       m.log,
		AttemptsKept: m.o.Delivery.Attempts,
		Changed:      s.reporter.changed,
	}
	if names := selected.Fields(); len(names) > 0 {
		if s.fields, err = m.o.Fields.Use(names...); err != nil {
			return fmt.Errorf("events.filter: %w", err)
		}
		o.Match, o.Choose = nil, chooser{selected, s.fields}.choose
	}
	if s.made, err = m.o.Make(c, s.origin); err != nil {
		s.release()
		return err
	}
	o.Sink = s.made
	s.delivery = deliver.New(o)
	return nil
}

// writes returns the name of another sink that writes to a file.
func (m *Manager) writes(path, but string) string {
	target, err := resolve(path)
	if err != nil {
		return ""
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for name, s := range m.sinks {
		if name == but || s.config.Type != config.SinkTypeFile {
			continue
		}
		if other, err := resolve(s.config.File.Path); err == nil && other == target {
			return name
		}
	}
	return ""
}

// Start begins to deliver.
func (m *Manager) Start() {
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.Lock()
	if m.state != made {
		m.mu.Unlock()
		return
	}
	m.state = running
	m.mu.Unlock()
	for _, s := range m.all() {
		m.start(s)
	}
}

// byDefinition is the reason of sinks that are disabled where they are defined.
const byDefinition = "disabled: true in its definition"

// start runs the delivery of a sink, if it has one. m.changing is held.
func (m *Manager) start(s *sink) {
	if s.delivery == nil {
		return
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		defer s.reporter.close()
		m.obey(ctx, s)
		if err := s.delivery.Run(ctx); err != nil {
			s.setTrouble(fmt.Errorf("%w: %w", ErrBroken, err))
			m.log.Error("The delivery to a sink has ended.", "sink", s.name, "error", err)
		}
	}()
}

// obeyPause is how long to wait before it is tried again to store that a sink is disabled.
const obeyPause = time.Second

// obey makes a sink disabled, or not any more, as its definition says, before it sends
// anything.
func (m *Manager) obey(ctx context.Context, s *sink) {
	for ctx.Err() == nil {
		st, _, err := s.store.Load(ctx)
		if err == nil {
			switch held := st.Held; {
			case s.config.Disabled && held.By != deliver.HeldDisabled:
				err = s.delivery.Disable(ctx, byDefinition)
			case !s.config.Disabled && held.By == deliver.HeldDisabled && held.Reason == byDefinition:
				err = s.delivery.Resume(ctx)
			}
		}
		if err == nil || errors.Is(err, store.ErrVersion) { // which Run says as well
			return
		}
		m.log.Warn("The state of a sink cannot be read or stored; trying again.", "sink", s.name, "error", err)
		select {
		case <-time.After(obeyPause):
		case <-ctx.Done():
		}
	}
}

// halt ends the delivery of a sink and waits until it has stored how far it came.
func (s *sink) halt() {
	defer s.release()
	switch {
	case s.cancel != nil:
		s.cancel()
		<-s.done
	case s.made != nil:
		_ = s.made.Close()
		s.reporter.close()
	}
}

// Stop ends all deliveries, until ctx ends, and waits for what is on its way as long as
// the configuration says.
func (m *Manager) Stop(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.changing.Lock()
		defer m.changing.Unlock()
		m.closeAll()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("some sinks have not ended: %w", ctx.Err())
	}
}

func (m *Manager) closeAll() {
	m.mu.Lock()
	m.state = stopped
	m.mu.Unlock()
	var all sync.WaitGroup
	for _, s := range m.all() {
		all.Go(s.halt)
	}
	all.Wait()
}

// all returns the sinks by name.
func (m *Manager) all() []*sink {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := slices.Collect(maps.Values(m.sinks))
	slices.SortFunc(list, func(a, b *sink) int { return cmp.Compare(a.name, b.name) })
	return list
}

// Reopen makes sinks begin anew what they write to, such as a file that was moved away.
func (m *Manager) Reopen() {
	var all sync.WaitGroup
	defer all.Wait()
	for _, s := range m.all() {
		if s.delivery == nil {
			continue
		}
		all.Go(func() { // one that hangs delays no other
			if err := s.delivery.Reopen(); err != nil {
				m.log.Error("A sink could not be reopened.", "sink", s.name, "error", err)
			}
		})
	}
}

// find returns the sink of a name. The error wraps [ErrNoSink].
func (m *Manager) find(name string) (*sink, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if s := m.sinks[name]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrNoSink, name)
}

// runs returns the sink of a name, which has a delivery. The error wraps [ErrNoSink] or
// [ErrBroken].
func (m *Manager) runs(name string) (*sink, error) {
	s, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if err := s.trouble(); err != nil {
		return nil, err
	}
	return s, nil
}

// List returns all sinks by name, also what removed ones have left.
func (m *Manager) List(ctx context.Context) ([]Info, error) {
	var list []Info
	for _, s := range m.all() {
		list = append(list, m.info(ctx, s))
	}
	names, err := store.Names(ctx, m.o.Journal)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for _, name := range names {
		if _, err := m.find(name); err == nil {
			continue
		}
		if info, left := m.left(ctx, name); left {
			list = append(list, info)
		}
	}
	slices.SortFunc(list, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// Get returns one sink. The error wraps [ErrNoSink].
func (m *Manager) Get(ctx context.Context, name string) (Info, error) {
	s, err := m.find(name)
	if err == nil {
		return m.info(ctx, s), nil
	}
	if info, left := m.left(ctx, name); left {
		return info, nil
	}
	return Info{}, err
}

func (m *Manager) info(ctx context.Context, s *sink) Info {
	i := Info{Name: s.name, Origin: s.origin, Definition: s.config, Created: s.created, Updated: s.updated, Policy: s.policy, Problem: s.trouble()}
	if s.delivery == nil {
		i.Status = m.rest(ctx, s.store)
		i.Health = i.Problem
		return i
	}
	i.Status = s.status()
	i.Health = s.health()
	return i
}

// status is that of the delivery, with the counts of those before it.
func (s *sink) status() deliver.Status {
	st := s.delivery.Status()
	st.Counts = sum(st.Counts, s.before)
	return st
}

func sum(a, b deliver.Counts) deliver.Counts {
	a.Delivered += b.Delivered
	a.Retried += b.Retried
	a.Refused += b.Refused
	a.Failed += b.Failed
	a.Expired += b.Expired
	a.Filtered += b.Filtered
	a.Gaps += b.Gaps
	a.Missed += b.Missed
	a.Attempts += b.Attempts
	a.FailedAttempts += b.FailedAttempts
	return a
}

// left returns what a removed sink has left, if there is something.
func (m *Manager) left(ctx context.Context, name string) (Info, bool) {
	if !config.IsSinkName(name) {
		return Info{}, false
	}
	st := store.New(store.Options{Journal: m.o.Journal, Sink: name})
	_, there, err := st.Load(ctx)
	if err == nil && !there {
		return Info{}, false
	}
	return Info{Name: name, Origin: Removed, Definition: config.Sink{Name: name}, Status: m.rest(ctx, st)}, true
}

// rest is the status of a sink that does not run.
func (m *Manager) rest(ctx context.Context, st *store.Store) deliver.Status {
	status := deliver.Status{Condition: deliver.Ended}
	state, _, err := st.Load(ctx)
	if err == nil {
		status.Position, status.Held = state.Through, state.Held
		if end := m.journal.End(); !state.Through.IsZero() && end.Compare(state.Through) > 0 {
			status.LagEvents = end.NextOrdinal() - state.Through.NextOrdinal()
		}
		status.DeadLetters, status.DeadLetterBytes, err = st.Count(ctx)
	}
	if err != nil {
		status.Problem = err.Error()
	}
	return status
}
