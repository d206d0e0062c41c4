package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit/receiver"
	"github.com/tocsin-events/tocsin/test/device"
)

// socketSource is a source with a socket device: receiver, inbox, journal.
type socketSource struct {
	*vaultaudit.Source
	journal *journal.Journal
	device  *device.Socket
	stop    func() error // waits until all is durable
}

func newSocketSource(ctx context.Context, s settings) (*socketSource, error) {
	dir, err := os.MkdirTemp(s.dir, "socket")
	if err != nil {
		return nil, err
	}
	j, closeJournal, err := openJournal(ctx, s.dir)
	if err != nil {
		return nil, err
	}
	in, err := inbox.Open(inbox.Options{Dir: filepath.Join(dir, "spool"), ReserveBytes: 64 << 20})
	if err != nil {
		return nil, err
	}
	address := filepath.Join(dir, "s")
	r, err := receiver.Listen(receiver.Config{Name: "bench", Kind: receiver.Socket, Network: "unix", Address: address}, receiver.Deps{Inbox: in})
	if err != nil {
		return nil, err
	}
	source, err := vaultaudit.New(vaultaudit.Config{Name: "bench", Inputs: []vaultaudit.Input{{Name: "bench", Inbox: in}}}, vaultaudit.Deps{Journal: j})
	if err != nil {
		return nil, err
	}
	r.Start()
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- source.Run(running) }()
	d := &device.Socket{Network: "unix", Address: address}
	return &socketSource{source, j, d, func() error {
		d.Close()
		cancel()
		err := <-ended
		background := context.WithoutCancel(ctx)
		err = errors.Join(err, r.Stop(background), in.Close(background))
		closeJournal()
		return errors.Join(err, os.RemoveAll(dir))
	}}, nil
}

// await waits until the source has so many lines.
func (s *socketSource) await(ctx context.Context, lines uint64) error {
	for start := time.Now(); s.Stats().Lines < lines; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil || time.Since(start) > 2*time.Minute {
			return fmt.Errorf("%d of %d lines were taken", s.Stats().Lines, lines)
		}
	}
	return nil
}

// socketIngest is ingest through a unix socket, one write per line, beside the file.
func socketIngest(ctx context.Context, s settings) (ours, against float64, err error) {
	if against, _, err = ingest(ctx, s); err != nil {
		return 0, 0, err
	}
	log, err := newAuditLog()
	if err != nil {
		return 0, 0, err
	}
	path := filepath.Join(s.dir, "socket.log")
	defer os.Remove(path)
	lines, err := log.write(path, s.ingest)
	if err != nil {
		return 0, 0, err
	}
	source, err := newSocketSource(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	size := 0
	start := time.Now()
	for r := bufio.NewReaderSize(f, 1<<20); ; {
		line, err := r.ReadSlice('\n')
		if len(line) == 0 {
			break
		}
		size += len(line)
		if err = errors.Join(err, source.device.Write(line)); err != nil {
			return 0, 0, errors.Join(err, source.stop())
		}
	}
	err = source.await(ctx, uint64(lines))
	stats := source.Stats()
	for err == nil && appended(source.journal) < stats.Events {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(start)
	if err = errors.Join(err, source.stop()); err != nil {
		return 0, 0, err
	}
	if stats.Quarantined != 0 || stats.Lines != uint64(lines) || stats.Events < stats.Lines {
		return 0, 0, fmt.Errorf("%d lines were written, the source tells %+v", lines, stats)
	}
	return float64(size) / took.Seconds(), against, nil
}

// socketBlocked sends 20,000 entries per second through a unix socket and measures how
// long a writer is held up: of 100 writes, the slowest but one, in milliseconds.
func socketBlocked(ctx context.Context, s settings) (ours, against float64, err error) {
	const rate, allowed = 20_000, 50
	source, err := newSocketSource(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	var took []time.Duration
	begin := time.Now()
	for n := 0; time.Since(begin) < s.window; n++ {
		due := begin.Add(time.Duration(n) * time.Second / rate)
		if wait := time.Until(due); wait > 200*time.Microsecond {
			time.Sleep(wait)
		}
		line := device.Entry(uint64(n), 1000)
		at := time.Now()
		if err := source.device.Write(line); err != nil {
			return 0, 0, errors.Join(err, source.stop())
		}
		took = append(took, time.Since(at))
	}
	sent := float64(len(took)) / time.Since(begin).Seconds()
	err = source.await(ctx, uint64(len(took)))
	if err = errors.Join(err, source.stop()); err != nil {
		return 0, 0, err
	}
	if sent < 0.95*rate {
		return 0, 0, fmt.Errorf("only %.0f entries per second could be sent", sent)
	}
	slices.Sort(took)
	return took[len(took)*99/100].Seconds() * 1000, allowed, nil
}
