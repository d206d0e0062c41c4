package app

import (
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/sink/webhook"
)

func (a *App) makeWebhookSink(c config.Sink) (deliver.Sink, error) {
	w := c.Webhook
	connection, err := a.outbound(c, w.Allow, w.TLS, w.Headers)
	if err != nil {
		return nil, err
	}
	connection.Bearer, connection.Username, connection.Password = reveal(w.BearerToken), w.Username, reveal(w.Password)
	options := webhook.Options{
		URL: w.URL, Connection: connection,
		Body: webhook.Body(w.Body), Format: format.Format(w.Format), Gzip: w.Gzip, MaxBytes: int(w.MaxBody),
		FliptSecret: reveal(w.FliptSecret),
	}
	for _, k := range w.SigningKeys {
		options.SigningKeys = append(options.SigningKeys, k.Reveal)
	}
	return webhook.New(options)
}

// outbound returns how a sink reaches its receiver over HTTP, without credentials.
func (a *App) outbound(c config.Sink, allow []string, tls config.SinkTLS, headers []config.SinkHeader) (outbound.Options, error) {
	d := a.config.Delivery
	guard, err := outbound.NewGuard(d.Allow...)
	if err == nil {
		guard, err = guard.With(allow...)
	}
	if err != nil {
		return outbound.Options{}, fmt.Errorf("allow: %w", err)
	}
	o := outbound.Options{
		Guard:   guard,
		Proxy:   d.ProxyURL,
		TLS:     outbound.TLS{CA: reveal(tls.CA), Cert: reveal(tls.Cert), Key: reveal(tls.Key), ServerName: tls.ServerName},
		Timeout: time.Duration(c.Timeout), Concurrency: c.Concurrency, UserAgent: strings.TrimSuffix("tocsin/"+a.version, "/"),
	}
	for _, h := range headers {
		if h.Secret.IsSet() {
			o.Headers = append(o.Headers, outbound.Header{Name: h.Name, Value: h.Secret.Reveal})
		} else {
			o.Headers = append(o.Headers, outbound.Fixed(h.Name, h.Value))
		}
	}
	return o, nil
}

// reveal returns how a secret is read, nil if there is none.
func reveal(s config.Secret) outbound.Secret {
	if !s.IsSet() {
		return nil
	}
	return s.Reveal
}
