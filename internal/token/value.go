package token

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"sync"
)

const (
	// Prefix begins the values of all tokens that are made here.
	Prefix = "tcs."
	// MaxValueBytes bounds the value of a token.
	MaxValueBytes = 512

	valueChars    = 32 // 190.5 bits
	accessorChars = 24
	// shortValue is the length below which a value of the caller's choice gets a
	// warning.
	shortValue = 16
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// spell turns random bytes into n characters of base62, all equally likely; more
// gives further bytes.
func spell(n int, more func([]byte)) string {
	text := make([]byte, 0, n)
	var random [64]byte
	for {
		more(random[:])
		for _, b := range random {
			if b &= 63; int(b) >= len(base62) {
				continue
			}
			if text = append(text, base62[b]); len(text) == n {
				return string(text)
			}
		}
	}
}

func randomText(n int) string {
	return spell(n, func(b []byte) { rand.Read(b) }) // never fails
}

// checkValue says why somebody's own value cannot be a token. A point would make it
// look like those of this or another Vault, or like a JWT.
func checkValue(value string) error {
	if len(value) > MaxValueBytes {
		return fmt.Errorf("%w: the token has %d bytes, at most %d are possible", ErrInvalid, len(value), MaxValueBytes)
	}
	for _, c := range []byte(value) {
		switch {
		case c == '.':
			return fmt.Errorf("%w: a token of one's own choice cannot have a '.'", ErrInvalid)
		case c <= ' ' || c > '~':
			return fmt.Errorf("%w: a token can only have printable ASCII characters, without spaces", ErrInvalid)
		}
	}
	return nil
}

// hasher computes keyed hashes. It is safe for concurrent use and does not
// allocate in the long run.
type hasher struct {
	key  []byte
	pool sync.Pool // of *hashing
}

type hashing struct {
	mac hash.Hash
	in  [MaxValueBytes]byte
	sum [sha256.Size]byte
}

// id returns the keyed hash of a value of at most MaxValueBytes.
func (h *hasher) id(value string) ID {
	x, _ := h.pool.Get().(*hashing)
	if x == nil {
		x = &hashing{mac: hmac.New(sha256.New, h.key)}
	}
	x.mac.Reset()
	x.mac.Write(x.in[:copy(x.in[:], value)])
	x.mac.Sum(x.sum[:0])
	id := ID(x.sum)
	clear(x.in[:len(value)])
	h.pool.Put(x)
	return id
}

// rootAccessor derives an accessor that tells nothing of the token and is the same
// after every start.
func (h *hasher) rootAccessor(value string) string {
	round := byte(0)
	return spell(accessorChars, func(b []byte) {
		mac := hmac.New(sha512.New, h.key)
		mac.Write([]byte{round})
		mac.Write([]byte(value))
		copy(b, mac.Sum(nil))
		round++
	})
}
