package cli

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
)

// devSinks are the values of --sink of "tocsin dev".
type devSinks []string

const devSinksUsage = "send events on: file:`PATH`, stdout, stdout:FORMAT, webhook:URL, otlp:URL or kafka:HOST:PORT/TOPIC; may be repeated"

// sinks returns the sinks that the values stand for. They begin with the oldest event, and
// do not wait for others: somebody is watching.
func (l devSinks) sinks() ([]config.Sink, error) {
	var all []config.Sink
	used := make(map[string]int)
	for _, value := range l {
		s := config.DefaultSink()
		s.From = config.FromStart
		s.Batch.Delay = config.Duration(50 * time.Millisecond)
		s.Retry.Most = config.Duration(10 * time.Second)
		kind, target, named := strings.Cut(value, ":")
		if named && target == "" || !named && kind != "stdout" {
			if kind == "file" || kind == "webhook" || kind == "otlp" || kind == "kafka" {
				return nil, fmt.Errorf("--sink %s: where to? Write for example file:/tmp/events.jsonl, webhook:http://127.0.0.1:9000/hook, otlp:http://127.0.0.1:4318 or kafka:127.0.0.1:9092/events", visible(kind))
			}
		}
		var err error
		switch kind {
		case "file":
			s.Type = config.SinkTypeFile
			s.File.Path, err = filepath.Abs(target)
		case "stdout":
			s.Type, s.Stdout.Format = config.SinkTypeStdout, "pretty"
			if target != "" {
				s.Stdout.Format = config.SinkFormat(target)
			}
		case "webhook":
			s.Type = config.SinkTypeWebhook
			s.Webhook.URL = target
			if u, err := url.Parse(target); err == nil && u.Hostname() != "" {
				s.Webhook.Allow = []string{u.Hostname()} // who starts it has named it
			}
		case "otlp":
			s.Type = config.SinkTypeOTLPLogs
			s.OTLPLogs.URL = target
		case "kafka":
			s.Type = config.SinkTypeKafka
			broker, topic, ok := strings.Cut(target, "/")
			if !ok || broker == "" || topic == "" {
				return nil, fmt.Errorf("--sink kafka:%s: write kafka:HOST:PORT/TOPIC", visible(target))
			}
			s.Kafka.Brokers, s.Kafka.Topic = []string{broker}, topic
		default:
			return nil, fmt.Errorf("--sink %q: write file:PATH, stdout, webhook:URL, otlp:URL or kafka:HOST:PORT/TOPIC; for anything else use \"tocsin sink add\" when the hub runs", visible(kind))
		}
		if err != nil {
			return nil, fmt.Errorf("--sink file:%s: %w", visible(target), err)
		}
		s.Name = kind
		if used[kind]++; used[kind] > 1 {
			s.Name = fmt.Sprintf("%s-%d", kind, used[kind])
		}
		all = append(all, s)
	}
	return all, nil
}

// describeSink says where a sink sends, for the banner.
func describeSink(s config.Sink) string {
	switch s.Type {
	case config.SinkTypeFile:
		return "lines in " + s.File.Path
	case config.SinkTypeStdout:
		return fmt.Sprintf("here, as %s", s.Stdout.Format)
	case config.SinkTypeWebhook:
		return s.Webhook.URL
	case config.SinkTypeKafka:
		return fmt.Sprintf("topic %s of Kafka at %s", s.Kafka.Topic, strings.Join(s.Kafka.Brokers, ", "))
	}
	return "log records to " + s.OTLPLogs.URL
}

// devDelivery is what "tocsin sink add" may do with a hub for development: send to this
// machine as well, and write files below the directory that it was started in, or below
// that of temporary files if that is the whole machine.
func devDelivery() config.Delivery {
	d := config.Default().Delivery
	d.Allow = []string{"127.0.0.0/8", "::1"}
	if d.FilesBelow, _ = os.Getwd(); !filepath.IsAbs(d.FilesBelow) || d.FilesBelow == "/" {
		d.FilesBelow = os.TempDir()
	}
	return d
}
