package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit/receiver"
)

// receiverTimeout is how long a receiver may take to end, and its inbox to be written. It
// is not a part of stopTimeout: what has been received must not be lost because something
// else took long.
const receiverTimeout = 2 * time.Second

// spoolDir is where the inboxes are, below the data directory: that of a source in a
// directory of its name, what its receiver leaves to a successor in another one.
const (
	spoolDir       = "spool"
	handoverSuffix = ".handover"
)

// receiverKinds are the sources that receive.
var receiverKinds = map[config.SourceType]receiver.Kind{
	config.VaultAuditSocket: receiver.Socket,
	config.VaultAuditSyslog: receiver.Syslog,
	config.VaultAuditHTTP:   receiver.HTTP,
}

// receiving is a receiver and the inbox that it puts into.
type receiving struct {
	*receiver.Receiver
	inbox *inbox.Inbox
}

// startReceivers makes the receivers, which take what is sent from now on: inboxes need no
// journal. So a server can connect while the hub still starts, and until the hub has
// almost ended.
func (a *App) startReceivers() error {
	a.receivers = make(map[string]receiving)
	for _, c := range a.config.Sources {
		if kind, ok := receiverKinds[c.Type]; ok {
			if err := a.startReceiver(c, kind); err != nil {
				return fmt.Errorf("source %s: %w", c.Name, err)
			}
		}
	}
	unused, err := a.systemd.CloseUnused()
	if len(unused) > 0 || err != nil {
		a.log.Warn("systemd holds sockets that nothing is configured to use; they were closed.", "sockets", unused, "error", err)
	}
	return nil
}

func (a *App) startReceiver(c config.Source, kind receiver.Kind) error {
	settings, err := a.receiverConfig(c, kind)
	if err != nil {
		return err
	}
	in, err := inbox.Open(inbox.Options{
		Dir:          filepath.Join(a.config.DataDir, spoolDir, c.Name),
		MemoryBytes:  int64(c.Spool.MemoryBytes),
		MaxBytes:     int64(c.Spool.MaxBytes),
		ReserveBytes: int64(c.Spool.ReserveBytes),
		SyncInterval: time.Duration(c.Spool.SyncInterval),
		WhenFull:     map[config.SpoolFull]inbox.WhenFull{config.SpoolDrop: inbox.Drop, config.SpoolBlock: inbox.Block}[c.Spool.WhenFull],
		Logger:       component(a.log, "inbox"),
	})
	if err != nil {
		return fmt.Errorf("open the spool: %w", err)
	}
	a.onStop("spool "+c.Name, unhurried(in.Close))
	r, err := receiver.Listen(settings, receiver.Deps{Inbox: in, Systemd: a.systemd, Logger: component(a.log, "receiver")})
	if err != nil {
		return err
	}
	a.onStop("receiver "+c.Name, unhurried(r.Stop))
	r.Start()
	a.receivers[c.Name] = receiving{r, in}
	a.health.Register("receiver "+c.Name, health.Degradation, r.Health)
	a.health.Register("spool "+c.Name, health.Degradation, in.Health)
	a.registry.MustRegister(r.Collectors()...)
	a.registry.MustRegister(spoolCollectors(c.Name, in.Stats)...)
	return nil
}

// receiverConfig is the part of a source that its receiver needs.
func (a *App) receiverConfig(c config.Source, kind receiver.Kind) (receiver.Config, error) {
	address, err := config.ParseSourceAddress(c.Address)
	if err != nil {
		return receiver.Config{}, err
	}
	mode, err := c.Socket.FileMode()
	if err != nil {
		return receiver.Config{}, err
	}
	var allow []netip.Prefix
	for _, text := range c.Allow {
		network, err := config.ParseNetwork(text)
		if err != nil {
			return receiver.Config{}, err
		}
		allow = append(allow, network)
	}
	var settings *tls.Config
	if c.TLS.Enabled() {
		if settings, err = serverTLS("sources."+c.Name+".tls", c.TLS, component(a.log, "tls")); err != nil {
			return receiver.Config{}, err
		}
	}
	var secret func() (string, error)
	if c.Secret.IsSet() {
		secret = c.Secret.Reveal
	}
	return receiver.Config{
		Name: c.Name, Kind: kind, Network: address.Network, Address: address.Address,
		File: receiver.File{Mode: mode, Owner: c.Socket.Owner, Group: c.Socket.Group},
		TLS:  settings, Allow: allow, Secret: secret, SecretHeader: c.SecretHeader,
		MaxConnections: c.MaxSenders, MaxLine: int(c.MaxLine),
		Dir: filepath.Join(a.config.DataDir, spoolDir, c.Name+handoverSuffix),
	}, nil
}

// SourceAddress returns where a source receives, as NETWORK:ADDRESS, or an empty text when
// it does not.
func (a *App) SourceAddress(name string) string {
	r, ok := a.receivers[name]
	if !ok {
		return ""
	}
	addr := r.Addr()
	if addr == nil {
		return ""
	}
	return addr.Network() + ":" + addr.String()
}

// unhurried gives a part of the end a time of its own.
func unhurried(run func(context.Context) error) func(context.Context) error {
	return func(context.Context) error {
		ctx, cancel := context.WithTimeout(context.Background(), receiverTimeout)
		defer cancel()
		return run(ctx)
	}
}
