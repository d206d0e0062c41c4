package tail

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sibling is a file in the directory of the followed one.
type sibling struct {
	name       string // with its directory
	id         Identity
	size       int64
	stamp      string // what a rotation added to the name: ".1", "-20261121"; empty for other files
	compressed bool
}

// siblings lists the regular files beside the followed one and, when that is a
// symbolic link, beside its target.
func (t *Tailer) siblings() ([]sibling, error) {
	paths := []string{t.o.Path}
	if target, err := filepath.EvalSymlinks(t.o.Path); err == nil && target != filepath.Clean(t.o.Path) {
		paths = append(paths, target)
	}
	var list []sibling
	seen := map[string]bool{}
	for _, path := range paths {
		dir, base := filepath.Dir(path), filepath.Base(path)
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("look for rotated files: %w", err)
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if e.Name() == base || !e.Type().IsRegular() || seen[name] {
				continue
			}
			info, err := e.Info()
			if err != nil {
				continue // gone since
			}
			seen[name] = true
			s := sibling{name: name, id: identify(info), size: info.Size()}
			s.stamp, s.compressed = rotationStamp(base, e.Name())
			list = append(list, s)
		}
	}
	return list, nil
}

func splitPath(path string) (dir, base string) {
	path = filepath.Clean(path)
	return filepath.Dir(path), filepath.Base(path)
}

var compressions = []string{".gz", ".zst", ".bz2", ".xz", ".lz4", ".Z"}

// rotationStamp returns what the rotation of base added to make name: "" when
// name is no rotated base. It knows what logrotate and the Go loggers do: a
// number or a date behind the name, or in front of its extension. Names that
// merely begin alike belong to other logs.
func rotationStamp(base, name string) (stamp string, compressed bool) {
	for _, c := range compressions {
		if n, ok := strings.CutSuffix(name, c); ok {
			name, compressed = n, true
			break
		}
	}
	if stamp, ok := strings.CutPrefix(name, base); ok && isStamp(stamp) {
		return stamp, compressed
	}
	ext := filepath.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	if rest, ok := strings.CutPrefix(name, stem); ok && ext != "" && stem != "" {
		if stamp, ok := strings.CutSuffix(rest, ext); ok && isStamp(stamp) {
			return stamp, compressed
		}
	}
	return "", false
}

func isStamp(s string) bool {
	if s == ".old" || s == ".prev" {
		return true
	}
	if len(s) < 2 || !strings.ContainsRune(".-_", rune(s[0])) || s[1] < '0' || s[1] > '9' {
		return false
	}
	return strings.Trim(s, "0123456789.-_:+TZ") == ""
}

// olderFirst orders files by when they were last written. Times may be equal on
// file systems with coarse ones; then the stamp decides.
func olderFirst(a, b sibling) int {
	if c := a.id.Modified.Compare(b.id.Modified); c != 0 {
		return c
	}
	switch { // one without a stamp was at the path a moment ago
	case a.stamp == b.stamp:
		return 0
	case a.stamp == "":
		return 1
	case b.stamp == "":
		return -1
	}
	// audit.log.2 is older than audit.log.1, but -20261120 is older than -20261121.
	x, errA := strconv.Atoi(strings.TrimLeft(a.stamp, ".-_"))
	y, errB := strconv.Atoi(strings.TrimLeft(b.stamp, ".-_"))
	if errA == nil && errB == nil && x < 1e6 && y < 1e6 {
		return cmp.Compare(y, x)
	}
	return cmp.Compare(a.stamp, b.stamp)
}

// maxOpen bounds how many files are read at the same time. When more were rotated
// away, the newer ones are found once the older are done.
const maxOpen = 64

