package strongbox

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"
)

// The bounds of a compartment.
const (
	// MaxKeyBytes bounds a key, which becomes longer when it is encrypted and must fit
	// into a line of the protocol of JetStream.
	MaxKeyBytes = 2 << 10
	// MaxValueBytes bounds a value.
	MaxValueBytes = 4 << 20
	// MaxKeys bounds the keys, because their names are kept in memory.
	MaxKeys = 500_000
)

const (
	// format is the first byte of a stored value.
	format = 1
	// markerTTL is how long the server keeps the mark that a key was removed.
	markerTTL = time.Minute
	// maxUnsure bounds the keys of which it is not known whether they are there, give or
	// take those that are written at the same time. Before there are more they are looked up.
	maxUnsure = 1000
	// keyLocks is how many keys can be written at once.
	keyLocks = 64
)

// Entry is a value under a key.
type Entry struct {
	Key   string
	Value []byte
	// Flag is kept with the value.
	Flag bool
}

// Compartment keeps the values of one mount. What was written when a method returned nil
// is on the disk. It is safe for concurrent use.
type Compartment struct {
	name   string
	kv     jetstream.KeyValue
	values cipher.AEAD
	names  nameCipher
	locks  [keyLocks]sync.Mutex // of writes, by key

	mu    sync.RWMutex
	index index
	// unsure are keys of which it is not known whether they are there, because a write
	// got no answer.
	unsure map[string]struct{}
}

var lockSeed = maphash.MakeSeed()

// lock keeps two writes of one key from changing the bucket in one order and the index in
// the other.
func (c *Compartment) lock(key string) *sync.Mutex {
	l := &c.locks[maphash.String(lockSeed, key)%keyLocks]
	l.Lock()
	return l
}

// load reads the names of all keys.
func (c *Compartment) load(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	patience := time.AfterFunc(callTimeout, cancel)
	defer patience.Stop()
	watch, err := c.kv.WatchAll(ctx, jetstream.MetaOnly(), jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("%w: list its keys: %w", ErrUnavailable, err)
	}
	defer watch.Stop() // fails if the context has ended it already
	var names []string
	for entry := range watch.Updates() {
		if entry == nil {
			c.index = newIndex(names)
			return nil
		}
		patience.Reset(callTimeout)
		name, err := c.names.decrypt(entry.Key())
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	return fmt.Errorf("%w: its keys were not all sent", ErrUnavailable)
}

// Len returns how many keys there are.
func (c *Compartment) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.index.len()
}

// Get returns the value under a key, nil when there is none. The error wraps
// [ErrUnavailable] or [ErrDamaged].
func (c *Compartment) Get(ctx context.Context, key string) (*Entry, error) {
	if err := checkKey(key); err != nil {
		return nil, nil // there cannot be one
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	entry, err := c.kv.Get(ctx, c.names.encrypt(key))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%w: read %q: %w", ErrUnavailable, key, err)
	}
	return c.decrypt(key, entry.Value())
}

