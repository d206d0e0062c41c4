package plugin

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// reading knows since when a call runs.
type reading struct{ since atomic.Int64 } // nanoseconds after base; 0: it does not

var base = time.Now()

func (r *reading) begin() { r.since.Store(int64(max(1, time.Since(base)))) }
func (r *reading) end()   { r.since.Store(0) }

func (r *reading) took() time.Duration {
	since := r.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(base) - time.Duration(since)
}

// watch looks whether the plugin still answers, and asks it for progress and metrics. One that
// does not answer is reported to failed, once. stop ends it and waits.
func (r *run) watch(life context.Context, failed chan<- error) (stop func()) {
	ctx, cancel := context.WithCancel(life)
	var running sync.WaitGroup
	report := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	running.Go(func() {
		every := max(r.config.CallTimeout/4, 50*time.Millisecond)
		for sleep(ctx, every) {
			if took := r.reading.took(); took > r.config.CallTimeout+grace {
				report(failure(Hanging, "it has not answered for %v", took.Round(100*time.Millisecond)))
				return
			}
		}
	})
	r.asking.begin() // not only when the goroutine does
	running.Go(func() {
		for {
			if err := r.poll(ctx); err != nil {
				report(err)
				return
			}
			if !sleep(ctx, pollEvery) {
				return
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// poll asks for metrics, which every plugin answers while it is alive, and for the progress. The
// error is that it does not answer.
func (r *run) poll(ctx context.Context) error {
	values, err := ask(ctx, r, "metrics", r.plugin.Metrics)
	if errors.Is(err, errTimeout) {
		return failure(Hanging, "it has not answered for %v when it was asked for its metrics", r.config.CallTimeout)
	}
	if err == nil {
		values = boundMetrics(values)
		r.mu.Lock()
		r.values = values
		r.mu.Unlock()
	}
	if r.stream == nil || !r.about.Capabilities.Progress {
		return nil
	}
	progress, err := ask(ctx, r, "progress", r.stream.Progress)
	switch {
	case errors.Is(err, errTimeout):
		return failure(Hanging, "it has not answered for %v when it was asked for its progress", r.config.CallTimeout)
	case err == nil:
		progress.Text = clean(r.redact(progress.Text), maxName)
		if !(progress.Fraction >= 0) {
			progress.Fraction = 0
		}
		progress.Fraction = min(progress.Fraction, 1)
		r.mu.Lock()
		r.status.Progress = &progress
		r.mu.Unlock()
	}
	return nil
}

// ask makes one call within the time for calls.
func ask[T any](ctx context.Context, r *run, what string, call func(context.Context) (T, error)) (T, error) {
	calling, cancel := context.WithTimeout(ctx, r.config.CallTimeout)
	defer cancel()
	r.asking.begin()
	defer r.asking.end()
	v, err := await(ctx, r.Source, r.config.CallTimeout, cancel, func() (T, error) { return call(calling) }, nil)
	switch {
	case err == nil, errors.Is(err, sourceplugin.ErrNotSupported), ctx.Err() != nil:
	case calling.Err() != nil:
		err = errTimeout
	default:
		r.log.Debug("A plugin does not answer a question.", "question", what, "error", clean(r.redact(err.Error()), maxReason))
	}
	return v, err
}
