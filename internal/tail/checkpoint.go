package tail

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Checkpoint says how far a file was read, so that a later process goes on behind
// the last line that was taken care of. It is meant to be stored as JSON. The
// zero value means that nothing was read.
type Checkpoint struct {
	// Files are the files that were being read, oldest first: one, and around a
	// rotation also the one that was rotated away and may still be written to.
	Files []Position `json:"files"`
	// Finished are the last files that were left, with how far they were read.
	Finished []Position `json:"finished,omitempty"`
}

// IsZero reports whether c says nothing.
func (c Checkpoint) IsZero() bool { return len(c.Files) == 0 }

// Position is a place in one file.
type Position struct {
	Identity
	Offset int64 `json:"offset"` // behind the last line that was given out
}

// Identity recognises a file whatever its name is. An inode number alone is not
// enough, because a file system reuses it at once, so the first bytes count too.
type Identity struct {
	Device   uint64      `json:"device"`
	Inode    uint64      `json:"inode"`
	Head     Fingerprint `json:"head"`
	Modified time.Time   `json:"modified"` // when it was last seen to change
}

// Fingerprint is a hash of the first bytes of a file. The number of bytes is
// stored with it, so that it stays valid while a short file grows.
type Fingerprint struct {
	Length int    `json:"length"` // 0 to 1,024
	Sum    string `json:"sum"`    // first half of SHA-256, hexadecimal; empty for Length 0
}

// headBytes is how much of a file's beginning is looked at.
const headBytes = 1024

// fingerprint returns the fingerprint of a file that begins with head.
func fingerprint(head []byte) Fingerprint {
	if len(head) == 0 {
		return Fingerprint{}
	}
	sum := sha256.Sum256(head)
	return Fingerprint{Length: len(head), Sum: hex.EncodeToString(sum[:16])}
}

// matches reports whether a file that begins with head may be the one of f.
func (f Fingerprint) matches(head []byte) bool {
	return f.Length >= 0 && f.Length <= len(head) && f == fingerprint(head[:f.Length])
}

// full reports whether f covers enough to stand for a file without its inode.
func (f Fingerprint) full() bool { return f.Length >= headBytes }

type inode struct{ device, number uint64 }

func (a Identity) inode() inode { return inode{a.Device, a.Inode} }

// sameInode reports whether a and b name the same inode.
func (a Identity) sameInode(b Identity) bool { return a.inode() == b.inode() }

// Batch is what one call of [Tailer.Next] found.
type Batch struct {
	// Lines come from one file, in its order. There are none when only the
	// position changed: a file was opened or left.
	Lines []Line
	// Lossy is set when lines behind these were lost, or may have been: the file
	// was truncated, or that of the checkpoint is gone.
	Lossy bool

	after   Checkpoint
	current int // index in after.Files of the file of Lines; -1 when it was left
}

// After returns the checkpoint behind all lines.
func (b *Batch) After() Checkpoint { return b.after }

// Through returns the checkpoint behind line i.
func (b *Batch) Through(i int) Checkpoint {
	if b.current < 0 || i == len(b.Lines)-1 {
		return b.after
	}
	c := b.after
	c.Files = append([]Position(nil), c.Files...)
	c.Files[b.current].Offset = b.Lines[i].End
	return c
}
