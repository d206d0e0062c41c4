package standardwebhooks

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
)

// Keyring has keys that sign, as secrets that may change. They are asked for each time, and
// parsed when they are not what they were. It is safe for concurrent use.
type Keyring struct {
	secrets []func() (string, error)

	mu   sync.Mutex
	sums [][sha256.Size]byte // of the secrets that keys were made of
	keys []Key
}

// NewKeyring returns a keyring of secrets, each of which is as [ParseKey] reads it. It reads
// them once, so that what is wrong is told at once.
func NewKeyring(secrets []func() (string, error)) (*Keyring, error) {
	r := &Keyring{secrets: secrets}
	_, err := r.Keys()
	return r, err
}

// Keys returns the keys as they are now. The error does not repeat them.
func (r *Keyring) Keys() ([]Key, error) {
	if len(r.secrets) == 0 {
		return nil, nil
	}
	texts, sums := make([]string, len(r.secrets)), make([][sha256.Size]byte, len(r.secrets))
	for i, secret := range r.secrets {
		var err error
		if texts[i], err = secret(); err != nil {
			return nil, fmt.Errorf("signing key %d: %w", i+1, err)
		}
		sums[i] = sha256.Sum256([]byte(texts[i]))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(sums, r.sums) {
		return r.keys, nil
	}
	keys := make([]Key, len(texts))
	for i, text := range texts {
		key, err := ParseKey(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("signing key %d %w", i+1, err)
		case !key.CanSign():
			return nil, fmt.Errorf("signing key %d is a public key (whpk_), which is for receivers; the sink needs the private one (whsk_)", i+1)
		}
		keys[i] = key
	}
	r.sums, r.keys = sums, keys
	return keys, nil
}
