package vaultaudit

import (
	"fmt"
	"testing"
)

// TestDurableIDs shows that ids are recognised as often as they were added, also
// when few different ones were added many times, and given up some time after.
func TestDurableIDs(t *testing.T) {
	const different, times = 36, 100
	var d durableIDs
	id := func(i int) string { return fmt.Sprintf("00000000-0000-5000-8000-%012d", i) }
	for i := range different * times {
		d.add(id(i % different))
	}
	for i := range different * times {
		if !d.take(id(i % different)) {
			t.Fatalf("line %d was not recognised", i)
		}
	}
	if !d.empty() || d.take(id(0)) {
		t.Error("an id was recognised once more than it was added")
	}

	d.add(id(0))
	if n := d.giveUp(); n != 1 || !d.empty() || d.take(id(0)) {
		t.Error("an id was not given up")
	}
}
