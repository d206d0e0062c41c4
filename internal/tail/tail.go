// Package tail follows one file that another program writes and yields its lines
// together with checkpoints, so that a later process goes on where this one
// stopped. It polls, so it works on network file systems and in containers too.
//
// It follows a file through every usual way of rotation:
//
//   - rename and create: the renamed file is read to its end, also while its
//     writer has not noticed, and what was written to it first is given out first;
//   - copytruncate, also when the file has grown to its old size or beyond since:
//     it is recognised by its first bytes. Lines written between the copy and the
//     truncation are lost by design of that method, which is logged;
//   - delete, and delete and create, also when the new file gets the old inode;
//   - a symbolic link that is pointed elsewhere;
//   - any number of rotations while no process followed: the file of the
//     checkpoint is found again under its new name, and what came after it is read
//     in order of modification time.
//
// It knows nothing of what a line means, and does not read compressed files.
package tail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"time"
)

// From says where to begin in a file for which there is no checkpoint.
type From string

const (
	Start From = "start" // at its first line
	End   From = "end"   // behind its last line; a file that appears later is read from its start
)

// Options configure a [Tailer]. The zero values of everything but Path are the
// defaults.
type Options struct {
	Path       string
	From       From       // default Start
	Checkpoint Checkpoint // where to go on; zero: nowhere yet
	MaxLine    int        // longest line in bytes without its line feed; default DefaultMaxLine
	// Poll is the pause between two looks for new lines. It is shorter right after
	// a line came, and doubled when none has come for 10 s. Default 25 ms.
	Poll time.Duration
	// Check is the time between two looks for a rotation. Default 250 ms.
	Check time.Duration
	// Grace is how long a file that was rotated away is read after its last line
	// came and the new file got its first. Default 1 s. It delays nothing.
	Grace time.Duration
	// Idle, when it is set, says how long the pauses may become when nothing has come
	// for 10 s, if that is more than twice Poll: for one of many files that are mostly
	// done with.
	Idle func() time.Duration
	// Set are the files that other Tailers read; nil: there are none.
	Set *Set
	// Transient makes Next return [ErrGone] when there is nothing to follow any more:
	// the file was deleted and nothing was written to it for Linger, or it was gone
	// before the first look. Otherwise the Tailer waits for another file at the path.
	Transient bool
	Linger    time.Duration // default 1 h
	Logger    *slog.Logger  // default: none
}

// ErrGone is returned by [Tailer.Next] when a transient file is gone.
var ErrGone = errors.New("the file is gone")

// Stats count what a [Tailer] saw. All but Behind only grow.
type Stats struct {
	Lines, Bytes uint64 // given out, of every kind
	TooLong      uint64 // lines that were skipped because of their length
	Torn         uint64 // ends of files without a line feed
	NULs         uint64 // NUL bytes removed from the beginning of lines
	Rotations    uint64 // files that were begun after the first one
	Truncations  uint64 // times that the file was truncated
	Recovered    uint64 // truncations after which unread lines were found in a copy
	Missing      uint64 // files of the checkpoint that were not found again
	Compressed   uint64 // compressed rotated files that may hold lines never read
	Unreadable   uint64 // rotated files that could not be opened
	Behind       int64  // bytes in the files being read that were not given out yet
}

// Tailer follows one file. Next and Close must not be called concurrently; Health
// and Stats may be called at any time.
type Tailer struct {
	o   Options
	log *slog.Logger

	files     []*file    // being read, oldest first
	finished  []Position // left lately, oldest first
	turn      int        // index in files of the one whose turn it is
	nextCheck time.Time
	progress  bool          // something was read in this round
	pause     time.Duration // before the next look
	idle      time.Duration // pauses since something was read
	open      backoff
	missing   time.Time // since when nothing is at the path; zero when something is
	timer     *time.Timer
	stats     Stats // working copy
	gone      bool  // a transient file is

	mu      sync.Mutex
	problem error
	shown   Stats
}

// New returns a Tailer. It touches no file before the first Next.
func New(o Options) (*Tailer, error) {
	if o.Path == "" {
		return nil, errors.New("path of the file to follow is empty")
	}
	switch o.From {
	case "":
		o.From = Start
	case Start, End:
	default:
		return nil, fmt.Errorf("begin of %s: %q is neither %q nor %q", o.Path, o.From, Start, End)
	}
	if o.MaxLine <= 0 {
		o.MaxLine = DefaultMaxLine
	}
	defaultTo(&o.Poll, 25*time.Millisecond)
	defaultTo(&o.Check, 250*time.Millisecond)
	defaultTo(&o.Grace, time.Second)
	defaultTo(&o.Linger, time.Hour)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Tailer{o: o, log: o.Logger.With("path", o.Path), pause: minPause}
	o.Set.restore(t, o.Checkpoint)
	return t, nil
}

func defaultTo(d *time.Duration, value time.Duration) {
	if *d <= 0 {
		*d = value
	}
}

// minPause is the pause after which a file that just had lines is asked again.
const minPause = 2 * time.Millisecond

// idleAfter is how long nothing came before the pauses are doubled. On virtual
// machines it is the waking up that costs, not the looking.
const idleAfter = 10 * time.Second

// Next waits for lines and puts them into b, whose previous content is dropped.
// It returns without lines when only the position changed. A file that is missing
// or cannot be read is tried again for ever and shows in [Tailer.Health]; the only
// errors are that of ctx and, for a transient file, [ErrGone].
func (t *Tailer) Next(ctx context.Context, b *Batch) error {
	clear(b.Lines)
	b.Lines, b.Lossy = b.Lines[:0], false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		now := time.Now()
		if !now.Before(t.nextCheck) {
			t.nextCheck = now.Add(t.o.Check)
			changed := t.check(now, b)
			t.publish()
			if changed {
				return nil
			}
			if t.gone {
				return ErrGone
			}
		}
		switch t.step(now, b) {
		case stepYield:
			return nil
		case stepIdle:
			if err := t.sleep(ctx); err != nil {
				return err
			}
		}
	}
}

