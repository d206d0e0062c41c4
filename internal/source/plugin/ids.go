package plugin

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"strings"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// identity makes the ids of the events of one stream: UUIDs of version 8 (RFC 9562 section 5.8).
// An id belongs to the stream, the number of the event in it, and its checksum. Of one stream no
// two are equal, unless number and checksum are; those of two streams differ because what stands
// for the stream is 122 bits of a hash, with which number and checksum are mixed.
type identity struct {
	high, low uint64
	texts     strings.Builder
}

// newIdentity returns that of a stream of a source.
func newIdentity(source, stream string) *identity {
	sum := sha256.Sum256([]byte("plugin-source\x00" + source + "\x00" + stream))
	return &identity{high: binary.BigEndian.Uint64(sum[:]), low: binary.BigEndian.Uint64(sum[8:])}
}

const idBytes = 36

// idChunk is how many ids are allocated at once; they are kept in memory together.
const idChunk = 256

// id returns the id of the event with a number.
func (n *identity) id(number uint64, checksum uint32) string {
	// The version takes four bits in the middle of high, and the variant the first two of low. The
	// last four bits of the number, which have no place in high, are in front of those of low.
	high := n.high&^0xf000 ^ (number>>16<<16 | number>>4&0xfff)
	low := n.low&(1<<62-1) ^ (number&0xf<<58 | uint64(checksum))
	var id [16]byte
	binary.BigEndian.PutUint64(id[:], high|0x8000)
	binary.BigEndian.PutUint64(id[8:], low|1<<63)
	var text [idBytes]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	if n.texts.Cap()-n.texts.Len() < idBytes {
		n.texts.Reset()
		n.texts.Grow(idChunk * idBytes)
	}
	at := n.texts.Len()
	n.texts.Write(text[:]) // fits, so that what was returned before stays in place
	return n.texts.String()[at:]
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is that of what a plugin has to repeat for an event to be the same.
func checksum(e scapevent.Event) uint32 {
	sum := crc32.Checksum(e.Data(), castagnoli)
	if e.Type() == scapevent.Async {
		sum = crc32.Update(sum, castagnoli, []byte(e.Name()))
	}
	return sum
}
