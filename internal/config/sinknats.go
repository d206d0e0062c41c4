package config

// SinkNATS is the section "sinks[].nats".
type SinkNATS struct {
	URLs        []string   `yaml:"urls" doc:"Servers: nats://nats.example.com:4222, tls://..."`
	Subject     string     `yaml:"subject" doc:"Subject of messages: {type}, {namespace}, {path} and {source} are replaced by those of the event, / becoming a dot. A stream must have it."`
	Format      SinkFormat `yaml:"format" oneof:"cloudevents,vault,raw,flipt" doc:"What a message is, as of files."`
	Username    string     `yaml:"username" doc:"The user."`
	Password    Secret     `yaml:"password" doc:"Its password, as {env: NAME} or {file: PATH}."`
	Token       Secret     `yaml:"token" doc:"A token instead, as {env: NAME} or {file: PATH}."`
	Credentials Secret     `yaml:"credentials" doc:"A credentials file (JWT and seed) instead, as {file: PATH}."`
	TLS         SinkTLS    `yaml:"tls" doc:"How a TLS connection is checked."`
}

func defaultSinkNATS() SinkNATS {
	return SinkNATS{Subject: "tocsin.{type}", Format: "cloudevents"}
}

// sinkNATS checks what holds between the fields of the section at key.
func (v *validator) sinkNATS(key string, c *SinkNATS) {}