// Close releases the files. The Tailer must not be used afterwards.
func (t *Tailer) Close() error {
	var errs []error
	for _, f := range t.files {
		errs = append(errs, f.f.Close())
	}
	t.files = nil
	t.o.Set.note(t)
	return errors.Join(errs...)
}

// Health returns nil when the file is being followed, else what stands against it.
func (t *Tailer) Health() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.problem
}

// Stats returns the counts so far. They are brought up to date at every look for a
// rotation.
func (t *Tailer) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown
}

type stepResult uint8

const (
	stepAgain stepResult = iota // there is more to do at once
	stepYield                   // the batch has something
	stepIdle                    // all files were read to their ends
)

// step reads once from the file whose turn it is. Older files come first. A newer
// one is read only as far as it reached before the older ones were read to their
// ends, so whatever a writer wrote before it changed files is given out before
// what it wrote after.
func (t *Tailer) step(now time.Time, b *Batch) stepResult {
	if t.turn >= len(t.files) {
		t.turn = 0
		for i, f := range t.files {
			if i == 0 {
				f.limit = math.MaxInt64
			} else if info, err := f.f.Stat(); err == nil {
				f.limit = info.Size()
			}
		}
		if !t.progress {
			return stepIdle
		}
		t.progress = false
		t.pause, t.idle = minPause, 0
		if len(t.files) == 1 {
			return stepIdle // it was at its end a moment ago
		}
		return stepAgain
	}
	f := t.files[t.turn]
	if f.retry.wait(now) {
		t.turn++
		return stepAgain
	}
	before, head := f.split.end, f.id.Head
	lines, err := f.read(b.Lines, f.limit, now)
	b.Lines = lines
	switch {
	case errors.Is(err, errTruncated):
		t.truncated(t.turn, b, now)
		return stepYield
	case err != nil:
		f.retry.failed(now)
		t.report(fmt.Errorf("read: %w", err))
		if err := f.reopen(now); err != nil {
			t.log.Debug("could not reopen the file after a failed read", "error", err)
		}
	default:
		f.retry.ok()
	}
	if f.split.end > before {
		t.progress = true
	}
	if f.id.Head != head {
		t.o.Set.note(t) // before anybody can see that the lines were read
	}
	at := t.turn
	if f.atEnd {
		t.turn++
	}
	if len(b.Lines) == 0 {
		return stepAgain
	}
	t.count(b.Lines)
	t.mark(b, at)
	return stepYield
}

// sleep waits until the files are worth another look.
func (t *Tailer) sleep(ctx context.Context) error {
	if t.timer == nil {
		t.timer = time.NewTimer(t.pause)
	} else {
		t.timer.Reset(t.pause)
	}
	limit := t.o.Poll
	if t.idle += t.pause; t.idle > idleAfter {
		limit = 2 * t.o.Poll
		if t.o.Idle != nil {
			limit = max(limit, t.o.Idle())
		}
	}
	t.pause = min(2*t.pause, limit)
	select {
	case <-ctx.Done():
		t.timer.Stop()
		return ctx.Err()
	case <-t.timer.C:
		return nil
	}
}

// mark puts the current checkpoint into b, whose lines come from file at.
func (t *Tailer) mark(b *Batch, at int) {
	b.current = at
	b.after = Checkpoint{Files: make([]Position, len(t.files)), Finished: t.finished}
	for i, f := range t.files {
		b.after.Files[i] = f.position()
	}
}

// count adds lines to the statistics.
func (t *Tailer) count(lines []Line) {
	t.stats.Lines += uint64(len(lines))
	for i := range lines {
		t.stats.Bytes += uint64(lines[i].Size)
		switch lines[i].Kind {
		case TooLong:
			t.stats.TooLong++
		case Torn:
			t.stats.Torn++
		}
	}
}

// publish shows the statistics to other goroutines.
func (t *Tailer) publish() {
	s := t.stats
	for _, f := range t.files {
		s.Behind += max(f.size-f.split.done, 0)
		s.NULs += uint64(f.split.nuls)
	}
	t.o.Set.note(t)
	t.mu.Lock()
	t.shown = s
	t.mu.Unlock()
}

// report makes err visible in Health, and in the log when it is new.
func (t *Tailer) report(err error) {
	t.mu.Lock()
	known := t.problem != nil && t.problem.Error() == err.Error()
	t.problem = err
	t.mu.Unlock()
	if !known {
		t.log.Warn("file cannot be followed for now, trying again until it can", "error", err)
	}
}

// healthy takes back what was reported.
func (t *Tailer) healthy() {
	t.mu.Lock()
	was := t.problem
	t.problem = nil
	t.mu.Unlock()
	if was != nil {
		t.log.Info("file is being followed again")
	}
}

// statPath returns what is at the path, following symbolic links. Anything but a
// regular file is an error.
func (t *Tailer) statPath() (fs.FileInfo, error) {
	info, err := os.Stat(t.o.Path)
	if err != nil {
		return nil, err
	}
	return info, checkRegular(t.o.Path, info)
}

// leave stops reading file i and returns what stands behind its last line feed.
func (t *Tailer) leave(i int) (Line, bool) {
	f := t.files[i]
	torn, ok := f.split.flush()
	t.stats.NULs += uint64(f.split.nuls)
	t.finish(f.id, f.split.done)
	t.o.Set.left(t, f.id)
	f.f.Close()
	t.files = slices.Delete(t.files, i, i+1)
	t.turn = len(t.files) // a new round
	return torn, ok
}
