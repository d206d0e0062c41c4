package app

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/sink/nats"
)

func (a *App) makeNATSSink(c config.Sink, origin manager.Origin) (deliver.Sink, error) {
	n := c.NATS
	guard, err := a.guard(origin)
	if err != nil {
		return nil, err
	}
	var dial func(context.Context, string, string) (net.Conn, error)
	if guard != nil {
		dial = guard.DialContext
		for i, u := range n.URLs {
			if err := checkHost(guard, u); err != nil {
				return nil, fmt.Errorf("urls[%d]: %w", i, err)
			}
		}
	}
	return nats.New(nats.Options{
		URLs: n.URLs, Subject: n.Subject, Format: format.Format(n.Format),
		Username: n.Username, Password: natsSecret(n.Password), Token: natsSecret(n.Token), Credentials: natsSecret(n.Credentials),
		TLS:     nats.TLS{CA: natsSecret(n.TLS.CA), Cert: natsSecret(n.TLS.Cert), Key: natsSecret(n.TLS.Key), ServerName: n.TLS.ServerName},
		Dial:    dial,
		Name:    "tocsin-" + c.Name,
		Timeout: min(nats.DefaultTimeout, time.Duration(c.Timeout)),
	})
}

// natsSecret returns how a secret is read, nil for none.
func natsSecret(s config.Secret) nats.Secret {
	if !s.IsSet() {
		return nil
	}
	return s.Reveal
}
