package jwt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/go-jose/go-jose/v4/json"
)

// fetcher gets documents of the issuer. It makes new connections each time, which is
// once in minutes, and so notices when its files have changed.
type fetcher struct {
	caFile     string
	bearerFile string
	home       *url.URL // the configured place; the only one that gets the bearer token
	proxy      *url.URL // nil: none
	insecure   bool
}

// discover gets the key set that the discovery document at home names.
func (f *fetcher) discover(ctx context.Context, issuer string) ([]key, error) {
	text, err := f.get(ctx, f.home)
	if err != nil {
		return nil, err
	}
	var document struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("%s is not a discovery document: it is not JSON or has wrong types", f.home)
	}
	// OpenID Connect Discovery 1.0 section 4.3.
	if document.Issuer != issuer {
		return nil, fmt.Errorf("the discovery document at %s is of the issuer %q, not of %q", f.home, document.Issuer, issuer)
	}
	place, err := checkURL(document.Keys, f.insecure)
	if err != nil {
		return nil, fmt.Errorf("jwks_uri in %s: %w", f.home, err)
	}
	return f.keySet(ctx, place)
}

// keySet gets and parses a key set.
func (f *fetcher) keySet(ctx context.Context, place *url.URL) ([]key, error) {
	text, err := f.get(ctx, place)
	if err != nil {
		return nil, err
	}
	keys, err := parseKeySet(text)
	if err != nil {
		return nil, fmt.Errorf("the document at %s %w", place, err)
	}
	return keys, nil
}

// get gets a document.
func (f *fetcher) get(ctx context.Context, place *url.URL) ([]byte, error) {
	config, err := f.tlsConfig()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, place.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json, application/jwk-set+json")
	request.Header.Set("User-Agent", "tocsin")
	if f.bearerFile != "" && place.Scheme == f.home.Scheme && place.Host == f.home.Host {
		bearer, err := readFile(f.bearerFile)
		if err != nil {
			return nil, fmt.Errorf("bearer_token_file: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(bearer)))
	}
	transport := &http.Transport{
		TLSClientConfig:        config,
		DisableKeepAlives:      true,
		DisableCompression:     true, // a compressed answer could be any size
		MaxResponseHeaderBytes: 64 << 10,
	}
	if f.proxy != nil {
		transport.Proxy = http.ProxyURL(f.proxy)
	}
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode/100 == 3:
		return nil, fmt.Errorf("%s redirects, which is not followed; configure the address that it redirects to", place)
	case response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden:
		return nil, fmt.Errorf("%s answers with %s; a Kubernetes API server wants to know who asks: set bearer_token_file", place, response.Status)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers with %s", place, response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxDocumentBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", place, err)
	}
	if len(text) > maxDocumentBytes {
		return nil, fmt.Errorf("the document at %s is larger than %d bytes", place, maxDocumentBytes)
	}
	return text, nil
}

func (f *fetcher) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.caFile != "" {
		text, err := readFile(f.caFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca_file: %s has no PEM certificate in it", f.caFile)
		}
	}
	return config, nil
}

// checkURL parses where a document is.
func checkURL(text string, insecure bool) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("is not a URL") // not repeated: it may have a password
	}
	switch {
	case u.User != nil:
		return nil, errors.New("has a user name in it; leave it out")
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return nil, fmt.Errorf("%q is not an https:// URL", text)
	case u.Fragment != "":
		return nil, fmt.Errorf("%q has a fragment; leave it out", text)
	case u.Scheme == "http" && !insecure && !loopback(u.Hostname()):
		return nil, fmt.Errorf("%q is not encrypted, so keys from there could be anybody's; use https", text)
	}
	return u, nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
