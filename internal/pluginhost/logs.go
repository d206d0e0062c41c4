package pluginhost

import (
	"context"
	"log/slog"
)

// harmless are messages of plugins that say nothing about what the plugin does, with which
// some log every request or start. They are kept for those who want to see everything.
var harmless = map[string]bool{
	// kv 0.25 says this at every write when it is not built into the server: its own SDK
	// cannot send the observation.
	"error recording observation": true,
	// Of go-plugin, at every start.
	"configuring server automatic mTLS": true,
}

// pluginLog takes what plugins log, less what is harmless.
type pluginLog struct{ slog.Handler }

func (l pluginLog) Handle(ctx context.Context, r slog.Record) error {
	if harmless[r.Message] {
		if !l.Enabled(ctx, slog.LevelDebug) {
			return nil
		}
		r.Level = slog.LevelDebug
	}
	return l.Handler.Handle(ctx, r)
}

func (l pluginLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return pluginLog{l.Handler.WithAttrs(attrs)}
}

func (l pluginLog) WithGroup(name string) slog.Handler { return pluginLog{l.Handler.WithGroup(name)} }
