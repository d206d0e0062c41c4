package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/filter"
)

// Delivery is the section "delivery": what holds for all sinks.
type Delivery struct {
	Allow       []string `yaml:"allow" doc:"Hosts, addresses and networks inside that sinks of type webhook and template, and all sinks that are added while the hub runs, may connect to, although they are not public: 10.1.2.0/24, 127.0.0.1, alerts.internal. Everything else that is private, local or reserved is refused when it is connected to."`
	ProxyURL    string   `yaml:"proxy_url" doc:"HTTP proxy through which sinks of type webhook and template send. It then is what decides where they may. Empty: none, whatever the environment says."`
	FilesBelow  string   `yaml:"files_below" doc:"Directory below which sinks of type file may write that are added while the hub runs. Empty: none can be added."`
	SecretsKey  Secret   `yaml:"secrets_key" doc:"The key that encrypts the secrets of sinks that are added while the hub runs, 32 random bytes in base64 (openssl rand -base64 32), as {env: NAME} or {file: PATH}. Empty: one is made in data_dir, which protects copies of the journal, but not of the whole directory."`
	Attempts    int      `yaml:"attempts" min:"10" max:"10000" doc:"So many of the last attempts of each sink are remembered, for tocsin sink attempts."`
	DeadLetters Size     `yaml:"dead_letter_bytes" min:"1MiB" max:"1TiB" doc:"Dead letters of each sink take at most this much of the disk. When there are more, the sink stops until some are redriven or purged, rather than lose one."`
	MaxSinks    int      `yaml:"max_sinks" min:"1" max:"1000" doc:"How many sinks there may be."`
	StopTimeout Duration `yaml:"stop_timeout" min:"100ms" max:"1m" doc:"How long what is on its way is waited for when the hub ends."`
}

// Sink is one element of "sinks", and what is given to the API to add one.
type Sink struct {
	Name        string     `yaml:"name" doc:"Names the sink in metrics, logs, health and the API. Lower-case letters, digits, - and _. The place in the journal and the dead letters belong to the name."`
	Type        SinkType   `yaml:"type" oneof:"file,stdout,webhook,template,kafka,nats,otlp_logs" doc:"What the sink is. The section of the same name says where events go."`
	Disabled    bool       `yaml:"disabled" doc:"true sends nothing. Events are kept as long as the journal keeps them."`
	Events      SinkEvents `yaml:"events" doc:"Which events are sent."`
	From        From       `yaml:"from" oneof:"start,end" doc:"Where to begin the first time: with the oldest event in the journal, or with what comes from then on."`
	Order       SinkOrder  `yaml:"order" oneof:"path,all,none" doc:"What keeps its order, also when something has to be sent again: events of the same path (and namespace), all events (then one request at a time), or none."`
	Concurrency int        `yaml:"concurrency" min:"1" max:"256" zero:"what suits the type" doc:"How many requests are on their way at the same time."`
	Batch       SinkBatch  `yaml:"batch" doc:"When events are sent together. Types that send one event per request do not use it."`
	Retry       SinkRetry  `yaml:"retry" doc:"What happens when something cannot be delivered."`
	Rate        SinkRate   `yaml:"rate" doc:"How much is sent at most."`
	Timeout     Duration   `yaml:"timeout" min:"100ms" max:"10m" doc:"How long one request may take."`

	File     SinkFile     `yaml:"file" doc:"Of the type file."`
	Stdout   SinkStdout   `yaml:"stdout" doc:"Of the type stdout."`
	Webhook  SinkWebhook  `yaml:"webhook" doc:"Of the type webhook."`
	Template SinkTemplate `yaml:"template" doc:"Of the type template."`
	Kafka    SinkKafka    `yaml:"kafka" doc:"Of the type kafka."`
	NATS     SinkNATS     `yaml:"nats" doc:"Of the type nats."`
	OTLPLogs SinkOTLPLogs `yaml:"otlp_logs" doc:"Of the type otlp_logs."`
}

// SinkEvents is the section "sinks[].events": all of it must hold.
type SinkEvents struct {
	Types      []string `yaml:"types" doc:"Types, * stands for any text: kv-v2/*. Empty: all, except the hub's own about sinks (tocsin/sink-*), which must be named."`
	Pairs      []string `yaml:"pairs" doc:"Pairs noun:verb as in Flipt, * stands for any: flag:created, *:deleted. They select by the last two parts of the type: flipt/flag/created. Empty: all."`
	Namespaces []string `yaml:"namespaces" doc:"Namespaces, * stands for any text; root is the root namespace. Empty: all."`
	Filter     string   `yaml:"filter" doc:"An expression as subscriptions have it: operation == \"data-delete\" and namespace == \"team-a/\". It may ask for fields that plugins extract: field[\"ka.verb\"] == \"delete\"."`
}

