// Package file writes events to a file, one per line: it appends, moves full or old files
// away, compresses those, and begins a new one when somebody else has moved the file.
//
// Every event that a receiver of lines finds is whole. What was written of a batch that
// failed is taken back, and half a line that a crash has left is removed before anything is
// appended, see [Options.Path].
package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

// Sync says when a file is synced.
type Sync string

// The policies.
const (
	// SyncProgress syncs when the progress of the delivery is about to be stored, see
	// [deliver.Syncer]: a power cut loses nothing, but what was written since is written again.
	SyncProgress Sync = "progress"
	// SyncAlways syncs each batch before it counts as delivered.
	SyncAlways Sync = "always"
	// SyncNever leaves it to the system.
	SyncNever Sync = "never"
)

// DefaultMode are the permissions of files.
const DefaultMode fs.FileMode = 0o640

// Modes of directories that are made.
const directoryMode fs.FileMode = 0o750

// Options say where and how to write. Path and Format are required.
type Options struct {
	// Path is the file. It and its directories are made when missing. It must be a regular
	// file and not a symbolic link, which moving it away would not move, and nobody else may
	// append to it: it is locked where the system can do that.
	//
	// Half a line at its end is removed when it is the beginning of an event in the
	// format: it was not written whole, so it is not delivered. Anything else that has no
	// newline at the end gets one.
	Path string
	// Below, if set, is a directory that the file must be in, whatever symbolic links there are.
	Below  string
	Format format.Format
	// Begin is what every line of the format [format.Raw] begins with, if there is such a thing,
	// so that half a line can be told. The other formats are known.
	Begin string
	Mode  fs.FileMode // default [DefaultMode]; the umask does not count
	Sync  Sync        // default [SyncProgress]

	// RotateBytes is the size at which the file is moved away, RotateAge the age; 0: it is
	// not. A batch is written whole, so that files may be smaller by one, and a batch larger
	// than RotateBytes is a file of its own. A file that was moved away has the time at the end of
	// its name, in UTC, so that names are in order: audit.jsonl.20261127T060207.123456789Z.
	RotateBytes int64
	RotateAge   time.Duration
	// Keep is how many files that were moved away are kept, KeepAge for how long; 0: all, for
	// ever. Only files with names as above are ever removed.
	Keep    int
	KeepAge time.Duration
	// Gzip compresses files that were moved away. They get the suffix .gz when they are
	// complete and synced.
	Gzip bool

	Logger *slog.Logger // default: none

	// Of tests.
	wrap      func(handle) handle
	lookEvery time.Duration
}

// Sink writes to one file. See [deliver.Sink] for its methods.
type Sink struct {
	o       Options
	log     *slog.Logger
	buffers sync.Pool // of *[]byte

	start   sync.Once
	jobs    chan job
	closing chan struct{}
	close   sync.Once
	running sync.WaitGroup
}

// job is something for the goroutine that has the file.
type job struct {
	do    func(*output) error
	buf   *[]byte // given back afterwards
	heard bool    // an error must be heard by somebody
	reply chan error
	gone  chan struct{} // closed: nobody waits for the reply any more
}

var errClosed = errors.New("the sink is closed")

// New returns a sink. It opens nothing before the first Send.
func New(o Options) (*Sink, error) {
	o.Mode = cmp.Or(o.Mode, DefaultMode)
	o.Sync = cmp.Or(o.Sync, SyncProgress)
	o.lookEvery = cmp.Or(o.lookEvery, lookEvery)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Path == "" {
		return nil, errors.New("path is missing: which file?")
	}
	if strings.ContainsFunc(o.Path, unicode.IsControl) || !utf8.ValidString(o.Path) {
		return nil, fmt.Errorf("path %.200q has characters that are not printable", o.Path)
	}
	if _, err := format.Named(o.Format.String()); err != nil {
		return nil, err
	}
	switch o.Sync {
	case SyncProgress, SyncAlways, SyncNever:
	default:
		return nil, fmt.Errorf("sync %.40q is none of progress, always, never", string(o.Sync))
	}
	if o.Mode&^fs.ModePerm != 0 || o.Mode&0o200 == 0 {
		return nil, fmt.Errorf("mode %#o must be permissions, with that to write for the owner", o.Mode)
	}
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("path %s: %w", o.Path, err)
	}
	if o.Path[len(o.Path)-1] == filepath.Separator || path == filepath.Dir(path) {
		return nil, fmt.Errorf("path %s is a directory; name a file in it", o.Path)
	}
	o.Path = path
	if o.Below != "" {
		if o.Below, err = filepath.Abs(o.Below); err != nil {
			return nil, fmt.Errorf("directory %s: %w", o.Below, err)
		}
		if rel, err := filepath.Rel(o.Below, path); err != nil || !filepath.IsLocal(rel) || rel == "." {
			return nil, fmt.Errorf("path %s is not below %s", path, o.Below)
		}
	}
	return &Sink{
		o: o, log: o.Logger, jobs: make(chan job), closing: make(chan struct{}),
		buffers: sync.Pool{New: func() any { return new([]byte) }},
	}, nil
}

