package vaultaudit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// Journal is what a source needs of the journal, which [*journal.Journal] has.
type Journal interface {
	Submit(ctx context.Context, events ...*event.Event) (*journal.Receipt, error)
	Read(after journal.Position) *journal.Reader
	End() journal.Position
	State(ctx context.Context, bucket string) (jetstream.KeyValue, error)
	Objects(ctx context.Context, bucket string) (jetstream.ObjectStore, error)
	Payloads(ctx context.Context, bucket string) (jetstream.ObjectStore, error)
}

// FileConfig says which audit file is followed and how. Name and Path are
// required.
type FileConfig struct {
	// Name of the source. What is stored about the progress is stored under it.
	Name string
	// Path of the file of the audit device; see package tail for what may happen
	// to it.
	Path string
	// From says where to begin the first time; default [tail.Start].
	From tail.From
	// MaxLine is the longest line taken; default [tail.DefaultMaxLine].
	MaxLine int
	// Limits of one event; the zero value means event.DefaultLimits. They must be
	// those of the journal. The bytes of an audit entry beyond MaxEventBytes go to
	// the object store [PayloadBucket].
	Limits event.Limits
	// Translator configures the translation; its Name and Limits are set from the
	// fields above.
	Translator TranslatorConfig
	// ShutdownTimeout bounds how long Run waits for the journal after its context
	// has ended; default 5 s. What is not durable by then is read again.
	ShutdownTimeout time.Duration
}

// Deps are what a File works with. Journal is required.
type Deps struct {
	Journal Journal
	Metrics *metrics.Metrics // default: private
	Logger  *slog.Logger     // default: none
}

// File is the source that follows the file of an audit device: every line becomes
// an audit event and the notifications derived from it, which are appended to the
// journal as one unit. A position in the file is stored only after everything
// before it is durable, and after a crash the lines behind it whose events are in
// the journal already are recognised: no line is lost, and none is appended twice.
type File struct {
	config     FileConfig
	log        *slog.Logger
	journal    Journal
	submit     func(context.Context, []*event.Event) (receipt, error) // of journal
	metrics    *metrics.Component
	translator *Translator
	// snapshotEvery is snapshotInterval; tests shorten it.
	snapshotEvery time.Duration

	mu       sync.Mutex
	tailer   *tail.Tailer       // nil before Run
	problems [numStages]problem // by stage
	stats    Stats
}

// receipt is what a [*journal.Receipt] can do.
type receipt interface {
	Done() <-chan struct{}
	Wait(context.Context) (journal.Position, error)
}

// NewFile returns a source that does nothing before Run.
func NewFile(config FileConfig, deps Deps) (*File, error) {
	if config.Name == "" {
		return nil, errors.New("audit file source: name is empty")
	}
	if _, err := tail.New(tail.Options{Path: config.Path, From: config.From}); err != nil {
		return nil, fmt.Errorf("audit file source %s: %w", config.Name, err)
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
	return &File{
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
		metrics:    deps.Metrics.Component("source", config.Name),
		translator: NewTranslator(config.Translator),

		snapshotEvery: snapshotInterval,
	}, nil
}

// Bounds of the pipeline: reader, translator and appender work at the same time,
// each one goroutine, and wait for each other when these are reached.
const (
	maxBatches       = 2         // of lines, read and not translated
	unitBytes        = 256 << 10 // a unit is closed when it has so many bytes
	unitLines        = 512       // or so many lines
	maxUnits         = 4         // translated and not submitted
	maxInFlightBytes = 4 << 20   // submitted and not durable
)

// Run follows the file until ctx ends. It then waits until what was read is
// durable, stores the position, and returns nil. Trouble with the file or the
// journal does not end it: see Health. It returns an error only when the journal
// was closed under it. It must be called once.
func (f *File) Run(ctx context.Context) error {
	// What was read is finished under a context that outlives ctx a little.
	flush, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(f.config.ShutdownTimeout, cancel) })
	defer stop()

	progress, skip, err := f.resume(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("audit file source %s: %w", f.config.Name, err)
	}
	tailer, err := tail.New(tail.Options{
		Path: f.config.Path, From: f.config.From, Checkpoint: progress.record.File, MaxLine: f.config.MaxLine, Logger: f.log,
	})
	if err != nil {
		return fmt.Errorf("audit file source %s: %w", f.config.Name, err)
	}
	f.mu.Lock()
	f.tailer = tailer
	f.mu.Unlock()

	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	batches := make(chan *tail.Batch, maxBatches)
	emptied := make(chan *tail.Batch, maxBatches+1)
	units := make(chan *unit, maxUnits)
	var group sync.WaitGroup
	group.Go(func() {
		defer close(batches)
		defer tailer.Close()
		readLines(reading, tailer, batches, emptied)
	})
	group.Go(func() {
		defer close(units)
		defer func() { // when it gave up, the reader must end too
			stopReading()
			for range batches {
			}
		}()
		t := &translation{File: f, skip: skip, out: units}
		t.run(flush, batches, emptied)
	})
	a := &appender{File: f, progress: progress}
	err = a.run(flush, units)
	stopReading()
	cancel()
	group.Wait()
	if err != nil {
		f.trouble(stageAppend, "append to the journal", err) // Health stays red
		return fmt.Errorf("audit file source %s: %w", f.config.Name, err)
	}
	return nil
}

// readLines is the first stage.
func readLines(ctx context.Context, tailer *tail.Tailer, batches chan<- *tail.Batch, emptied <-chan *tail.Batch) {
	for {
		var b *tail.Batch
		select {
		case b = <-emptied:
		default:
			b = new(tail.Batch)
		}
		if tailer.Next(ctx, b) != nil {
			return
		}
		select {
		case batches <- b:
		case <-ctx.Done():
			return // not translated, so read again the next time
		}
	}
}

// Health returns nil when the source works, else an error that says what stands
// against it; it goes on trying.
func (f *File) Health() error {
	f.mu.Lock()
	tailer := f.tailer
	var errs []error
	for _, p := range f.problems {
		if p.err != nil {
			errs = append(errs, p.err)
		}
	}
	f.mu.Unlock()
	if tailer != nil {
		errs = append(errs, tailer.Health())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("audit file source %s: %w", f.config.Name, err)
	}
	return nil
}

// Stats returns the counts since the start.
func (f *File) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// TailStats returns what the source saw of its file, among it how many bytes it
// is behind the file's end.
func (f *File) TailStats() tail.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tailer == nil {
		return tail.Stats{}
	}
	return f.tailer.Stats()
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
func (f *File) trouble(s stage, what string, err error) {
	f.mu.Lock()
	before := f.problems[s]
	after := problem{}
	if err != nil {
		after = problem{err: fmt.Errorf("%s: %w", what, err), count: before.count + 1}
	}
	f.problems[s] = after
	f.mu.Unlock()
	switch {
	case err != nil && before.count == 0:
		f.log.Warn("trying again until it works: "+what, "error", err)
	case err == nil && before.count > 0:
		f.log.Info("works again: "+what, "attempts", before.count+1)
	}
}

// Pauses between attempts.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// retry calls do until it succeeds, the journal is closed, or ctx ends.
func (f *File) retry(ctx context.Context, s stage, what string, do func(context.Context) error) error {
	pause := firstRetry
	for {
		err := do(ctx)
		if err == nil || errors.Is(err, journal.ErrClosed) || ctx.Err() != nil {
			if err == nil {
				f.trouble(s, what, nil)
			}
			return err
		}
		f.trouble(s, what, err)
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
