package inbox

import (
	"path/filepath"
	"testing"
)

func TestLeft(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	check := func(want uint64) {
		t.Helper()
		if lines, _, err := Left(dir); lines != want || err != nil {
			t.Errorf("%d lines, %v, want %d", lines, err, want)
		}
	}
	check(0)
	x := open(t, Options{Dir: dir})
	put(t, x, "one", "two", "three")
	if err := x.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(3) // as after a kill
	shut(t, x)
	check(3)
	x = open(t, Options{Dir: dir})
	_, at := read(t, x, 3)
	x.Release(at)
	shut(t, x)
	check(0)
}
