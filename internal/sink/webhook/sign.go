package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"

	"github.com/tocsin-events/tocsin/internal/outbound"
)

// fliptSigner has the secret that requests are signed with as Flipt does. It is read for each
// request, and is what it was last in most cases.
type fliptSigner struct {
	secret outbound.Secret // nil: none

	mu  sync.Mutex
	sum [sha256.Size]byte // of the secret of key
	key *fliptKey
}

// load returns the key as it is now, nil for none.
func (s *fliptSigner) load() (*fliptKey, error) {
	if s.secret == nil {
		return nil, nil
	}
	text, err := s.secret()
	if err != nil {
		return nil, fmt.Errorf("secret of Flipt's signature: %w", err)
	}
	sum := sha256.Sum256([]byte(text))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == nil || sum != s.sum {
		s.sum, s.key = sum, newFliptKey(text)
	}
	return s.key, nil
}

// fliptKey signs as Flipt does: the HMAC-SHA256 of the body, in lower-case hexadecimal
// digits.
type fliptKey struct{ macs sync.Pool }

func newFliptKey(secret string) *fliptKey {
	return &fliptKey{sync.Pool{New: func() any { return hmac.New(sha256.New, []byte(secret)) }}}
}

func (k *fliptKey) sign(body []byte) string {
	mac := k.macs.Get().(hash.Hash)
	defer k.macs.Put(mac)
	mac.Reset()
	mac.Write(body)
	var sum [sha256.Size]byte
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], mac.Sum(sum[:0]))
	return string(text[:])
}
