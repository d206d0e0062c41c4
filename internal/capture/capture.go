// Package capture reads and writes capture files, in the format that Falco and sysdig call
// scap: as a stream, compressed with gzip or not. It reads the events of plugins; events of
// system calls, processes, and files in a capture are passed over and counted.
//
// A capture is a sequence of blocks, each with its type and length before and its length
// behind it, all little endian. A section begins with a header; what follows up to the first
// event describes the machine. Then come events, each in a block of its own.
package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Types of blocks.
const (
	blockSection = 0x0A0D0D0A
	blockMachine = 0x201

	blockEventOld       = 0x204 // events without the number of their parameters
	blockEventOldFlags  = 0x208
	blockEvent          = 0x216
	blockEventFlags     = 0x217
	blockEventLarge     = 0x221
	blockEventLargeFlag = 0x222

	// Numbers from before the format was published.
	blockMachineUnofficial  = 0x8002ABCD
	blockEventOldUnofficial = 0x8010ABCD
)

const (
	byteOrderMagic = 0x1A2B3C4D
	majorVersion   = 1
	minorVersion   = 2

	blockHeaderBytes  = 8
	blockTrailerBytes = 4
	sectionBytes      = 28  // of the header of a section without options
	machineBytes      = 180 // of the body of a machine block
	hostnameBytes     = 128
	cpuBytes          = 2
	flagBytes         = 4

	// stateOnly, a flag of an event, hides it from people.
	stateOnly = 1
	// newestEventType is above all types of events that are known.
	newestEventType = 454
)

// DefaultMaxBlockBytes is the longest block with an event that is read or written unless told
// otherwise.
const DefaultMaxBlockBytes = 128 << 20

var (
	// ErrTruncated means that a capture ends within a block, or its compressed form early. What
	// was before has been delivered.
	ErrTruncated = errors.New("the capture is truncated")
	// ErrMalformed means that something is no capture, or is damaged.
	ErrMalformed = errors.New("malformed capture")
	// ErrUnsupported means that a capture is of a kind that is not read.
	ErrUnsupported = errors.New("unsupported capture")
	// ErrTooLarge means that an event is larger than allowed.
	ErrTooLarge = errors.New("the event is larger than the limit of captures")
)

// Error says where a capture cannot be read any further, and why. It wraps ErrTruncated,
// ErrMalformed, ErrUnsupported, ErrTooLarge, or the error of the reader below.
type Error struct {
	// Offset is where the block begins, counted in the uncompressed bytes.
	Offset int64
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("at byte %d: %v", e.Offset, e.Err) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Machine describes where a capture was made.
type Machine struct {
	Hostname    string // at most 127 bytes are written
	CPUs        uint32
	MemoryBytes uint64
	MaxPID      uint64
	BootNanos   uint64 // since 1970
	Flags       uint64
	Reserved    [2]uint64
}

// parse reads the body of a block, which may be longer than is known.
func (m *Machine) parse(body []byte) {
	hostname, _, _ := bytes.Cut(body[20:20+hostnameBytes], []byte{0})
	*m = Machine{
		CPUs:        binary.LittleEndian.Uint32(body),
		MemoryBytes: binary.LittleEndian.Uint64(body[4:]),
		MaxPID:      binary.LittleEndian.Uint64(body[12:]),
		Hostname:    string(hostname),
		BootNanos:   binary.LittleEndian.Uint64(body[148:]),
		Flags:       binary.LittleEndian.Uint64(body[156:]),
		Reserved:    [2]uint64{binary.LittleEndian.Uint64(body[164:]), binary.LittleEndian.Uint64(body[172:])},
	}
}

// appendBlock appends the block of m.
func (m *Machine) appendBlock(dst []byte) []byte {
	const total = blockHeaderBytes + machineBytes + blockTrailerBytes
	var hostname [hostnameBytes]byte
	copy(hostname[:hostnameBytes-1], m.Hostname)
	dst = appendBlockHeader(dst, blockMachine, total)
	dst = binary.LittleEndian.AppendUint32(dst, m.CPUs)
	dst = binary.LittleEndian.AppendUint64(dst, m.MemoryBytes)
	dst = binary.LittleEndian.AppendUint64(dst, m.MaxPID)
	dst = append(dst, hostname[:]...)
	for _, v := range [...]uint64{m.BootNanos, m.Flags, m.Reserved[0], m.Reserved[1]} {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	return binary.LittleEndian.AppendUint32(dst, total)
}

func appendBlockHeader(dst []byte, blockType, total uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(dst, blockType), total)
}

// appendSection appends the header of a section.
func appendSection(dst []byte) []byte {
	dst = appendBlockHeader(dst, blockSection, sectionBytes)
	dst = binary.LittleEndian.AppendUint32(dst, byteOrderMagic)
	dst = binary.LittleEndian.AppendUint16(dst, majorVersion)
	dst = binary.LittleEndian.AppendUint16(dst, minorVersion)
	dst = binary.LittleEndian.AppendUint64(dst, 1<<64-1) // its length is not known
	return binary.LittleEndian.AppendUint32(dst, sectionBytes)
}
