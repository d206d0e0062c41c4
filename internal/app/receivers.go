package app

import (
	"context"
	"crypto/tls"
	"errors"
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
	config config.Source
	inbox  *inbox.Inbox // nil while it is being opened
}

// startReceivers makes the receivers, which take what is sent from now on, into memory
// until their inboxes are open, which need no journal. So a server can connect while the
// hub still starts, and until it has almost ended.
func (a *App) startReceivers() error {
	a.receivers = make(map[string]*receiving)
	var all []*receiving
	for _, c := range a.config.Sources {
		if kind, ok := receiverKinds[c.Type]; ok {
			r, err := a.startReceiver(c, kind)
			if err != nil {
				return fmt.Errorf("source %s: %w", c.Name, err)
			}
			a.receivers[c.Name] = r
			all = append(all, r)
		}
	}
	unused, err := a.systemd.CloseUnused()
	if len(unused) > 0 || err != nil {
		a.log.Warn("systemd holds sockets that nothing is configured to use; they were closed.", "sockets", unused, "error", err)
	}
	for _, r := range all {
		if err := a.openInbox(r); err != nil {
			return fmt.Errorf("source %s: open the spool: %w", r.config.Name, err)
		}
	}
	return a.findLeftSpools()
}

func (a *App) startReceiver(c config.Source, kind receiver.Kind) (*receiving, error) {
	settings, err := a.receiverConfig(c, kind)
	if err != nil {
		return nil, err
	}
	r := &receiving{config: c}
	if r.Receiver, err = receiver.Listen(settings, receiver.Deps{Systemd: a.systemd, Logger: component(a.log, "receiver")}); err != nil {
		return nil, err
	}
	a.onStop("receiver "+c.Name, unhurried(r.stop))
	r.Start()
	a.health.Register("receiver "+c.Name, health.Degradation, r.Health)
	a.registry.MustRegister(r.Collectors()...)
	return r, nil
}

// openInbox gives a receiver its inbox.
func (a *App) openInbox(r *receiving) error {
	s := r.config.Spool
	in, err := inbox.Open(inbox.Options{
		Dir:          filepath.Join(a.config.DataDir, spoolDir, r.config.Name),
		MemoryBytes:  int64(s.MemoryBytes),
		MaxBytes:     int64(s.MaxBytes),
		ReserveBytes: int64(s.ReserveBytes),
		SyncInterval: time.Duration(s.SyncInterval),
		WhenFull:     map[config.SpoolFull]inbox.WhenFull{config.SpoolDrop: inbox.Drop, config.SpoolBlock: inbox.Block}[s.WhenFull],
		Logger:       component(a.log, "inbox"),
	})
	if err != nil {
		return err
	}
	r.inbox = in
	r.Use(in)
	a.health.Register("spool "+r.config.Name, health.Degradation, in.Health)
	a.registry.MustRegister(spoolCollectors(r.config.Name, in.Stats)...)
	return nil
}

// stop ends the receiver and then writes what it has put.
func (r *receiving) stop(ctx context.Context) error {
	err := r.Stop(ctx)
	if r.inbox != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiverTimeout)
		defer cancel()
		err = errors.Join(err, r.inbox.Close(closing))
	}
	return err
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
