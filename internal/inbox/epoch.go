package inbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// epochFile keeps the number of the last epoch. It has two places that are written in
// turn, each with a checksum, so that a power cut spoils at most the one that is being
// written; and since it is there already, the number can be counted up on a full disk.
type epochFile struct {
	f    file
	last uint64 // the epoch that is known
	turn int64  // where the next one goes
	// clean means that the last epoch was closed, damaged that it is not known any more.
	clean, damaged bool
}

const (
	epochBlock = 512 // so that the places are in different sectors
	epochMagic = "tocsinEP"
)

func openEpochFile(d disk, exists bool) (*epochFile, error) {
	var e epochFile
	var err error
	if !exists {
		if e.f, err = d.create(epochName, 2*epochBlock); err == nil {
			err = d.sync()
		}
	} else {
		e.f, err = d.open(epochName)
	}
	if err != nil {
		return nil, fmt.Errorf("open the file with the epoch of the inbox: %w", err)
	}
	for turn := range int64(2) {
		b := make([]byte, 24)
		if n, _ := e.f.ReadAt(b, turn*epochBlock); n < len(b) || string(b[:8]) != epochMagic ||
			binary.LittleEndian.Uint32(b[20:]) != crc32.Checksum(b[:20], castagnoli) {
			e.damaged = e.damaged || len(bytes.Trim(b, "\x00")) > 0
			continue
		}
		clean := b[16] == 1
		if epoch := binary.LittleEndian.Uint64(b[8:]); epoch > e.last || epoch == e.last && clean {
			e.last, e.turn, e.clean = epoch, 1-turn, clean
		}
	}
	e.damaged = e.damaged && e.last == 0
	return &e, nil
}

// write notes an epoch, and whether it was closed. It is not synced.
func (e *epochFile) write(epoch uint64, clean bool) error {
	b := make([]byte, 0, 24)
	b = append(b, epochMagic...)
	b = binary.LittleEndian.AppendUint64(b, epoch)
	b = append(b, 0, 0, 0, 0)
	if clean {
		b[16] = 1
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := e.f.WriteAt(b, e.turn*epochBlock); err != nil {
		return err
	}
	e.last, e.turn, e.clean = epoch, 1-e.turn, clean
	return nil
}

func (e *epochFile) close() { e.f.Close() }
