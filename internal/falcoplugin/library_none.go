//go:build !((linux || darwin) && (amd64 || arm64) && !tocsin_static)

package falcoplugin

import (
	"context"
	"log/slog"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Library is a library that is loaded; there is none in this build.
type Library struct{}

// Load returns ErrUnavailable.
func Load(string) (*Library, error) { return nil, ErrUnavailable }

// Describe is never called, as nothing can be loaded.
func (*Library) Describe() *sourceplugin.Description { return nil }

// Init is never called, as nothing can be loaded.
func (*Library) Init(context.Context, string, *slog.Logger) (sourceplugin.Plugin, error) {
	return nil, ErrUnavailable
}
