package match

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/tocsin-events/tocsin/internal/rule/field"
)

// bitset is a set of rules.
type bitset []uint64

func (b bitset) set(i int32) { b[i/64] |= 1 << (i % 64) }

// from returns the first member that is not below i, or -1.
func (b bitset) from(i int) int {
	for word := i / 64; word < len(b); word++ {
		rest := b[word]
		if word == i/64 {
			rest &= ^uint64(0) << (i % 64)
		}
		if rest != 0 {
			return word*64 + bits.TrailingZeros64(rest)
		}
	}
	return -1
}

// fewRules is up to how many rules are set one by one, whatever a set of all would take.
const fewRules = 8

// hits are the rules that an atom makes worth to be looked at.
type hits struct {
	rules []int32
	set   bitset // instead, for many
}

func (h *hits) into(b bitset) {
	for _, r := range h.rules {
		b.set(r)
	}
	for i, word := range h.set {
		b[i] |= word
	}
}

// index has the atoms about one operand.
type index struct {
	operand  int32
	list     bool
	present  *hits
	texts    map[string]*hits
	numbers  map[uint64]*hits
	above    []bound // in ascending order
	below    []bound // in descending order
	searches []search
}

// bound is a number that a value is compared with.
type bound struct {
	number uint64
	hits   *hits
}

// search looks for texts in a value.
type search struct {
	automaton *automaton
	hits      []*hits // of each text
	first     int     // text, among those of all searches
}

// indexRules makes indexes, which search for so many texts together, and returns the rules that
// have no guard.
func (b *Builder) indexRules() (indexes []index, texts int, unguarded bitset) {
	words := (len(b.rules) + 63) / 64
	unguarded = make(bitset, words)
	rules, order := b.place(unguarded)
	of := make(map[int32]int)
	searches := make(map[int32]map[atomKind][]atom)
	for _, a := range order {
		at, ok := of[a.operand]
		if !ok {
			at = len(indexes)
			of[a.operand] = at
			indexes = append(indexes, index{operand: a.operand, list: b.operands.list[a.operand].list})
			searches[a.operand] = make(map[atomKind][]atom)
		}
		ix := &indexes[at]
		switch h := newHits(rules[a], words); a.kind {
		case present:
			ix.present = h
		case isText:
			if ix.texts == nil {
				ix.texts = make(map[string]*hits)
			}
			ix.texts[a.text] = h
		case isNumber:
			if ix.numbers == nil {
				ix.numbers = make(map[uint64]*hits)
			}
			ix.numbers[a.number] = h
		case isAbove:
			ix.above = append(ix.above, bound{a.number, h})
		case isBelow:
			ix.below = append(ix.below, bound{a.number, h})
		default:
			searches[a.operand][a.kind] = append(searches[a.operand][a.kind], a)
		}
	}
	room := maxTables
	for i := range indexes {
		ix := &indexes[i]
		slices.SortFunc(ix.above, func(a, b bound) int { return cmp.Compare(a.number, b.number) })
		slices.SortFunc(ix.below, func(a, b bound) int { return cmp.Compare(b.number, a.number) })
		for _, kind := range []atomKind{beginsWith, has, hasFold} {
			if all := searches[ix.operand][kind]; len(all) > 0 {
				s, ok := newSearch(kind, all, rules, words, min(room, maxTable))
				if !ok { // these rules are without a guard
					for _, h := range s.hits {
						h.into(unguarded)
					}
					continue
				}
				room -= len(s.automaton.next)
				s.first = texts
				texts += len(all)
				ix.searches = append(ix.searches, s)
			}
		}
	}
	return indexes, texts, unguarded
}

// place chooses guards. It returns which rules have each atom, and the atoms in an order that is
// always the same; rules without a guard become members of unguarded.
func (b *Builder) place(unguarded bitset) (rules map[atom][]int32, order []atom) {
	x := indexer{Builder: b}
	x.prepare()
	rules = make(map[atom][]int32)
	placed := 0
	for r, n := range b.rules {
		var g guard
		if !b.plain {
			g = x.of(n).guard
		}
		if g == nil || placed+len(g) > maxPlaced {
			unguarded.set(int32(r))
			continue
		}
		placed += len(g)
		for _, a := range g {
			if rules[a] == nil {
				order = append(order, a)
			}
			if of := rules[a]; len(of) == 0 || of[len(of)-1] != int32(r) {
				rules[a] = append(of, int32(r))
			}
		}
	}
	return rules, order
}

// newSearch returns a search for texts. It is not ok if its table would be larger than room.
func newSearch(kind atomKind, all []atom, rules map[atom][]int32, words, room int) (s search, ok bool) {
	var texts []string
	for _, a := range all {
		texts = append(texts, a.text)
		s.hits = append(s.hits, newHits(rules[a], words))
	}
	s.automaton = newAutomaton(texts, kind == beginsWith, kind == hasFold, room)
	return s, s.automaton != nil
}

func newHits(rules []int32, words int) *hits {
	if len(rules) <= max(fewRules, words/2) { // which also takes less memory than a set
		return &hits{rules: rules}
	}
	h := &hits{set: make(bitset, words)}
	for _, r := range rules {
		h.set.set(r)
	}
	return h
}

// candidates adds the rules whose guards are true. found has the turns in which the texts of all
// searches were found.
func (ix *index) candidates(elements []field.Element, into bitset, found []uint32, turn uint32) {
	if ix.present != nil {
		ix.present.into(into)
	}
	if len(ix.above)+len(ix.below) > 0 && len(elements) > 0 {
		for i, n := 0, elements[0].Number; i < len(ix.above) && ix.above[i].number < n; i++ {
			ix.above[i].hits.into(into)
		}
		for i, n := 0, elements[0].Number; i < len(ix.below) && ix.below[i].number > n; i++ {
			ix.below[i].hits.into(into)
		}
	}
	for i := range elements {
		if i > 0 && !ix.list {
			break
		}
		if ix.texts != nil {
			if h := ix.texts[elements[i].Text]; h != nil {
				h.into(into)
			}
		}
		if ix.numbers != nil {
			if h := ix.numbers[elements[i].Number]; h != nil {
				h.into(into)
			}
		}
		for j := range ix.searches {
			s := &ix.searches[j]
			s.automaton.find(elements[i].Text, func(n int32) bool {
				if at := &found[s.first+int(n)]; *at != turn {
					*at = turn
					s.hits[n].into(into)
					return true
				}
				return false
			})
		}
	}
}
