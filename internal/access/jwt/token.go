package jwt

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4/json"
)

const (
	// maxTokenBytes bounds a token. It also bounds everything that is taken from it.
	maxTokenBytes = 8 << 10
	// maxDepth is how deep the JSON in a token may be nested.
	maxDepth = 16
)

// token is one that has been taken apart but not checked.
type token struct {
	text   string
	header header
	claims map[string]any // values are as json.Number makes them
}

// header is what matters of a JOSE header (RFC 7515 section 4.1).
type header struct {
	Algorithm   string          `json:"alg"`
	KeyID       string          `json:"kid"`
	Type        *string         `json:"typ"`
	ContentType *string         `json:"cty"`
	Critical    json.RawMessage `json:"crit"`
	Base64      json.RawMessage `json:"b64"`
	Encryption  json.RawMessage `json:"enc"`
	Compression json.RawMessage `json:"zip"`
}

// base64url is that of RFC 7515 section 2, with one spelling only for each value.
var base64url = base64.RawURLEncoding.Strict()

// parse takes a token apart. Errors do not repeat anything of it.
func parse(text string) (*token, error) {
	if len(text) > maxTokenBytes {
		return nil, fmt.Errorf("it is larger than %d bytes", maxTokenBytes)
	}
	parts := strings.SplitN(text, ".", 4)
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return nil, errors.New("it is not a signed token in three parts")
	}
	t := &token{text: text}
	for i, into := range []any{&t.header, &t.claims} {
		if err := decodePart(parts[i], into); err != nil {
			return nil, err
		}
	}
	// The decoder skips line breaks; nothing else may stand there either.
	if _, err := base64url.DecodeString(parts[2]); err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("it is not base64url")
	}
	if t.claims == nil {
		return nil, errors.New("it has no claims")
	}
	return t, t.header.check()
}

// decodePart decodes a JSON object: strictly, so that nobody else can read something
// different in it.
func decodePart(part string, into any) error {
	raw, err := base64url.DecodeString(part)
	if err != nil {
		return errors.New("it is not base64url")
	}
	if !utf8.Valid(raw) {
		return errors.New("it has text that is not UTF-8")
	}
	if tooDeep(raw) {
		return fmt.Errorf("its JSON is nested deeper than %d", maxDepth)
	}
	// Unlike encoding/json, this decoder refuses names that occur twice, and takes
	// "ISS" for another name than "iss".
	d := json.NewDecoder(bytes.NewReader(raw))
	d.SetNumberType(json.UnmarshalJSONNumber)
	if err := d.Decode(into); err != nil {
		return errors.New("its JSON is broken or has a name twice")
	}
	var more json.RawMessage
	if err := d.Decode(&more); err != io.EOF {
		return errors.New("it has something after its JSON")
	}
	return nil
}

// tooDeep says whether JSON is nested too deeply. What is not JSON may be either.
func tooDeep(raw []byte) bool {
	depth, inText := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// check refuses what only looks like a signed token for us (RFC 8725 sections 3.1,
// 3.2 and 3.11).
func (h *header) check() error {
	switch {
	case h.Algorithm == "":
		return errors.New("it names no algorithm")
	case h.Critical != nil || h.Base64 != nil:
		return errors.New("it has an extension that must be understood (crit)")
	case h.Encryption != nil || h.Compression != nil:
		return errors.New("it is encrypted or compressed")
	case h.ContentType != nil:
		return errors.New("it has another token inside")
	case h.Type == nil:
		return nil
	}
	// Others with the same key and issuer are not for access: "logout+jwt",
	// "dpop+jwt", "secevent+jwt".
	switch strings.TrimPrefix(strings.ToLower(*h.Type), "application/") {
	case "jwt", "at+jwt":
		return nil
	}
	return errors.New("its type is neither JWT nor at+jwt")
}
