package vaultaudit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// input is one audit device and what reads it.
type input struct {
	Input
	*Source
	log      *slog.Logger
	device   string // its name in events; empty when it is the server's
	literals []string
	patterns []string
	number   uint32 // for the window; of the only reader
	metrics  *metrics.Component
	replay   *durableIDs     // of the translation
	marks    map[string]mark // stored for the readers, by key
	fresh    bool            // nothing was stored
	feed     *feed
	running  *sync.WaitGroup

	mu       sync.Mutex
	readers  map[string]*reader // by key
	problem  error              // with the patterns
	gone     tail.Stats         // of readers that ended
	counts   Stats
	ignoring map[string]bool // compressed files that were told of
	seen     []string        // paths that the last look found; nil before the first
}

// reader reads one file or inbox in a goroutine of its own.
type reader struct {
	*input
	key    string // path; empty for an inbox
	number uint32 // for the window
	tailer *tail.Tailer
	room   chan struct{}
	spare  chan *batch
	begun  atomic.Bool  // the file was found
	quiet  atomic.Int64 // since when it waits for lines and has left none behind, Unix nanoseconds; 0: it does not
	ended  atomic.Bool

	// Of the feed.
	queue []*batch
	turn  uint64

	misses int // of the translation: lines in a row that were not durable
}

// newInput checks c.
func (s *Source) newInput(c Input, m *metrics.Metrics) (*input, error) {
	in := &input{
		Input: c, Source: s, log: s.log, number: s.nextNumber(), replay: &durableIDs{}, fresh: true,
		marks: make(map[string]mark), readers: make(map[string]*reader), ignoring: make(map[string]bool),
		metrics: m.Component("source", c.Name),
	}
	if c.Name != s.config.Name {
		in.device = c.Name
		in.log = s.log.With("device", c.Name)
	}
	switch {
	case c.Name == "":
		return nil, errors.New("an input has no name")
	case s.input(c.Name) != nil:
		return nil, fmt.Errorf("two inputs are called %s", c.Name)
	case (c.Inbox == nil) == (len(c.Paths) == 0):
		return nil, fmt.Errorf("input %s needs either files or an inbox", c.Name)
	}
	for _, path := range c.Paths {
		if _, err := tail.New(tail.Options{Path: path, From: c.From}); err != nil {
			return nil, fmt.Errorf("input %s: %w", c.Name, err)
		}
		if _, err := filepath.Match(path, ""); err != nil {
			return nil, fmt.Errorf("input %s: pattern %q: %w", c.Name, path, err)
		}
		if strings.ContainsAny(path, `*?[\`) {
			in.patterns = append(in.patterns, path)
		} else {
			in.literals = append(in.literals, path)
		}
	}
	return in, nil
}

// several reports whether more than one file may be read.
func (in *input) several() bool { return len(in.literals)+2*len(in.patterns) > 1 }

func (in *input) named(err error) error {
	if in.device == "" {
		return err
	}
	return fmt.Errorf("input %s: %w", in.Name, err)
}

// start begins to read where the stored marks say.
func (in *input) start(ctx context.Context) error {
	if in.Inbox != nil {
		m := in.marks[""]
		if m.inbox != (inbox.Position{}) {
			if err := in.Inbox.Seek(m.inbox); err != nil {
				return fmt.Errorf("input %s: go on in the inbox: %w", in.Name, err)
			}
		}
		r := in.newReader("", in.number)
		in.running.Go(func() { in.readInbox(ctx, r) })
		return nil
	}
	return in.startFiles(ctx)
}

// newReader adds a reader.
func (in *input) newReader(key string, number uint32) *reader {
	r := &reader{input: in, key: key, number: number, room: make(chan struct{}, readerBatches), spare: make(chan *batch, readerBatches+1)}
	in.mu.Lock()
	in.readers[key] = r
	in.mu.Unlock()
	return r
}

// nextBatch returns memory for a batch.
func (r *reader) nextBatch() *batch {
	select {
	case b := <-r.spare:
		b.lines, b.lost, b.lossy, b.gone = nil, nil, false, false
		return b
	default:
		return &batch{from: r}
	}
}

// waits notes that r waits for lines until the returned function is called. As long as
// something that it read before is not translated it does not count as quiet.
func (r *reader) waits() func() {
	r.quiet.Store(time.Now().UnixNano())
	return func() { r.quiet.Store(0) }
}

// readInbox is the first stage for an inbox.
func (in *input) readInbox(ctx context.Context, r *reader) {
	r.begun.Store(true)
	for pause := firstRetry; ; {
		b := r.nextBatch()
		done := r.waits()
		err := in.Inbox.Read(ctx, &b.inbox)
		done()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, inbox.ErrClosed):
			return
		case err != nil:
			in.report(fmt.Errorf("read the inbox: %w", err))
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, lastRetry)
			continue
		}
		if pause > firstRetry {
			in.report(nil)
			pause = firstRetry
		}
		b.lines, b.lost = b.inbox.Lines, b.inbox.Lost
		if !in.feed.put(ctx, b) {
			return
		}
	}
}

// report makes err visible in Health, and in the log when it is new.
func (in *input) report(err error) {
	in.mu.Lock()
	known := err == nil || in.problem != nil && in.problem.Error() == err.Error()
	in.problem = err
	in.mu.Unlock()
	if !known {
		in.log.Warn("trouble with an input, trying again until it works", "error", err)
	}
}

func (in *input) health() error {
	in.mu.Lock()
	errs := []error{in.problem}
	tailers := make([]*tail.Tailer, 0, len(in.readers))
	for _, r := range in.readers {
		if r.tailer != nil {
			tailers = append(tailers, r.tailer)
		}
	}
	in.mu.Unlock()
	for _, t := range tailers {
		errs = append(errs, t.Health())
	}
	return errors.Join(errs...)
}

func (in *input) tailStats() tail.Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	all := in.gone
	for _, r := range in.readers {
		if r.tailer != nil {
			addTail(&all, r.tailer.Stats())
		}
	}
	return all
}

func addTail(all *tail.Stats, s tail.Stats) {
	all.Lines += s.Lines
	all.Bytes += s.Bytes
	all.TooLong += s.TooLong
	all.Torn += s.Torn
	all.NULs += s.NULs
	all.Rotations += s.Rotations
	all.Truncations += s.Truncations
	all.Recovered += s.Recovered
	all.Missing += s.Missing
	all.Compressed += s.Compressed
	all.Unreadable += s.Unreadable
	all.Behind += s.Behind
}

// count adds to the counts that others see.
func (in *input) count(c Stats) {
	in.mu.Lock()
	in.counts.add(c)
	in.mu.Unlock()
}

func (in *input) snapshotStats() Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.counts
}

// settled reports whether no line is to be expected that was there at the start: all
// readers have read as far as they can, and waited for a while.
func (in *input) settled(now time.Time) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, r := range in.readers {
		since := r.quiet.Load()
		if r.misses > maxHole || r.ended.Load() {
			continue
		}
		if since == 0 || now.Sub(time.Unix(0, since)) < in.settleAfter || len(r.room) > 0 || !r.begun.Load() {
			return false
		}
		if r.tailer != nil && r.tailer.Health() != nil {
			return false
		}
	}
	return true
}

// settleInterval is how long an input must have been silent to count as read to the
// end of what was there at the start.
const settleInterval = 3 * time.Second
