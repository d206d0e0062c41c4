package cli

import (
	"context"
	"errors"
	"sync"

	"github.com/tocsin-events/tocsin/internal/falcoplugin"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// start starts a plugin.
func (l *pluginLaunch) start(context.Context) (pluginProgram, error) {
	if !isLibrary(l.file) {
		return nil, errors.New("only libraries can be started")
	}
	library, err := falcoplugin.Load(l.file)
	if err != nil {
		return nil, err
	}
	return &nativeProgram{Library: library, launch: l}, nil
}

type nativeProgram struct {
	*falcoplugin.Library
	launch *pluginLaunch
	mu     sync.Mutex
	plugin sourceplugin.Plugin
}

func (p *nativeProgram) Init(ctx context.Context, config string) (sourceplugin.Plugin, error) {
	plugin, err := p.Library.Init(ctx, config, p.launch.log)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.plugin = plugin
	p.mu.Unlock()
	return plugin, nil
}

func (p *nativeProgram) Close(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.plugin == nil {
		return nil
	}
	return p.plugin.Close(ctx)
}
