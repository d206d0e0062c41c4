package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
)

// requestTimeout is the part of stopTimeout that ordinary requests, such as the
// download of a payload, get to end in.
const requestTimeout = 2 * time.Second

// trailTimeout is the part of stopTimeout in which the last records are written.
const trailTimeout = 2 * time.Second

// listen binds the address, with TLS if there is a certificate.
func (a *App) listen(c config.Listen, conns *connections) (net.Listener, error) {
	var settings *tls.Config
	if c.TLS.Enabled() {
		var err error
		if settings, err = serverTLS("listen.tls", c.TLS, component(a.log, "tls"), "h2", "http/1.1"); err != nil {
			return nil, err
		}
	}
	l, err := a.bind(c.Address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrListen, err)
	}
	l = conns.bound(l)
	if settings != nil {
		return tls.NewListener(l, settings), nil
	}
	if c.SendUnencrypted && !config.IsLoopback(c.Address) {
		a.log.Warn("Tokens and events are sent unencrypted: whoever is on the way can read them.", "setting", "listen.dangerously_send_tokens_unencrypted")
	}
	return l, nil
}

// bind takes the socket that systemd holds for the address, or makes one.
func (a *App) bind(address string) (net.Listener, error) {
	if held := a.systemd.Take("tcp", address); held != nil {
		return held.Listener()
	}
	return net.Listen("tcp", address)
}

// Addr returns the address that the app listens on.
func (a *App) Addr() net.Addr { return a.listener.Addr() }

// URL returns the address as clients on this machine write it.
func (a *App) URL() string {
	scheme := "http"
	if a.config.Listen.TLS.Enabled() {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(a.Addr().String())
	if err != nil {
		return scheme + "://" + a.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // every interface includes this one
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// Run serves and reads sources until ctx ends, then closes the app and returns
// what Close returns. It returns early when it cannot serve any more.
func (a *App) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			cancel(fmt.Errorf("serve: %w", err))
		}
	})
	a.traces.start(a)
	a.meter.start(a)
	a.rules.start(a)
	a.sources.start(a.log)
	if a.plugins != nil {
		a.plugins.Start()
	}
	a.sinks.Start()
	running.Go(func() { a.systemd.Watch(ctx, func() bool { return a.health.Report().Live }) })
	a.tell("READY=1")
	a.log.Info("Ready.", "address", a.URL(), "data_dir", a.config.DataDir, "sources", len(a.config.Sources), "sinks", len(a.config.Sinks))

	<-ctx.Done()
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) {
		cause = nil // somebody wanted it to end
	}
	a.tell("STOPPING=1")
	a.log.Info("Stopping.")
	cancel(nil)
	err := errors.Join(cause, a.Close())
	running.Wait()
	return err
}

func (a *App) tell(message string) {
	if err := a.systemd.Notify(message); err != nil {
		a.log.Warn("The service manager could not be told.", "message", message, "error", err)
	}
}

// Close ends everything in the reverse order of its creation and releases the
// address and the data directory. It takes at most [stopTimeout] or a little
// more, and may be called more than once.
func (a *App) Close() error {
	a.once.Do(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), stopTimeout, fmt.Errorf("not ended within %v", stopTimeout))
		defer cancel()
		var errs []error
		for _, s := range slices.Backward(a.stops) {
			start := time.Now()
			if err := s.run(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
			}
			a.log.Debug("Stopped.", "part", s.name, "took", time.Since(start))
		}
		a.err = errors.Join(errs...)
	})
	return a.err
}

// bounded gives a part of the end as much time as ordinary requests have.
func bounded(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		return run(ctx)
	}
}

// stopServer accepts nothing more and ends requests. Subscriptions are the hub's.
func (a *App) stopServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := a.server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("some requests were cut: %w", err), a.server.Close())
	}
	return nil
}

// stopTrail writes what is left to record.
func (a *App) stopTrail(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, trailTimeout)
	defer cancel()
	return a.trail.Close(ctx)
}
