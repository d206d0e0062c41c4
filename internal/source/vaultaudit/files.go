package vaultaudit

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/internal/tail"
)

const (
	// maxFiles bounds how many files of a source are followed at the same time.
	maxFiles = 1_000
	// scanInterval is the time between two looks for new files.
	scanInterval = time.Second
	// beginTimeout is how long new files wait until those of the last run were found
	// again, under whatever names they have now.
	beginTimeout = 2 * time.Second
)

// startFiles follows the files of the last run, those named, and those that match.
func (in *input) startFiles(ctx context.Context) error {
	for _, path := range in.literals {
		if err := in.follow(ctx, path, in.From, false); err != nil {
			return err
		}
	}
	for path := range in.marks {
		if in.readers[path] != nil {
			continue
		}
		if len(in.patterns) == 0 {
			delete(in.marks, path) // it is not among the paths any more
			continue
		}
		if err := in.follow(ctx, path, tail.Start, true); err != nil {
			return err
		}
	}
	if in.several() {
		in.running.Go(func() { in.scan(ctx) })
	}
	return nil
}

// follow adds a reader for the file at a path.
func (in *input) follow(ctx context.Context, path string, from tail.From, transient bool) error {
	o := tail.Options{
		Path: path, From: from, Checkpoint: in.marks[path].file, MaxLine: in.MaxLine,
		Transient: transient, Linger: in.linger, Set: in.files, Logger: in.log,
	}
	if len(in.patterns) > 0 {
		o.Idle = func() time.Duration { return time.Duration(in.open.Load()) * time.Millisecond }
	}
	tailer, err := tail.New(o)
	if err != nil {
		return fmt.Errorf("input %s: %w", in.Name, err)
	}
	number := in.number
	if in.several() {
		number = in.nextNumber()
	}
	r := in.newReader(path, number)
	in.mu.Lock()
	r.tailer = tailer
	in.mu.Unlock()
	in.open.Add(1)
	in.running.Go(func() {
		defer in.open.Add(-1)
		defer tailer.Close()
		r.readFile(ctx)
	})
	return nil
}

// readFile is the first stage for a file.
func (r *reader) readFile(ctx context.Context) {
	for {
		b := r.nextBatch()
		done := r.waits()
		err := r.tailer.Next(ctx, &b.file)
		done()
		if ctx.Err() != nil {
			return
		}
		r.begun.Store(true)
		b.gone = err != nil // tail.ErrGone
		b.lines, b.lossy = b.file.Lines, b.file.Lossy
		if b.gone {
			b.lines, b.lossy = nil, false
			r.ended.Store(true)
			r.log.Info("a file is gone and not followed any more", "path", r.key)
			r.input.mu.Lock()
			delete(r.readers, r.key)
			stats := r.tailer.Stats()
			stats.Behind = 0
			addTail(&r.input.gone, stats)
			r.input.mu.Unlock()
		}
		if !r.feed.put(ctx, b) || b.gone {
			return
		}
	}
}

// scan looks for files that match the patterns until ctx ends.
func (in *input) scan(ctx context.Context) {
	for deadline := time.Now().Add(beginTimeout); !in.begun() && time.Now().Before(deadline); {
		if !sleep(ctx, 10*time.Millisecond) {
			return
		}
	}
	from := tail.Start // a file that appears later is new
	if in.fresh && in.From != "" {
		from = in.From
	}
	for {
		start := time.Now()
		in.report(in.look(ctx, from))
		from = tail.Start
		// However large the directories are, this takes little of the time.
		pause := max(in.scanEvery, 20*time.Since(start))
		if len(in.patterns) == 0 { // there is nothing to find, only to forget
			pause = max(pause, time.Minute)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// begun reports whether the files of all readers were found.
func (in *input) begun() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, r := range in.readers {
		if !r.begun.Load() && r.tailer.Health() == nil {
			return false
		}
	}
	return true
}

// match is a file that matches a pattern.
type match struct {
	path     string
	modified time.Time
}

// look follows the files that match the patterns and are new.
func (in *input) look(ctx context.Context, from tail.From) error {
	var found []match
	var paths []string
	in.mu.Lock()
	for path := range in.readers {
		paths = append(paths, path)
	}
	in.mu.Unlock()
	known := make(map[string]bool, len(paths))
	for _, path := range paths {
		known[path] = true
	}
	for _, pattern := range in.patterns {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("pattern %q: %w", pattern, err)
		}
		for _, name := range names {
			if known[name] {
				continue
			}
			known[name] = true
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
				found = append(found, match{name, info.ModTime()})
			}
		}
	}
	slices.SortFunc(found, func(a, b match) int {
		return cmp.Or(a.modified.Compare(b.modified), cmp.Compare(a.path, b.path))
	})
	var problem error
	for _, m := range found {
		rotated, compressed := in.rotated(paths, m.path)
		if compressed {
			in.ignore(m.path)
			continue
		}
		state, err := in.files.Look(m.path, rotated)
		switch {
		case err != nil:
			if problem == nil && !os.IsNotExist(err) {
				problem = err
			}
			continue
		case state != tail.Unknown:
			continue
		case in.open.Load() >= maxFiles:
			problem = fmt.Errorf("more than %d files match the patterns: %s and others are not read; move files away that are done with, or make the patterns narrower", maxFiles, m.path)
		default:
			if err := in.follow(ctx, m.path, from, true); err != nil {
				return err
			}
			paths = append(paths, m.path)
			in.log.Info("a file matches and is followed", "path", m.path)
		}
		if problem != nil {
			break
		}
	}
	for _, m := range found {
		paths = append(paths, m.path)
	}
	in.prune(paths)
	return problem
}

// rotated reports whether a name is that of a rotated file of one of the paths, and
// whether it is compressed.
func (in *input) rotated(paths []string, name string) (rotated, compressed bool) {
	for _, path := range paths {
		rotated = rotated || tail.Rotated(path, name)
	}
	return rotated, tail.Compressed(name)
}

// ignore tells once of a compressed file that matches.
func (in *input) ignore(path string) {
	in.mu.Lock()
	told := in.ignoring[path] || len(in.ignoring) > maxFiles
	in.ignoring[path] = true
	in.mu.Unlock()
	if !told {
		in.log.Info("a compressed file matches; it is not read, tocsin audit import does that", "path", path)
	}
}

// prune forgets the files that were read and are at none of the paths of any input.
func (in *input) prune(paths []string) {
	in.mu.Lock()
	in.seen = paths
	in.mu.Unlock()
	all := paths
	for _, other := range in.inputs {
		if other == in || other.Inbox != nil {
			continue
		}
		other.mu.Lock()
		seen := other.seen
		for path := range other.readers {
			all = append(all[:len(all):len(all)], path)
		}
		other.mu.Unlock()
		if seen == nil && other.several() {
			return // not known yet
		}
		all = append(all[:len(all):len(all)], seen...)
	}
	in.files.Prune(all)
}
