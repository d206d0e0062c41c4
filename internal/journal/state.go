package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// cursorBucket holds the positions of consumers that have none of their own place
// to keep them.
const cursorBucket = "tocsin-cursors"

// createTimeout bounds the making of a bucket. It is not cut short by the end of
// the caller's context, because the server would go on making it on its own.
const createTimeout = 10 * time.Second

// deleteMarkerTTL makes buckets accept deletions whose marker goes by itself
// ([jetstream.PurgeTTL]), and is how long the markers stay that the server makes.
const deleteMarkerTTL = 24 * time.Hour

// State returns the key-value bucket of that name, made when missing. Every write
// to it is synced before it returns; a key keeps its newest value only. The handle
// stays valid until Close, also over failures of the storage, during which its
// calls fail. It is safe for concurrent use.
func (j *Journal) State(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	kv, err := j.js.KeyValue(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
		defer cancel()
		kv, err = j.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: bucket, History: 1, Storage: jetstream.FileStorage, LimitMarkerTTL: deleteMarkerTTL,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", bucket, err)
	}
	return kv, nil
}

// RemoveState removes the bucket of that name with all that is in it; one that there is
// not is no error. Handles of it must not be used any more.
func (j *Journal) RemoveState(ctx context.Context, bucket string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	err := j.removing("KV_"+bucket, func() error { return j.js.DeleteKeyValue(ctx, bucket) })
	if err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return fmt.Errorf("remove state %s: %w", bucket, err)
	}
	return nil
}

// Objects returns the object store of that name, made when missing, for states too
// large for a key. Otherwise it is like [Journal.State].
func (j *Journal) Objects(ctx context.Context, bucket string) (jetstream.ObjectStore, error) {
	store, err := j.js.ObjectStore(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		store, err = j.makeObjects(ctx, bucket, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open object store %s: %w", bucket, err)
	}
	return store, nil
}

// Payloads is like [Journal.Objects] for payloads too large for an event: they are
// removed at the age at which events are.
func (j *Journal) Payloads(ctx context.Context, bucket string) (jetstream.ObjectStore, error) {
	store, err := j.makeObjects(ctx, bucket, j.config.MaxAge) // the age may be another one than last time
	if err != nil {
		return nil, fmt.Errorf("open payloads %s: %w", bucket, err)
	}
	return store, nil
}

func (j *Journal) makeObjects(ctx context.Context, bucket string, maxAge time.Duration) (jetstream.ObjectStore, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	return j.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: bucket, Storage: jetstream.FileStorage, TTL: maxAge,
	})
}

// Cursor is a durable position under a name. It is safe for concurrent use; of two
// Saves at once either may win.
type Cursor struct {
	journal *Journal
	name    string
}

// Cursor returns the cursor of that name, which may be any text. It stores nothing
// until Save.
func (j *Journal) Cursor(name string) *Cursor { return &Cursor{journal: j, name: name} }

// Load returns the position saved last, zero when there is none.
func (c *Cursor) Load(ctx context.Context) (Position, error) {
	p, err := c.load(ctx)
	if err != nil {
		return Position{}, fmt.Errorf("load cursor %q: %w", c.name, err)
	}
	return p, nil
}

func (c *Cursor) load(ctx context.Context) (Position, error) {
	kv, err := c.journal.cursors(ctx)
	if err != nil {
		return Position{}, err
	}
	entry, err := kv.Get(ctx, cursorKey(c.name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Position{}, nil
	}
	if err != nil {
		return Position{}, err
	}
	return ParsePosition(string(entry.Value()))
}

// Save makes p the position that Load returns, durably.
func (c *Cursor) Save(ctx context.Context, p Position) error {
	kv, err := c.journal.cursors(ctx)
	if err == nil {
		_, err = kv.Put(ctx, cursorKey(c.name), []byte(p.String()))
	}
	if err != nil {
		return fmt.Errorf("save cursor %q: %w", c.name, err)
	}
	return nil
}

// cursors returns the bucket of the cursors, which is looked up once.
func (j *Journal) cursors(ctx context.Context) (jetstream.KeyValue, error) {
	if kv := j.cursorState.Load(); kv != nil {
		return *kv, nil
	}
	kv, err := j.State(ctx, cursorBucket)
	if err == nil {
		j.cursorState.Store(&kv)
	}
	return kv, err
}

// cursorKey makes a key that JetStream allows of any name: bytes that it does not
// allow, and "=" itself, become "=" and two hexadecimal digits.
func cursorKey(name string) string {
	var key strings.Builder
	key.WriteString("cursor/") // the key of the empty name must not be empty
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '/':
			key.WriteByte(c)
		default:
			fmt.Fprintf(&key, "=%02x", c)
		}
	}
	return key.String()
}
