package jwt

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// maxDocumentBytes bounds a key set, a discovery document and a file.
	maxDocumentBytes = 1 << 20
	// maxKeys bounds a key set: a token without key id is tried with all of them.
	maxKeys = 64
	// minRSABits is what RFC 7518 section 3.3 asks for.
	minRSABits = 2048
)

// wellKnown is where a discovery document is (OpenID Connect Discovery 1.0
// section 4).
const wellKnown = "/.well-known/openid-configuration"

// key is a public key of the issuer.
type key struct {
	id        string // "": none, it may have signed tokens with any key id
	algorithm string // "": any that fits
	public    crypto.PublicKey
}

// fits says whether the key can have made a signature of an algorithm.
func (k key) fits(a jose.SignatureAlgorithm) bool {
	if k.algorithm != "" && k.algorithm != string(a) {
		return false
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(string(a), "RS") || strings.HasPrefix(string(a), "PS")
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return a == jose.ES256
		case elliptic.P384():
			return a == jose.ES384
		case elliptic.P521():
			return a == jose.ES512
		}
	case ed25519.PublicKey:
		return a == jose.EdDSA
	}
	return false
}

// usable says whether signatures by a key can be trusted at all.
func usable(public crypto.PublicKey) bool {
	switch public := public.(type) {
	case *rsa.PublicKey:
		return public.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey:
		return public.Curve == elliptic.P256() || public.Curve == elliptic.P384() || public.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return true
	}
	return false
}

// keySource returns how the keys of c are loaded, and whether they are in files.
func keySource(c Config) (load func(context.Context) ([]key, error), inFiles bool, err error) {
	var set []string
	for _, place := range []struct {
		field string
		isSet bool
	}{
		{"discovery_url", c.DiscoveryURL != ""},
		{"jwks_url", c.JWKSURL != ""},
		{"jwks_file", c.JWKSFile != ""},
		{"public_key_files", len(c.PublicKeyFiles) > 0},
	} {
		if place.isSet {
			set = append(set, place.field)
		}
	}
	if len(set) > 1 {
		return nil, false, fmt.Errorf("%s: keys come from one place; remove all but one", strings.Join(set, " and "))
	}
	inFiles = c.JWKSFile != "" || len(c.PublicKeyFiles) > 0
	if inFiles && (c.CAFile != "" || c.BearerTokenFile != "" || c.ProxyURL != "") {
		return nil, false, fmt.Errorf("ca_file, bearer_token_file and proxy_url have no effect with %s; remove them", set[0])
	}
	switch {
	case c.JWKSFile != "":
		return func(context.Context) ([]key, error) {
			text, err := readFile(c.JWKSFile)
			if err != nil {
				return nil, fmt.Errorf("jwks_file: %w", err)
			}
			keys, err := parseKeySet(text)
			if err != nil {
				return nil, fmt.Errorf("jwks_file: %s %w", c.JWKSFile, err)
			}
			return keys, nil
		}, true, nil
	case len(c.PublicKeyFiles) > 0:
		files := slices.Clone(c.PublicKeyFiles)
		return func(context.Context) ([]key, error) { return readKeyFiles(files) }, true, nil
	}

	field, text := "jwks_url", c.JWKSURL
	if text == "" {
		field, text = "discovery_url", c.DiscoveryURL
		if text == "" {
			field, text = "issuer (as no discovery_url is set)", c.Issuer
		}
		if !strings.HasSuffix(text, wellKnown) {
			text = strings.TrimSuffix(text, "/") + wellKnown
		}
	}
	place, err := checkURL(text, c.InsecureAllowHTTP)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", field, err)
	}
	f := &fetcher{caFile: c.CAFile, bearerFile: c.BearerTokenFile, home: place, insecure: c.InsecureAllowHTTP}
	if c.ProxyURL != "" {
		f.proxy, err = url.Parse(c.ProxyURL)
		if err != nil || f.proxy.Scheme != "http" && f.proxy.Scheme != "https" || f.proxy.Host == "" {
			return nil, false, errors.New("proxy_url: is not an http:// or https:// URL") // not repeated: it may have a password
		}
	}
	if _, err := f.tlsConfig(); err != nil {
		return nil, false, err
	}
	if c.JWKSURL != "" {
		return func(ctx context.Context) ([]key, error) { return f.keySet(ctx, place) }, false, nil
	}
	return func(ctx context.Context) ([]key, error) { return f.discover(ctx, c.Issuer) }, false, nil
}

// parseKeySet parses a JWK set (RFC 7517 section 5). Keys that cannot check
// signatures here are left out, as the RFC asks; none left is an error.
func parseKeySet(text []byte) ([]key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&set); err != nil {
		return nil, errors.New("is not a JSON object with a list of keys")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("has more than %d keys", maxKeys)
	}
	var keys []key
	for _, raw := range set.Keys {
		var purpose struct {
			Operations *[]string `json:"key_ops"`
		}
		var k jose.JSONWebKey
		if json.Unmarshal(raw, &purpose) != nil || json.Unmarshal(raw, &k) != nil {
			continue
		}
		// Neither are private and shared keys usable: one that lies open proves nothing.
		if !usable(k.Key) {
			continue
		}
		if k.Use != "" && k.Use != "sig" || purpose.Operations != nil && !slices.Contains(*purpose.Operations, "verify") {
			continue
		}
		if k.Algorithm != "" && !slices.Contains(algorithms, jose.SignatureAlgorithm(k.Algorithm)) {
			continue
		}
		keys = append(keys, key{k.KeyID, k.Algorithm, k.Key})
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("has no usable key among %d: public keys for signatures are needed, RSA with at least %d bits, EC or Ed25519", len(set.Keys), minRSABits)
	}
	return keys, nil
}

// readKeyFiles reads PEM files.
func readKeyFiles(files []string) ([]key, error) {
	var keys []key
	for _, name := range files {
		text, err := readFile(name)
		if err != nil {
			return nil, fmt.Errorf("public_key_files: %w", err)
		}
		in, err := parsePEM(text)
		if err != nil {
			return nil, fmt.Errorf("public_key_files: %s %w", name, err)
		}
		keys = append(keys, in...)
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("public_key_files: have more than %d keys", maxKeys)
	}
	return keys, nil
}

// parsePEM returns the public keys of a PEM text.
func parsePEM(text []byte) ([]key, error) {
	var keys []key
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		var public crypto.PublicKey
		var err error
		switch {
		case block.Type == "PUBLIC KEY":
			public, err = x509.ParsePKIXPublicKey(block.Bytes)
		case block.Type == "RSA PUBLIC KEY":
			public, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case block.Type == "CERTIFICATE":
			var certificate *x509.Certificate
			if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
				public = certificate.PublicKey
			}
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, errors.New("has a private key in it; tokens are checked with the public key, and the private one belongs nowhere else than to the issuer")
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("has a broken %s: %w", block.Type, err)
		}
		if !usable(public) {
			return nil, fmt.Errorf("has a key that cannot be used: RSA with at least %d bits, EC (P-256, P-384, P-521) and Ed25519 can", minRSABits)
		}
		keys = append(keys, key{public: public})
	}
	if len(keys) == 0 {
		return nil, errors.New("has no public key or certificate in PEM")
	}
	return keys, nil
}

// readFile reads a small file.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxDocumentBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxDocumentBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxDocumentBytes)
	}
	return text, nil
}
