package policy

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
)

// An index finds the best of many patterns with "+" for a path. The patterns are
// numbered from best to worst, and for every position of a segment and every text
// that patterns have there the index knows the set of their numbers; the patterns
// that take any segment there are a set of their own. What matches a path is then
// the intersection, over its segments, of the patterns that take that segment, and
// the first number in it is the winner. Sets are bits, 64 patterns are treated at
// once, and sets with few members skip what lies between them: so the time depends
// on how the patterns are distributed only within narrow bounds, and nothing is ever
// tried twice, as it would be when following "+" and literals through a tree.
type index struct {
	rules []*grant // from best to worst
	words int
	// columns are the sets by position of the segment; there are as many as the
	// longest pattern has segments.
	columns []column
	// ends are the patterns that can match a path of that many segments; the last is
	// for all paths that have more segments than columns.
	ends []bitset

	denies, lists bitset // what they do
}

// column is the sets of one position.
type column struct {
	// any are the patterns that take every segment: because of "+", or of "*" before;
	// nil if there are none.
	any     bitset
	literal map[string]*numbers
	// begins are the last segments of open patterns: they take what begins like them.
	begins  prefixes
	beginBy []begin // by key of begins
}

// begin is the patterns whose last segment is a key, and those whose last segment
// the key begins with: either in the same set or from the key next on.
type begin struct {
	numbers
	next int32 // -1 if there are none
}

type bitset []uint64

func (b bitset) set(i int) { b[i>>6] |= 1 << (i & 63) }

// numbers is a set, the union of both.
type numbers struct {
	all bitset
	few []uint32 // sorted
}

func newIndex(rules []*grant) index {
	slices.SortFunc(rules, func(a, b *grant) int { return b.pattern.compare(&a.pattern) })
	x := index{rules: rules, words: (len(rules) + 63) / 64}
	for _, g := range rules {
		for len(x.columns) < len(g.pattern.segments) {
			x.columns = append(x.columns, column{literal: make(map[string]*numbers)})
		}
	}
	x.ends = make([]bitset, len(x.columns)+2)
	for k := range x.ends {
		x.ends[k] = make(bitset, x.words)
	}
	x.denies, x.lists = make(bitset, x.words), make(bitset, x.words)
	begins := make([]map[string]*numbers, len(x.columns))
	for i, g := range rules {
		p := &g.pattern
		if g.capabilities.Has(Deny) {
			x.denies.set(i)
		}
		if g.capabilities.Has(List) {
			x.lists.set(i)
		}
		last := len(p.segments) - 1
		x.ends[last+1].set(i)
		for at := range x.columns {
			c := &x.columns[at]
			switch {
			case at > last && !p.open:
				// No path that is so long gets here.
			case at > last || p.anyOf[at] || at == last && p.open && p.segments[at] == "":
				if c.any == nil {
					c.any = make(bitset, x.words)
				}
				c.any.set(i)
			case at == last && p.open:
				if begins[at] == nil {
					begins[at] = make(map[string]*numbers)
				}
				add(begins[at], p.segments[at], i)
			default:
				add(c.literal, p.segments[at], i)
			}
		}
		if p.open {
			for k := last + 2; k < len(x.ends); k++ {
				x.ends[k].set(i)
			}
		}
	}
	for at := range x.columns {
		c := &x.columns[at]
		for _, n := range c.literal {
			n.compact(x.words, c.any)
		}
		c.begins = newPrefixes(begins[at])
		for i, key := range c.begins.keys {
			b := begin{*begins[at][key], c.begins.shorter[i]}
			if b.next >= 0 {
				if s := &c.beginBy[b.next]; s.next < 0 && len(s.few) > 0 && len(s.few)+len(b.few) <= joined {
					b.few, b.next = slices.Concat(s.few, b.few), -1
					slices.Sort(b.few)
				}
			}
			b.compact(x.words, c.any)
			c.beginBy = append(c.beginBy, b)
		}
	}
	return x
}

func add(m map[string]*numbers, key string, i int) {
	n := m[key]
	if n == nil {
		n = new(numbers)
		m[key] = n
	}
	n.few = append(n.few, uint32(i))
}

// joined is how large a set of patterns may be that are not all of one key.
const joined = 16

