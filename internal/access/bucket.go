package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// checkInterval is how often a bucket is asked whether it has changes that it
	// has not sent; so long it may take until a watch that broke silently is made
	// anew.
	checkInterval = 5 * time.Second
	// watchTimeout is how long a bucket may take to answer, or to send the next of
	// what it has.
	watchTimeout = 10 * time.Second
	// watchRetry is the pause after a watch has failed.
	watchRetry = time.Second
)

// versions is what a watcher brings up to date.
type versions interface {
	// revisions returns the newest revision that is known of each key that is there.
	revisions() map[string]uint64
	// update has what has become of some keys, in the order of their revisions. Some
	// of it may be known already.
	update(entries []jetstream.KeyValueEntry)
	// missing has keys, with the revisions that were known, that are not in the
	// bucket any more.
	missing(known map[string]uint64)
}

// watcher follows a key-value bucket for as long as it runs. When the watch breaks it
// is made again, and what was missed is found by comparing all that is there with
// what is known.
type watcher struct {
	bucket jetstream.KeyValue
	target versions
	check  time.Duration // see checkInterval
	log    *slog.Logger
	broken atomic.Pointer[error] // nil while changes arrive
}

// health says why changes do not arrive.
func (w *watcher) health() error {
	if err := w.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// run follows the bucket until ctx ends. It calls loaded once, when all that is there
// has been read for the first time; until then it does not try again, but returns the
// error.
func (w *watcher) run(ctx context.Context, loaded func()) error {
	first := true
	for {
		err := w.follow(ctx, func() {
			if first {
				first = false
				loaded()
			}
			if w.broken.Swap(nil) != nil {
				w.log.Info("Changes of policies are followed again.")
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		if first {
			return err
		}
		if w.broken.Swap(&err) == nil {
			w.log.Warn("Changes of policies by other nodes cannot be followed; trying again.", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchRetry):
		}
	}
}

// follow watches the bucket once, until something is wrong. It calls current when all
// that was there at first has been taken in.
func (w *watcher) follow(ctx context.Context, current func()) error {
	ctx, cancel := context.WithCancel(ctx) // the watch lasts as long as its context
	defer cancel()
	patience := time.AfterFunc(watchTimeout, cancel)
	defer patience.Stop()

	newest, err := w.newest(ctx)
	if err != nil {
		return err
	}
	known := w.target.revisions()
	watch, err := w.bucket.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch bucket %s: %w", w.bucket.Bucket(), err)
	}
	defer w.stop(watch)
	seen, err := w.list(watch.Updates(), known, patience)
	if err != nil {
		return err
	}
	patience.Stop()
	seen = max(seen, newest) // the newest may have been removed for good
	current()

	check := time.NewTicker(w.check)
	defer check.Stop()
	var behind uint64 // what was there at the last check, if not seen by then
	for {
		select {
		case entry, ok := <-watch.Updates():
			if !ok {
				return errors.Join(fmt.Errorf("the watch of bucket %s has ended", w.bucket.Bucket()), ctx.Err())
			}
			if entry != nil {
				seen = max(seen, entry.Revision())
				w.target.update([]jetstream.KeyValueEntry{entry})
			}
		case <-check.C:
			if behind > seen {
				return fmt.Errorf("bucket %s has changes up to %d, but has sent only those up to %d", w.bucket.Bucket(), behind, seen)
			}
			if behind, err = w.newest(ctx); err != nil {
				return err
			}
		}
	}
}

// stop ends a watch and lets go of what it still wanted to send, for which it waits.
func (w *watcher) stop(watch jetstream.KeyWatcher) {
	watch.Stop() // fails if the context has ended it already
	timeout := time.After(watchTimeout)
	for {
		select {
		case _, ok := <-watch.Updates():
			if !ok {
				return
			}
		case <-timeout:
			w.log.Warn("A watch of policies does not end.")
			return
		}
	}
}

// newest returns the newest revision in the bucket.
func (w *watcher) newest(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	status, err := w.bucket.Status(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask for the state of bucket %s: %w", w.bucket.Bucket(), err)
	}
	stream, ok := status.(interface{ StreamInfo() *jetstream.StreamInfo })
	if !ok {
		return 0, nil // nothing to compare with
	}
	return stream.StreamInfo().State.LastSeq, nil
}

// list takes in all that is there, up to the mark that ends it, and returns the newest
// revision. Of what was known before, that is missing which has not come.
func (w *watcher) list(updates <-chan jetstream.KeyValueEntry, known map[string]uint64, patience *time.Timer) (uint64, error) {
	var entries []jetstream.KeyValueEntry
	var newest uint64
	for entry := range updates {
		if entry == nil {
			w.target.update(entries)
			w.target.missing(known)
			return newest, nil
		}
		patience.Reset(watchTimeout)
		delete(known, entry.Key())
		newest = max(newest, entry.Revision())
		entries = append(entries, entry)
	}
	return 0, fmt.Errorf("bucket %s did not send all that it has", w.bucket.Bucket())
}
