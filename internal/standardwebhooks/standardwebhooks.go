// Package standardwebhooks signs requests, and verifies their signatures, as the
// specification Standard Webhooks 1.0.0 says: with HMAC-SHA256 (v1), whose key both sides
// have, and with ed25519 (v1a), whose private key only the sender has.
package standardwebhooks

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The headers of a request, in the form that http.Header keeps them.
const (
	HeaderID        = "Webhook-Id"        // of the event, the same on every attempt
	HeaderTimestamp = "Webhook-Timestamp" // of the attempt, seconds since 1970
	HeaderSignature = "Webhook-Signature" // "VERSION,BASE64", several separated by spaces
)

// Tolerance is how far the timestamp of a request may be from the clock of the verifier, as
// the libraries of Standard Webhooks have it.
const Tolerance = 5 * time.Minute

// Prefixes of keys.
const (
	prefixSecret  = "whsec_"
	prefixPrivate = "whsk_"
	prefixPublic  = "whpk_"
)

const (
	minSecret  = 24 // bytes of the key of an HMAC
	maxSecret  = 64
	newSecret  = 32
	maxKeyText = 256 // characters

	maxSignatures = 32 // of a header that are looked at
	maxHeader     = 8 << 10
	maxID         = 1 << 10
)

// Key is one key. Its text forms show what kind it is, and never the key. The zero Key does
// not sign or verify anything.
type Key struct{ key *key }

// key has one of the three.
type key struct {
	macs    sync.Pool // of *mac
	secret  []byte
	private ed25519.PrivateKey
	public  ed25519.PublicKey // also with private
}

// mac computes HMACs with memory of its own.
type mac struct {
	hash hash.Hash
	sum  [sha256.Size]byte
	text [20]byte
}

// ParseKey reads a key as the specification serialises it: whsec_ and base64 of 24 to 64
// bytes, whsk_ and base64 of an ed25519 private key (32 bytes of the seed, or 64 of seed and
// public key), or whpk_ and base64 of an ed25519 public key. The error does not repeat it.
func ParseKey(text string) (Key, error) {
	if len(text) > maxKeyText {
		return Key{}, fmt.Errorf("is longer than %d characters, which no key is", maxKeyText)
	}
	prefix, encoded, found := strings.Cut(text, "_")
	prefix += "_"
	if !found || prefix != prefixSecret && prefix != prefixPrivate && prefix != prefixPublic {
		return Key{}, errors.New("is no key of Standard Webhooks: those begin with whsec_, whsk_ or whpk_")
	}
	bytes, err := decode(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return Key{}, errors.New("has something behind " + prefix + " that is not base64 (with + / and =)")
	}
	switch {
	case prefix == prefixSecret && (len(bytes) < minSecret || len(bytes) > maxSecret):
		return Key{}, fmt.Errorf("has %d bytes behind whsec_, and must have %d to %d", len(bytes), minSecret, maxSecret)
	case prefix == prefixSecret:
		return Key{&key{secret: bytes}}, nil
	case prefix == prefixPublic && len(bytes) != ed25519.PublicKeySize:
		return Key{}, fmt.Errorf("has %d bytes behind whpk_, and must have %d", len(bytes), ed25519.PublicKeySize)
	case prefix == prefixPublic:
		return Key{&key{public: bytes}}, nil
	case len(bytes) != ed25519.SeedSize && len(bytes) != ed25519.PrivateKeySize:
		return Key{}, fmt.Errorf("has %d bytes behind whsk_, and must have %d or %d", len(bytes), ed25519.SeedSize, ed25519.PrivateKeySize)
	}
	private := ed25519.NewKeyFromSeed(bytes[:ed25519.SeedSize])
	if len(bytes) == ed25519.PrivateKeySize && !private.Equal(ed25519.PrivateKey(bytes)) {
		return Key{}, errors.New("has two halves behind whsk_ that do not belong together")
	}
	return Key{&key{private: private, public: private.Public().(ed25519.PublicKey)}}, nil
}

// NewSecret returns a new key for HMAC-SHA256, whsec_...
func NewSecret() string {
	var b [newSecret]byte
	rand.Read(b[:]) // never fails
	return prefixSecret + base64.StdEncoding.EncodeToString(b[:])
}

// NewKeyPair returns a new key for ed25519: what signs, whsk_..., and what is given to
// receivers, whpk_...
func NewKeyPair() (private, public string) {
	var seed [ed25519.SeedSize]byte
	rand.Read(seed[:]) // never fails
	k := ed25519.NewKeyFromSeed(seed[:])
	return prefixPrivate + base64.StdEncoding.EncodeToString(seed[:]),
		prefixPublic + base64.StdEncoding.EncodeToString(k.Public().(ed25519.PublicKey))
}

// CanSign reports whether k is more than a public key.
func (k Key) CanSign() bool { return k.key != nil && (k.key.secret != nil || k.key.private != nil) }

// Public returns what receivers need to verify, whpk_..., or "" if that is a secret.
func (k Key) Public() string {
	if k.key == nil || k.key.public == nil {
		return ""
	}
	return prefixPublic + base64.StdEncoding.EncodeToString(k.key.public)
}

