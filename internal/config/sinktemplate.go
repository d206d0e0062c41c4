package config

// SinkTemplate is the section "sinks[].template".
type SinkTemplate struct {
	URL         string       `yaml:"url" doc:"Where events go, https:// or http://."`
	Headers     []SinkHeader `yaml:"headers" doc:"Sent with every request. Each has:"`
	BearerToken Secret       `yaml:"bearer_token" doc:"Sent as Authorization: Bearer TOKEN, as {env: NAME} or {file: PATH}."`
	Username    string       `yaml:"username" doc:"For basic authentication."`
	Password    Secret       `yaml:"password" doc:"For basic authentication, as {env: NAME} or {file: PATH}."`
	TLS         SinkTLS      `yaml:"tls" doc:"How an https connection is checked."`
	Allow       []string     `yaml:"allow" doc:"As delivery.allow, for this sink. Only in the file."`
	Preset      SinkPreset   `yaml:"preset" oneof:"none,slack,pagerduty,alertmanager" doc:"slack, pagerduty and alertmanager have a body and headers ready; body and headers here go before them."`
	Method      string       `yaml:"method" doc:"Method of the request; a template."`
	Body        string       `yaml:"body" doc:"Body of the request, a template of Go (text/template): {\"text\": {{.Type}}}. Values are written as JSON unless raw says otherwise. url and the values of headers are templates, too. See docs/sink-template.md."`
	RoutingKey  Secret       `yaml:"routing_key" doc:"pagerduty: the integration key, as {env: NAME} or {file: PATH}."`
	WebhookURL  Secret       `yaml:"secret_url" doc:"The url, when it is itself a secret, as those of Slack are: as {env: NAME} or {file: PATH}. Not a template."`
	Text        bool         `yaml:"text" doc:"true sends the body as text: values are not written as JSON, and the result need not be JSON."`
	SigningKeys []Secret     `yaml:"signing_keys" doc:"As of the type webhook."`
}

// Settings of it.
type (
	SinkPreset string
)

func defaultSinkTemplate() SinkTemplate {
	return SinkTemplate{Preset: "none", Method: "POST"}
}

// sinkTemplate checks what holds between the fields of the section at key.
func (v *validator) sinkTemplate(key string, c *SinkTemplate) {}
