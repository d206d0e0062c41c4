package config

import (
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/safetemplate"
)

// SinkTemplate is the section "sinks[].template".
type SinkTemplate struct {
	URL               string       `yaml:"url" doc:"Where events go, https:// or http://. A template, but for the host: https://example.com/hooks/{{.Type}}. pagerduty has one."`
	SecretURL         Secret       `yaml:"secret_url" doc:"The url, when it is itself a secret, as those of Slack are: as {env: NAME} or {file: PATH}. Not a template."`
	Method            string       `yaml:"method" doc:"Method of the request; a template."`
	Headers           []SinkHeader `yaml:"headers" doc:"Sent with every request. Their values are templates, secrets are not. Each has:"`
	Preset            SinkPreset   `yaml:"preset" oneof:"none,slack,pagerduty,alertmanager" doc:"slack, pagerduty and alertmanager have a body ready. A body here replaces it, or some of its parts if it only defines those."`
	Body              string       `yaml:"body" doc:"Body of the request, a template of Go (text/template): {\"text\": {{.Type}}}. Values are written as JSON, or in quotes as a part of the text, unless raw says otherwise. See docs/sink-template.md."`
	Text              bool         `yaml:"text" doc:"true sends the body as text: values are written as they are, and the result need not be JSON."`
	RoutingKey        Secret       `yaml:"routing_key" doc:"pagerduty: the integration key, as {env: NAME} or {file: PATH}. Other bodies have it as {{.RoutingKey}}."`
	BearerToken       Secret       `yaml:"bearer_token" doc:"Sent as Authorization: Bearer TOKEN, as {env: NAME} or {file: PATH}."`
	Username          string       `yaml:"username" doc:"For basic authentication."`
	Password          Secret       `yaml:"password" doc:"For basic authentication, as {env: NAME} or {file: PATH}."`
	TLS               SinkTLS      `yaml:"tls" doc:"How an https connection is checked."`
	InsecureAllowHTTP bool         `yaml:"insecure_allow_http" doc:"true sends credentials also over http to other machines: whoever is on the way can read them."`
	Allow             []string     `yaml:"allow" doc:"As delivery.allow, for this sink. Only in the file."`
	SigningKeys       []Secret     `yaml:"signing_keys" doc:"As of the type webhook."`
}

// Settings of it.
type (
	SinkPreset string
)

// SinkPresetNone is no preset.
const SinkPresetNone SinkPreset = "none"

func defaultSinkTemplate() SinkTemplate {
	return SinkTemplate{Preset: SinkPresetNone, Method: "POST"}
}

// sinkTemplate checks what holds between the fields of the section at key. Whether the
// templates can be executed is found out by who makes the sink.
func (v *validator) sinkTemplate(key string, c *SinkTemplate) {
	switch {
	case c.URL != "" && c.SecretURL.IsSet():
		v.report(key, "has both url and secret_url; leave one out")
	case c.URL == "" && !c.SecretURL.IsSet() && c.Preset != "pagerduty":
		v.report(key, "has no url; add for example \"url: https://example.com/hooks\", or secret_url if nobody may see it")
	}
	if c.Preset == SinkPresetNone && strings.TrimSpace(c.Body) == "" {
		v.report(key, "has no body; add for example \"body: '{\\\"text\\\": {{.Summary}}}'\", or a preset")
	}
	if c.Preset == "pagerduty" && !c.RoutingKey.IsSet() {
		v.report(key, "has no routing_key, which pagerduty needs; add \"routing_key: {file: PATH}\"")
	}
	if c.Text && c.Preset != SinkPresetNone {
		v.report(key+".text", "does not go with a preset, whose body is JSON")
	}
	h := sinkHTTP{
		headers: c.Headers, bearer: c.BearerToken, username: c.Username, password: c.Password,
		tls: c.TLS, allow: c.Allow, allowHTTP: c.InsecureAllowHTTP, otherSecret: c.RoutingKey.IsSet(),
	}
	if strings.Contains(c.URL, "{{") {
		v.template(key+".url", safetemplate.URL, "url", c.URL)
		// What is behind the host is not known yet, and is not what is checked.
		h.url = hostOfTemplate(c.URL)
	} else {
		h.url = c.URL
	}
	v.sinkHTTP(key, h)
	v.template(key+".method", safetemplate.Text, "method", c.Method)
	for i, header := range c.Headers {
		v.template(fmt.Sprintf("%s.headers[%d].value", key, i), safetemplate.Text, "value", header.Value)
	}
	switch {
	case c.Preset != SinkPresetNone || strings.TrimSpace(c.Body) == "":
	case c.Text:
		v.template(key+".body", safetemplate.Text, "body", c.Body)
	default:
		v.template(key+".body", safetemplate.JSON, "body", c.Body)
	}
	v.signingKeys(key+".signing_keys", c.SigningKeys)
}

// template checks that a template can be parsed.
func (v *validator) template(key string, form safetemplate.Form, name, text string) {
	if v.reported(key) {
		return
	}
	if _, err := safetemplate.Parse(form, safetemplate.Source{Name: name, Text: text}); err != nil {
		v.report(key, "%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), name+": "), name+", "))
	}
}

// hostOfTemplate returns scheme and host of a URL that is a template, "" if it has none.
func hostOfTemplate(text string) string {
	literal, _, _ := strings.Cut(text, "{{")
	u, err := outbound.ParseURL(literal)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
