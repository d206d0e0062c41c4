package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/strongbox"
)

const (
	// bucket is where the definitions of sinks are that were added at run time, by their
	// names. boxPrefix is that of the box that encrypts their secrets.
	bucket    = "tocsin-sinks"
	boxPrefix = "tocsin-sink-"

	// KeyFile is the file in the data directory with the key of the secrets, if the
	// configuration has none.
	KeyFile = "sinks.key"

	storeTimeout = 10 * time.Second
	markerTTL    = time.Minute // of a key that was removed

	recordVersion = 1
)

// record is a definition as it is stored.
type record struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	// Definition is YAML, with "<secret>" in the place of secrets. Those are in Sealed:
	// encrypted JSON of their values by key, which opens only together with this
	// definition, so that nobody can have a secret sent elsewhere by changing it.
	Definition string `json:"definition"`
	Sealed     []byte `json:"sealed,omitempty"`
}

// errVersion means that a newer version of the program stored a definition.
var errVersion = errors.New("a newer version of tocsin stored it")

func decodeRecord(b []byte) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("it is not what this program stores: %w", err)
	}
	if r.Version != recordVersion {
		return record{}, fmt.Errorf("%w: it has version %d, this program knows %d", errVersion, r.Version, recordVersion)
	}
	return r, nil
}

// sealName is what the secrets of a record are encrypted for.
func sealName(name, definition string) string { return "sink " + name + "\x00" + definition }

// seal makes the record of a definition.
func (m *Manager) seal(ctx context.Context, c *config.Sink, created time.Time) (record, error) {
	r := record{Version: recordVersion, Created: created, Updated: time.Now().UTC().Truncate(time.Second), Definition: string(c.YAML())}
	if created.IsZero() {
		r.Created = r.Updated
	}
	secrets := c.Secrets()
	if len(secrets) == 0 {
		return r, nil
	}
	box, err := m.openBox(ctx, true)
	if err != nil {
		return record{}, err
	}
	plain, err := json.Marshal(secrets)
	if err != nil {
		return record{}, err
	}
	r.Sealed = box.Seal(sealName(c.Name, r.Definition), plain)
	return r, nil
}

// unseal returns the definition of a record. When the secrets cannot be opened it returns
// it without them, and the error.
func (m *Manager) unseal(ctx context.Context, name string, r record) (config.Sink, error) {
	c, err := config.ParseSink(name, []byte(r.Definition))
	if err != nil {
		return config.Sink{Name: name}, fmt.Errorf("its stored definition is not valid for this version of the program: %w", err)
	}
	if len(r.Sealed) == 0 {
		return c, c.SetSecrets(nil)
	}
	box, err := m.openBox(ctx, false)
	if err != nil {
		return c, fmt.Errorf("its secrets cannot be read: %w", err)
	}
	plain, err := box.Unseal(sealName(name, r.Definition), r.Sealed)
	if err != nil {
		return c, fmt.Errorf("its secrets cannot be read, or do not belong to this definition: %w", err)
	}
	var secrets map[string]string
	if err := json.Unmarshal(plain, &secrets); err != nil {
		return c, errors.New("its secrets cannot be read: they are no texts")
	}
	return c, c.SetSecrets(secrets)
}

