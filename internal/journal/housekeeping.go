package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// houseInterval is how often old records are removed from disk and memory, at
// most; a short MaxAge is kept more precisely.
const houseInterval = 30 * time.Second

// keepHouse removes what is too old, from the disk and from the cache, until ctx
// ends.
//
// The age limit is kept here and not by the stream, because a stream that was not
// opened for longer than MaxAge would remove its last record before anybody could
// see which ordinal comes next.
func (j *Journal) keepHouse(ctx context.Context) {
	interval := houseInterval
	if j.config.MaxAge > 0 {
		interval = min(interval, max(j.config.MaxAge/10, 50*time.Millisecond))
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if j.config.MaxAge > 0 && j.health.Load() == nil {
			if err := j.removeBefore(ctx, time.Now().Add(-j.config.MaxAge)); err != nil && ctx.Err() == nil {
				j.log.Warn("remove old records", "error", err)
			}
		}
		select {
		case now := <-ticker.C:
			j.records.expire(now)
			j.queue.trim()
		case <-ctx.Done():
			return
		}
	}
}

// removeBefore removes the records written before t, except the newest.
func (j *Journal) removeBefore(ctx context.Context, t time.Time) error {
	s, end := j.session.Load(), j.End()
	if s == nil || end.IsZero() {
		return nil
	}
	keep := end.Seq
	switch rec, err := s.fetchOne(ctx, getRequest{StartTime: &t}); {
	case err == nil:
		keep = min(keep, rec.seq)
	case !errors.Is(err, errNoRecord):
		return fmt.Errorf("find oldest record to keep: %w", err)
	}
	oldest, err := j.js.Stream(ctx, streamName)
	if err != nil {
		return err
	}
	if oldest.CachedInfo().State.FirstSeq >= keep {
		return nil
	}
	return oldest.Purge(ctx, jetstream.WithPurgeSequence(keep))
}
