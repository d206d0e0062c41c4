package app

import (
	"fmt"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/sink/kafka"
)

func (a *App) makeKafkaSink(c config.Sink, origin manager.Origin) (deliver.Sink, error) {
	k := c.Kafka
	o := kafka.Options{
		Brokers:  k.Brokers,
		Topic:    k.Topic,
		Key:      kafka.Key(k.Key),
		Encoding: kafka.Encoding(k.Encoding),
		Registry: kafka.Registry{
			URL:      k.Registry.URL,
			Subject:  k.Registry.Subject,
			Username: k.Registry.Username,
			Password: revealed(k.Registry.Password),
			LookUp:   !k.Registry.Register,
			TLS:      kafkaTLS(k.Registry.TLS),
		},
		SASL: kafka.SASL{
			Mechanism: kafka.Mechanism(k.SASL.Mechanism),
			Username:  k.SASL.Username,
			Password:  revealed(k.SASL.Password),
		},
		Acks:            kafka.Acks(k.Acks),
		Compression:     string(k.Compression),
		AutoTopics:      k.AutoTopics,
		MaxMessageBytes: int(k.MaxMessage),
		Timeout:         time.Duration(c.Timeout),
		ClientID:        "tocsin-" + c.Name,
	}
	if k.TLSWanted() {
		t := kafkaTLS(k.TLS)
		o.TLS = &t
	}
	guard, err := a.guard(origin)
	if err != nil {
		return nil, err
	}
	if guard != nil {
		o.Dial = guard.DialContext
		for _, broker := range k.Brokers {
			if err := guard.CheckHost(config.KafkaHost(broker)); err != nil {
				return nil, fmt.Errorf("brokers: %w", err)
			}
		}
		if k.Registry.URL != "" {
			if err := checkHost(guard, k.Registry.URL); err != nil {
				return nil, fmt.Errorf("schema_registry: url: %w", err)
			}
		}
	}
	return kafka.New(o)
}

func kafkaTLS(t config.SinkTLS) kafka.TLS {
	return kafka.TLS{CA: revealed(t.CA), Cert: revealed(t.Cert), Key: revealed(t.Key), ServerName: t.ServerName}
}

// revealed returns how a secret is read, nil for none.
func revealed(s config.Secret) func() (string, error) {
	if !s.IsSet() {
		return nil
	}
	return s.Reveal
}