// Put stores a value. The error wraps [ErrTooLarge], [ErrInvalid] or [ErrUnavailable];
// after the last one the value may be there or not.
//
// It does not end with ctx, because then nobody would know what is stored.
func (c *Compartment) Put(ctx context.Context, e Entry) error {
	if err := checkKey(e.Key); err != nil {
		return err
	}
	if len(e.Value) > MaxValueBytes {
		return fmt.Errorf("%w: the value has %d bytes, at most %d are allowed", ErrTooLarge, len(e.Value), MaxValueBytes)
	}
	c.mu.RLock()
	unsure := len(c.unsure)
	c.mu.RUnlock()
	if unsure >= maxUnsure {
		if err := c.clarify(ctx); err != nil {
			return err
		}
	}
	defer c.lock(e.Key).Unlock()
	c.mu.RLock()
	full := c.index.len() >= MaxKeys && !c.index.has(e.Key)
	c.mu.RUnlock()
	if full {
		return fmt.Errorf("%w: there are %d keys already", ErrTooLarge, MaxKeys)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if _, err := c.kv.Put(ctx, c.names.encrypt(e.Key), c.encrypt(e)); err != nil {
		c.doubt(e.Key)
		return fmt.Errorf("%w: store %q: %w", ErrUnavailable, e.Key, err)
	}
	c.settle(e.Key, true)
	return nil
}

// Delete removes the value under a key, if there is one. The error wraps
// [ErrUnavailable]; then it may be there or not. Like Put it does not end with ctx.
func (c *Compartment) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return nil // there cannot be one
	}
	defer c.lock(key).Unlock()
	c.mu.RLock()
	_, unsure := c.unsure[key]
	there := c.index.has(key) || unsure
	c.mu.RUnlock()
	if !there {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := c.kv.Purge(ctx, c.names.encrypt(key), jetstream.PurgeTTL(markerTTL)); err != nil {
		c.doubt(key)
		return fmt.Errorf("%w: remove %q: %w", ErrUnavailable, key, err)
	}
	c.settle(key, false)
	return nil
}

// List returns what follows prefix in the keys that begin with it, up to and with the
// next "/", in order and once each. The error wraps [ErrUnavailable].
func (c *Compartment) List(ctx context.Context, prefix string) ([]string, error) {
	if err := c.clarify(ctx); err != nil {
		return nil, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.index.children(prefix), nil
}

// doubt notes that it is not known whether a key is there.
func (c *Compartment) doubt(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsure[key] = struct{}{}
}

// settle notes whether a key is there.
func (c *Compartment) settle(key string, there bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unsure, key)
	if there {
		c.index.add(key)
	} else {
		c.index.remove(key)
	}
}

// clarify looks up the keys of which nothing is known.
func (c *Compartment) clarify(ctx context.Context) error {
	c.mu.RLock()
	var keys []string
	for key := range c.unsure {
		keys = append(keys, key)
	}
	c.mu.RUnlock()
	for _, key := range keys {
		if err := c.lookUp(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func (c *Compartment) lookUp(ctx context.Context, key string) error {
	defer c.lock(key).Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.kv.Get(ctx, c.names.encrypt(key))
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("%w: look up %q, of which a write got no answer: %w", ErrUnavailable, key, err)
	}
	c.settle(key, err == nil)
	return nil
}

// checkKey returns nil for what may be a key: texts that no path could escape from.
func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrInvalid)
	case len(key) > MaxKeyBytes:
		return fmt.Errorf("%w: the key has %d bytes, at most %d are allowed", ErrTooLarge, len(key), MaxKeyBytes)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: it is not UTF-8", ErrInvalid)
	}
	return nil
}

// place is what is authenticated with a value.
func (c *Compartment) place(key string) []byte { return []byte(c.name + "\x00" + key) }

// encrypt returns what is stored: format, nonce, and the flag and value in cipher.
func (c *Compartment) encrypt(e Entry) []byte {
	size := c.values.NonceSize()
	out := make([]byte, 1+size, 1+size+1+len(e.Value)+c.values.Overhead())
	out[0] = format
	rand.Read(out[1:])
	plain := make([]byte, 1, 1+len(e.Value))
	if e.Flag {
		plain[0] = 1
	}
	return c.values.Seal(out, out[1:1+size], append(plain, e.Value...), c.place(e.Key))
}

func (c *Compartment) decrypt(key string, stored []byte) (*Entry, error) {
	size := c.values.NonceSize()
	if len(stored) < 1+size || stored[0] != format {
		return nil, fmt.Errorf("read %q: %w", key, ErrDamaged)
	}
	plain, err := c.values.Open(nil, stored[1:1+size], stored[1+size:], c.place(key))
	if err != nil || len(plain) == 0 {
		return nil, fmt.Errorf("read %q: %w", key, ErrDamaged)
	}
	return &Entry{Key: key, Value: plain[1:], Flag: plain[0]&1 != 0}, nil
}
