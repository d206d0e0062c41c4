// Package config turns tocsin.yaml into a typed configuration. It is strict: an
// unknown or repeated key, a value of the wrong type or out of range is a
// [Problem] with file, line and column, and all problems of a file are reported
// together. It knows defaults and documentation of every field, so the effective
// configuration can be printed with comments (see [Config.Write]).
//
// It opens nothing that the configuration names except, on request, the files
// of secrets (see [Secret.Reveal]), and it reads no environment variable except
// those that secrets name.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// Config is everything that the program can be told. The zero value is not
// usable: start from [Default].
//
// Field tags are the specification from which decoding, checking and printing
// are done: yaml is the key, doc the comment, min and max bound a number,
// duration or size, zero says what 0 means where it is outside of the bounds,
// oneof lists the allowed texts.
type Config struct {
	Node          string        `yaml:"node" doc:"Names this hub in the events about itself (tocsin://NODE). Empty: the name of the host."`
	Listen        Listen        `yaml:"listen" doc:"Where the HTTP server for clients, metrics and health checks listens."`
	DataDir       string        `yaml:"data_dir" doc:"Directory of the journal and all other state. One process at a time may use it; it is created when missing."`
	Journal       Journal       `yaml:"journal" doc:"How long events are kept, and how much may wait to be written."`
	Limits        EventLimits   `yaml:"limits" doc:"Largest event that is accepted. Bigger audit entries keep their bytes beside the journal, other producers are refused."`
	Subscriptions Subscriptions `yaml:"subscriptions" doc:"Live subscribers."`
	Auth          Auth          `yaml:"auth" doc:"Who may use the server."`
	Sources       []Source      `yaml:"sources" doc:"What is read. Each source has these fields:"`
	Publish       Publish       `yaml:"publish" doc:"What applications and plugins publish."`
	Traces        Traces        `yaml:"traces" doc:"Requests to Vault or OpenBao as spans, for tracing systems. Used when there are exporters. See docs/traces.md."`
	Delivery      Delivery      `yaml:"delivery" doc:"What holds for all sinks. See docs/sinks.md."`
	Sinks         []Sink        `yaml:"sinks" doc:"Where events go. Each sink reads the journal on its own and remembers how far it is: one that is slow or down for days delays no other, and loses nothing that the journal keeps. Each has:"`
	Rules         Rules         `yaml:"rules" doc:"Rules raise alerts about events. Alerts are events, too, of the types alert/..., so that they are kept, subscribed to and delivered like all others. See docs/rules.md."`
	AuditMetrics  AuditMetrics  `yaml:"audit_metrics" doc:"Requests to Vault or OpenBao on /metrics: how many, how they ended, how long they took. See docs/audit-metrics.md."`
	Plugins       Plugins       `yaml:"plugins" doc:"Vault plugins that run below the hub. Their storage is encrypted, but the hub is a test bench and a source of events, not a manager of secrets: see docs/plugins.md."`
	Log           Log           `yaml:"log" doc:"What the program writes about itself to standard error."`
}

// Journal is the section "journal".
type Journal struct {
	MaxAge       Duration `yaml:"max_age" min:"1m" zero:"no limit" doc:"Events older than this are removed."`
	MaxBytes     Size     `yaml:"max_bytes" min:"16MiB" zero:"no limit" doc:"When the journal is larger than this, its oldest events are removed."`
	PendingBytes Size     `yaml:"pending_bytes" min:"1MiB" max:"4GiB" doc:"Events waiting to be written take at most this much memory; producers beyond it wait or are refused."`
	CacheBytes   Size     `yaml:"cache_bytes" min:"1MiB" max:"64GiB" doc:"Memory for recent events, for those who read the journal."`
}

// EventLimits is the section "limits".
type EventLimits struct {
	MaxEvent        Size `yaml:"max_event" min:"1KiB" max:"8MiB" doc:"Everything that an event carries."`
	MaxType         Size `yaml:"max_type" min:"64B" max:"4KiB" doc:"Its type."`
	MaxMetadata     Size `yaml:"max_metadata" min:"1KiB" max:"1MiB" doc:"Names and values of its metadata together."`
	MaxMetadataKeys int  `yaml:"max_metadata_keys" min:"8" max:"10000" doc:"Number of metadata fields."`
}

