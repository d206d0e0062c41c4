package tail

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// goneAfter is how long nothing may be at the path, as between the two halves of a
// rotation, before that is reported.
const goneAfter = 10 * time.Second

// check looks at everything but new lines: whether the files being read are still
// what they were, whether an old one is done with, and whether another file is at
// the path. It reports whether b has something to tell.
func (t *Tailer) check(now time.Time, b *Batch) bool {
	if len(t.files) == 0 {
		if t.gone || t.open.wait(now) {
			return false
		}
		switch err := t.begin(now); {
		case errors.Is(err, fs.ErrNotExist) && t.o.Transient:
			t.gone = true
			b.Lossy = t.stats.Missing > 0
			t.mark(b, -1)
			return b.Lossy
		case err != nil:
			t.open.failed(now)
			t.nextCheck = t.open.until
			t.report(err)
			return false
		}
		t.open.ok()
		t.healthy()
		t.turn = len(t.files)
		b.Lossy = t.stats.Missing > 0
		t.mark(b, -1)
		return true
	}
	sound := true
	for i, f := range t.files {
		switch err := f.stat(); {
		case errors.Is(err, errTruncated):
			t.truncated(i, b, now)
			return true
		case err != nil:
			t.report(err)
			sound = false
		case f.retry.delay > 0:
			sound = false
		}
	}
	if t.drop(now, b) || t.vanished(now, b) {
		return true
	}
	changed, err := t.follow(now)
	if err != nil {
		t.report(err)
	} else if sound {
		t.healthy()
	}
	if changed {
		t.turn = len(t.files)
		t.mark(b, -1)
	}
	return changed
}

// begin opens the first file: that of the checkpoint wherever it is now, and what
// came after it, or the one at the path.
func (t *Tailer) begin(now time.Time) error {
	if !t.o.Checkpoint.IsZero() {
		return t.resume(now)
	}
	f, err := openFile(t.o.Path, 0, t.o.MaxLine, now)
	if errors.Is(err, fs.ErrNotExist) {
		t.o.From = Start // all of what appears later is new
	}
	if err == nil && !t.o.Set.claim(t, f.id, f.head) {
		f.f.Close()
		return fmt.Errorf("%s is read under another name already", t.o.Path)
	}
	if err == nil && t.o.From == End {
		if err = f.seekLastLine(); err != nil {
			f.f.Close()
		}
	}
	if err != nil {
		return err
	}
	t.files = []*file{f}
	// What was rotated away before is not ours to read, also when times are too
	// coarse to tell that it is older.
	list, err := t.siblings()
	if err != nil {
		return nil
	}
	for _, s := range list {
		if s.stamp == "" || s.compressed || s.id.Modified.Before(f.id.Modified) {
			continue
		}
		if g, err := openFile(s.name, 0, t.o.MaxLine, now); err == nil {
			t.finish(g.id, g.size)
			g.f.Close()
		}
	}
	return nil
}

// resume opens the files of the checkpoint and those that came after them.
func (t *Tailer) resume(now time.Time) error {
	c := t.o.Checkpoint
	t.finished = c.Finished
	var files []*file
	missing := 0
	abandon := func(err error) error {
		for _, f := range files {
			f.f.Close()
		}
		return err
	}
	for _, p := range c.Files {
		f, err := t.locate(p, now)
		if err != nil {
			return abandon(err)
		}
		if f == nil {
			missing++
		} else {
			files = append(files, f)
		}
	}
	t.files = files
	last := c.Files[len(c.Files)-1]
	found := missing < len(c.Files)
	since := last.Modified
	if found {
		since = files[len(files)-1].id.Modified
	}
	_, err := t.advance(since, now)
	lost := err != nil && t.o.Transient && errors.Is(err, fs.ErrNotExist) && len(t.files) == 0
	if err != nil && !lost && (len(t.files) == 0 || !errors.Is(err, fs.ErrNotExist)) {
		t.files = nil
		return abandon(err)
	}
	if missing > 0 {
		t.stats.Missing += uint64(missing)
		t.log.Warn("file that was being read is gone, its last lines may never have been read", "offset", last.Offset, "inode", last.Inode)
	}
	t.warnCompressed(since, !found)
	if lost {
		return err
	}
	return nil
}

// locate opens the file of p wherever it is. It returns nil without an error when
// there is none.
func (t *Tailer) locate(p Position, now time.Time) (*file, error) {
	names := []string{t.o.Path}
	list, err := t.siblings()
	if err != nil {
		return nil, err
	}
	// By inode under any name, then, for copies and after a change of device
	// numbers, by content under the names that rotations give.
	for _, s := range list {
		if s.id.sameInode(p.Identity) {
			names = append(names, s.name)
		}
	}
	for _, s := range list {
		if s.stamp != "" && !s.compressed && p.Head.full() && !s.id.sameInode(p.Identity) {
			names = append(names, s.name)
		}
	}
	for _, name := range names {
		f, err := openFile(name, p.Offset, t.o.MaxLine, now)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil && name == t.o.Path:
			return nil, err
		case err != nil:
			t.log.Warn("rotated file cannot be read", "file", name, "error", err)
			t.stats.Unreadable++
			continue
		}
		if (f.is(p) || f.copyOf(p.Identity)) && f.size >= p.Offset {
			return f, nil
		}
		f.f.Close()
	}
	return nil, nil
}

