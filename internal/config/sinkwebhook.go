package config

// SinkWebhook is the section "sinks[].webhook".
type SinkWebhook struct {
	URL         string       `yaml:"url" doc:"Where events go, https:// or http://."`
	Headers     []SinkHeader `yaml:"headers" doc:"Sent with every request. Each has:"`
	BearerToken Secret       `yaml:"bearer_token" doc:"Sent as Authorization: Bearer TOKEN, as {env: NAME} or {file: PATH}."`
	Username    string       `yaml:"username" doc:"For basic authentication."`
	Password    Secret       `yaml:"password" doc:"For basic authentication, as {env: NAME} or {file: PATH}."`
	TLS         SinkTLS      `yaml:"tls" doc:"How an https connection is checked."`
	Allow       []string     `yaml:"allow" doc:"As delivery.allow, for this sink. Only in the file."`
	Body        SinkBody     `yaml:"body" oneof:"event,array,lines,cloudevents_batch" doc:"What a request has: one event, a JSON array of events, a line for each, or a CloudEvents batch."`
	Format      SinkFormat   `yaml:"format" oneof:"standard,cloudevents,vault,raw,flipt" doc:"What an event is: {type, timestamp, data} of Standard Webhooks, a CloudEvent, Vault's envelope, its data as it is, or Flipt's audit event."`
	Gzip        bool         `yaml:"gzip" doc:"true compresses bodies."`
	SigningKeys []Secret     `yaml:"signing_keys" doc:"Keys of Standard Webhooks: whsec_... (HMAC-SHA256) or whsk_... (ed25519), as {env: NAME} or {file: PATH}. With several, each signs, so that receivers can change from one to the other."`
	FliptSecret Secret       `yaml:"flipt_secret" doc:"Signs as Flipt does, too: X-Flipt-Webhook-Signature."`
}

// Settings of it.
type (
	SinkBody string
)

func defaultSinkWebhook() SinkWebhook {
	return SinkWebhook{Body: "event", Format: "standard"}
}

// sinkWebhook checks what holds between the fields of the section at key.
func (v *validator) sinkWebhook(key string, c *SinkWebhook) {}
