package token

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// callTimeout bounds each call of the bucket.
	callTimeout = 5 * time.Second
	// markerTTL is how long the server keeps the mark that a key was removed. Nobody
	// needs it once the running watches have delivered it.
	markerTTL = time.Minute
)

// errConflict means that a key is not as a write presumed.
var errConflict = errors.New("the key was changed by somebody else")

// bucket is what the store does with a key-value bucket. Writes are durable when
// they return nil; after an error that is not errConflict nothing is known. Tests
// put one in between that fails.
type bucket interface {
	// create stores a value under a key that has none.
	create(ctx context.Context, key string, value []byte) (revision uint64, err error)
	// update replaces the value of that revision.
	update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// put stores whatever was there.
	put(ctx context.Context, key string, value []byte) (revision uint64, err error)
	// remove removes the value of that revision.
	remove(ctx context.Context, key string, revision uint64) error
	// watch delivers the newest of each key, nil, and then all changes, until ctx ends.
	watch(ctx context.Context) (jetstream.KeyWatcher, error)
	// last returns the revision of the last write.
	last(ctx context.Context) (revision uint64, err error)
}

// kvBucket is a bucket of JetStream.
type kvBucket struct {
	kv      jetstream.KeyValue
	markers time.Duration // how long delete markers stay; 0: for ever
}

func openBucket(ctx context.Context, kv jetstream.KeyValue) (*kvBucket, error) {
	status, err := kv.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("read status of bucket %s: %w", kv.Bucket(), err)
	}
	b := &kvBucket{kv: kv}
	if status.LimitMarkerTTL() > 0 {
		b.markers = markerTTL
	}
	return b, nil
}

func (b *kvBucket) create(ctx context.Context, key string, value []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	revision, err := b.kv.Create(ctx, key, value)
	return revision, conflict(err)
}

func (b *kvBucket) update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	revision, err := b.kv.Update(ctx, key, value, revision)
	return revision, conflict(err)
}

func (b *kvBucket) put(ctx context.Context, key string, value []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.kv.Put(ctx, key, value)
}

func (b *kvBucket) remove(ctx context.Context, key string, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	options := []jetstream.KVDeleteOpt{jetstream.LastRevision(revision)}
	if b.markers > 0 {
		options = append(options, jetstream.PurgeTTL(b.markers))
	}
	return conflict(b.kv.Purge(ctx, key, options...))
}

func conflict(err error) error {
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return errConflict
	}
	return err
}

// watch has no timeout: the context of a watch is that of its deliveries. The
// client bounds the making by itself.
func (b *kvBucket) watch(ctx context.Context) (jetstream.KeyWatcher, error) {
	return b.kv.WatchAll(ctx)
}

func (b *kvBucket) last(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	status, err := b.kv.Status(ctx)
	if err != nil {
		return 0, err
	}
	of, ok := status.(interface{ StreamInfo() *jetstream.StreamInfo })
	if !ok {
		return 0, fmt.Errorf("the status of bucket %s does not have its revision", b.kv.Bucket())
	}
	return of.StreamInfo().State.LastSeq, nil
}
