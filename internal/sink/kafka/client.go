package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Bounds of what the client does by itself.
const (
	dialTimeout = 10 * time.Second
	// maxBufferedBytes bounds what all calls of Send have on their way.
	maxBufferedBytes = 256 << 20
	// maxResponseBytes bounds what a broker may answer. Metadata of a thousand topics with a
	// hundred partitions each take less.
	maxResponseBytes = 16 << 20
)

var compressions = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// producer is a client of brokers, and what is known of their topics.
type producer struct {
	sink   *Sink
	client *kgo.Client

	mu      sync.Mutex
	topics  map[string]int // those that are there, and how large a batch may be
	trouble error          // of the last connection that failed, nil after one that did not
	users   int            // calls of Send
	retired bool           // no call begins any more; closed when the last one has ended
}

func (s *Sink) newProducer() (*producer, error) {
	p := &producer{sink: s, topics: make(map[string]int)}
	client, err := kgo.NewClient(s.clientOptions(p)...)
	if err != nil {
		return nil, err
	}
	p.client = client
	return p, nil
}

// begin says whether a call may use the client, which then must end it.
func (p *producer) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired {
		return false
	}
	p.users++
	return true
}

func (p *producer) end() {
	p.mu.Lock()
	p.users--
	last := p.retired && p.users == 0
	p.mu.Unlock()
	if last {
		p.client.Close()
	}
}

// retire closes the client when those who use it now are done.
func (p *producer) retire() {
	p.mu.Lock()
	last := !p.retired && p.users == 0
	p.retired = true
	p.mu.Unlock()
	if last {
		p.client.Close()
	}
}

// crowded reports whether so many topics are known that it is better to begin anew. Topics are
// not taken out of a client: it would number the records of one that comes again from the
// start, and brokers take them for repeats.
func (p *producer) crowded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.topics) > MaxTopics
}

// clientOptions returns the options of a client. It has no logger: what it would write about
// failures is in the results of [Sink.Send], and it is not known to be free of secrets.
func (s *Sink) clientOptions(p *producer) []kgo.Opt {
	o := s.o
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.Brokers...),
		kgo.ClientID(o.ClientID),
		kgo.SoftwareNameAndVersion("tocsin", "1"),
		kgo.DisableClientMetrics(),
		kgo.Dialer(s.dial),
		kgo.BrokerMaxReadBytes(maxResponseBytes),
		kgo.FetchMaxBytes(maxResponseBytes), // nothing is fetched, but the client compares the two
		// Records of one key go where all clients put them that hash as Java's does.
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ProducerBatchCompression(compressions[o.Compression]),
		kgo.ProducerBatchMaxBytesFn(func(topic string) int32 { return int32(p.maxBytes(topic)) }),
		kgo.MaxBufferedBytes(maxBufferedBytes),
		kgo.ProducerLinger(0),
		// A broker that does not answer is given up early enough to ask another one, or the same
		// over another connection, in the same Send.
		kgo.ProduceRequestTimeout(max(o.Timeout/2, 100*time.Millisecond)),
		kgo.RequestTimeoutOverhead(max(o.Timeout/4, 100*time.Millisecond)),
		// A request of its own, such as for metadata, is tried twice; records for as long as
		// the context of Send lasts, with the numbers that keep them from being stored twice.
		kgo.RequestRetries(2),
		kgo.RetryTimeout(o.Timeout),
		kgo.MetadataMinAge(500 * time.Millisecond),
		kgo.UnknownTopicRetries(2),
	}
	if o.Acks == AcksLeader {
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	} else {
		opts = append(opts, kgo.RequiredAcks(kgo.AllISRAcks()), kgo.AllowIdempotentProduceCancellation())
	}
	if o.AutoTopics {
		opts = append(opts, kgo.AllowAutoTopicCreation())
	}
	if m := s.mechanism(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	if p != nil {
		opts = append(opts, kgo.WithHooks(p))
	}
	return opts
}

func (s *Sink) mechanism() sasl.Mechanism {
	user := s.o.SASL.Username
	scramAuth := func(context.Context) (scram.Auth, error) {
		pass, err := s.password()
		return scram.Auth{User: user, Pass: pass}, err
	}
	switch s.o.SASL.Mechanism {
	case SASLPlain:
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			pass, err := s.password()
			return plain.Auth{User: user, Pass: pass}, err
		})
	case SASLSHA256:
		return scram.Sha256(scramAuth)
	case SASLSHA512:
		return scram.Sha512(scramAuth)
	}
	return nil
}

func (s *Sink) password() (string, error) {
	v, err := s.o.SASL.Password()
	if err == nil {
		s.secrets.put("password", v)
	}
	return v, err
}

