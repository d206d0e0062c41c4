package config

import (
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// SinkKafka is the section "sinks[].kafka".
type SinkKafka struct {
	Brokers     []string     `yaml:"brokers" doc:"Addresses of brokers to begin with: kafka.example.com:9092."`
	Topic       string       `yaml:"topic" doc:"The topic; {type} and {source} are replaced by those of the event, with . for what a topic cannot have: vault.{type}."`
	Key         KafkaKey     `yaml:"key" oneof:"path,type,none" doc:"The key of records, which decides about the partition: namespace and path of the event, its type (with flipt_avro and flipt_protobuf that of the audit event, such as flag), or none."`
	Encoding    KafkaCoding  `yaml:"encoding" oneof:"cloudevents,raw,vault,flipt,avro,protobuf,flipt_avro,flipt_protobuf" doc:"The value of records: CloudEvents JSON, the data as it is, Vault's envelope, Flipt's JSON; an event as Avro or protobuf, or Flipt's audit event as its Kafka sink wrote it."`
	Registry    KafkaSchemas `yaml:"schema_registry" doc:"Where schemas of Avro and protobuf are kept. With it, values begin with Confluent's header."`
	SASL        KafkaSASL    `yaml:"sasl" doc:"How the hub logs in."`
	TLS         SinkTLS      `yaml:"tls" doc:"How a TLS connection is checked."`
	UseTLS      bool         `yaml:"use_tls" doc:"true connects with TLS; so does a section tls that is not empty."`
	Acks        KafkaAcks    `yaml:"acks" oneof:"all,leader" doc:"all waits for all replicas in sync and writes each record once per session; leader waits for one and may lose records."`
	Compression KafkaPacking `yaml:"compression" oneof:"none,gzip,snappy,lz4,zstd" doc:"Compression of record batches."`
	AutoTopics  bool         `yaml:"auto_topics" doc:"true lets the broker make topics that are missing, if it is set up to do that."`
	MaxMessage  Size         `yaml:"max_message_bytes" min:"1KiB" max:"64MiB" zero:"what the topic takes" doc:"A record, and a batch of them, has at most so many bytes before compression. Larger events become dead letters. Needed only where the sink may not describe the configuration of topics."`

	InsecureAllowPlain bool `yaml:"insecure_allow_plain" doc:"true logs in with the mechanism plain also without TLS to other machines: whoever is on the way can read the password."`
}

// KafkaSchemas is the section "sinks[].kafka.schema_registry".
type KafkaSchemas struct {
	URL      string  `yaml:"url" doc:"URL of a registry with Confluent's API."`
	Subject  string  `yaml:"subject" doc:"The subject. Empty: TOPIC-value."`
	Username string  `yaml:"username" doc:"For basic authentication."`
	Password Secret  `yaml:"password" doc:"For basic authentication, as {env: NAME} or {file: PATH}."`
	Register bool    `yaml:"register" doc:"false only looks the schema up, for registries where others register."`
	TLS      SinkTLS `yaml:"tls" doc:"How an https connection is checked."`
}

// KafkaSASL is the section "sinks[].kafka.sasl".
type KafkaSASL struct {
	Mechanism KafkaMechanism `yaml:"mechanism" oneof:"none,plain,scram-sha-256,scram-sha-512" doc:"The mechanism."`
	Username  string         `yaml:"username" doc:"The user."`
	Password  Secret         `yaml:"password" doc:"The password, as {env: NAME} or {file: PATH}."`
}

// Settings of it.
type (
	KafkaKey       string
	KafkaCoding    string
	KafkaAcks      string
	KafkaPacking   string
	KafkaMechanism string
)

func defaultSinkKafka() SinkKafka {
	return SinkKafka{Key: "path", Encoding: "cloudevents", Registry: KafkaSchemas{Register: true}, SASL: KafkaSASL{Mechanism: "none"}, Acks: "all", Compression: "zstd"}
}

var (
	kafkaHost        = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?\.?$`)
	kafkaPlaceholder = regexp.MustCompile(`\{(type|source)\}`)
	kafkaTopic       = regexp.MustCompile(`^[A-Za-z0-9._-]{0,249}$`)
)

// maxKafkaBrokers bounds a list of addresses of which one that answers is enough.
const maxKafkaBrokers = 64

// sinkKafka checks what holds between the fields of the section at key.
func (v *validator) sinkKafka(key string, c *SinkKafka) {
	switch n := len(c.Brokers); {
	case n == 0:
		v.report(key+".brokers", "must name at least one broker, as [kafka.example.com:9092]")
	case n > maxKafkaBrokers:
		v.report(key+".brokers", "has %d elements, at most %d are possible; some to begin with are enough", n, maxKafkaBrokers)
	}
	for _, b := range c.Brokers {
		if _, ok := kafkaBroker(b); !ok {
			v.report(key+".brokers", "%q is no address of a broker; write it as kafka.example.com:9092", shorten(b))
		}
	}
	text := kafkaPlaceholder.ReplaceAllString(c.Topic, "")
	switch {
	case c.Topic == "":
		v.report(key+".topic", "must name a topic, as audit or vault.{type}")
	case !kafkaTopic.MatchString(text) || c.Topic == "." || c.Topic == "..":
		v.report(key+".topic", "%q is no topic; it can have letters, digits, ., _, - and the placeholders {type} and {source}, at most 249 in all", shorten(c.Topic))
	}
	v.kafkaTLS(key+".tls", &c.TLS)
	v.kafkaSASL(key+".sasl", c)
	v.kafkaSchemas(key+".schema_registry", c)
}

// TLSWanted reports whether connections are made with TLS.
func (c *SinkKafka) TLSWanted() bool { return c.UseTLS || c.TLS != SinkTLS{} }

func (v *validator) kafkaSASL(key string, c *SinkKafka) {
	s := c.SASL
	switch {
	case v.reported(key + ".mechanism"):
	case s.Mechanism == "none":
		if s.Username != "" || s.Password.IsSet() {
			v.report(key+".mechanism", "is none, but there is a username or password; choose plain, scram-sha-256 or scram-sha-512")
		}
	case s.Username == "" || !s.Password.IsSet():
		v.report(key, "needs both username and password for the mechanism %s", s.Mechanism)
	case s.Mechanism == "plain" && !c.TLSWanted() && !c.InsecureAllowPlain:
		for _, b := range c.Brokers {
			if host, ok := kafkaBroker(b); ok && !IsLoopback(net.JoinHostPort(host, "9092")) {
				v.report(key+".mechanism", "plain sends the password readable for everybody on the way to %s; set use_tls: true, or scram-sha-512, or insecure_allow_plain: true", shorten(b))
				break
			}
		}
	}
}

func (v *validator) kafkaSchemas(key string, c *SinkKafka) {
	s := c.Registry
	if s.URL == "" {
		if s.Subject != "" || s.Username != "" || s.Password.IsSet() || !s.Register || s.TLS != (SinkTLS{}) {
			v.report(key+".url", "is missing; write it as https://registry.example.com:8081")
		}
		return
	}
	switch c.Encoding {
	case "avro", "protobuf", "flipt_avro", "flipt_protobuf":
	default:
		v.report(key, "is for the encodings avro, protobuf, flipt_avro and flipt_protobuf, not for %s; remove it, or change the encoding", c.Encoding)
	}
	u, err := url.Parse(s.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		v.report(key+".url", "is no URL of a schema registry; write it as https://registry.example.com:8081")
	case u.User != nil:
		v.report(key+".url", "has a user in it; put it into username and password")
	case u.RawQuery != "" || u.Fragment != "":
		v.report(key+".url", "has a query or fragment; leave it out")
	case s.Password.IsSet() && u.Scheme == "http" && !IsLoopback(net.JoinHostPort(u.Hostname(), "80")) && !c.InsecureAllowPlain:
		v.report(key+".url", "is http, and the password would be readable for everybody on the way; use https, or set insecure_allow_plain: true")
	}
	if (s.Username != "") != s.Password.IsSet() {
		v.report(key, "needs both username and password, or none of them")
	}
	if len(s.Subject) > 249+len("-value") {
		v.report(key+".subject", "is longer than %d characters", 249+len("-value"))
	}
	v.kafkaTLS(key+".tls", &s.TLS)
}

func (v *validator) kafkaTLS(key string, t *SinkTLS) {
	if t.Cert.IsSet() != t.Key.IsSet() {
		v.report(key, "needs both cert and key, or none of them")
	}
}

// KafkaHost returns the host in the address of a broker.
func KafkaHost(address string) string {
	host, _ := kafkaBroker(address)
	return host
}

// kafkaBroker returns the host in the address of a broker.
func kafkaBroker(address string) (host string, ok bool) {
	host = address
	if strings.Contains(address, ":") {
		var port string
		var err error
		if host, port, err = net.SplitHostPort(address); err != nil {
			return "", false
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", false
		}
	}
	return host, kafkaHost.MatchString(host) || net.ParseIP(host) != nil
}
