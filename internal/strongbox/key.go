package strongbox

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// KeyBytes is the length of a key.
const KeyBytes = 32

// maxKeys bounds the keys that are given at once.
const maxKeys = 16

// Key opens a box. Printed in any way it shows its id only.
type Key struct{ bytes [KeyBytes]byte }

// NewKey returns a random key.
func NewKey() (k Key) {
	rand.Read(k.bytes[:])
	return k
}

// ID is a short name of the key from which it cannot be found.
func (k Key) ID() string {
	sum := sha256.Sum256(append([]byte("tocsin strongbox key id "), k.bytes[:]...))
	return hex.EncodeToString(sum[:6])
}

// Encode returns the key as [ParseKeys] reads it. It is the secret itself.
func (k Key) Encode() string { return base64.StdEncoding.EncodeToString(k.bytes[:]) }

func (k Key) String() string   { return "key " + k.ID() }
func (k Key) GoString() string { return k.String() }

// Format keeps every verb of fmt from showing the key.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// ParseKeys reads keys, one per line: 32 random bytes each, in base64 or hexadecimal
// digits. Empty lines and those that begin with "#" are ignored. The error never has a
// part of a key.
func ParseKeys(text string) ([]Key, error) {
	var keys []Key
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, err := parseKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if len(keys) == maxKeys {
			return nil, fmt.Errorf("there are more than %d keys", maxKeys)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key; make one with: openssl rand -base64 32")
	}
	return keys, nil
}

func parseKey(line string) (k Key, err error) {
	bytes, err := hex.DecodeString(line)
	if err != nil || len(bytes) != KeyBytes {
		encoding := base64.StdEncoding
		if strings.ContainsAny(line, "-_") {
			encoding = base64.URLEncoding
		}
		bytes, err = encoding.WithPadding(base64.NoPadding).DecodeString(strings.TrimRight(line, "="))
	}
	if err != nil || len(bytes) != KeyBytes {
		return k, errors.New("is not the base64 or hexadecimal form of 32 bytes; make one with: openssl rand -base64 32")
	}
	copy(k.bytes[:], bytes)
	return k, nil
}
