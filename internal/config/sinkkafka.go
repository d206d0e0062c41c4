package config

// SinkKafka is the section "sinks[].kafka".
type SinkKafka struct {
	Brokers     []string     `yaml:"brokers" doc:"Addresses of brokers to begin with: kafka.example.com:9092."`
	Topic       string       `yaml:"topic" doc:"The topic; {type} and {source} are replaced by those of the event, with . for what a topic cannot have."`
	Key         KafkaKey     `yaml:"key" oneof:"path,type,none" doc:"The key of records, which decides about the partition: namespace and path of the event, its type, or none."`
	Encoding    KafkaCoding  `yaml:"encoding" oneof:"cloudevents,raw,vault,flipt,avro,protobuf,flipt_avro,flipt_protobuf" doc:"The value of records: CloudEvents JSON, the data as it is, Vault's envelope, Flipt's JSON; an event as Avro or protobuf, or Flipt's audit event as its Kafka sink wrote it."`
	Registry    KafkaSchemas `yaml:"schema_registry" doc:"Where schemas of Avro and protobuf are kept. With it, values begin with Confluent's header."`
	SASL        KafkaSASL    `yaml:"sasl" doc:"How the hub says who it is."`
	TLS         SinkTLS      `yaml:"tls" doc:"How a TLS connection is checked."`
	UseTLS      bool         `yaml:"use_tls" doc:"true connects with TLS; so does a section tls that is not empty."`
	Acks        KafkaAcks    `yaml:"acks" oneof:"all,leader" doc:"all waits for all replicas in sync and writes each record once per session; leader waits for one and may lose records."`
	Compression KafkaPacking `yaml:"compression" oneof:"none,gzip,snappy,lz4,zstd" doc:"Compression of record batches."`
	AutoTopics  bool         `yaml:"auto_topics" doc:"true lets the broker make topics that are missing."`
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

// sinkKafka checks what holds between the fields of the section at key.
func (v *validator) sinkKafka(key string, c *SinkKafka) {}
