package tail

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Set keeps the Tailers that share it from reading a file twice: a file that one of
// them reads or has read is not begun by another one, whatever its name has become
// since. So several files of one directory can be followed although the rotated ones
// among them look alike. It is safe for concurrent use.
type Set struct {
	mu     sync.Mutex
	claims map[inode]claim
}

// claim says whose a file is.
type claim struct {
	owner *Tailer // nil: nobody's, but it was read, or is a copy of one that was
	id    Identity
	open  bool
}

// NewSet returns an empty set.
func NewSet() *Set { return &Set{claims: make(map[inode]claim)} }

// claim makes a file the one of t, unless it is that of another one.
func (s *Set) claim(t *Tailer, id Identity, head []byte) bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken(t, id, head) {
		return false
	}
	s.claims[id.inode()] = claim{owner: t, id: id, open: true}
	return true
}

// taken reports whether a file with this beginning is that of another one than t, or a
// copy of it.
func (s *Set) taken(t *Tailer, id Identity, head []byte) bool {
	c, ok := s.claims[id.inode()]
	if ok && c.owner != t && (c.open || c.id.Head.matches(head)) {
		return true // else another file got the inode
	}
	if len(head) < headBytes {
		return false
	}
	for at, c := range s.claims {
		if at != id.inode() && c.owner != t && c.id.Head.full() && c.id.Head.matches(head) {
			return true
		}
	}
	return false
}

// note brings the claims of t up to date: what it has open, and nothing else, is open.
func (s *Set) note(t *Tailer) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, c := range s.claims {
		if c.owner == t && c.open && !t.reading(c.id) {
			c.open = false
			s.claims[at] = c
		}
	}
	for _, f := range t.files {
		if c, ok := s.claims[f.id.inode()]; !ok || c.owner == t {
			s.claims[f.id.inode()] = claim{owner: t, id: f.id, open: true}
		}
	}
}

// left notes that t has read a file, or that it is a copy of one.
func (s *Set) left(t *Tailer, id Identity) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.claims[id.inode()]; !ok || c.owner == t || !c.open {
		s.claims[id.inode()] = claim{owner: t, id: id}
	}
}

// restore notes what t is about to go on with.
func (s *Set) restore(t *Tailer, c Checkpoint) {
	if s == nil {
		return
	}
	for _, p := range c.Finished {
		s.left(t, p.Identity)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range c.Files {
		s.claims[p.inode()] = claim{owner: t, id: p.Identity, open: true}
	}
}

// State is what a [Set] says about a file.
type State uint8

const (
	Unknown State = iota // nobody reads it
	Known                // it is being read, or was read, or is a copy of such a file
	Unclear              // it, or one that is being read, is too short yet to tell copies
)

// Look says whether the file at a path is one of the set, and remembers that. rotated
// tells that it has the name of a rotated file of the set, so that it may be a copy
// that is just being made: it must be long enough to be recognised.
func (s *Set) Look(path string, rotated bool) (State, error) {
	info, err := os.Stat(path)
	if err == nil {
		err = checkRegular(path, info)
	}
	if err != nil {
		return Unclear, err
	}
	if info.Size() == 0 {
		return Unclear, nil
	}
	id := identify(info)
	s.mu.Lock()
	c, ok := s.claims[id.inode()]
	s.mu.Unlock()
	if ok && c.open {
		return Known, nil
	}
	f, err := openFile(path, 0, DefaultMaxLine, time.Now())
	if err != nil {
		return Unclear, err
	}
	defer f.f.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.taken(nil, f.id, f.head):
		if _, ok := s.claims[f.id.inode()]; !ok {
			s.claims[f.id.inode()] = claim{id: f.id} // also when its original changes
		}
		return Known, nil
	case ok && c.owner == nil && c.id.Head.matches(f.head):
		return Known, nil
	case rotated && (len(f.head) < headBytes || s.short()):
		return Unclear, nil
	}
	return Unknown, nil
}

// short reports whether a file is open of which not enough is known to recognise its
// copies.
func (s *Set) short() bool {
	for _, c := range s.claims {
		if c.open && !c.id.Head.full() {
			return true
		}
	}
	return false
}

// Prune forgets the files that nobody reads and that are at none of the paths.
func (s *Set) Prune(paths []string) {
	there := make(map[inode]bool, len(paths))
	for _, path := range paths {
		switch info, err := os.Stat(path); {
		case err == nil:
			there[identify(info).inode()] = true
		case !errors.Is(err, fs.ErrNotExist):
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, c := range s.claims {
		if !c.open && !there[at] {
			delete(s.claims, at)
		}
	}
}

// Read returns the files that were read and that no Tailer reads any more, to be given
// to [Set.Add] by a later process.
func (s *Set) Read() []Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []Identity
	for _, c := range s.claims {
		if !c.open {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// Add adds files that were read.
func (s *Set) Add(ids []Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.claims[id.inode()] = claim{id: id}
	}
}

// Rotated reports whether name is what a rotation makes of the name of the file at
// path, in the same directory.
func Rotated(path, name string) bool {
	dir, base := splitPath(path)
	otherDir, other := splitPath(name)
	stamp, _ := rotationStamp(base, other)
	return stamp != "" && dir == otherDir
}

// Compressed reports whether the name of a file says that it is compressed.
func Compressed(name string) bool {
	return slices.ContainsFunc(compressions, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}