// connect makes a connection without TLS.
func (s *Sink) connect(ctx context.Context, network, address string) (net.Conn, error) {
	if s.o.Dial != nil {
		return s.o.Dial(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// dial connects, with TLS if that is wanted.
func (s *Sink) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, min(dialTimeout, s.o.Timeout))
	defer cancel()
	conn, err := s.connect(ctx, network, address)
	if err != nil || s.o.TLS == nil {
		return conn, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	config, err := s.o.TLS.config(host)
	if err == nil {
		secured := tls.Client(conn, config)
		if err = secured.HandshakeContext(ctx); err == nil {
			return secured, nil
		}
	}
	conn.Close()
	return nil, fmt.Errorf("TLS with %s: %w", address, err)
}

func readAuthorities(read func() (string, error)) (*x509.CertPool, error) {
	text, err := read()
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(text)) {
		return nil, errors.New("ca has no certificate in PEM form")
	}
	return pool, nil
}

func readPair(cert, key func() (string, error)) (tls.Certificate, error) {
	c, err := cert()
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cert: %w", err)
	}
	k, err := key()
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key: %w", err)
	}
	pair, err := tls.X509KeyPair([]byte(c), []byte(k))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cert and key: %w", err) // says nothing of their contents
	}
	return pair, nil
}

// OnBrokerConnect implements [kgo.HookBrokerConnect]: it keeps why nothing goes on, because the
// error of a record whose time is up does not say it.
func (p *producer) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil || !(errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && p.trouble != nil) {
		p.trouble = err
	}
}

func (p *producer) lastTrouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble
}

// maxBytes returns how large a batch for a topic may be.
func (p *producer) maxBytes(topic string) int {
	if p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if n := p.topics[topic]; n != 0 {
			return n
		}
		if n := p.sink.o.MaxMessageBytes; n != 0 {
			return n
		}
	}
	return DefaultMaxMessageBytes
}

// known reports whether a topic was found to be there.
func (p *producer) known(topic string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.topics[topic] != 0
}

// forget makes the next call look whether a topic is there.
func (p *producer) forget(topic string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.topics, topic)
}

// look finds out which topics are there, before records are put into the client: there they
// would wait, and their errors would not say what for. The result has an error for each topic
// that is not ready.
func (p *producer) look(ctx context.Context, topics []string) map[string]error {
	failed := make(map[string]error)
	if len(topics) == 0 {
		return failed
	}
	all := func(err error) map[string]error {
		for _, t := range topics {
			failed[t] = err
		}
		return failed
	}
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = p.sink.o.AutoTopics
	for _, t := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(t)
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, p.client)
	if err != nil {
		return all(err)
	}
	all(errors.New("the broker says nothing about the topic"))
	var there []string
	for _, t := range resp.Topics {
		if t.Topic == nil || failed[*t.Topic] == nil {
			continue // not asked for
		}
		err := kerr.ErrorForCode(t.ErrorCode)
		switch {
		case errors.Is(err, kerr.LeaderNotAvailable), errors.Is(err, kerr.UnknownTopicOrPartition) && req.AllowAutoTopicCreation:
			err = nil // it is being made, for which the client waits
		case err == nil:
			there = append(there, *t.Topic)
		}
		if err != nil {
			failed[*t.Topic] = err
			continue
		}
		delete(failed, *t.Topic)
	}
	if len(failed) < len(topics) && p.sink.o.Acks == AcksAll {
		// Who may not have a producer id can write to no topic.
		if _, _, err := p.client.ProducerID(ctx); err != nil {
			return all(err)
		}
	}
	sizes := p.sizes(ctx, there)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range topics {
		if failed[t] == nil {
			p.topics[t] = cmp.Or(sizes[t], p.sink.o.MaxMessageBytes, DefaultMaxMessageBytes)
		}
	}
	return failed
}

// sizes asks how large batches may be. A broker that does not tell, for example because the
// sink may not describe configurations, is taken to have the default.
func (p *producer) sizes(ctx context.Context, topics []string) map[string]int {
	sizes := make(map[string]int)
	if p.sink.o.MaxMessageBytes == 0 && len(topics) > 0 {
		req := kmsg.NewPtrDescribeConfigsRequest()
		for _, t := range topics {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, t, []string{"max.message.bytes"}
			req.Resources = append(req.Resources, r)
		}
		// Asking is worth a moment, not the whole attempt.
		ctx, cancel := context.WithTimeout(ctx, min(5*time.Second, p.sink.o.Timeout/2))
		defer cancel()
		if resp, err := req.RequestWith(ctx, p.client); err == nil {
			for _, r := range resp.Resources {
				for _, c := range r.Configs {
					if n := 0; r.ErrorCode == 0 && c.Name == "max.message.bytes" && c.Value != nil {
						if _, err := fmt.Sscanf(*c.Value, "%d", &n); err == nil && n >= 1<<10 {
							sizes[r.ResourceName] = min(n, MostMessageBytes)
						}
					}
				}
			}
		}
	}
	return sizes
}