// newer opens the rotated files that were last written at since or later and were
// not read yet, oldest first: those between the newest file being read and the
// one that is at the path now, current, which comes last. all is false when there
// are more than may be open; current is closed then.
func (t *Tailer) newer(since time.Time, current *file, now time.Time) (files []*file, all bool) {
	type candidate struct {
		sibling
		*file
	}
	var found []candidate
	var list []sibling
	read := map[inode]bool{}
	all = true
	// A rotation that goes on while the directory is read may hide a file from it,
	// so read until nothing new turns up, at least twice.
	for pass, again := 0, true; all && (pass < 2 || again && pass < 8); pass++ {
		again = false
		var err error
		if list, err = t.siblings(); err != nil {
			t.report(err)
			break
		}
		slices.SortFunc(list, olderFirst)
		for _, s := range list {
			if s.stamp == "" || s.compressed || s.size == 0 || s.id.Modified.Before(since) || read[s.id.inode()] ||
				current != nil && s.id.sameInode(current.id) || t.reading(s.id) {
				continue
			}
			if len(found)+len(t.files) >= maxOpen {
				all = false
				break
			}
			f, err := openFile(s.name, 0, t.o.MaxLine, now)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				again = true // renamed since it was listed
				continue
			case err != nil:
				t.log.Warn("rotated file cannot be read", "file", s.name, "error", err)
				t.stats.Unreadable++
				read[s.id.inode()] = true
				continue
			case !f.id.sameInode(s.id):
				f.f.Close()
				again = true
				continue
			}
			again = true
			read[s.id.inode()] = true
			if !t.o.Set.claim(t, f.id, f.head) {
				f.f.Close() // another one reads it
				continue
			}
			offset := t.unread(f)
			if offset == f.size || slices.ContainsFunc(t.files, func(g *file) bool { return f.copyOf(g.id) }) {
				f.f.Close() // was read, or is a copy of what is being read
				continue
			}
			f.split = newSplitter(offset, t.o.MaxLine)
			s.id = f.id
			found = append(found, candidate{s, f})
		}
	}
	if current != nil && !all {
		current.f.Close()
		current = nil
	}
	if current != nil {
		if info, err := t.statPath(); err != nil || !identify(info).sameInode(current.id) {
			// Rotated away since it was opened: some of those found may be newer.
			found = append(found, candidate{sibling{id: current.id}, current})
			current = nil
			if again, err := t.siblings(); err == nil {
				list = again
			}
		}
	}
	for i := range found {
		for _, s := range list { // a number in the name may have changed since
			if s.id.sameInode(found[i].sibling.id) {
				found[i].stamp = s.stamp
			}
		}
	}
	slices.SortFunc(found, func(a, b candidate) int { return olderFirst(a.sibling, b.sibling) })
	for _, c := range found {
		files = append(files, c.file)
	}
	if current != nil {
		files = append(files, current)
	}
	return files, all
}

// reading reports whether the inode is being read.
func (t *Tailer) reading(id Identity) bool {
	return slices.ContainsFunc(t.files, func(f *file) bool { return f.id.sameInode(id) })
}

// unread returns the offset from which f holds something that was not read yet: 0
// for a new file, the place where it was left for one that was, and for a copy of
// a file that of its original.
func (t *Tailer) unread(f *file) int64 {
	for _, p := range slices.Backward(t.finished) {
		if (f.is(p) || f.copyOf(p.Identity)) && p.Offset <= f.size {
			return p.Offset
		}
	}
	for _, g := range t.files {
		if f.copyOf(g.id) {
			return min(g.split.done, f.size)
		}
	}
	return 0
}

// findCopy looks for the copy that copytruncate made of a file that was read up
// to p, and opens it there. It returns nil when there is none that has more. A
// copy without anything more is remembered as read.
func (t *Tailer) findCopy(p Position, now time.Time) *file {
	if !p.Head.full() {
		return nil
	}
	list, err := t.siblings()
	if err != nil {
		return nil
	}
	for _, s := range list {
		if s.stamp == "" || s.compressed || s.size < int64(p.Head.Length) {
			continue
		}
		f, err := openFile(s.name, p.Offset, t.o.MaxLine, now)
		if err != nil {
			continue
		}
		if f.copyOf(p.Identity) {
			t.o.Set.left(t, f.id)
			if f.size > p.Offset {
				return f
			}
			t.finish(f.id, f.size)
		}
		f.f.Close()
	}
	return nil
}

// Of the files that were left, so many are remembered at least and at most. Those
// in between are remembered while their times do not tell that they were read.
const minFinished, maxFinished = 16, 512

// finish remembers that a file was read up to offset. The slice is replaced, not
// changed, because checkpoints share it.
func (t *Tailer) finish(id Identity, offset int64) {
	kept := slices.Clone(t.finished)
	if len(t.files) > 0 {
		oldest := t.files[0].id.Modified.Add(-time.Second)
		for len(kept) >= minFinished && kept[0].Modified.Before(oldest) {
			kept = kept[1:]
		}
	}
	kept = kept[max(0, len(kept)+1-maxFinished):]
	t.finished = append(kept, Position{Identity: id, Offset: offset})
}
