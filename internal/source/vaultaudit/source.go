package vaultaudit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// Journal is what a source needs of the journal, which [*journal.Journal] has.
type Journal interface {
	Submit(ctx context.Context, events ...*event.Event) (*journal.Receipt, error)
	Read(after journal.Position) *journal.Reader
	End() journal.Position
	Accepts() bool
	Recent(ctx context.Context, n uint64) (journal.Position, error)
	Since(ctx context.Context, since string, now time.Time) (journal.Position, error)
	State(ctx context.Context, bucket string) (jetstream.KeyValue, error)
	Objects(ctx context.Context, bucket string) (jetstream.ObjectStore, error)
	Payloads(ctx context.Context, bucket string) (jetstream.ObjectStore, error)
}

// Inbox is what a source needs of an inbox, which [*inbox.Inbox] has. Seek is called
// once before the first Read, Read by one goroutine.
type Inbox interface {
	Seek(inbox.Position) error
	Read(context.Context, *inbox.Batch) error
	// Acknowledge tells that the journal has all lines before a position, Release that
	// they will never be asked for again. Positions only grow.
	Acknowledge(inbox.Position)
	Release(inbox.Position)
}

// Config says what one server's audit devices are. Name is required. Without inputs a
// source takes in only what is imported.
type Config struct {
	// Name of the server. Events have it in their source, and what is stored about the
	// progress is stored under it.
	Name string
	// Inputs are its audit devices.
	Inputs []Input
	// Limits of one event; the zero value means event.DefaultLimits. They must be
	// those of the journal. The bytes of an audit entry beyond MaxEventBytes go to
	// the object store [PayloadBucket].
	Limits event.Limits
	// Translator configures the translation; its Name and Limits are set from the
	// fields above.
	Translator TranslatorConfig
	// Ask, if not nil, is told between batches of lines what they left open, and what
	// it answers counts for the lines that follow.
	Ask Ask
	// ShutdownTimeout bounds how long Run waits for the journal after its context
	// has ended; default 5 s. What is not durable by then is read again.
	ShutdownTimeout time.Duration
}

// Input is one audit device: files that are followed, or an inbox.
type Input struct {
	// Name of the device, unique among those of the source. How far it was read is
	// stored under it. Events say it as metadata "device", unless it is the server's.
	Name string
	// Paths are files of the audit device and patterns (see [filepath.Match]) of such
	// files; see package tail for what may happen to them, and docs/operations.md for
	// what patterns mean.
	Paths []string
	// From says where to begin the first time in files; default [tail.Start].
	From tail.From
	// MaxLine is the longest line taken of files; default [tail.DefaultMaxLine].
	MaxLine int
	// Inbox is read instead of files when it is not nil. Whoever made it closes it
	// after Run has returned.
	Inbox Inbox
}

// Deps are what a Source works with. Journal is required.
type Deps struct {
	Journal Journal
	Metrics *metrics.Metrics // default: private
	Logger  *slog.Logger     // default: none
}

// Source is the source of one server's audit entries: every line that a device of it
// writes becomes an audit event and the notifications derived from it, which are
// appended to the journal as one unit. An entry that comes over several devices, or
// that a sender sends again, is taken once.
//
// Where to go on in an input is stored only after everything before it is durable, and
// after a crash the lines behind it whose events are in the journal already are
// recognised: no line is lost, and none is appended twice. An input that is silent or
// fails holds up no other.
type Source struct {
	config     Config
	log        *slog.Logger
	journal    Journal
	submit     func(context.Context, []*event.Event) (receipt, error) // of journal
	translator *Translator
	inputs     []*input // in the order of the configuration
	byDevice   map[string]*input
	files      *tail.Set    // nil when no file can be met under two names
	open       atomic.Int64 // files
	numbers    uint32       // of readers, for the window
	window     *window      // nil when nothing can come twice
	imports    *importer
	ended      chan struct{} // closed when Run returns

	// Tests shorten these.
	snapshotEvery, settleAfter, scanEvery, linger time.Duration

	mu       sync.Mutex
	problems [numStages]problem // by stage
}

