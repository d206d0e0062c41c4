// Package list has doubly linked lists whose links are in the elements. An element that is at hand
// (from a map, say) is moved to an end or taken out at once, and being in a list costs no
// allocation: that is what tables need that forget what was not used for the longest.
//
// Whoever wants elements to be found, counted or bounded does that beside the list.
package list

// Links are the place of an element in a list: a field of the element, of which it needs one for
// each list that it may be in at the same time. The zero value is in no list. Links may be copied
// together with the rest of an element only back to where they were.
type Links[E any] struct {
	prev, next *Links[E]
	element    *E
}

// Prev returns the element before this one; nil for the first, and if it is in no list.
func (l *Links[E]) Prev() *E { return l.prev.of() }

// Next returns the element behind this one; nil for the last, and if it is in no list.
func (l *Links[E]) Next() *E { return l.next.of() }

func (l *Links[E]) of() *E {
	if l == nil {
		return nil
	}
	return l.element
}

// List is elements in an order. The zero value is empty. It belongs to one goroutine.
type List[E any] struct {
	first, last *Links[E]
}

// First returns the first element, nil if there is none.
func (l *List[E]) First() *E { return l.first.of() }

// Last returns the last element, nil if there is none.
func (l *List[E]) Last() *E { return l.last.of() }

// PushFront puts an element, which is in no list by these links of it, in front of all others.
func (l *List[E]) PushFront(e *E, at *Links[E]) {
	*at = Links[E]{next: l.first, element: e}
	if l.first != nil {
		l.first.prev = at
	} else {
		l.last = at
	}
	l.first = at
}

// PushBack puts an element, which is in no list by these links of it, behind all others.
func (l *List[E]) PushBack(e *E, at *Links[E]) {
	*at = Links[E]{prev: l.last, element: e}
	if l.last != nil {
		l.last.next = at
	} else {
		l.first = at
	}
	l.last = at
}

// Remove takes out the element with these links, which must be in this list. It leads to no other
// element then, and may be put into a list again.
func (l *List[E]) Remove(at *Links[E]) {
	if at.prev != nil {
		at.prev.next = at.next
	} else {
		l.first = at.next
	}
	if at.next != nil {
		at.next.prev = at.prev
	} else {
		l.last = at.prev
	}
	*at = Links[E]{}
}
