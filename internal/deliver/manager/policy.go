package manager

import (
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

// requests are how many requests are on their way at the same time where a definition does
// not say it. Kinds that write to one place in order, or put many events into one request,
// gain nothing by more.
var requests = map[config.SinkType]int{
	config.SinkTypeFile:     1,
	config.SinkTypeStdout:   1,
	config.SinkTypeWebhook:  4,
	config.SinkTypeTemplate: 4,
	config.SinkTypeKafka:    2,
	config.SinkTypeNATS:     4,
	config.SinkTypeOTLPLogs: 2,
}

// oneEvent says whether a sink sends each event in a request of its own.
func oneEvent(c *config.Sink) bool {
	return c.Type == config.SinkTypeTemplate || c.Type == config.SinkTypeWebhook && c.Webhook.Body == "event"
}

// policyOf returns how a delivery to a sink sends.
func policyOf(c *config.Sink, d *config.Delivery) deliver.Policy {
	p := deliver.Policy{
		Order:       deliver.ByPath,
		Concurrency: c.Concurrency,
		MaxEvents:   c.Batch.Events,
		MaxBytes:    int(c.Batch.Bytes),
		MaxDelay:    time.Duration(c.Batch.Delay),
		Backoff:     deliver.Backoff{First: time.Duration(c.Retry.First), Most: time.Duration(c.Retry.Most)},
		Attempts:    c.Retry.Attempts,
		GiveUp:      time.Duration(c.Retry.GiveUp),
		MaxAge:      time.Duration(c.Retry.MaxAge),
		Rate:        deliver.Rate{Events: c.Rate.Events, Per: time.Duration(c.Rate.Per)},
		Timeout:     time.Duration(c.Timeout),
		StopTimeout: time.Duration(d.StopTimeout),
	}
	switch c.Order {
	case "all":
		p.Order = deliver.All
	case "none":
		p.Order = deliver.None
	}
	if p.Concurrency == 0 {
		p.Concurrency = requests[c.Type]
	}
	if p.Order == deliver.All {
		p.Concurrency = 1
	}
	if oneEvent(c) {
		p.MaxEvents, p.MaxDelay = 1, 0
	}
	return p
}
