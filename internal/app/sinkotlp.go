package app

import (
	"errors"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

func (a *App) makeOTLPLogsSink(c config.Sink) (deliver.Sink, error) {
	return nil, errors.ErrUnsupported
}
