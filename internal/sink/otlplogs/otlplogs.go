// Package otlplogs is the sink that sends each event as a log record of OpenTelemetry, over
// OTLP with HTTP or gRPC. docs/sink-otlp-logs.md says what a record has.
package otlplogs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/telemetry"
)

// method is the one call of OTLP's logs service.
const method = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

// Protocol is how a receiver is spoken to.
type Protocol string

// The protocols.
const (
	HTTP     Protocol = "http" // with messages of protobuf
	HTTPJSON Protocol = "http/json"
	GRPC     Protocol = "grpc"
)

// Secret returns a secret. It is called for each request, so the file that it is in may
// change. The error does not have the secret.
type Secret = func() (string, error)

// TLS is how an encrypted connection is checked. The zero TLS means the authorities of the
// system and no client certificate.
type TLS struct {
	CA         Secret // PEM with the authorities, instead of those of the system
	Cert, Key  Secret // PEM of a client certificate and its private key; both or none
	ServerName string // in the certificate of the receiver, if it is not the host
}

// Options say where records go. URL is required.
type Options struct {
	// URL of the receiver, with https:// or http://. Of HTTP its path is /v1/logs if it has
	// none, of gRPC its port 4317.
	URL      string
	Protocol Protocol // default HTTP
	Gzip     bool
	// Headers are sent with each request, over gRPC as metadata.
	Headers []telemetry.Header
	TLS     TLS
	Timeout time.Duration // of a request; default 20 seconds
	// Resource are attributes of every resource. One that is called service.name replaces
	// the name of the source.
	Resource map[string]string
	// Dial connects to a host and port; nil: to wherever that is.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Version of the program.
	Version string
}

// Sink sends log records.
type Sink struct {
	options Options
	encoder *encoder
	life    context.Context // until Close
	end     context.CancelFunc

	mu         sync.Mutex
	loaded     [sha256.Size]byte // of the material that sender was made of
	sender     sender
	idle       []sender // of former certificates
	compressor sync.Pool
}

// sender is a connection to the receiver.
type sender interface {
	Send(ctx context.Context, body []byte, items int) telemetry.Answer
	Close()
}

// material is what the secrets of TLS are.
type material struct{ ca, cert, key string }

// New returns a sink. It reads secrets, but does not connect.
func New(o Options) (*Sink, error) {
	if o.Protocol == "" {
		o.Protocol = HTTP
	}
	if !slices.Contains([]Protocol{HTTP, HTTPJSON, GRPC}, o.Protocol) {
		return nil, fmt.Errorf("unknown protocol %.40q", string(o.Protocol))
	}
	if o.Timeout <= 0 {
		o.Timeout = 20 * time.Second
	}
	if (o.TLS.Cert == nil) != (o.TLS.Key == nil) {
		return nil, errors.New("cert and key belong together; set both, or none")
	}
	for _, h := range o.Headers {
		if _, err := h.Value(); err != nil {
			return nil, fmt.Errorf("header %s: %w", h.Name, err)
		}
	}
	s := &Sink{options: o, encoder: newEncoder(o.Version, o.Resource)}
	s.compressor.New = func() any { return new(telemetry.Compressor) }
	if _, err := s.current(); err != nil {
		return nil, err
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// current returns the connection, which is a new one when the secrets of TLS have changed.
func (s *Sink) current() (sender, error) {
	var m material
	for _, of := range []struct {
		what   string
		secret Secret
		to     *string
	}{{"ca", s.options.TLS.CA, &m.ca}, {"cert", s.options.TLS.Cert, &m.cert}, {"key", s.options.TLS.Key, &m.key}} {
		if of.secret == nil {
			continue
		}
		var err error
		if *of.to, err = of.secret(); err != nil {
			return nil, fmt.Errorf("tls.%s: %w", of.what, err)
		}
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{m.ca, m.cert, m.key}, "\x00")))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sender != nil && sum == s.loaded {
		return s.sender, nil
	}
	made, err := s.connect(m)
	if err != nil {
		return nil, err
	}
	if s.sender != nil {
		s.idle = append(s.idle, s.sender) // others may be using it
		if len(s.idle) > 4 {
			s.idle[0].Close()
			s.idle = slices.Delete(s.idle, 0, 1)
		}
	}
	s.sender, s.loaded = made, sum
	return made, nil
}