// largestKept is the capacity up to which buffers are used again.
const largestKept = 8 << 20

// Send implements [deliver.Sink].
func (s *Sink) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	buf := s.buffers.Get().(*[]byte)
	lines := 0
	*buf, lines = s.encode((*buf)[:0], b)
	if lines == 0 {
		s.buffers.Put(buf)
		return deliver.Result{} // all are decided
	}
	err := s.ask(ctx, job{do: func(out *output) error { return out.write(*buf) }, buf: buf})
	if err != nil {
		return deliver.Result{Outcome: deliver.Retry, Reason: reason(err)}
	}
	return deliver.Result{}
}

// encode appends the lines of a batch. Events that have none are decided.
func (s *Sink) encode(buf []byte, b *deliver.Batch) (_ []byte, lines int) {
	for i := range b.Items {
		line, err := s.o.Format.AppendLine(buf, b.Items[i])
		if err != nil {
			b.Decide(i, deliver.Result{Outcome: deliver.Impossible, Reason: err.Error()})
			continue
		}
		buf = append(line, '\n')
		lines++
	}
	return buf, lines
}

// Sync implements [deliver.Syncer]. Meanwhile others can write.
func (s *Sink) Sync(ctx context.Context) error {
	if s.o.Sync == SyncNever {
		return nil
	}
	j := job{heard: true, reply: make(chan error), gone: make(chan struct{})}
	defer close(j.gone)
	err := s.ask(ctx, job{do: func(out *output) error { s.beginSync(out, j); return nil }})
	if err != nil {
		return err
	}
	return s.await(ctx, j)
}

// beginSync syncs the file in another goroutine, which gives the job back when that is done.
func (s *Sink) beginSync(out *output, j job) {
	part := out.beginSync()
	s.running.Go(func() {
		var err error
		if part.file != nil {
			err = part.file.Sync()
		}
		j.do = func(out *output) error { return out.endSync(part, err) }
		select {
		case s.jobs <- j:
		case <-s.closing:
		}
	})
}

// reopenTimeout bounds how long Reopen waits.
const reopenTimeout = 5 * time.Second

// Reopen implements [deliver.Reopener]: the next event goes to the file that has the path
// then.
func (s *Sink) Reopen() error {
	ctx, cancel := context.WithTimeout(context.Background(), reopenTimeout)
	defer cancel()
	return s.ask(ctx, job{do: func(out *output) error { out.release(); return nil }})
}

// closeGrace is how long something that is being written is waited for when the sink is
// closed.
const closeGrace = time.Second

// ask gives a job to the goroutine that has the file and waits until it is done. An
// operation of the system cannot be interrupted: when ctx ends, or the sink is closed, it goes
// on alone.
func (s *Sink) ask(ctx context.Context, j job) error {
	j.reply, j.gone = make(chan error), make(chan struct{})
	defer close(j.gone)
	s.start.Do(func() { s.running.Go(s.run) })
	select {
	case <-s.closing: // even if there is somebody to take it
		return errClosed
	default:
	}
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return fmt.Errorf("the file is busy: %w", context.Cause(ctx))
	case <-s.closing:
		return errClosed
	}
	return s.await(ctx, j)
}

// await waits until a job is done.
func (s *Sink) await(ctx context.Context, j job) error {
	select {
	case err := <-j.reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("writing to %s takes too long: %w", s.o.Path, context.Cause(ctx))
	case <-s.closing:
	}
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case err := <-j.reply:
		return err
	case <-ctx.Done():
	case <-timer.C:
	}
	return errClosed
}

// Close implements [deliver.Sink]. The file is synced, unless the policy is [SyncNever].
func (s *Sink) Close() error {
	s.start.Do(func() {}) // nothing begins any more
	s.close.Do(func() { close(s.closing) })
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("%s is still being written to", s.o.Path)
	}
}

// run has the file until the sink is closed.
func (s *Sink) run() {
	out := newOutput(&s.o, s.closing)
	s.running.Go(out.attic.run)
	defer out.release()
	for {
		select {
		case j := <-s.jobs:
			err := j.do(out)
			select {
			case j.reply <- err:
			case <-j.gone:
				if j.heard {
					out.lose(err) // whoever syncs next is told
				}
			}
			if j.buf != nil && cap(*j.buf) <= largestKept {
				s.buffers.Put(j.buf)
			}
		case <-out.old.C:
			out.rotateOld()
		case <-s.closing:
			return
		}
	}
}

// reason is a text about an error, with what to do.
func reason(err error) string {
	text, advice := err.Error(), ""
	switch {
	case errors.Is(err, syscall.ENOSPC):
		advice = "make room on the disk"
	case errors.Is(err, syscall.EDQUOT):
		advice = "the quota of the user is used up"
	case errors.Is(err, fs.ErrPermission):
		advice = "let the user that runs the hub write there"
	case errors.Is(err, syscall.EROFS):
		advice = "the file system must be writable"
	case errors.Is(err, syscall.EIO):
		advice = "look into the log of the system, the disk may be failing"
	}
	if advice != "" {
		text += "; " + advice
	}
	for len(text) > deliver.MaxReasonBytes {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	return text
}
