// Package pluginlocal runs plugins that are written with package plugin inside this process, by
// the same rules as package pluginprocess: config and params must fit their schemas.
package pluginlocal

import (
	"context"
	"fmt"

	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// Launch makes a plugin run with its config. Close it when it is not needed any more.
func Launch(ctx context.Context, p *plugin.Plugin, config string) (sourceplugin.Plugin, error) {
	about, start, err := p.Host()
	if err != nil {
		return nil, err
	}
	if config, err = pluginprocess.Fit(about.ConfigSchema, config); err != nil {
		return nil, fmt.Errorf("plugin %s: config: %w", about.Name, err)
	}
	running, err := start(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", about.Name, err)
	}
	return &local{running, about}, nil
}

type local struct {
	sourceplugin.Plugin
	about *sourceplugin.Description
}

// Open implements [sourceplugin.Plugin].
func (l *local) Open(ctx context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	var err error
	if o.Params, err = pluginprocess.Fit(l.about.ParamsSchema, o.Params); err != nil {
		return nil, fmt.Errorf("plugin %s: params: %w", l.about.Name, err)
	}
	return l.Plugin.Open(ctx, o)
}

// SetConfig implements [sourceplugin.Plugin].
func (l *local) SetConfig(ctx context.Context, config string) error {
	config, err := pluginprocess.Fit(l.about.ConfigSchema, config)
	if err != nil {
		return fmt.Errorf("plugin %s: config: %w", l.about.Name, err)
	}
	return l.Plugin.SetConfig(ctx, config)
}
