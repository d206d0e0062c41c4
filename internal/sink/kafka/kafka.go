// Package kafka is the sink that produces events to Apache Kafka, and to what speaks its
// protocol.
//
// Every event is one record. A record is delivered when all replicas in sync have it
// ([AcksAll]); the producer is idempotent, so what the client repeats by itself is stored
// once. What a [deliver.Delivery] sends again, because it could not be known what became of
// it, may be stored twice, and has the same id (header ce_id).
//
// # Order
//
// Records of the same key are in the same partition, in the order of the events. That holds
// over failures:
//
//   - Of the events of one path in a Send, none is reported as delivered behind one that is
//     to be sent again, and neither is one in the same partition. It is sent again as well:
//     whoever keeps the last value of a key ends with the right one.
//   - A request that was on its way when Send gave up can reach the broker late. It has the
//     old epoch of the producer, and every later request a new one, so the broker stores it
//     before the repeat or not at all.
package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// Acks is who must have a record before it is delivered.
type Acks string

// The acks.
const (
	AcksAll    Acks = "all"    // all replicas in sync
	AcksLeader Acks = "leader" // the leader of the partition; without idempotence
)

// Key is what the key of a record is.
type Key string

// The keys.
const (
	KeyPath Key = "path" // namespace and path
	KeyType Key = "type" // type; with Flipt's Avro and protobuf the noun, as Flipt does
	KeyNone Key = "none"
)

// Mechanism is how the sink says who it is.
type Mechanism string

// The mechanisms.
const (
	SASLNone   Mechanism = "none"
	SASLPlain  Mechanism = "plain"
	SASLSHA256 Mechanism = "scram-sha-256"
	SASLSHA512 Mechanism = "scram-sha-512"
)

// Options say where events go, and how. Brokers and Topic are required.
type Options struct {
	// Brokers are addresses to begin with: host, or host:port.
	Brokers []string
	// Topic may have the placeholders {type} and {source}; see [Topic].
	Topic    string
	Key      Key      // default [KeyPath]
	Encoding Encoding // default [CloudEvents]
	Registry Registry
	SASL     SASL
	// TLS is nil for connections without it.
	TLS         *TLS
	Acks        Acks   // default [AcksAll]
	Compression string // none, gzip, snappy, lz4, zstd; default none
	AutoTopics  bool   // the broker makes topics that are missing, if it is set up so
	// MaxMessageBytes bounds a record, and a batch of them, before compression. 0: the
	// max.message.bytes of the topic, if the broker tells it, else [DefaultMaxMessageBytes].
	MaxMessageBytes int
	// Timeout bounds how long a broker may take to answer; default [DefaultTimeout].
	Timeout time.Duration
	// Dial connects to a broker, or to the registry; nil: to wherever that is.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ClientID is what the broker calls the sink in its logs, metrics and quotas; default
	// "tocsin".
	ClientID string
}

// SASL is who the sink is.
type SASL struct {
	Mechanism Mechanism // default [SASLNone]
	Username  string
	// Password is read for every connection.
	Password func() (string, error)
}

// TLS is how a connection is checked. The zero TLS means the authorities of the system and no
// client certificate. All of it is read for every connection.
type TLS struct {
	CA         func() (string, error) // PEM; nil: the system
	Cert, Key  func() (string, error) // PEM, both or none
	ServerName string                 // default: the host
}

// Defaults and bounds of [Options].
const (
	DefaultTimeout         = 20 * time.Second
	DefaultMaxMessageBytes = 1_000_000 // a little less than the 1 MiB that Kafka's default is
	MostMessageBytes       = 64 << 20
	MaxBrokers             = 64
	MaxTopics              = 1000 // known at a time; those used longest ago are forgotten
)

// Sink is the sink. It is safe for concurrent use.
type Sink struct {
	o       Options
	topic   topicTemplate
	encoder encoder
	schemas *schemas // nil without a registry
	closed  chan struct{}
	once    sync.Once

	secrets secretBox

	mu      sync.Mutex
	current *producer // nil: none yet, or the last one could not be used any more
}

// secretBox keeps secrets, to take them out of what others say. Its fields are functions so
// that the secrets are not in what is printed of a sink, in whichever way.
type secretBox struct {
	put  func(what, secret string)
	hide func(text string) string // replaces them in a text
}

func newSecretBox() secretBox {
	var mu sync.Mutex
	values := make(map[string]string) // by what they are
	return secretBox{
		put: func(what, secret string) {
			mu.Lock()
			defer mu.Unlock()
			values[what] = secret
		},
		hide: func(text string) string {
			mu.Lock()
			defer mu.Unlock()
			for _, secret := range values {
				if secret != "" {
					text = strings.ReplaceAll(text, secret, "<secret>")
				}
			}
			return text
		},
	}
}

