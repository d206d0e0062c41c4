package flipt

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Config is what Flipt has under "audit" in its configuration, with the names and the defaults
// of there. The tags are for YAML and JSON; durations are of YAML only.
type Config struct {
	Buffer BufferConfig `yaml:"buffer" json:"buffer"`
	Events []string     `yaml:"events" json:"events"`
	Sinks  SinksConfig  `yaml:"sinks" json:"sinks"`
}

// BufferConfig is how Flipt collects events. A [Fanout] needs none of it: it is checked only so that a
// configuration means the same in both.
type BufferConfig struct {
	Capacity    int           `yaml:"capacity" json:"capacity"`         // 2 to 10
	FlushPeriod time.Duration `yaml:"flush_period" json:"flush_period"` // 2 to 5 minutes
}

// SinksConfig are the sinks.
type SinksConfig struct {
	Log     LogConfig     `yaml:"log" json:"log"`
	Webhook WebhookConfig `yaml:"webhook" json:"webhook"`
	Cloud   CloudConfig   `yaml:"cloud" json:"cloud"`
	Kafka   KafkaConfig   `yaml:"kafka" json:"kafka"`
}

// LogConfig is the log.
type LogConfig struct {
	Enabled  bool   `yaml:"enabled" json:"enabled"`
	File     string `yaml:"file" json:"file"` // empty: the standard output
	Encoding string `yaml:"encoding" json:"encoding"`
}

// WebhookConfig is one webhook, or templates.
type WebhookConfig struct {
	Enabled            bool                    `yaml:"enabled" json:"enabled"`
	URL                string                  `yaml:"url" json:"url"`
	MaxBackoffDuration time.Duration           `yaml:"max_backoff_duration" json:"max_backoff_duration"`
	SigningSecret      string                  `yaml:"signing_secret" json:"-"`
	Templates          []WebhookTemplateConfig `yaml:"templates" json:"templates"`
}

// WebhookTemplateConfig is one template.
type WebhookTemplateConfig struct {
	URL     string            `yaml:"url" json:"url"`
	Body    string            `yaml:"body" json:"body"`
	Headers map[string]string `yaml:"headers" json:"headers"`
}

// CloudConfig is Flipt's cloud, which is gone.
type CloudConfig struct {
	Enabled bool `yaml:"enabled" json:"enabled"`
}

// KafkaConfig is Kafka. A Tocsin hub has a sink for it; this package only checks it.
type KafkaConfig struct {
	Enabled          bool     `yaml:"enabled" json:"enabled"`
	Topic            string   `yaml:"topic" json:"topic"`
	BootstrapServers []string `yaml:"bootstrap_servers" json:"bootstrap_servers"`
	Encoding         string   `yaml:"encoding" json:"encoding"` // "protobuf" or "avro"
}

// DefaultConfig returns what the fields are when the file does not mention them.
func DefaultConfig() Config {
	return Config{
		Buffer: BufferConfig{Capacity: 2, FlushPeriod: 2 * time.Minute},
		Events: []string{"*:*"},
		Sinks: SinksConfig{
			Webhook: WebhookConfig{MaxBackoffDuration: DefaultMaxBackoff},
			Kafka:   KafkaConfig{Encoding: "protobuf"},
		},
	}
}

// Enabled reports whether a sink is enabled.
func (c *Config) Enabled() bool {
	s := &c.Sinks
	return s.Log.Enabled || s.Webhook.Enabled || s.Cloud.Enabled || s.Kafka.Enabled
}

// Validate returns what is wrong, with Flipt's texts:
//
//	buffer capacity below 2 or above 10
//	flush period below 2 minutes or greater than 5 minutes
//	url or template(s) not provided
//	only one of url or template(s) allowed
//	kafka topic not provided
//	kafka bootstrap_servers not provided
//	unsupported encoding: X
//
// and, with a sink enabled, those of [NewChecker]. It checks what Flipt checks only later or
// not at all, too: the encoding of the log and the URLs.
func (c *Config) Validate() error {
	if c.Buffer.Capacity < 2 || c.Buffer.Capacity > 10 {
		return errors.New("buffer capacity below 2 or above 10")
	}
	if c.Buffer.FlushPeriod < 2*time.Minute || c.Buffer.FlushPeriod > 5*time.Minute {
		return errors.New("flush period below 2 minutes or greater than 5 minutes")
	}
	s := &c.Sinks
	if s.Log.Enabled {
		switch s.Log.Encoding {
		case "", EncodingJSON, EncodingConsole:
		default:
			return fmt.Errorf("unsupported encoding: %s", s.Log.Encoding)
		}
	}
	if err := s.Webhook.validate(); err != nil {
		return err
	}
	if k := &s.Kafka; k.Enabled {
		switch {
		case k.Topic == "":
			return errors.New("kafka topic not provided")
		case len(k.BootstrapServers) == 0:
			return errors.New("kafka bootstrap_servers not provided")
		case k.Encoding != "" && k.Encoding != "protobuf" && k.Encoding != "avro":
			return fmt.Errorf("unsupported encoding: %s", k.Encoding)
		}
	}
	if c.Enabled() {
		if _, err := NewChecker(c.Events); err != nil {
			return err
		}
	}
	return nil
}

