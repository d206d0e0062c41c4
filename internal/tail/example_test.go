package tail_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tocsin-events/tocsin/internal/tail"
)

// A process reads a log, dies, and another one goes on behind the last line that
// the first had taken care of.
func Example() {
	dir, err := os.MkdirTemp("", "tail")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "audit.log")
	os.WriteFile(path, []byte("one\ntwo\nthree\n"), 0o600)

	read := func(from tail.Checkpoint, lines int) (to tail.Checkpoint) {
		t, err := tail.New(tail.Options{Path: path, Checkpoint: from})
		if err != nil {
			panic(err)
		}
		defer t.Close()
		for {
			var b tail.Batch
			if err := t.Next(context.Background(), &b); err != nil {
				panic(err)
			}
			for i, l := range b.Lines {
				fmt.Printf("%s\n", l.Data)
				if lines--; lines == 0 {
					return b.Through(i)
				}
			}
		}
	}
	checkpoint := read(tail.Checkpoint{}, 2)
	fmt.Println("--")
	os.Rename(path, path+".1")
	os.WriteFile(path, []byte("four\n"), 0o600)
	read(checkpoint, 2)
	// Output:
	// one
	// two
	// --
	// three
	// four
}
