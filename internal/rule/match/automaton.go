package match

// automaton finds which of many texts are in another one, or at its beginning, in one pass over
// it: after Aho and Corasick, with a table of all transitions. Bytes that are in none of the texts
// share a column.
type automaton struct {
	anchored bool // texts must be at the beginning
	classes  [256]uint16
	width    int32 // columns
	next     []int32
	// ends has for each state the text that ends there, or -1; others is the next state that ends
	// a shorter one, or 0.
	ends, others []int32
}

// Bounds of the transitions of an automaton, and of all automata: of 4 bytes each.
const (
	maxTable  = 4 << 20
	maxTables = 16 << 20
)

// newAutomaton returns an automaton for texts, none of which is empty or there twice. With fold it
// is for texts without upper case and finds them in either case. It is nil if it might have more
// transitions than room.
func newAutomaton(texts []string, anchored, fold bool, room int) *automaton {
	a := &automaton{anchored: anchored, width: 1}
	size := 1
	for _, t := range texts {
		size += len(t)
		for i := range len(t) {
			if a.classes[t[i]] == 0 {
				a.classes[t[i]] = uint16(a.width)
				a.width++
			}
		}
	}
	if size*int(a.width) > room {
		return nil
	}
	if fold {
		for c := byte('A'); c <= 'Z'; c++ {
			a.classes[c] = a.classes[lower(c)]
		}
	}
	a.grow()
	for n, t := range texts {
		state := int32(0)
		for i := range len(t) {
			at := state*a.width + int32(a.classes[t[i]])
			if a.next[at] == 0 {
				a.next[at] = a.grow()
			}
			state = a.next[at]
		}
		a.ends[state] = int32(n)
	}
	if !anchored {
		a.link()
	}
	return a
}

// grow adds a state.
func (a *automaton) grow() int32 {
	a.next = append(a.next, make([]int32, a.width)...)
	a.ends = append(a.ends, -1)
	a.others = append(a.others, 0)
	return int32(len(a.ends) - 1)
}

// link fills the transitions that lead back: to the longest end of what was read that begins a
// text.
func (a *automaton) link() {
	back := make([]int32, len(a.ends))
	queue := []int32{0}
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		for class := range a.width {
			at := state*a.width + class
			to := a.next[at]
			fallback := int32(0)
			if state != 0 {
				fallback = a.next[back[state]*a.width+class]
			}
			if to == 0 {
				a.next[at] = fallback
				continue
			}
			back[to] = fallback
			a.others[to] = fallback
			if a.ends[fallback] < 0 {
				a.others[to] = a.others[fallback]
			}
			queue = append(queue, to)
		}
	}
}

// find calls found with the number of each text that is in another one, perhaps more than once.
// found returns whether that is new: if it is not, those that are at the end of it were found, too.
func (a *automaton) find(text string, found func(n int32) bool) {
	state := int32(0)
	for i := range len(text) {
		state = a.next[state*a.width+int32(a.classes[text[i]])]
		if state == 0 {
			if a.anchored {
				return
			}
			continue
		}
		for s := state; s != 0; s = a.others[s] {
			if n := a.ends[s]; n >= 0 && !found(n) {
				break
			}
		}
	}
}