// receipt is what a [*journal.Receipt] can do.
type receipt interface {
	Done() <-chan struct{}
	Wait(context.Context) (journal.Position, error)
}

// New returns a source that does nothing before Run.
func New(config Config, deps Deps) (*Source, error) {
	if config.Name == "" {
		return nil, errors.New("audit source: name is empty")
	}
	if config.Limits == (event.Limits{}) {
		config.Limits = event.DefaultLimits
	}
	if config.ShutdownTimeout <= 0 {
		config.ShutdownTimeout = 5 * time.Second
	}
	config.Translator.Name = config.Name
	config.Translator.Limits = config.Limits
	if deps.Metrics == nil {
		deps.Metrics = metrics.New(nil)
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Source{
		config:  config,
		log:     deps.Logger.With("source", config.Name),
		journal: deps.Journal,
		submit: func(ctx context.Context, events []*event.Event) (receipt, error) {
			r, err := deps.Journal.Submit(ctx, events...)
			if err != nil {
				return nil, err
			}
			return r, nil
		},
		translator: NewTranslator(config.Translator),
		byDevice:   make(map[string]*input),
		ended:      make(chan struct{}),

		snapshotEvery: snapshotInterval,
		settleAfter:   settleInterval,
		scanEvery:     scanInterval,
	}
	s.imports = newImporter(s)
	for _, c := range config.Inputs {
		in, err := s.newInput(c, deps.Metrics)
		if err != nil {
			return nil, fmt.Errorf("audit source %s: %w", config.Name, err)
		}
		s.inputs = append(s.inputs, in)
		s.byDevice[in.device] = in
	}
	several := len(s.inputs) > 1
	for _, in := range s.inputs {
		if in.several() {
			s.files = tail.NewSet()
		}
		several = several || in.several() || in.Inbox != nil
	}
	if several {
		s.window = newWindow(windowIDs, windowAge)
	}
	return s, nil
}

// Bounds of the pipeline: readers, translation and appender work at the same time,
// each in goroutines of their own, and wait for each other when these are reached.
const (
	readerBatches    = 2         // of one reader, read and not translated
	maxBatches       = 32        // of all readers
	unitBytes        = 256 << 10 // a unit is closed when it has so many bytes
	unitLines        = 512       // or so many lines
	maxUnits         = 4         // translated and not submitted
	maxInFlightBytes = 4 << 20   // submitted and not durable
)

// Run reads the inputs until ctx ends. It then waits until what was read is
// durable, stores the position, and returns nil. Trouble with an input or the
// journal does not end it: see Health. It returns an error only when the journal
// was closed under it. It must be called once.
func (s *Source) Run(ctx context.Context) error {
	defer close(s.ended)
	// What was read is finished under a context that outlives ctx a little.
	flush, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(s.config.ShutdownTimeout, cancel) })
	defer stop()

	progress, err := s.resume(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("audit source %s: %w", s.config.Name, err)
	}

	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	feed := newFeed()
	units := make(chan *unit, maxUnits)
	var readers, group sync.WaitGroup
	for _, in := range s.inputs {
		in.feed, in.running = feed, &readers
		if err := in.start(reading); err != nil {
			stopReading()
			readers.Wait()
			return fmt.Errorf("audit source %s: %w", s.config.Name, err)
		}
	}
	group.Go(func() {
		<-reading.Done() // whatever ends before, something may be imported
		readers.Wait()
		feed.close()
	})
	group.Go(func() {
		defer close(units)
		defer func() { // when it gave up, the readers must end too
			stopReading()
			feed.drain()
		}()
		t := &translation{Source: s, out: units}
		t.run(flush, feed)
	})
	a := &appender{Source: s, progress: progress, imports: s.imports.units}
	err = a.run(flush, units)
	stopReading()
	cancel()
	group.Wait()
	if err != nil {
		s.trouble(stageAppend, "append to the journal", err) // Health stays red
		return fmt.Errorf("audit source %s: %w", s.config.Name, err)
	}
	return nil
}

