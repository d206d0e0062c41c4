package pluginprocess

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// maxConfig bounds a config, and the params of a stream.
const maxConfig = 4 << 20

// ErrConfig is wrapped by errors about a config, or params, that do not fit the plugin's schema.
var ErrConfig = errors.New("it does not fit the schema of the plugin")

// Init gives the plugin its config, which must fit its schema; an empty config is an empty object
// then. It is called once, unless it fails. The error names the keys that are wrong.
func (p *Process) Init(ctx context.Context, config string) error {
	config, err := Fit(p.Describe().ConfigSchema, config)
	if err != nil {
		return fmt.Errorf("plugin %s: config: %w", p.options.Name, err)
	}
	return p.Client.Init(ctx, config)
}

// SetConfig implements [sourceplugin.Plugin]: the config must fit, too.
func (p *Process) SetConfig(ctx context.Context, config string) error {
	config, err := Fit(p.Describe().ConfigSchema, config)
	if err != nil {
		return fmt.Errorf("plugin %s: config: %w", p.options.Name, err)
	}
	return p.Client.SetConfig(ctx, config)
}

// Open implements [sourceplugin.Plugin]: the params must fit their schema.
func (p *Process) Open(ctx context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	var err error
	if o.Params, err = Fit(p.Describe().ParamsSchema, o.Params); err != nil {
		return nil, fmt.Errorf("plugin %s: params: %w", p.options.Name, err)
	}
	return p.Client.Open(ctx, o)
}

// Fit returns a text as the plugin gets it, if it fits the schema.
func Fit(schema, text string) (string, error) {
	switch {
	case len(text) > maxConfig:
		return "", fmt.Errorf("it has more than %d MiB", maxConfig>>20)
	case strings.TrimSpace(schema) == "":
		return text, nil
	case strings.TrimSpace(text) == "":
		text = "{}"
	}
	c, err := catalog.NewChecker("the schema of the plugin", []byte(schema))
	if err != nil {
		return "", fmt.Errorf("%w: %w", sourceplugin.ErrProtocol, err)
	}
	if problem := c.Check([]byte(text)); problem != "" {
		return "", fmt.Errorf("%w: %s", ErrConfig, problem)
	}
	return text, nil
}
