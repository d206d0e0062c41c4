package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/app"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit/receiver"
	"github.com/tocsin-events/tocsin/internal/systemd"
)

const serverLong = `Run the hub with a configuration file until SIGTERM or SIGINT. It then stops in good
order within 10 seconds; a second signal ends it at once. SIGHUP makes sinks of type file
begin their files anew, for those who have moved them away, and loads the files of rules.

Under systemd, use Type=notify: readiness, stopping and the watchdog are announced.`

const serverExample = `  tocsin config show > tocsin.yaml   # edit it
  export TOCSIN_ROOT_TOKEN=...
  tocsin server --config tocsin.yaml`

func newServer(s *Streams) *cobra.Command {
	var file, addressFile string
	cmd := &cobra.Command{
		Use:     "server --config FILE",
		Short:   "Run the hub",
		Long:    serverLong,
		Example: serverExample,
		Args:    exactArgs(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef(cmd, "--config FILE is missing; \"tocsin config show\" prints one to start from")
			}
			var hangups <-chan struct{}
			if s.Hangups != nil {
				hangups = s.Hangups() // from now on, so that an early one does not end the hub
			}
			c, err := config.Load(file)
			if err != nil {
				return err
			}
			manager, err := systemd.FromEnvironment()
			if err != nil {
				return fmt.Errorf("take over what systemd holds: %w", err)
			}
			a, err := app.New(cmd.Context(), app.Options{Config: c, Logger: newLogger(s.Err, c.Log), Version: version(), Systemd: manager})
			if err != nil {
				return startError(err, c, "listen.address", "data_dir")
			}
			if err := writeAddress(addressFile, a); err != nil {
				return errors.Join(err, a.Close())
			}
			return runServer(cmd.Context(), a, hangups)
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `file`")
	cmd.Flags().StringVar(&addressFile, "address-file", "", "write the URL that the hub listens on to this `file` when it is ready")
	return cmd
}

// runServer runs the hub, and reopens what it writes to whenever it is told.
func runServer(ctx context.Context, a *app.App, hangups <-chan struct{}) error {
	ended := make(chan struct{})
	var reopening sync.WaitGroup
	reopening.Go(func() {
		for {
			select {
			case <-hangups:
				a.Reopen()
			case <-ended:
				return
			}
		}
	})
	err := a.Run(ctx)
	close(ended)
	reopening.Wait()
	return err
}

func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // Validate has checked it
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// writeAddress tells scripts and tests where the hub listens. The file appears
// whole, because it is renamed into place.
func writeAddress(file string, a *app.App) error {
	if file == "" {
		return nil
	}
	if err := os.WriteFile(file+".new", []byte(a.URL()+"\n"), 0o644); err != nil {
		return fmt.Errorf("write address: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write address: %w", err)
	}
	return nil
}

// startError adds what to do next to an error of the start of the hub; the two
// names are what the user sets address and data directory with.
func startError(err error, c config.Config, addressName, dataName string) error {
	switch {
	case errors.Is(err, receiver.ErrInUse):
		return &adviceError{err, "Stop the other process, or give the source another address."}
	case errors.Is(err, syscall.EADDRINUSE):
		return &adviceError{err, fmt.Sprintf("Another program uses %s. Stop it, or set %s to another port.", c.Listen.Address, addressName)}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return &adviceError{err, fmt.Sprintf("This machine does not have the address %s. Set %s to one that it has.", c.Listen.Address, addressName)}
	case errors.Is(err, syscall.EACCES) && errors.Is(err, app.ErrListen):
		return &adviceError{err, fmt.Sprintf("Ports below 1024 need a privilege. Set %s to a higher one.", addressName)}
	case errors.Is(err, journal.ErrLocked), errors.Is(err, inbox.ErrLocked):
		return &adviceError{err, fmt.Sprintf("Stop the other process, or set %s to another directory.", dataName)}
	}
	return err
}