// New checks options, and reads the secrets and certificates that they refer to. It does not
// connect.
func New(o Options) (*Sink, error) {
	o = o.withDefaults()
	s := &Sink{o: o, closed: make(chan struct{}), secrets: newSecretBox()}
	if err := o.check(); err != nil {
		return nil, err
	}
	var err error
	if s.topic, err = parseTopic(o.Topic); err != nil {
		return nil, err
	}
	if s.encoder, err = newEncoder(o.Encoding); err != nil {
		return nil, err
	}
	if o.TLS != nil {
		if _, err := o.TLS.config(""); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	if o.SASL.Mechanism != SASLNone {
		if _, err := s.password(); err != nil {
			return nil, fmt.Errorf("sasl: %w", err)
		}
	}
	if o.Registry.URL != "" {
		if s.schemas, err = s.newSchemas(); err != nil {
			return nil, fmt.Errorf("schema_registry: %w", err)
		}
	}
	if err := kgo.ValidateOpts(s.clientOptions(nil)...); err != nil {
		return nil, err
	}
	return s, nil
}

func (o Options) withDefaults() Options {
	if o.Key == "" {
		o.Key = KeyPath
	}
	if o.Encoding == "" {
		o.Encoding = CloudEvents
	}
	if o.Acks == "" {
		o.Acks = AcksAll
	}
	if o.Compression == "" {
		o.Compression = "none"
	}
	if o.SASL.Mechanism == "" {
		o.SASL.Mechanism = SASLNone
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.ClientID == "" {
		o.ClientID = "tocsin"
	}
	return o
}

func (o Options) check() error {
	if len(o.Brokers) == 0 {
		return errors.New("no brokers; name at least one, as kafka.example.com:9092")
	}
	if len(o.Brokers) > MaxBrokers {
		return fmt.Errorf("%d brokers are named, at most %d are possible; some to begin with are enough", len(o.Brokers), MaxBrokers)
	}
	for _, b := range o.Brokers {
		if err := CheckBroker(b); err != nil {
			return err
		}
	}
	if !slices.Contains([]Key{KeyPath, KeyType, KeyNone}, o.Key) {
		return fmt.Errorf("unknown key %.40q; it is one of path, type, none", string(o.Key))
	}
	if o.Acks != AcksAll && o.Acks != AcksLeader {
		return fmt.Errorf("unknown acks %.40q; it is one of all, leader", string(o.Acks))
	}
	if _, ok := compressions[o.Compression]; !ok {
		return fmt.Errorf("unknown compression %.40q; it is one of none, gzip, snappy, lz4, zstd", o.Compression)
	}
	switch o.SASL.Mechanism {
	case SASLNone:
	case SASLPlain, SASLSHA256, SASLSHA512:
		if o.SASL.Username == "" || o.SASL.Password == nil {
			return fmt.Errorf("sasl: %s needs a username and a password", o.SASL.Mechanism)
		}
	default:
		return fmt.Errorf("unknown mechanism %.40q; it is one of none, plain, scram-sha-256, scram-sha-512", string(o.SASL.Mechanism))
	}
	if n := o.MaxMessageBytes; n != 0 && (n < 1<<10 || n > MostMessageBytes) {
		return fmt.Errorf("max_message_bytes is %d, which must be from %d to %d", n, 1<<10, MostMessageBytes)
	}
	if o.Timeout < 0 {
		return fmt.Errorf("timeout is %s, which is negative", o.Timeout)
	}
	if o.Registry.URL != "" && !o.Encoding.HasSchema() {
		return fmt.Errorf("a schema registry is for the encodings avro, protobuf, flipt_avro and flipt_protobuf, not for %s", o.Encoding)
	}
	return nil
}

var brokerHost = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?\.?$`)

// CheckBroker says what is wrong with the address of a broker.
func CheckBroker(address string) error {
	wrong := fmt.Errorf("%.100q is no address of a broker; write it as kafka.example.com:9092", address)
	host, port := address, ""
	if strings.Contains(address, ":") {
		var err error
		if host, port, err = net.SplitHostPort(address); err != nil {
			return wrong
		}
		if n, err := net.LookupPort("tcp", port); err != nil || n == 0 || strings.Trim(port, "0123456789") != "" {
			return wrong
		}
	}
	if !brokerHost.MatchString(host) && net.ParseIP(host) == nil {
		return wrong
	}
	return nil
}

// config reads what it refers to, for a connection to host.
func (t *TLS) config(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if c.ServerName == "" {
		c.ServerName = host
	}
	if t.CA != nil {
		pool, err := readAuthorities(t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = pool
	}
	if (t.Cert == nil) != (t.Key == nil) {
		return nil, errors.New("cert and key belong together; give both, or none")
	}
	if t.Cert != nil {
		pair, err := readPair(t.Cert, t.Key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Close ends what is on its way, and closes all connections.
func (s *Sink) Close() error {
	s.once.Do(func() { close(s.closed) })
	s.mu.Lock()
	p := s.current
	s.current = nil
	s.mu.Unlock()
	if p != nil {
		p.retire()
		p.client.Close()
	}
	if s.schemas != nil {
		s.schemas.client.CloseIdleConnections()
	}
	return nil
}

var errClosed = errors.New("the sink is closed")

// producer returns the client of brokers, which all calls share; the caller must end it.
func (s *Sink) producer() (*producer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		return nil, errClosed
	default:
	}
	if s.current != nil && s.current.begin() {
		return s.current, nil
	}
	p, err := s.newProducer()
	if err != nil {
		return nil, err
	}
	p.begin()
	s.current = p
	return p, nil
}

// Send implements [deliver.Sink].
func (s *Sink) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	// The client takes it better when its context is cancelled than when it has a deadline.
	outer := ctx
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(outer))
	defer cancel(nil)
	defer context.AfterFunc(outer, func() { cancel(context.Cause(outer)) })()
	go func() {
		select {
		case <-s.closed:
			cancel(errClosed)
		case <-ctx.Done():
		}
	}()
	p, err := s.producer()
	if err != nil {
		return s.result(verdict{outcome: deliver.Retry, reason: err.Error()})
	}
	defer p.end()
	a := &attempt{sink: s, producer: p, batch: b, states: make([]state, len(b.Items)), ended: func() error { return context.Cause(ctx) }}
	a.prepare(ctx)
	a.produce(ctx)
	return a.report()
}
