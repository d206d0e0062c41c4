package app

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/sink/file"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/sink/stdout"
)

func (a *App) makeFileSink(c config.Sink) (deliver.Sink, error) {
	f := c.File
	mode, err := f.FileMode()
	if err != nil {
		return nil, err
	}
	return file.New(file.Options{
		Path: f.Path, Below: a.filesBelow(f.Path), Format: format.Format(f.Format), Mode: mode, Sync: file.Sync(f.Sync),
		RotateBytes: int64(f.RotateBytes), RotateAge: time.Duration(f.RotateAge),
		Keep: f.Keep, KeepAge: time.Duration(f.KeepAge), Gzip: f.Gzip,
		Logger: component(a.log, "sink").With("sink", c.Name),
	})
}

// filesBelow returns the directory of sinks that are added at run time if a path is below
// it: what is written there stays there, whatever links are made later.
func (a *App) filesBelow(path string) string {
	below := a.config.Delivery.FilesBelow
	if below == "" {
		return ""
	}
	below = filepath.Clean(below)
	if strings.HasPrefix(filepath.Clean(path), strings.TrimSuffix(below, string(filepath.Separator))+string(filepath.Separator)) {
		return below
	}
	return ""
}

func (a *App) makeStdoutSink(c config.Sink) (deliver.Sink, error) {
	return stdout.New(stdout.Options{Output: a.stdout, Format: string(c.Stdout.Format)})
}