// compact makes bits of a set that has at least as many members as it has words.
// These then include common.
func (n *numbers) compact(words int, common bitset) {
	if len(n.few) < max(words, 4) {
		n.few = slices.Clip(n.few)
		return
	}
	n.all = make(bitset, words)
	copy(n.all, common)
	for _, i := range n.few {
		n.all.set(int(i))
	}
	n.few = nil
}

// word returns 64 members of the set. w must not become less from call to call.
func (n *numbers) word(w int) uint64 {
	var x uint64
	if n.all != nil {
		x = n.all[w]
	}
	for len(n.few) > 0 && int(n.few[0]>>6) < w {
		n.few = n.few[1:]
	}
	for _, i := range n.few {
		if int(i>>6) > w {
			break
		}
		x |= 1 << (i & 63)
	}
	return x
}

// next returns the first word from w on that may have members, or words if there is
// none.
func (n *numbers) next(w, words int) int {
	if n.all != nil {
		return w
	}
	for _, i := range n.few {
		if int(i>>6) >= w {
			return int(i >> 6)
		}
	}
	return words
}

// best returns the best of the patterns in among (nil: all) that match a path, or
// nil.
func (x *index) best(path string, among bitset) *grant {
	if len(x.rules) == 0 {
		return nil
	}
	count := strings.Count(path, "/") + 1
	ends := x.ends[min(count, len(x.ends)-1)]
	columns := min(count, len(x.columns))
	// Sets are looked up when they are needed first; most paths have few segments.
	var few [16]numbers
	takers := few[:0]
	rest := path
words:
	for w := 0; w < x.words; {
		set := ends[w]
		if among != nil {
			set &= among[w]
		}
		for i := 0; set != 0 && i < columns; i++ {
			if i == len(takers) {
				segment, after, _ := strings.Cut(rest, "/")
				rest = after
				takers = append(takers, x.columns[i].takers(segment, x.words))
			}
			t := &takers[i]
			set &= t.word(w)
			if set == 0 {
				w = t.next(w+1, x.words)
				continue words
			}
		}
		if set != 0 {
			return x.rules[w<<6+bits.TrailingZeros64(set)]
		}
		w++
	}
	return nil
}

// takers returns the patterns that take a segment.
func (c *column) takers(segment string, words int) numbers {
	t := numbers{all: c.any}
	if n := c.literal[segment]; n != nil {
		t.few = n.few
		if n.all != nil {
			t.all = n.all
		}
	}
	i := c.begins.longest(segment)
	if i < 0 {
		return t
	}
	if b := &c.beginBy[i]; t.few == nil && b.all == nil && b.next < 0 {
		t.few = b.few
		return t
	}
	union := make(bitset, words)
	copy(union, t.all)
	for ; i >= 0; i = int(c.beginBy[i].next) {
		b := &c.beginBy[i]
		for w, x := range b.all {
			union[w] |= x
		}
		for _, i := range b.few {
			union.set(int(i))
		}
	}
	return numbers{union, t.few}
}

// prefixes finds the longest of many texts that a text begins with.
type prefixes struct {
	keys    []string // sorted
	shorter []int32  // by key: which is the longest other key that the key begins with, or -1
}

func newPrefixes[V any](keys map[string]V) prefixes {
	if len(keys) == 0 {
		return prefixes{}
	}
	p := prefixes{keys: make([]string, 0, len(keys)), shorter: make([]int32, len(keys))}
	for key := range keys {
		p.keys = append(p.keys, key)
	}
	slices.Sort(p.keys)
	for i := range p.keys {
		// The keys that a key begins with are among its predecessor and those that
		// this begins with.
		j := int32(i) - 1
		for j >= 0 && !strings.HasPrefix(p.keys[i], p.keys[j]) {
			j = p.shorter[j]
		}
		p.shorter[i] = j
	}
	return p
}

// longest returns which key it is, or -1.
func (p *prefixes) longest(s string) int {
	i, found := slices.BinarySearchFunc(p.keys, s, cmp.Compare[string])
	if found {
		return i
	}
	if i--; i < 0 {
		return -1
	}
	// All keys between the one sought and s begin with it.
	common := commonPrefix(p.keys[i], s)
	for i >= 0 && len(p.keys[i]) > common {
		i = int(p.shorter[i])
	}
	return i
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
