package app

import (
	"fmt"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit/enrich"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

// makeAskers makes what asks the server of these devices for what its log hides, to
// run beside the sources, and returns how its answers are had: nil if it is not to be
// asked.
func (a *App) makeAskers(devices []config.Source) (vaultaudit.Ask, error) {
	var askers []*enrich.Asker
	for _, c := range devices {
		if c.Vault.Address == "" {
			continue
		}
		asker, err := enrich.New(enrich.Config{
			Name:      c.Name,
			Device:    c.Vault.Device,
			Address:   c.Vault.Address,
			Namespace: c.Vault.Namespace,
			Token:     c.Vault.Token.Reveal,
			TLS:       vaultclient.TLS{CACert: c.Vault.CAFile, ClientCert: c.Vault.CertFile, ClientKey: c.Vault.KeyFile},
			Interval:  time.Duration(c.Vault.Interval),
			Logger:    component(a.log, "enrichment").With("source", c.Name),
		})
		if err != nil {
			return nil, fmt.Errorf("sources[%s].vault: %w", c.Name, err)
		}
		askers = append(askers, asker)
		a.sources.all = append(a.sources.all, namedSource{"enrichment of " + c.Name, asker})
		a.health.Register("enrichment "+c.Name, health.Degradation, asker.Health)
	}
	if len(askers) == 0 {
		return nil, nil
	}
	return enrich.Join(askers...), nil
}
