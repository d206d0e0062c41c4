package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/falcoplugin"
	"github.com/tocsin-events/tocsin/internal/pluginwire"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// newPluginHost is what the hub runs itself with, once for each native plugin. It is hidden,
// since nobody but the hub can talk to it.
func newPluginHost(s *Streams) *cobra.Command {
	var checksum string
	cmd := &cobra.Command{
		Use:    "plugin-host LIBRARY",
		Short:  "Load a native Falco plugin and serve it to the hub that started this process",
		Hidden: true,
		Args:   exactArgs(1, "the absolute path of a library"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := ownOutput(s.Out)
			if err != nil {
				return err
			}
			library, err := loadLibrary(cmd, args[0], checksum)
			if err != nil {
				return err
			}
			// Standard output is the protocol's; what is logged goes to the hub line by line.
			log := slog.New(slog.NewJSONHandler(s.Err, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: hclogNames}))
			return pluginwire.Serve(pluginwire.Offer{
				Description: library.Describe(),
				Init: func(ctx context.Context, config string) (sourceplugin.Plugin, error) {
					return library.Init(ctx, config, log)
				},
				Stuck: func(err error) {
					fmt.Fprintf(s.Err, "Error: the process ends, since the library does not: %v\n", err)
					os.Exit(exitError)
				},
			}, out, s.Err)
		},
	}
	cmd.Flags().StringVar(&checksum, "sha256", "", "the `checksum` that the library must have, in hexadecimal digits")
	return cmd
}

func loadLibrary(cmd *cobra.Command, path, checksum string) (*falcoplugin.Library, error) {
	if checksum == "" {
		return falcoplugin.Load(path)
	}
	sum, err := hex.DecodeString(checksum)
	if err != nil {
		return nil, usagef(cmd, "--sha256 is not hexadecimal digits")
	}
	return falcoplugin.LoadChecked(path, sum)
}

// hclogNames names attributes as go-plugin's logger does, whose lines the hub understands.
func hclogNames(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		a = slog.String("@timestamp", a.Value.Time().Format("2006-01-02T15:04:05.000000Z07:00"))
	case slog.LevelKey:
		level := map[slog.Level]string{slog.LevelDebug: "debug", slog.LevelInfo: "info", slog.LevelWarn: "warn", slog.LevelError: "error"}
		a = slog.String("@level", level[a.Value.Any().(slog.Level)])
	case slog.MessageKey:
		a.Key = "@message"
	}
	return a
}
