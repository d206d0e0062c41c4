// Package strongbox keeps named values encrypted in key-value buckets: the storage of
// hosted plugins, and what the hub knows about them. A box has compartments, one for
// each mount, which know nothing of each other.
//
// # What is stored
//
// One data key encrypts everything. It is made when the box is opened for the first time
// and is itself stored, encrypted by the key that the operator gives; so that key can be
// replaced without touching what is in the box. From the data key and the name of a
// compartment come the keys of the compartment.
//
// Values are encrypted by AES-256-GCM with a random nonce. The names of their compartment
// and key are authenticated with them, so that a value which somebody moves to another
// place in the bucket is noticed. Names of keys are encrypted as well, so that equal names
// in one compartment are equal: what can be seen in a bucket is how many keys there are,
// how long their names and values are, and which changed when. An older value put back
// under its own key is not noticed.
//
// # What it is not
//
// The data key is in the memory of the process for as long as it runs. There is no seal,
// no quorum, and no protection from who can read that memory or run as the same user.
package strongbox

import (
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrWrongKey means that none of the given keys opens the box. Nothing was changed.
	ErrWrongKey = errors.New("none of the given keys opens the storage")
	// ErrDamaged means that something in the box is not what was stored there.
	ErrDamaged = errors.New("stored value is damaged or was moved")
	// ErrTooLarge means that a key or value is longer than allowed, or that there are
	// too many.
	ErrTooLarge = errors.New("too large for the storage")
	// ErrInvalid means that a key cannot be one.
	ErrInvalid = errors.New("invalid key")
	// ErrUnavailable means that the bucket did not do what was asked of it, or that it
	// is not known whether it did.
	ErrUnavailable = errors.New("storage is not available at the moment")
)

const (
	keyringKey = "data-key"

	// Defaults of a [Config].
	defaultPrefix = "tocsin-plugin-"
	defaultWhat   = "the storage of plugins"

	// callTimeout bounds each call of a bucket.
	callTimeout = 10 * time.Second
)

// Config says where a box is and who opens it. State, Remove and Keys are required.
type Config struct {
	// State opens key-value buckets, made when missing; [journal.Journal.State] does.
	State func(ctx context.Context, bucket string) (jetstream.KeyValue, error)
	// Remove removes a bucket with all that is in it; [journal.Journal.RemoveState] does.
	Remove func(ctx context.Context, bucket string) error
	// Keys are what opens the box, the newest first. If one of the others does, the data
	// key is encrypted anew by the first.
	Keys []Key
	// From says where the keys come from, for errors: "the file /etc/tocsin/plugin-key".
	From string
	// Prefix goes before the names of buckets; default "tocsin-plugin-". Boxes with
	// different ones have nothing in common.
	Prefix string
	// What says what the box is, for errors; default "the storage of plugins".
	What string
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

// Box is an open box. It is safe for concurrent use; one process has a box at a time.
type Box struct {
	config Config
	data   []byte // key

	mu   sync.Mutex
	open map[string]*Compartment
}

// keyring is how the data key is stored.
type keyring struct {
	Version int    `json:"version"`
	Key     string `json:"key"` // id of the one that encrypts it
	Nonce   []byte `json:"nonce"`
	Sealed  []byte `json:"sealed"`
}

// Open opens the box, or makes a new one where there is none. The error wraps
// [ErrWrongKey] when the keys are not those of the box.
func Open(ctx context.Context, c Config) (*Box, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Prefix, c.What = cmp.Or(c.Prefix, defaultPrefix), cmp.Or(c.What, defaultWhat)
	if len(c.Keys) == 0 {
		return nil, fmt.Errorf("open %s: no key is given", c.What)
	}
	kv, err := c.State(ctx, c.Prefix+"keys")
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", c.What, err)
	}
	b := &Box{config: c, open: make(map[string]*Compartment)}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	switch entry, err := kv.Get(ctx, keyringKey); {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		err = b.create(ctx, kv)
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", c.What, err)
		}
	case err != nil:
		return nil, fmt.Errorf("read the key of %s: %w", c.What, err)
	default:
		if err := b.unlock(ctx, kv, entry); err != nil {
			return nil, fmt.Errorf("open %s: %w", c.What, err)
		}
	}
	return b, nil
}

// create makes the data key.
func (b *Box) create(ctx context.Context, kv jetstream.KeyValue) error {
	b.data = make([]byte, KeyBytes)
	rand.Read(b.data)
	record, err := b.wrap()
	if err != nil {
		return err
	}
	_, err = kv.Create(ctx, keyringKey, record)
	return err
}

