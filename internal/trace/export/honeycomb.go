package export

import (
	"errors"
	"regexp"

	"github.com/tocsin-events/tocsin/internal/trace/otlp"
)

// Honeycomb is what its preset needs.
type Honeycomb struct {
	// Key returns the API key.
	Key func() (string, error)
	// Dataset is for classic keys only, which do not find it by the name of the service.
	Dataset string
	// EU sends to the servers in Europe. A URL in the Connection goes before it.
	EU bool
}

// classicKey is the form of keys of the time before environments: 32 hexadecimal digits,
// or an ingest key that begins with hcaic_.
var classicKey = regexp.MustCompile(`^([0-9a-f]{32}|hc[a-z]ic_[0-9a-z]{58})$`)

// NewHoneycomb returns an exporter to Honeycomb: OTLP over HTTP with its headers.
func NewHoneycomb(c Connection, h Honeycomb, o otlp.Options) (Exporter, error) {
	key, err := h.Key()
	if err != nil {
		return nil, err
	}
	if classicKey.MatchString(key) && h.Dataset == "" {
		return nil, errors.New("the key is a classic one, which needs the name of a dataset; add dataset, or use a key of an environment")
	}
	if c.URL == "" {
		c.URL = "https://api.honeycomb.io"
		if h.EU {
			c.URL = "https://api.eu1.honeycomb.io"
		}
	}
	headers := append(c.Headers[:len(c.Headers):len(c.Headers)], Header{Name: "X-Honeycomb-Team", Value: h.Key})
	if h.Dataset != "" {
		headers = append(headers, Fixed("X-Honeycomb-Dataset", h.Dataset))
	}
	c.Headers = headers
	return NewOTLPHTTP(c, Protobuf, o)
}