// warnCompressed counts the compressed files that were rotated away after since
// and were never read.
func (t *Tailer) warnCompressed(since time.Time, inclusive bool) {
	list, err := t.siblings()
	if err != nil {
		return
	}
	for _, s := range list {
		if s.compressed && s.stamp != "" && (s.id.Modified.After(since) || inclusive && s.id.Modified.Equal(since)) {
			t.stats.Compressed++
			t.log.Warn("compressed file may hold lines that were never read; run the offline command on it, or decompress it and start again", "file", s.name)
		}
	}
}

// follow looks whether another file is at the path. It reports whether it opened
// one.
func (t *Tailer) follow(now time.Time) (bool, error) {
	newest := t.files[len(t.files)-1]
	info, err := t.statPath()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if t.missing.IsZero() {
			t.missing = now
			t.log.Info("file was renamed or deleted, reading on from the open one until another appears")
		}
		if t.o.Transient || now.Sub(t.missing) < goneAfter {
			return false, nil
		}
		return false, fmt.Errorf("nothing is at %s any more: still reading the file that was there", t.o.Path)
	case err != nil:
		return false, err
	}
	t.missing = time.Time{}
	if len(t.files) >= maxOpen {
		return false, nil // first finish what is open
	}
	// A deleted file keeps its inode number while it is open on most file systems;
	// on the others only the count of its names tells.
	if identify(info).sameInode(newest.id) && newest.links > 0 {
		return false, nil
	}
	return t.advance(newest.id.Modified, now)
}

// advance opens the file at the path, unless it is being read already, and before
// it those that were rotated away since the given time.
func (t *Tailer) advance(since time.Time, now time.Time) (bool, error) {
	current, err := openFile(t.o.Path, 0, t.o.MaxLine, now)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if current != nil {
		if i := slices.IndexFunc(t.files, func(f *file) bool { return current.is(f.position()) }); i >= 0 {
			// Nothing new, or an older file was renamed back.
			current.f.Close()
			f := t.files[i]
			t.files = append(slices.Delete(t.files, i, i+1), f)
			return false, nil
		}
	}
	if current != nil && !t.o.Set.claim(t, current.id, current.head) {
		current.f.Close() // that of another one, renamed
		if len(t.files) > 0 {
			return false, nil
		}
		return false, fmt.Errorf("%s is read under another name already", t.o.Path)
	}
	if current != nil {
		// Not 0 for a file that was renamed back or replaced by a copy of itself.
		current.split = newSplitter(t.unread(current), t.o.MaxLine)
	}
	files, all := t.newer(since, current, now)
	t.files = append(t.files, files...)
	if len(files) > 0 {
		t.stats.Rotations += uint64(len(files))
		t.log.Info("file was rotated", "files", len(files))
	}
	if !all {
		return true, nil // the rest comes when these are done
	}
	return len(files) > 0, err
}

// truncated begins file i anew. Lines that were not read yet are taken from the
// copy that copytruncate made, where that can be found.
func (t *Tailer) truncated(i int, b *Batch, now time.Time) {
	f := t.files[i]
	t.stats.Truncations++
	clear(b.Lines)
	b.Lines = b.Lines[:0]
	old := f.position()
	rest := t.findCopy(old, now)
	if rest == nil {
		if torn, ok := f.split.flush(); ok {
			b.Lines = append(b.Lines, torn)
		}
	}
	t.stats.NULs += uint64(f.split.nuls)
	if err := f.restart(); err != nil && !errors.Is(err, errTruncated) {
		t.report(err)
	}
	t.log.Warn("file was truncated; lines written between its copy and the truncation are lost, use rename and SIGHUP to avoid that",
		"offset", old.Offset, "recovered", rest != nil)
	if rest != nil {
		t.stats.Recovered++
		t.files = slices.Insert(t.files, i, rest)
	}
	t.o.Set.note(t)
	t.turn = len(t.files)
	t.progress = true
	b.Lossy = true
	t.count(b.Lines)
	t.mark(b, -1)
}

// drop leaves the oldest files when they are done with: they were read to their
// ends, a newer one has lines, and both have been so for the grace time. It reports
// whether it left any; after one that ends in a torn line it stops.
func (t *Tailer) drop(now time.Time, b *Batch) bool {
	dropped := false
	for len(t.files) > 1 && len(b.Lines) == 0 {
		f := t.files[0]
		if !slices.ContainsFunc(t.files[1:], func(g *file) bool { return g.size > 0 }) {
			break // as long as nothing came after it, it costs nothing to stay
		}
		if f.passed.IsZero() {
			f.passed = now
		}
		if f.split.end < f.size || now.Sub(f.active) < t.o.Grace || now.Sub(f.passed) < t.o.Grace {
			break
		}
		dropped = true
		if torn, ok := t.leave(0); ok {
			b.Lines = append(b.Lines, torn)
			t.count(b.Lines)
		}
	}
	if dropped {
		t.mark(b, -1)
	}
	return dropped
}

// vanished ends a transient Tailer whose files were all deleted a while ago. It reports
// whether b has a last line or position.
func (t *Tailer) vanished(now time.Time, b *Batch) bool {
	if !t.o.Transient || len(b.Lines) > 0 || len(t.files) == 0 {
		return false
	}
	for _, f := range t.files {
		if f.links > 0 || f.split.end < f.size || now.Sub(f.active) < t.o.Linger {
			return false
		}
	}
	for len(t.files) > 0 && len(b.Lines) == 0 {
		if torn, ok := t.leave(0); ok {
			b.Lines = append(b.Lines, torn)
			t.count(b.Lines)
		}
	}
	t.gone = len(t.files) == 0
	t.mark(b, -1)
	return true
}