// String returns the kind of the key.
func (k Key) String() string {
	switch {
	case k.key == nil:
		return "<no key>"
	case k.key.secret != nil:
		return "<whsec key>"
	case k.key.private != nil:
		return "<whsk key>"
	}
	return "<whpk key>"
}

// GoString is String.
func (k Key) GoString() string { return k.String() }

// Format prints String whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { f.Write([]byte(k.String())) }

// MarshalText is String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// LogValue is String.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// CheckID says whether an id can be signed: visible ASCII without a full stop, which is what
// separates it from the timestamp.
func CheckID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("the id of a request must have 1 to %d characters", maxID)
	}
	if strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '.' }) {
		return errors.New("the id of a request must be visible ASCII without a full stop")
	}
	return nil
}

// AppendSignatures appends the value of the header Webhook-Signature: a signature of each
// key for an attempt at a time. The id must pass [CheckID]. Keys that cannot sign are left
// out.
func AppendSignatures(dst []byte, keys []Key, id string, at time.Time, body []byte) []byte {
	first := true
	for _, k := range keys {
		if !k.CanSign() {
			continue
		}
		if !first {
			dst = append(dst, ' ')
		}
		first = false
		if k.key.secret != nil {
			m := k.key.sum(id, at.Unix(), body)
			dst = base64.StdEncoding.AppendEncode(append(dst, "v1,"...), m.sum[:])
			k.key.macs.Put(m)
			continue
		}
		signature := ed25519.Sign(k.key.private, content(id, at.Unix(), body))
		dst = base64.StdEncoding.AppendEncode(append(dst, "v1a,"...), signature)
	}
	return dst
}

// sum computes the HMAC. What it returns goes back to macs.
func (k *key) sum(id string, seconds int64, body []byte) *mac {
	m, _ := k.macs.Get().(*mac)
	if m == nil {
		m = &mac{hash: hmac.New(sha256.New, k.secret)}
	}
	m.hash.Reset()
	text := append(m.text[:0], '.')
	text = append(strconv.AppendInt(text, seconds, 10), '.')
	m.hash.Write([]byte(id))
	m.hash.Write(text)
	m.hash.Write(body)
	m.hash.Sum(m.sum[:0])
	return m
}

// content is what is signed.
func content(id string, seconds int64, body []byte) []byte {
	b := make([]byte, 0, len(id)+len(body)+22)
	b = append(append(b, id...), '.')
	b = append(strconv.AppendInt(b, seconds, 10), '.')
	return append(b, body...)
}

// Reasons why a request is not verified.
var (
	ErrHeaders   = errors.New("the headers Webhook-Id, Webhook-Timestamp and Webhook-Signature are not there or not as they should be")
	ErrTimestamp = errors.New("the request is too old, or from the future")
	ErrSignature = errors.New("no signature fits")
)

// Verify checks that a request with this header and body was signed with one of the keys,
// and no longer ago, or later, than the tolerance; 0: [Tolerance], negative: at any time. The
// body is as it was received, before anything is decompressed or parsed.
//
// Who remembers the ids that it has seen for twice the tolerance also knows of requests
// that somebody sends again.
func Verify(keys []Key, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	id, signatures := header.Get(HeaderID), header.Get(HeaderSignature)
	seconds, err := strconv.ParseInt(header.Get(HeaderTimestamp), 10, 64)
	if err != nil || seconds < 0 || seconds > math.MaxInt32*int64(4) || CheckID(id) != nil || signatures == "" || len(signatures) > maxHeader {
		return ErrHeaders
	}
	if tolerance == 0 {
		tolerance = Tolerance
	}
	if off := now.Sub(time.Unix(seconds, 0)); tolerance > 0 && (off > tolerance || off < -tolerance) {
		return ErrTimestamp
	}
	n := 0
	for one := range strings.SplitSeq(signatures, " ") {
		if n++; n > maxSignatures {
			break
		}
		version, encoded, _ := strings.Cut(one, ",")
		signature, err := decode(encoded)
		if err != nil {
			continue // of another version, perhaps
		}
		for _, k := range keys {
			if k.verifies(version, id, seconds, body, signature) {
				return nil
			}
		}
	}
	return ErrSignature
}

func (k Key) verifies(version, id string, seconds int64, body, signature []byte) bool {
	switch {
	case k.key == nil:
	case version == "v1" && k.key.secret != nil:
		m := k.key.sum(id, seconds, body)
		defer k.key.macs.Put(m)
		return hmac.Equal(m.sum[:], signature)
	case version == "v1a" && k.key.public != nil:
		return len(signature) == ed25519.SignatureSize && ed25519.Verify(k.key.public, content(id, seconds, body), signature)
	}
	return false
}

// decode reads base64 with padding and nothing else: package base64 alone would also take line
// breaks anywhere.
func decode(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("it has a line break")
	}
	return base64.StdEncoding.Strict().DecodeString(text)
}
