package eventfields

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"strings"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/jsontext"
)

// picker takes the values that somebody wants out of JSON texts, each text in one pass that builds
// nothing. What is wanted is a tree: a node for each value, and for each object or array above it.
//
// A text should be valid JSON. Of one that is not, the values mean nothing, but reading them does
// no harm.
type picker struct {
	nodes []node
	ready bool   // the tables of the nodes are complete
	turn  uint64 // of the text; a node with another turn has no value in it
	s     string
}

// node is a place in a text.
type node struct {
	edges   []edge
	table   []int32 // of hashes of names: 1 + number of an edge
	shift   uint8
	indexed bool // there are edges that an array may have

	turn       uint64 // when it was found last
	repeated   uint64 // when its place was there twice
	begin, end int    // of the value
}

// edge leads from an object or an array to a value in it.
type edge struct {
	name  string
	key   uint64 // the first bytes of the name
	next  int32  // 1 + number of the next with the same hash
	index int64  // in an array; -1: none
	to    int
}

// newPicker returns a picker that wants the root, which is node 0.
func newPicker() *picker { return &picker{nodes: make([]node, 1)} }

// want returns the node of a place, which is below that of another. All are to be wanted before
// the first text is read.
func (p *picker) want(from int, names ...string) int {
	for _, name := range names {
		from = p.child(from, name)
	}
	return from
}

func (p *picker) child(from int, name string) int {
	n := &p.nodes[from]
	for i := range n.edges {
		if n.edges[i].name == name {
			return n.edges[i].to
		}
	}
	to := len(p.nodes)
	p.nodes = append(p.nodes, node{})
	n = &p.nodes[from]
	e := edge{name: name, key: keyOf(name), index: -1, to: to}
	if i, err := strconv.ParseInt(name, 10, 32); err == nil && name[0] >= '0' && name[0] <= '9' {
		e.index = i
		n.indexed = true
	}
	n.edges = append(n.edges, e)
	p.ready = false
	return to
}

// arrange makes the table.
func (n *node) arrange() {
	size := 4
	for size < 4*len(n.edges) {
		size *= 2
	}
	n.table, n.shift = make([]int32, size), uint8(64-bits.Len(uint(size-1)))
	for i := range n.edges {
		e := &n.edges[i]
		h := hash(e.key, len(e.name), n.shift)
		e.next, n.table[h] = n.table[h], int32(i+1)
	}
}