// unlock decrypts the data key.
func (b *Box) unlock(ctx context.Context, kv jetstream.KeyValue, entry jetstream.KeyValueEntry) error {
	var stored keyring
	if err := json.Unmarshal(entry.Value(), &stored); err != nil || stored.Version != 1 {
		return fmt.Errorf("the record of its key is not of this version of the program: %w", ErrDamaged)
	}
	for i, key := range b.config.Keys {
		if key.ID() != stored.Key {
			continue
		}
		data, err := keyCipher(key).Open(nil, stored.Nonce, stored.Sealed, []byte(keyringKey))
		if err != nil || len(data) != KeyBytes {
			return fmt.Errorf("the record of its key: %w", ErrDamaged)
		}
		b.data = data
		if i == 0 {
			return nil
		}
		record, err := b.wrap()
		if err != nil {
			return err
		}
		if _, err := kv.Update(ctx, keyringKey, record, entry.Revision()); err != nil {
			return fmt.Errorf("encrypt its key by the new one: %w", err)
		}
		b.config.Logger.Info("What is encrypted is now opened by the newest key; the older ones are not needed any more.",
			"what", b.config.What, "key", b.config.Keys[0].ID(), "was", stored.Key)
		return nil
	}
	ids := make([]string, len(b.config.Keys))
	for i, key := range b.config.Keys {
		ids[i] = key.ID()
	}
	return fmt.Errorf("%w: it was closed with the key %s, and %s has %v; give it that key, or another data directory; nothing was changed",
		ErrWrongKey, stored.Key, b.config.From, ids)
}

// wrap returns the record of the data key, encrypted by the newest key.
func (b *Box) wrap() ([]byte, error) {
	key := b.config.Keys[0]
	c := keyCipher(key)
	record := keyring{Version: 1, Key: key.ID(), Nonce: make([]byte, c.NonceSize())}
	rand.Read(record.Nonce)
	record.Sealed = c.Seal(nil, record.Nonce, b.data, []byte(keyringKey))
	return json.Marshal(record)
}

// Secret returns 32 bytes that nobody outside can know, always the same for one purpose.
func (b *Box) Secret(purpose string) []byte { return b.derive("secret " + purpose) }

// Seal encrypts a value that is kept elsewhere, under a name that [Box.Unseal] must be given
// as well, so that it cannot be taken for another one.
func (b *Box) Seal(name string, value []byte) []byte {
	c := newGCM(b.derive("seal"))
	out := make([]byte, 1+c.NonceSize(), 1+c.NonceSize()+len(value)+c.Overhead())
	out[0] = format
	rand.Read(out[1:])
	return c.Seal(out, out[1:], value, []byte(name))
}

// Unseal is the inverse of [Box.Seal]. The error wraps [ErrDamaged].
func (b *Box) Unseal(name string, sealed []byte) ([]byte, error) {
	c := newGCM(b.derive("seal"))
	if len(sealed) < 1+c.NonceSize() || sealed[0] != format {
		return nil, fmt.Errorf("decrypt %q: %w", name, ErrDamaged)
	}
	value, err := c.Open(nil, sealed[1:1+c.NonceSize()], sealed[1+c.NonceSize():], []byte(name))
	if err != nil {
		return nil, fmt.Errorf("decrypt %q: %w", name, ErrDamaged)
	}
	return value, nil
}

// derive returns a key for one purpose.
func (b *Box) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, b.data, nil, "tocsin strongbox 1 "+purpose, KeyBytes)
	if err != nil {
		panic(err) // the length is fine
	}
	return key
}

// keyCipher returns AES-256-GCM with a key.
func keyCipher(key Key) cipher.AEAD { return newGCM(key.bytes[:]) }

func newGCM(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the length is fine
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// Compartment opens the compartment of that name, made when missing. Names are lower-case
// letters, digits and "-", and at most 64. The same name gives the same compartment.
func (b *Box) Compartment(ctx context.Context, name string) (*Compartment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.open[name]; c != nil {
		return c, nil
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	kv, err := b.config.State(ctx, b.config.Prefix+"storage-"+name)
	if err != nil {
		return nil, fmt.Errorf("open compartment %s: %w", name, err)
	}
	c := &Compartment{
		name: name, kv: kv,
		values: newGCM(b.derive("values " + name)),
		names:  newNameCipher(b.derive("names mac "+name), b.derive("names "+name)),
		unsure: make(map[string]struct{}),
	}
	if err := c.load(ctx); err != nil {
		return nil, fmt.Errorf("open compartment %s: %w", name, err)
	}
	b.open[name] = c
	return c, nil
}

// Remove removes a compartment with all that is in it. It must not be used any more.
func (b *Box) Remove(ctx context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := checkName(name); err != nil {
		return err
	}
	if err := b.config.Remove(ctx, b.config.Prefix+"storage-"+name); err != nil {
		return fmt.Errorf("remove compartment %s: %w", name, err)
	}
	delete(b.open, name)
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > 64 {
		return fmt.Errorf("compartment %.80q: the name must have 1 to 64 bytes", name)
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("compartment %q: the name has other than lower-case letters, digits and \"-\"", name)
		}
	}
	return nil
}