// Health returns nil when the source works, else an error that says what stands
// against it; it goes on trying.
func (s *Source) Health() error {
	errs := s.stageErrors()
	for _, in := range s.inputs {
		if err := in.health(); err != nil {
			errs = append(errs, in.named(err))
		}
	}
	return s.healthError(errs)
}

// InputHealth is Health for one input: what stands against it alone, or against all.
func (s *Source) InputHealth(name string) error {
	errs := s.stageErrors()
	if in := s.input(name); in != nil {
		errs = append(errs, in.health())
	}
	return s.healthError(errs)
}

func (s *Source) stageErrors() (errs []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.problems {
		if p.err != nil {
			errs = append(errs, p.err)
		}
	}
	return errs
}

func (s *Source) healthError(errs []error) error {
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("audit source %s: %w", s.config.Name, err)
	}
	return nil
}

// nextNumber returns a number for a reader.
func (s *Source) nextNumber() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.numbers++
	return s.numbers
}

func (s *Source) input(name string) *input {
	for _, in := range s.inputs {
		if in.Name == name {
			return in
		}
	}
	return nil
}

// Stats returns the counts of all inputs since the start.
func (s *Source) Stats() (all Stats) {
	for _, in := range s.inputs {
		all.add(in.snapshotStats())
	}
	all.add(s.imports.stats())
	return all
}

// InputStats returns the counts of one input since the start.
func (s *Source) InputStats(name string) Stats {
	if in := s.input(name); in != nil {
		return in.snapshotStats()
	}
	return Stats{}
}

// TailStats returns what an input saw of its files, among it how many bytes it
// is behind their ends.
func (s *Source) TailStats(name string) tail.Stats {
	if in := s.input(name); in != nil {
		return in.tailStats()
	}
	return tail.Stats{}
}

// stage is a part of the work that may be in trouble by itself.
type stage uint8

const (
	stageStart    stage = iota // reading back where to go on
	stagePayload               // storing large entries
	stageAppend                // appending events
	stagePosition              // storing the position and the state
	numStages
)

// problem is what stands against a stage.
type problem struct {
	err   error
	count int // failures in a row
}

// trouble notes that a stage failed, and logs that once, or that it works again
// when err is nil.
func (s *Source) trouble(at stage, what string, err error) {
	s.mu.Lock()
	before := s.problems[at]
	after := problem{}
	if err != nil {
		after = problem{err: fmt.Errorf("%s: %w", what, err), count: before.count + 1}
	}
	s.problems[at] = after
	s.mu.Unlock()
	switch {
	case err != nil && before.count == 0:
		s.log.Warn("trying again until it works: "+what, "error", err)
	case err == nil && before.count > 0:
		s.log.Info("works again: "+what, "attempts", before.count+1)
	}
}

// Pauses between attempts.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// retry calls do until it succeeds, the journal is closed, or ctx ends.
func (s *Source) retry(ctx context.Context, at stage, what string, do func(context.Context) error) error {
	pause := firstRetry
	for {
		err := do(ctx)
		if err == nil || errors.Is(err, journal.ErrClosed) || ctx.Err() != nil {
			if err == nil {
				s.trouble(at, what, nil)
			}
			return err
		}
		s.trouble(at, what, err)
		if !sleep(ctx, retryAfter(err, pause)) {
			return ctx.Err()
		}
		pause = min(2*pause, lastRetry)
	}
}

// retryAfter is how long to wait after err: what the journal says, within bounds,
// or else pause.
func retryAfter(err error, pause time.Duration) time.Duration {
	var pushback *journal.PushbackError
	if errors.As(err, &pushback) {
		return min(max(pushback.RetryAfter, firstRetry), lastRetry)
	}
	return pause
}

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
