package config

// SinkWebhook is the section "sinks[].webhook".
type SinkWebhook struct {
	URL               string       `yaml:"url" doc:"Where events go, https:// or http://."`
	Headers           []SinkHeader `yaml:"headers" doc:"Sent with every request. Each has:"`
	BearerToken       Secret       `yaml:"bearer_token" doc:"Sent as Authorization: Bearer TOKEN, as {env: NAME} or {file: PATH}."`
	Username          string       `yaml:"username" doc:"For basic authentication."`
	Password          Secret       `yaml:"password" doc:"For basic authentication, as {env: NAME} or {file: PATH}."`
	TLS               SinkTLS      `yaml:"tls" doc:"How an https connection is checked."`
	InsecureAllowHTTP bool         `yaml:"insecure_allow_http" doc:"true sends credentials also over http to other machines: whoever is on the way can read them."`
	Allow             []string     `yaml:"allow" doc:"As delivery.allow, for this sink. Only in the file."`
	Body              SinkBody     `yaml:"body" oneof:"event,array,lines,cloudevents_batch" doc:"What a request has: one event, a JSON array of events, a line for each, or a CloudEvents batch."`
	Format            SinkFormat   `yaml:"format" oneof:"standard,cloudevents,vault,raw,flipt" doc:"What an event is: {type, timestamp, data} of Standard Webhooks, a CloudEvent, Vault's envelope, its data as it is, or Flipt's audit event."`
	Gzip              bool         `yaml:"gzip" doc:"true compresses bodies. They are signed compressed."`
	MaxBody           Size         `yaml:"max_body" min:"1KiB" max:"64MiB" doc:"A body is at most so large, before compression. An event that is larger becomes a dead letter; several that are larger together go in several requests."`
	SigningKeys       []Secret     `yaml:"signing_keys" doc:"Keys of Standard Webhooks: whsec_... (HMAC-SHA256) or whsk_... (ed25519), as {env: NAME} or {file: PATH}. With several, each signs, so that receivers can change from one to the other."`
	FliptSecret       Secret       `yaml:"flipt_secret" doc:"Signs as Flipt does, too: X-Flipt-Webhook-Signature."`
}

// Settings of it.
type (
	SinkBody string
)

// SinkBodyEvent is the body that has one event.
const SinkBodyEvent SinkBody = "event"

func defaultSinkWebhook() SinkWebhook {
	return SinkWebhook{Body: SinkBodyEvent, Format: "standard", MaxBody: 8 << 20}
}

// maxSigningKeys is how many keys sign: the old, the new, and those of the other kind.
const maxSigningKeys = 4

// sinkWebhook checks what holds between the fields of the section at key.
func (v *validator) sinkWebhook(key string, c *SinkWebhook) {
	if c.URL == "" {
		v.report(key, "has no url; add for example \"url: https://hooks.example.com/tocsin\"")
	}
	v.sinkHTTP(key, sinkHTTP{
		url: c.URL, headers: c.Headers, bearer: c.BearerToken, username: c.Username, password: c.Password,
		tls: c.TLS, allow: c.Allow, allowHTTP: c.InsecureAllowHTTP,
	}, "content-type")
	if c.Body == "cloudevents_batch" && c.Format != "cloudevents" {
		v.report(key+".format", "%s does not fit body: cloudevents_batch; write format: cloudevents", c.Format)
	}
	v.signingKeys(key+".signing_keys", c.SigningKeys)
}

func (v *validator) signingKeys(key string, keys []Secret) {
	if len(keys) > maxSigningKeys {
		v.report(key, "has %d elements, at most %d are possible", len(keys), maxSigningKeys)
	}
}
