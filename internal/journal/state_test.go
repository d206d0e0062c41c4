package journal

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// A removed bucket is gone with what it had, for good, and others are not.
func TestRemoveState(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir})
	for _, name := range []string{"goes", "stays"} {
		kv, err := j.State(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.PutString(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // also what there is not
		if err := j.RemoveState(t.Context(), "goes"); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	j = open(t, Config{Dir: dir})
	for name, want := range map[string]error{"goes": jetstream.ErrKeyNotFound, "stays": nil} {
		kv, err := j.State(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Get(t.Context(), "k"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}
