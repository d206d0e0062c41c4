package match

import (
	"cmp"
	"slices"
)

// A gate is a part of a condition that many rules need: when it is false none of them is looked at.
type gate struct {
	node  int32
	rules bitset
}

const (
	gateRules = 8  // that need a gate at least
	maxGates  = 32 // there are; those that the most rules need
)

// gates finds the gates of the rules.
func (b *Builder) gates() []gate {
	if b.plain {
		return nil
	}
	needs := make(map[int32][]int32)
	for r, n := range b.rules {
		terms := []int32{n}
		if b.nodes[n].kind == conjunction {
			terms = b.nodes[n].terms
		}
		for _, t := range terms {
			needs[t] = append(needs[t], int32(r))
		}
	}
	var nodes []int32
	for t, rules := range needs {
		if len(rules) >= gateRules {
			nodes = append(nodes, t)
		}
	}
	slices.SortFunc(nodes, func(s, t int32) int {
		return cmp.Or(cmp.Compare(len(needs[t]), len(needs[s])), cmp.Compare(s, t))
	})
	var gates []gate
	for _, t := range nodes[:min(len(nodes), maxGates)] {
		g := gate{node: t, rules: make(bitset, (len(b.rules)+63)/64)}
		for _, r := range needs[t] {
			g.rules.set(r)
		}
		gates = append(gates, g)
	}
	return gates
}

func (b bitset) intersects(other bitset) bool {
	for i := range b {
		if b[i]&other[i] != 0 {
			return true
		}
	}
	return false
}

func (b bitset) remove(other bitset) {
	for i := range b {
		b[i] &^= other[i]
	}
}