// Event returns the limits in the form that the rest of the program uses.
func (l EventLimits) Event() event.Limits {
	return event.Limits{
		MaxTypeBytes:     int(l.MaxType),
		MaxMetadataKeys:  l.MaxMetadataKeys,
		MaxMetadataBytes: int(l.MaxMetadata),
		MaxEventBytes:    int(l.MaxEvent),
	}
}

// Subscriptions is the section "subscriptions".
type Subscriptions struct {
	Max         int  `yaml:"max" min:"1" max:"1000000" doc:"How many may be open at once; further ones are refused."`
	MemoryBytes Size `yaml:"memory_bytes" min:"4MiB" max:"64GiB" doc:"Memory for the events that subscribers are being sent, shared by all of them."`
}

// Log is the section "log".
type Log struct {
	Level  LogLevel  `yaml:"level" oneof:"debug,info,warn,error" doc:"Least important messages that are written: debug, info, warn or error."`
	Format LogFormat `yaml:"format" oneof:"text,json" doc:"text for people, json for programs."`
}

// LogLevel names a level of log/slog in lower case.
type LogLevel string

// LogFormat is "text" or "json".
type LogFormat string

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Listen:  defaultListen(),
		DataDir: "/var/lib/tocsin",
		Journal: Journal{
			MaxAge:       Duration(30 * 24 * time.Hour),
			MaxBytes:     10 << 30,
			PendingBytes: 16 << 20,
			CacheBytes:   32 << 20,
		},
		Limits: EventLimits{
			MaxEvent:        Size(event.DefaultLimits.MaxEventBytes),
			MaxType:         Size(event.DefaultLimits.MaxTypeBytes),
			MaxMetadata:     Size(event.DefaultLimits.MaxMetadataBytes),
			MaxMetadataKeys: event.DefaultLimits.MaxMetadataKeys,
		},
		Subscriptions: Subscriptions{Max: 20_000, MemoryBytes: 64 << 20},
		Auth:          defaultAuth(),
		Publish:       defaultPublish(),
		Traces:        defaultTraces(),
		Delivery:      defaultDelivery(),
		Rules:         defaultRules(),
		AuditMetrics:  defaultAuditMetrics(),
		Plugins:       defaultPlugins(),
		Log:           Log{Level: "info", Format: "text"},
	}
}

// maxFileBytes bounds a configuration file. Ten thousand sources fit.
const maxFileBytes = 1 << 20

// Load reads and checks the file at path. The error is an [Error] with every
// problem when the file could be read.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return Config{}, fmt.Errorf("read configuration: %s is a directory; name the file in it, for example %s/tocsin.yaml", path, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, text)
}

// Parse checks the text of a configuration and returns it on top of [Default].
// The name is used in problems only. The error is an [Error].
func Parse(name string, text []byte) (Config, error) {
	if len(text) > maxFileBytes {
		return Config{}, Error{{File: name, Message: fmt.Sprintf("is larger than the limit of %s", Size(maxFileBytes))}}
	}
	c := Default()
	d := newDecoder(name)
	d.document(text, "", reflect.ValueOf(&c).Elem())
	for _, p := range c.problems() {
		if !d.wrong[p.Key] {
			d.problems = append(d.problems, d.locate(p))
		}
	}
	if len(d.problems) > 0 {
		return Config{}, sorted(d.problems)
	}
	return c, nil
}

// Validate checks a configuration that was made by code rather than read from a
// file. The error is an [Error] whose problems have no position.
func (c *Config) Validate() error {
	if p := c.problems(); len(p) > 0 {
		return Error(p)
	}
	return nil
}

// IsProblem reports whether err is about the content of a configuration.
func IsProblem(err error) bool {
	var e Error
	return errors.As(err, &e)
}
