package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tocsin-events/tocsin/internal/demo"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// ingest lets the file source bring a whole audit log into the journal, with
// everything derived and every event durable, and compares with decoding the
// same lines: bytes of the log per second.
func ingest(ctx context.Context, s settings) (ours, against float64, err error) {
	log, err := newAuditLog()
	if err != nil {
		return 0, 0, err
	}
	path := filepath.Join(s.dir, "ingest.log")
	defer os.Remove(path)
	lines, err := log.write(path, s.ingest)
	if err != nil {
		return 0, 0, err
	}
	j, done, err := openJournal(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	source, err := vaultaudit.New(vaultaudit.Config{Name: "bench", Inputs: []vaultaudit.Input{{Name: "bench", Paths: []string{path}}}}, vaultaudit.Deps{Journal: j})
	if err != nil {
		return 0, 0, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	start := time.Now()
	go func() { ended <- source.Run(running) }()
	for source.Stats().Lines < uint64(lines) && time.Since(start) < 2*time.Minute && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil { // returns when what was read is durable
		return 0, 0, err
	}
	took, stats := time.Since(start), source.Stats()
	if stats.Quarantined != 0 || stats.Lines != uint64(lines) || stats.Events < stats.Lines || appended(j) != stats.Events {
		return 0, 0, fmt.Errorf("%d lines were written, the journal has %d events, the source tells %+v", lines, appended(j), stats)
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	recorded, err := demo.Recording()
	if err != nil {
		return 0, 0, err
	}
	against, err = jsonMap(bytes.Split(bytes.TrimSuffix(recorded, []byte("\n")), []byte("\n")), s.window)
	return float64(info.Size()) / took.Seconds(), against, err
}