// SinkBatch is the section "sinks[].batch".
type SinkBatch struct {
	Events int      `yaml:"events" min:"1" max:"100000" doc:"At most so many events."`
	Bytes  Size     `yaml:"bytes" min:"1KiB" max:"64MiB" doc:"And not much more than this."`
	Delay  Duration `yaml:"delay" min:"1ms" max:"10m" zero:"not at all" doc:"An event waits at most so long for others."`
}

// SinkRetry is the section "sinks[].retry".
type SinkRetry struct {
	First    Duration `yaml:"first" min:"1ms" max:"1h" doc:"The pause after the first failure is a random time up to this; each further one is up to twice as long."`
	Most     Duration `yaml:"most" min:"10ms" max:"24h" doc:"But not longer than this."`
	Attempts int      `yaml:"attempts" min:"1" max:"1000000" zero:"no limit" doc:"An event that the endpoint has failed with so often becomes a dead letter. Attempts that did not reach it do not count."`
	GiveUp   Duration `yaml:"give_up" min:"1s" max:"365d" zero:"never" doc:"And so does one that it has failed with for so long, or of which plugins could not tell for so long whether it is for the sink. An endpoint that cannot be reached is waited for, however long that takes."`
	MaxAge   Duration `yaml:"max_age" min:"1s" max:"365d" zero:"no limit" doc:"Events older than this when it is their turn become dead letters and are not sent."`
}

// SinkRate is the section "sinks[].rate".
type SinkRate struct {
	Events int      `yaml:"events" min:"1" max:"1000000000" zero:"no limit" doc:"At most so many events ..."`
	Per    Duration `yaml:"per" min:"1s" max:"24h" doc:"... in this time."`
}

// SinkHeader is a header of requests.
type SinkHeader struct {
	Name   string `yaml:"name" doc:"Name of the header."`
	Value  string `yaml:"value" doc:"Its value, if that is no secret."`
	Secret Secret `yaml:"secret" doc:"Its value, as {env: NAME} or {file: PATH}."`
}

// SinkTLS is how connections are secured.
type SinkTLS struct {
	CA         Secret `yaml:"ca" doc:"PEM with the authorities of the certificate, as {file: PATH}. Empty: those of the system."`
	ServerName string `yaml:"server_name" doc:"Name in the certificate. Empty: the host."`
	Cert       Secret `yaml:"cert" doc:"PEM with a client certificate, as {file: PATH}."`
	Key        Secret `yaml:"key" doc:"PEM with its private key, as {file: PATH}."`
}

// Kinds of sinks and their settings.
type (
	SinkType   string
	SinkOrder  string
	SinkFormat string
)

// The kinds of sinks.
const (
	SinkTypeFile     SinkType = "file"
	SinkTypeStdout   SinkType = "stdout"
	SinkTypeWebhook  SinkType = "webhook"
	SinkTypeTemplate SinkType = "template"
	SinkTypeKafka    SinkType = "kafka"
	SinkTypeNATS     SinkType = "nats"
	SinkTypeOTLPLogs SinkType = "otlp_logs"
)

func defaultDelivery() Delivery {
	return Delivery{
		Attempts:    100,
		DeadLetters: 256 << 20,
		MaxSinks:    200,
		StopTimeout: Duration(3 * time.Second),
	}
}

// DefaultSink returns what the fields of a sink are when its element does not mention them.
func DefaultSink() Sink {
	return Sink{
		From: FromEnd, Order: "path", Timeout: Duration(20 * time.Second),
		Batch: SinkBatch{Events: 500, Bytes: 1 << 20, Delay: Duration(100 * time.Millisecond)},
		Retry: SinkRetry{First: Duration(time.Second), Most: Duration(5 * time.Minute), GiveUp: Duration(72 * time.Hour)},
		Rate:  SinkRate{Per: Duration(time.Second)},

		File:     defaultSinkFile(),
		Stdout:   defaultSinkStdout(),
		Webhook:  defaultSinkWebhook(),
		Template: defaultSinkTemplate(),
		Kafka:    defaultSinkKafka(),
		NATS:     defaultSinkNATS(),
		OTLPLogs: defaultSinkOTLPLogs(),
	}
}

// concerned says which fields a type has; see the writer.
func (s Sink) concerned(key string) bool {
	switch key {
	case "file", "stdout", "webhook", "template", "kafka", "nats", "otlp_logs":
		return SinkType(key) == s.Type
	}
	return true
}

// IsSinkName says whether a sink can have a name.
func IsSinkName(name string) bool { return sinkName.MatchString(name) }