func hash(key uint64, length int, shift uint8) uint64 {
	return (key ^ uint64(length)*0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93 >> shift
}

// keyOf returns the first eight bytes of a name.
func keyOf(name string) (key uint64) {
	for i := range min(len(name), 8) {
		key |= uint64(name[i]) << (8 * i)
	}
	return key
}

// pointer splits a JSON pointer (RFC 6901). The slash at the beginning may be missing.
func pointer(text string) []string {
	names := strings.Split(strings.TrimPrefix(text, "/"), "/")
	for i, name := range names {
		if strings.IndexByte(name, '~') >= 0 {
			names[i] = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
		}
	}
	return names
}

// read reads a text. It returns false if that is no JSON, which it finds out only where it looks.
func (p *picker) read(s string) bool {
	if !p.ready {
		for i := range p.nodes {
			p.nodes[i].arrange()
		}
		p.ready = true
	}
	p.turn++
	p.s = s
	if i := p.value(0, space(s, 0)); i >= 0 && space(s, i) == len(s) {
		return true
	}
	p.forget()
	return false
}

// forget has no value found.
func (p *picker) forget() { p.turn++ }

// raw returns the JSON text of a value, "" if there is none; the first one if it is there twice.
func (p *picker) raw(node int) string {
	n := &p.nodes[node]
	if n.turn != p.turn {
		return ""
	}
	return p.s[n.begin:n.end]
}

// only returns the JSON text of a value, "" if there is none, it is null, or it is there twice.
func (p *picker) only(node int) string {
	n := &p.nodes[node]
	if n.turn != p.turn || n.repeated == p.turn || p.s[n.begin] == 'n' {
		return ""
	}
	return p.s[n.begin:n.end]
}

// value reads the value at i, which a node stands for, and returns where it ends; -1: it is none.
func (p *picker) value(node, i int) int {
	n := &p.nodes[node]
	if n.turn == p.turn {
		p.repeat(node)
		return skip(p.s, i)
	}
	if i >= len(p.s) {
		return -1
	}
	begin := i
	switch {
	case p.s[i] == '{' && len(n.edges) > 0:
		i = p.object(n, i+1)
	case p.s[i] == '[' && n.indexed:
		i = p.array(n, i+1)
	default:
		i = skip(p.s, i)
	}
	n.begin, n.end = begin, i
	n.turn = p.turn
	return i
}

// repeat notes that a place, and so all below it, is there twice.
func (p *picker) repeat(node int) {
	n := &p.nodes[node]
	n.repeated = p.turn
	for i := range n.edges {
		p.repeat(n.edges[i].to)
	}
}

// object reads what is behind the brace of an object.
func (p *picker) object(n *node, i int) int {
	s := p.s
	for {
		if i >= len(s) {
			return -1
		}
		if s[i] <= ' ' {
			if i = space(s, i); i >= len(s) {
				return -1
			}
		}
		switch s[i] {
		case '}':
			return i + 1
		case ',':
			if i++; i < len(s) && s[i] != '"' {
				i = space(s, i)
			}
			if i >= len(s) || s[i] != '"' {
				return -1
			}
		case '"':
		default:
			return -1
		}
		i++
		begin := i
		var key uint64
		escaped := false
		if i <= len(s)-8 {
			key = word(s, i)
			if m := ends(key); m != 0 {
				if n := bits.TrailingZeros64(m) >> 3; s[i+n] == '"' {
					i += n
					key &= 1<<(8*n) - 1
					goto named
				}
			}
		}
		i, escaped = textEnd(s, i)
		if i < 0 {
			return -1
		}
		if i-begin < 8 {
			key = keyOf(s[begin:i])
		}
	named:
		name := s[begin:i]
		if i++; i < len(s) && s[i] != ':' {
			i = space(s, i)
		}
		if i >= len(s) || s[i] != ':' {
			return -1
		}
		if i++; i < len(s) && s[i] <= ' ' {
			i = space(s, i)
		}
		to := 0
		if escaped {
			to = n.slow(name)
		} else {
			for k := n.table[hash(key, len(name), n.shift)]; k != 0; {
				e := &n.edges[k-1]
				if e.key == key && e.name == name {
					to = e.to
					break
				}
				k = e.next
			}
		}
		if to != 0 {
			i = p.value(to, i)
		} else {
			i = skip(s, i)
		}
		if i < 0 {
			return -1
		}
	}
}

// slow finds a member whose name has escapes.
func (n *node) slow(name string) (to int) {
	name = string(jsontext.AppendUnescaped(nil, name))
	for i := range n.edges {
		if n.edges[i].name == name {
			return n.edges[i].to
		}
	}
	return 0
}

// array reads what is behind the bracket of an array.
func (p *picker) array(n *node, i int) int {
	if i = space(p.s, i); i < len(p.s) && p.s[i] == ']' {
		return i + 1
	}
	for at := int64(0); ; at++ {
		done := false
		end := -1
		for k := range n.edges {
			if e := &n.edges[k]; e.index == at { // "1" and "01" are both the same
				end = p.value(e.to, i)
				done = true
			}
		}
		if !done {
			end = skip(p.s, i)
		}
		if i = end; i < 0 {
			return -1
		}
		if i = space(p.s, i); i >= len(p.s) {
			return -1
		}
		switch p.s[i] {
		case ']':
			return i + 1
		case ',':
			i = space(p.s, i+1)
		default:
			return -1
		}
	}
}

// space returns where what is no white space begins, from i on.
func space(s string, i int) int {
	for i < len(s) {
		switch s[i] {
		case ' ', '\t', '\n', '\r':
			i++
		default:
			return i
		}
	}
	return i
}

// skip returns where the value at i ends, -1 if there is none.
func skip(s string, i int) int {
	if i >= len(s) {
		return -1
	}
	switch s[i] {
	case '"':
		if i, _ = textEnd(s, i+1); i < 0 {
			return -1
		}
		return i + 1
	case '{', '[':
		depth := 1
		for i++; i < len(s); {
			switch s[i] {
			case '"':
				if i, _ = textEnd(s, i+1); i < 0 {
					return -1
				}
				i++
			case '{', '[':
				depth++
				i++
			case '}', ']':
				i++
				if depth--; depth == 0 {
					return i
				}
			default:
				i++
			}
		}
		return -1
	}
	begin := i
	for i < len(s) && isScalar(s[i]) {
		i++
	}
	if i == begin {
		return -1
	}
	return i
}

// isScalar is true for the bytes of numbers, true, false and null.
func isScalar(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '.' || b == '-' || b == '+' || b == 'E'
}

const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// ends marks, in the top bit of its byte, the first quote or backslash of x. Bytes after the first
// may be marked wrongly.
func ends(x uint64) uint64 {
	quote, slash := x^lows*'"', x^lows*'\\'
	return highs & ((quote-lows)&^quote | (slash-lows)&^slash)
}

// word returns the eight bytes of s from i on, the first one lowest. There must be that many.
func word(s string, i int) uint64 {
	return binary.LittleEndian.Uint64(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.StringData(s)), i)), 8))
}

// textEnd returns where the quote is that ends the string whose inside begins at i, and whether it
// has escapes; -1: it does not end.
func textEnd(s string, i int) (end int, escaped bool) {
	for {
		for i <= len(s)-16 {
			low, high := ends(word(s, i)), ends(word(s, i+8))
			if low|high == 0 {
				i += 16
				continue
			}
			if low == 0 {
				low = high
				i += 8
			}
			i += bits.TrailingZeros64(low) >> 3
			goto found
		}
		for i < len(s) && s[i] != '"' && s[i] != '\\' {
			i++
		}
		if i >= len(s) {
			return -1, escaped
		}
	found:
		if s[i] == '"' {
			return i, escaped
		}
		escaped = true
		i += 2
	}
}

// isCompact says whether there is no white space in JSON outside of its strings.
func isCompact(raw string) bool {
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			if i, _ = textEnd(raw, i+1); i < 0 {
				return true
			}
		case ' ', '\t', '\n', '\r':
			return false
		}
	}
	return true
}

// appendCompact appends JSON without white space outside of its strings.
func appendCompact(dst []byte, raw string) []byte {
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			end, _ := textEnd(raw, i+1)
			if end < 0 {
				return append(dst, raw[i:]...)
			}
			dst = append(dst, raw[i:end+1]...)
			i = end
		case ' ', '\t', '\n', '\r':
		default:
			dst = append(dst, raw[i])
		}
	}
	return dst
}
