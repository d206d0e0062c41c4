package jwt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// minInterval is the least time between two fetches of keys. Without it, tokens with
// invented key ids would make the hub ask the issuer as often as somebody likes.
const minInterval = 10 * time.Second

// fileInterval is the same for keys in files.
const fileInterval = time.Second

// keyring is the keys of an issuer. It loads them when they are needed and not known
// or too old; there is never more than one load under way.
type keyring struct {
	load     func(context.Context) ([]key, error)
	timeout  time.Duration // of a load
	refresh  time.Duration // older keys are loaded again
	patience time.Duration // older keys are not used
	interval time.Duration // least time between two loads
	log      *slog.Logger

	ctx    context.Context // of loads; ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	keys    []key
	loaded  time.Time     // when the keys were asked for; zero: never
	tried   time.Time     // when keys were asked for, with or without success
	failure error         // of the last load
	loading chan struct{} // closed at the end of the load under way; nil: none is
}

// errClosed is why no keys are loaded any more.
var errClosed = errors.New("the provider is closed")

func newKeyring(c Config, log *slog.Logger) (*keyring, error) {
	load, inFiles, err := keySource(c)
	if err != nil {
		return nil, err
	}
	r := &keyring{
		load: load, timeout: c.Timeout, refresh: c.KeyRefresh, patience: c.Patience, interval: minInterval, log: log,
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if inFiles {
		r.refresh, r.interval = fileInterval, fileInterval
		// Files should be there from the beginning, and cost nothing to read.
		if r.keys, err = load(r.ctx); err != nil {
			r.cancel()
			return nil, err
		}
		r.loaded = time.Now()
		r.tried = r.loaded
	}
	return r, nil
}

// close ends the load under way and waits for its end. No further one begins.
func (r *keyring) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// current returns the keys to check a token with, nil and an error if there are
// none. They are as fresh as configured, or as fresh as can be had.
func (r *keyring) current(ctx context.Context) ([]key, error) {
	keys, err := r.get(ctx, r.refresh, false)
	if keys != nil {
		return keys, nil
	}
	return nil, err
}

// newest returns keys that are not older than the least interval between two loads,
// or an error.
func (r *keyring) newest(ctx context.Context) ([]key, error) {
	return r.get(ctx, r.interval, true)
}

// get returns keys that are not older than age. It may return older ones with an
// error that says why there are none. If they must not be older, it always waits for
// a load; else not when the last one has failed, so that an issuer which is away
// slows nobody down.
func (r *keyring) get(ctx context.Context, age time.Duration, must bool) ([]key, error) {
	r.mu.Lock()
	now := time.Now()
	if r.youngerThan(age, now) {
		defer r.mu.Unlock()
		return r.keys, nil
	}
	wait := must || r.failure == nil || !r.youngerThan(r.patience, now)
	if r.loading == nil && !r.closed && (r.tried.IsZero() || now.Sub(r.tried) >= r.interval) {
		r.start(now)
	}
	loading := r.loading
	r.mu.Unlock()
	wait = wait && loading != nil
	if wait {
		select {
		case <-loading:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	now = time.Now()
	err := r.failure
	switch {
	case r.youngerThan(age, now), wait && err == nil && !r.closed: // a load may take longer than age
		return r.keys, nil
	case r.closed:
		err = errClosed
	case err == nil:
		err = errors.New("the keys were fetched too recently to do it again")
	}
	if r.youngerThan(r.patience, now) {
		return r.keys, err
	}
	return nil, err
}

func (r *keyring) youngerThan(age time.Duration, now time.Time) bool {
	return !r.loaded.IsZero() && now.Sub(r.loaded) <= age
}

// start begins a load. The lock is held.
func (r *keyring) start(now time.Time) {
	loading := make(chan struct{})
	r.loading, r.tried = loading, now
	r.wg.Go(func() {
		ctx, cancel := context.WithTimeoutCause(r.ctx, r.timeout, fmt.Errorf("no answer within %s", r.timeout))
		defer cancel()
		keys, err := r.load(ctx)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.finish(now, keys, err)
		r.loading = nil
		close(loading)
	})
}

// finish takes over what a load that began at the given time has brought.
func (r *keyring) finish(began time.Time, keys []key, err error) {
	had := r.failure
	r.failure = err
	switch {
	case err == nil:
		if had != nil {
			r.log.Info("the keys of the issuer can be read again")
		}
		if before := len(r.keys); before != len(keys) && !r.loaded.IsZero() {
			r.log.Info("the number of keys of the issuer has changed", "before", before, "now", len(keys))
		}
		r.keys, r.loaded = keys, began
	case r.closed:
	case had == nil && r.loaded.IsZero():
		r.log.Warn("the keys of the issuer cannot be read; its tokens cannot be used until they can", "error", err)
	case had == nil:
		r.log.Warn("the keys of the issuer cannot be read again; the old ones are used for now",
			"error", err, "until", r.loaded.Add(r.patience))
	}
}
