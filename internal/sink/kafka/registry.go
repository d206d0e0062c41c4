package kafka

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Registry is a schema registry with the HTTP API of Confluent's.
type Registry struct {
	URL string // empty: none
	// Subject is what the schema is kept under; default: the topic and "-value".
	Subject  string
	Username string
	Password func() (string, error) // read for every request
	// LookUp only looks the schema up, and never registers it.
	LookUp bool
	TLS    TLS // of an https URL
}

// Bounds of what a registry may do.
const (
	maxRegistryResponse = 1 << 20
	maxRegistryTime     = 10 * time.Second
	maxSubjects         = MaxTopics
)

// CheckRegistryURL says what is wrong with the URL of a schema registry.
func CheckRegistryURL(text string) error {
	_, err := parseRegistryURL(text)
	return err
}

func parseRegistryURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("the url is none of a schema registry; write it as https://registry.example.com:8081")
	}
	if u.User != nil {
		return nil, errors.New("the url has a user; put it into username and password")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the url has a query or fragment; leave it out")
	}
	return u, nil
}

// schemas knows the ids under which a registry keeps the schema of a sink.
type schemas struct {
	sink   *Sink
	base   *url.URL
	client *http.Client
	// turn has an element while nobody asks the registry, so that one call asks for all, and
	// those who wait can give up.
	turn chan struct{}
	ids  map[string]uint32 // by subject; guarded by turn
}

func (s *Sink) newSchemas() (*schemas, error) {
	r := s.o.Registry
	base, err := parseRegistryURL(r.URL)
	if err != nil {
		return nil, err
	}
	if r.Username != "" && r.Password == nil {
		return nil, errors.New("username needs a password")
	}
	if _, err := r.TLS.config(base.Hostname()); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	if r.Password != nil {
		if _, err := s.registryPassword(); err != nil {
			return nil, err
		}
	}
	transport := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			config, err := r.TLS.config(base.Hostname())
			if err != nil {
				return nil, err
			}
			conn, err := s.connect(ctx, network, address)
			if err != nil {
				return nil, err
			}
			secured := tls.Client(conn, config)
			if err := secured.HandshakeContext(ctx); err != nil {
				conn.Close()
				return nil, err
			}
			return secured, nil
		},
		DialContext:  s.connect,
		MaxIdleConns: 1, IdleConnTimeout: 30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
	}
	c := &schemas{
		sink: s, base: base, turn: make(chan struct{}, 1), ids: make(map[string]uint32),
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	c.turn <- struct{}{}
	return c, nil
}

func (s *Sink) registryPassword() (string, error) {
	v, err := s.o.Registry.Password()
	if err == nil {
		s.secrets.put("password of the registry", v)
		s.secrets.put("login of the registry", base64.StdEncoding.EncodeToString([]byte(s.o.Registry.Username+":"+v)))
	}
	return v, err
}

// prefix is what the values of a topic begin with, or why that is not known.
type prefix struct {
	bytes []byte
	err   error
}

// prefix returns Confluent's header for values of a topic: a zero, the id of the schema in four
// bytes, and for protobuf where in the schema the message is. Without a registry it is empty.
func (s *Sink) prefix(ctx context.Context, topic string) prefix {
	if s.schemas == nil {
		return prefix{}
	}
	subject := s.o.Registry.Subject
	if subject == "" {
		subject = topic + "-value"
	}
	id, err := s.schemas.id(ctx, subject)
	if err != nil {
		return prefix{err: fmt.Errorf("schema registry %s, subject %q: %w", s.schemas.base.Host, subject, err)}
	}
	lead := binary.BigEndian.AppendUint32([]byte{0}, id)
	return prefix{bytes: append(lead, s.encoder.schema.message...)}
}

// id returns the id of the schema under a subject. What was found once is not asked again: an id
// is for ever.
func (c *schemas) id(ctx context.Context, subject string) (uint32, error) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return 0, errors.New("no answer in time")
	}
	defer func() { c.turn <- struct{}{} }()
	if id, ok := c.ids[subject]; ok {
		return id, nil
	}
	id, err := c.ask(ctx, subject)
	if err != nil {
		return 0, err
	}
	if len(c.ids) >= maxSubjects {
		clear(c.ids)
	}
	c.ids[subject] = id
	return id, nil
}

// ask registers the schema, or looks it up.
func (c *schemas) ask(ctx context.Context, subject string) (uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, maxRegistryTime)
	defer cancel()
	var request struct {
		Schema string `json:"schema"`
		Type   string `json:"schemaType,omitempty"`
	}
	request.Schema = c.sink.encoder.schema.text
	if t := c.sink.encoder.schema.form; t != schemaAvro { // which is the default, and all that old ones know
		request.Type = t
	}
	body, err := json.Marshal(request)
	if err != nil {
		return 0, err
	}
	path := []string{"subjects", url.PathEscape(subject), "versions"}
	if c.sink.o.Registry.LookUp {
		path = path[:2]
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.base.String(), "/")+"/"+strings.Join(path, "/"), bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("no request can be made of its url")
	}
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	req.Header.Set("Accept", "application/vnd.schemaregistry.v1+json, application/json")
	req.Header.Set("User-Agent", "tocsin")
	if r := c.sink.o.Registry; r.Password != nil {
		password, err := c.sink.registryPassword()
		if err != nil {
			return 0, err
		}
		req.SetBasicAuth(r.Username, password)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL
		}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return 0, errors.New("no answer in time")
		}
		return 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxRegistryResponse+1))
	if err != nil {
		return 0, fmt.Errorf("its answer ended early: %w", err)
	}
	if len(answer) > maxRegistryResponse {
		return 0, fmt.Errorf("its answer has more than %d bytes", maxRegistryResponse)
	}
	return c.read(resp.StatusCode, answer)
}

// Codes of errors that registries give.
const (
	codeNoSubject = 40401
	codeNoSchema  = 40403
)

// read returns the id in an answer.
func (c *schemas) read(status int, answer []byte) (uint32, error) {
	var told struct {
		ID      *int64 `json:"id"`
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}
	err := json.Unmarshal(answer, &told)
	words := ""
	if err == nil && told.Message != "" {
		words = fmt.Sprintf(": %.200q", told.Message)
	}
	switch {
	case status == http.StatusConflict:
		return 0, fmt.Errorf("the schema of encoding %s is not compatible with what is registered%s; give the sink a topic or subject of its own, or change the compatibility of the subject", c.sink.o.Encoding, words)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return 0, fmt.Errorf("it does not let the sink in (status %d)%s; check username and password, and what they may do", status, words)
	case status == http.StatusNotFound && (told.Code == codeNoSubject || told.Code == codeNoSchema):
		return 0, fmt.Errorf("the schema of encoding %s is not registered%s; register it (tocsin's documentation has it), or set register: true", c.sink.o.Encoding, words)
	case status == http.StatusNotFound:
		return 0, fmt.Errorf("it has no such API (status 404)%s; check the url", words)
	case status >= 300 && status < 400:
		return 0, fmt.Errorf("it redirects (status %d), which is not followed; use the url that it redirects to", status)
	case status != http.StatusOK && status != http.StatusCreated:
		return 0, fmt.Errorf("it answers with status %d%s", status, words)
	case err != nil:
		return 0, errors.New("its answer is no JSON; check the url")
	case told.ID == nil || *told.ID < 0 || *told.ID > 1<<31-1:
		return 0, errors.New("its answer has no id; check the url")
	}
	return uint32(*told.ID), nil
}
