package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"sync"

	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

// signer has the keys of a sink. They are read for each request, and parsed when they have
// changed.
type signer struct {
	keys  []outbound.Secret
	flipt outbound.Secret // nil: none

	mu     sync.Mutex
	read   [][sha256.Size]byte // the hashes of what parsed is from
	parsed keys
}

// keys are those of a moment.
type keys struct {
	signing []standardwebhooks.Key
	flipt   *fliptKey // nil: none
}

func (s *signer) load() (keys, error) {
	if len(s.keys) == 0 && s.flipt == nil {
		return keys{}, nil
	}
	var memory [5]string
	texts := memory[:0]
	for i, k := range s.keys {
		text, err := k()
		if err != nil {
			return keys{}, fmt.Errorf("signing key %d: %w", i+1, err)
		}
		texts = append(texts, text)
	}
	if s.flipt != nil {
		text, err := s.flipt()
		if err != nil {
			return keys{}, fmt.Errorf("secret of Flipt's signature: %w", err)
		}
		texts = append(texts, text)
	}
	var hashes [5][sha256.Size]byte
	read := hashes[:0]
	for _, text := range texts {
		read = append(read, sha256.Sum256([]byte(text)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(read, s.read) {
		return s.parsed, nil
	}
	var k keys
	for i := range s.keys {
		key, err := standardwebhooks.ParseKey(texts[i])
		switch {
		case err != nil:
			return keys{}, fmt.Errorf("signing key %d %w", i+1, err)
		case !key.CanSign():
			return keys{}, fmt.Errorf("signing key %d is a public key (whpk_), which is for receivers; the sink needs the private one (whsk_)", i+1)
		}
		k.signing = append(k.signing, key)
	}
	if s.flipt != nil {
		k.flipt = newFliptKey(texts[len(s.keys)])
	}
	s.read, s.parsed = slices.Clone(read), k
	return k, nil
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
