package strongbox

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// nameCipher encrypts names so that the same name is always the same text, which
// JetStream allows as a key: a synthetic IV, the HMAC of the name, and behind it the name
// in counter mode with that IV, as RFC 5297 does it with another MAC.
type nameCipher struct {
	mac   []byte
	block cipher.Block
}

func newNameCipher(mac, key []byte) nameCipher {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the length is fine
	}
	return nameCipher{mac, block}
}

func (n nameCipher) iv(name []byte) []byte {
	h := hmac.New(sha256.New, n.mac)
	h.Write(name)
	return h.Sum(nil)[:aes.BlockSize]
}

func (n nameCipher) encrypt(name string) string {
	out := make([]byte, aes.BlockSize+len(name))
	iv := n.iv([]byte(name))
	copy(out, iv)
	cipher.NewCTR(n.block, iv).XORKeyStream(out[aes.BlockSize:], []byte(name))
	return base64.RawURLEncoding.EncodeToString(out)
}

// decrypt returns the name. The error wraps [ErrDamaged].
func (n nameCipher) decrypt(text string) (string, error) {
	in, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(in) < aes.BlockSize {
		return "", fmt.Errorf("the name of a key: %w", ErrDamaged)
	}
	name := make([]byte, len(in)-aes.BlockSize)
	cipher.NewCTR(n.block, in[:aes.BlockSize]).XORKeyStream(name, in[aes.BlockSize:])
	if !hmac.Equal(n.iv(name), in[:aes.BlockSize]) {
		return "", fmt.Errorf("the name of a key: %w", ErrDamaged)
	}
	return string(name), nil
}