// openBox opens what encrypts secrets. Where there is no key yet, one is made if that is
// wanted.
func (m *Manager) openBox(ctx context.Context, create bool) (*strongbox.Box, error) {
	if m.box != nil {
		return m.box, nil
	}
	keys, from, err := m.keys()
	if errors.Is(err, os.ErrNotExist) {
		switch {
		case m.sealed():
			return nil, fmt.Errorf("the key of the secrets is missing; put back %s, or remove the sinks with secrets and add them again", m.keyFile())
		case !create:
			return nil, fmt.Errorf("there is no key in %s", m.keyFile())
		}
		// Whatever was encrypted with another key is gone.
		if err := m.o.Journal.RemoveState(ctx, boxPrefix+"keys"); err != nil {
			return nil, err
		}
		key := strongbox.NewKey()
		if err := writeKey(m.keyFile(), key); err != nil {
			return nil, fmt.Errorf("make the key of the secrets: %w", err)
		}
		keys, from, err = []strongbox.Key{key}, "the file "+m.keyFile(), nil
	}
	if err != nil {
		return nil, err
	}
	c := strongbox.Config{
		State: m.o.Journal.State, Remove: m.o.Journal.RemoveState, Keys: keys, From: from,
		Prefix: boxPrefix, What: "the secrets of sinks", Logger: m.log,
	}
	box, err := strongbox.Open(ctx, c)
	if errors.Is(err, strongbox.ErrWrongKey) && create && !m.sealed() {
		if err = m.o.Journal.RemoveState(ctx, boxPrefix+"keys"); err == nil {
			box, err = strongbox.Open(ctx, c)
		}
	}
	if err != nil {
		return nil, err
	}
	m.box = box
	return box, nil
}

// sealed says whether there are secrets that are encrypted.
func (m *Manager) sealed() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, s := range m.sinks {
		if s.sealed {
			return true
		}
	}
	for _, r := range m.hidden {
		if len(r.Sealed) > 0 {
			return true
		}
	}
	return false
}

func (m *Manager) keyFile() string { return filepath.Join(m.o.DataDir, KeyFile) }

// keys returns the keys, and where they come from. The error wraps [os.ErrNotExist] when the
// file of the data directory is not there.
func (m *Manager) keys() (keys []strongbox.Key, from string, err error) {
	if secret := m.o.Delivery.SecretsKey; secret.IsSet() {
		text, err := secret.Reveal()
		if err == nil {
			keys, err = strongbox.ParseKeys(text)
		}
		if err != nil {
			return nil, "", fmt.Errorf("delivery.secrets_key: %s", err) // which is not the file below
		}
		return keys, "delivery.secrets_key " + secret.Reference(), nil
	}
	text, err := os.ReadFile(m.keyFile())
	if err != nil {
		return nil, "", fmt.Errorf("read the key of the secrets: %w", err)
	}
	if keys, err = strongbox.ParseKeys(string(text)); err != nil {
		return nil, "", fmt.Errorf("%s: %w", m.keyFile(), err)
	}
	return keys, "the file " + m.keyFile(), nil
}

// writeKey makes a file with a key. It is whole and synced, or not there.
func writeKey(path string, key strongbox.Key) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, key.Encode())
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	directory, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

func (m *Manager) definitions(ctx context.Context) (jetstream.KeyValue, error) {
	return m.o.Journal.State(ctx, bucket)
}

// store writes a definition.
func (m *Manager) store(ctx context.Context, name string, r record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	kv, err := m.definitions(ctx)
	if err == nil {
		_, err = kv.Put(ctx, name, value)
	}
	if err != nil {
		return fmt.Errorf("store the sink %s: %w: %w", name, ErrUnavailable, err)
	}
	return nil
}

// forget removes a definition.
func (m *Manager) forget(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	kv, err := m.definitions(ctx)
	if err == nil {
		err = kv.Purge(ctx, name, jetstream.PurgeTTL(markerTTL))
	}
	if err != nil {
		return fmt.Errorf("remove the sink %s: %w: %w", name, ErrUnavailable, err)
	}
	return nil
}

// loadRecords reads all definitions; broken ones are in failed.
func (m *Manager) loadRecords(ctx context.Context) (records map[string]record, failed map[string]error, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	kv, err := m.definitions(ctx)
	if err != nil {
		return nil, nil, err
	}
	keys, err := kv.ListKeys(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list the sinks that were added at run time: %w", err)
	}
	defer func() { _ = keys.Stop() }()
	records, failed = make(map[string]record), make(map[string]error)
	for name := range keys.Keys() {
		entry, err := kv.Get(ctx, name)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read the sink %s: %w", name, err)
		}
		r, err := decodeRecord(entry.Value())
		if err != nil {
			failed[name] = fmt.Errorf("its stored definition cannot be read: %w", err)
			continue
		}
		records[name] = r
	}
	return records, failed, ctx.Err()
}