func (w *WebhookConfig) validate() error {
	switch {
	case !w.Enabled:
		return nil
	case w.URL == "" && len(w.Templates) == 0:
		return errors.New("url or template(s) not provided")
	case w.URL != "" && len(w.Templates) > 0:
		return errors.New("only one of url or template(s) allowed")
	case w.URL != "":
		return checkURL(w.URL)
	}
	for i := range w.Templates {
		if err := checkURL(w.Templates[i].URL); err != nil {
			return fmt.Errorf("template %d: %w", i, err)
		}
	}
	return nil
}

// Checker returns the checker of the configuration: a [NoOpChecker] when no sink is enabled.
func (c *Config) Checker() (EventPairChecker, error) {
	if !c.Enabled() {
		return NoOpChecker{}, nil
	}
	return NewChecker(c.Events)
}

// OpenOptions are for [Config.Open].
type OpenOptions struct {
	// AttemptsBudget takes max_backoff_duration as Flipt does from v1.45: as the longest wait
	// between five attempts, see [Attempts]; else it is the time that all attempts may take,
	// as up to v1.44, see [Elapsed].
	AttemptsBudget bool
	// VerbatimTemplates puts values into templates as they are; see [TemplateOptions].
	VerbatimTemplates bool
	// LogEncoding is that of the server, for a log that has none.
	LogEncoding string
	// Output is where a log without a file goes; nil: the standard output.
	Output io.Writer
	// Client sends requests; nil: one for each sink.
	Client *http.Client
}

// Open makes the sinks that are enabled, in Flipt's order: log, webhook or templates. Kafka is
// an error: let a hub send events there.
func (c *Config) Open(o OpenOptions) (sinks []Sink, err error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, s := range sinks {
				s.Close()
			}
			sinks = nil
		}
	}()
	s := &c.Sinks
	if s.Cloud.Enabled {
		return nil, errors.New("sinks.cloud: the cloud of Flipt has no audit sink any more; disable it")
	}
	if s.Kafka.Enabled {
		return nil, errors.New("sinks.kafka: Kafka is a sink of a Tocsin hub; send the events there, and disable it")
	}
	if s.Log.Enabled {
		log, err := NewLogSink(LogOptions{File: s.Log.File, Encoding: s.Log.Encoding, ServerEncoding: o.LogEncoding, Output: o.Output})
		if err != nil {
			return sinks, fmt.Errorf("creating audit log sink: %w", err)
		}
		sinks = append(sinks, log)
	}
	w := &s.Webhook
	if !w.Enabled {
		return sinks, nil
	}
	wait := w.MaxBackoffDuration
	if wait <= 0 {
		wait = DefaultMaxBackoff
	}
	budget := Elapsed(wait)
	if o.AttemptsBudget {
		budget = Attempts(wait)
	}
	if w.URL != "" {
		hook, err := NewWebhookSink(WebhookOptions{URL: w.URL, SigningSecret: w.SigningSecret, Budget: budget, Client: o.Client})
		if err != nil {
			return sinks, fmt.Errorf("creating audit webhook sink: %w", err)
		}
		return append(sinks, hook), nil
	}
	templates := make([]WebhookTemplate, len(w.Templates))
	for i, t := range w.Templates {
		templates[i] = WebhookTemplate(t)
	}
	t, err := NewTemplateSink(TemplateOptions{Templates: templates, Verbatim: o.VerbatimTemplates, SigningSecret: w.SigningSecret, Budget: budget, Client: o.Client})
	if err != nil {
		return sinks, fmt.Errorf("failed to create webhook template sink: %w", err)
	}
	return append(sinks, t), nil
}
