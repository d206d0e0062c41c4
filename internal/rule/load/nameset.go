package load

import "encoding/binary"

// nameSet is a set of names that are listed in the order in which the real engine prints them:
// that of a hash table of its C++ library, with the hash function of that.
type nameSet struct {
	names   []string // in the order of the table
	hashes  []uint64
	buckets uint64
}

// bucketCounts are how large the table grows.
var bucketCounts = [...]uint64{13, 29, 59, 127, 257, 541, 1109, 2357, 5087}

// maxNames bounds what is listed.
const maxNames = 5000

func (s *nameSet) add(name string) {
	for _, n := range s.names {
		if n == name {
			return
		}
	}
	if len(s.names) >= maxNames {
		return
	}
	if uint64(len(s.names)) >= s.buckets {
		s.grow()
	}
	s.insert(name, hashName(name))
}

// insert puts a name in front of the others of its bucket, or, if that is empty, of all.
func (s *nameSet) insert(name string, hash uint64) {
	at := 0
	for i, h := range s.hashes {
		if h%s.buckets == hash%s.buckets {
			at = i
			break
		}
	}
	s.names = append(s.names, "")
	s.hashes = append(s.hashes, 0)
	copy(s.names[at+1:], s.names[at:])
	copy(s.hashes[at+1:], s.hashes[at:])
	s.names[at], s.hashes[at] = name, hash
}

func (s *nameSet) grow() {
	for _, n := range bucketCounts {
		if n > s.buckets {
			s.buckets = n
			break
		}
	}
	names, hashes := s.names, s.hashes
	s.names, s.hashes = nil, nil
	for i, n := range names {
		s.insert(n, hashes[i])
	}
}

func (s *nameSet) list() []string { return orEmpty(s.names) }

// hashName is the 64-bit MurmurHash2 with the seed of that library.
func hashName(name string) uint64 {
	const multiplier = 0xc6a4a7935bd1e995
	const seed = 0xc70f6907
	mix := func(v uint64) uint64 { return v ^ v>>47 }
	b := []byte(name)
	hash := seed ^ uint64(len(b))*multiplier
	for ; len(b) >= 8; b = b[8:] {
		hash ^= mix(binary.LittleEndian.Uint64(b)*multiplier) * multiplier
		hash *= multiplier
	}
	if len(b) > 0 {
		var rest [8]byte
		copy(rest[:], b)
		hash ^= binary.LittleEndian.Uint64(rest[:])
		hash *= multiplier
	}
	return mix(mix(hash) * multiplier)
}