func (s *Sink) connect(m material) (sender, error) {
	o := &s.options
	settings := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.TLS.ServerName}
	if m.ca != "" {
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM([]byte(m.ca)) {
			return nil, errors.New("tls.ca has no certificate in PEM form")
		}
	}
	if m.cert != "" {
		pair, err := tls.X509KeyPair([]byte(m.cert), []byte(m.key))
		if err != nil {
			return nil, errors.New("tls.cert and tls.key are no certificate and its key in PEM form")
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	c := telemetry.Connection{
		URL: o.URL, TLS: settings, Headers: o.Headers, Gzip: o.Gzip, Timeout: o.Timeout, Dial: o.Dial,
		UserAgent: strings.TrimSuffix("tocsin/"+o.Version, "/"), Sender: "sink",
	}
	var made sender
	var err error
	switch o.Protocol {
	case GRPC:
		made, err = telemetry.NewGRPC(c, method)
	case HTTPJSON:
		made, err = telemetry.NewHTTP(c, "/v1/logs", "application/json", telemetry.ReadOTLPJSON)
	default:
		made, err = telemetry.NewHTTP(c, "/v1/logs", "application/x-protobuf", telemetry.ReadOTLP)
	}
	if err != nil {
		return nil, fmt.Errorf("url %w", err)
	}
	return made, nil
}

// Send implements [deliver.Sink]: all events in one request.
func (s *Sink) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	if s.life.Err() != nil {
		return deliver.Result{Outcome: deliver.Retry, Reason: "the sink was closed"}
	}
	to, err := s.current()
	if err != nil {
		return deliver.Result{Outcome: deliver.Retry, Reason: err.Error()}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	return judge(to.Send(ctx, s.encode(b), len(b.Items)), len(b.Items))
}

func (s *Sink) encode(b *deliver.Batch) []byte {
	var body []byte
	if s.options.Protocol == HTTPJSON {
		body = s.encoder.appendJSON(nil, b, b.Items)
	} else {
		body = s.encoder.appendProtobuf(nil, b, b.Items)
	}
	if s.options.Gzip && s.options.Protocol != GRPC { // gRPC compresses by itself
		c := s.compressor.Get().(*telemetry.Compressor)
		body = c.Compress(body)
		s.compressor.Put(c)
	}
	return body
}

// judge says what an answer about so many events means.
//
// A receiver that does not take a request, or takes only a part of it, does not say which
// events it does not want. Of several it then is doubtful: the delivery tries with fewer
// together, until the ones that are not taken are alone. Where it has taken a part, those
// come twice, with the same ids, but none is lost without a sign.
func judge(a telemetry.Answer, events int) deliver.Result {
	r := deliver.Result{After: a.After, Reason: a.Reason}
	switch a.Outcome {
	case telemetry.Delivered:
		if a.Rejected == 0 {
			return deliver.Result{}
		}
		r.Outcome = deliver.Refused
		r.Reason = fmt.Sprintf("the receiver does not take %d of %d log records", a.Rejected, events)
		if a.Reason != "" {
			r.Reason += ": " + a.Reason
		}
	case telemetry.Doubtful:
		r.Outcome = deliver.Doubtful
	case telemetry.TooLarge:
		r.Outcome = deliver.Impossible
		r.Reason = "larger than the receiver allows: " + a.Reason
	case telemetry.Never:
		r.Outcome = deliver.Refused
	default:
		r.Outcome = deliver.Retry
	}
	if events > 1 && (r.Outcome == deliver.Refused || r.Outcome == deliver.Impossible) {
		r.Outcome = deliver.Doubtful
	}
	return r
}

// Close implements [deliver.Sink].
func (s *Sink) Close() error {
	s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.idle {
		old.Close()
	}
	s.idle = nil
	s.sender.Close()
	return nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