var sinkName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func (v *validator) sinks(sinks []Sink, d Delivery) {
	v.delivery(d)
	if len(sinks) > d.MaxSinks {
		v.report("sinks", "has %d elements, delivery.max_sinks is %d", len(sinks), d.MaxSinks)
	}
	names := make(map[string]int)
	for i := range sinks {
		s, key := &sinks[i], fmt.Sprintf("sinks[%d]", i)
		if first, seen := names[s.Name]; seen && s.Name != "" {
			v.report(key+".name", "%q is already the name of sinks[%d]", s.Name, first)
		}
		names[s.Name] = i
		v.sink(key, s)
	}
	files := make(map[string]int)
	for i := range sinks {
		if sinks[i].Type != SinkTypeFile || sinks[i].File.Path == "" {
			continue
		}
		path := filepath.Clean(sinks[i].File.Path)
		if first, seen := files[path]; seen {
			v.report(fmt.Sprintf("sinks[%d].file.path", i), "%q is already written by sinks[%d]; give each a file of its own", shorten(path), first)
			continue
		}
		files[path] = i
	}
}

// delivery checks the section.
func (v *validator) delivery(d Delivery) {
	v.outbound(d)
	if d.FilesBelow != "" && !filepath.IsAbs(d.FilesBelow) {
		v.report("delivery.files_below", "%q must begin with /", shorten(d.FilesBelow))
	}
}

// Selection returns the events as those who select them have them.
func (e SinkEvents) Selection() filter.Selection {
	return filter.Selection{Types: e.Types, Pairs: e.Pairs, Namespaces: e.Namespaces, Filter: e.Filter}
}

// sinkEvents checks the section at key.
func (v *validator) sinkEvents(key string, e *SinkEvents) {
	// Which fields plugins have is not known yet.
	_, err := e.Selection().CompileFields(func(string, *string) error { return nil })
	if err == nil {
		return
	}
	if part, ok := errors.AsType[*filter.SelectionError](err); ok {
		key += "." + part.Part
		if part.Index >= 0 {
			key += fmt.Sprintf("[%d]", part.Index)
		}
		v.report(key, "%s", part.Reason)
		return
	}
	v.report(key+".filter", "%s", strings.TrimPrefix(err.Error(), "filter: "))
}

// fieldFilters checks that there are plugins if filters ask for fields of them.
func (v *validator) fieldFilters(sinks []Sink, plugins []SourcePlugin) {
	if len(plugins) > 0 {
		return
	}
	for i := range sinks {
		selected, err := sinks[i].Events.Selection().CompileFields(func(string, *string) error { return nil })
		if err == nil && len(selected.Fields()) > 0 {
			v.report(fmt.Sprintf("sinks[%d].events.filter", i), "asks for the field %s of a plugin, but plugins.sources is empty", shorten(selected.Fields()[0]))
		}
	}
}

// sink checks what holds between the fields of a sink.
func (v *validator) sink(key string, s *Sink) {
	switch {
	case s.Name == "":
		v.report(key, "has no name; add for example \"name: slack\"")
	case !sinkName.MatchString(s.Name):
		v.report(key+".name", "%q must be 1 to 63 lower-case letters, digits, - and _, and begin with a letter or digit", shorten(s.Name))
	}
	if v.reported(key + ".type") {
		return
	}
	defaults := reflect.ValueOf(DefaultSink())
	value := reflect.ValueOf(*s)
	for i, name := range fieldKeys(value.Type()) {
		if !s.concerned(name) && !reflect.DeepEqual(value.Field(i).Interface(), defaults.Field(i).Interface()) {
			v.report(key+"."+name, "is not for sinks of type %s; remove it, or change the type", s.Type)
		}
	}
	v.sinkEvents(key+".events", &s.Events)
	if s.Retry.First > s.Retry.Most {
		v.report(key+".retry.most", "%s is less than retry.first, which is %s", s.Retry.Most, s.Retry.First)
	}
	if s.Order == "all" && s.Concurrency > 1 {
		v.report(key+".concurrency", "%d is more than one, which order: all does not allow; leave it out, or choose order: path", s.Concurrency)
	}
	switch s.Type {
	case SinkTypeFile:
		v.sinkFile(key+".file", &s.File)
	case SinkTypeStdout:
		v.sinkStdout(key+".stdout", &s.Stdout)
	case SinkTypeWebhook:
		v.sinkWebhook(key+".webhook", &s.Webhook)
	case SinkTypeTemplate:
		v.sinkTemplate(key+".template", &s.Template)
	case SinkTypeKafka:
		v.sinkKafka(key+".kafka", &s.Kafka)
	case SinkTypeNATS:
		v.sinkNATS(key+".nats", &s.NATS)
	case SinkTypeOTLPLogs:
		v.sinkOTLPLogs(key+".otlp_logs", &s.OTLPLogs)
	}
}

// Names of sections that say where a sink of a type sends to.
var sinkSections = []SinkType{SinkTypeFile, SinkTypeStdout, SinkTypeWebhook, SinkTypeTemplate, SinkTypeKafka, SinkTypeNATS, SinkTypeOTLPLogs}

// SinkTypes returns the names of the kinds, separated by commas.
func SinkTypes() string {
	names := make([]string, len(sinkSections))
	for i, t := range sinkSections {
		names[i] = string(t)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
