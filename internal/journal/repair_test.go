package journal

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestRepair opens journals as a crash may leave them.
func TestRepair(t *testing.T) {
	remove := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for name, damage := range map[string]func(t *testing.T, streams string){
		"nothing": func(*testing.T, string) {},
		"no checksum of the journal": func(t *testing.T, streams string) {
			remove(t, filepath.Join(streams, streamName, "meta.sum"))
		},
		"checksum of an older configuration": func(t *testing.T, streams string) {
			if err := os.WriteFile(filepath.Join(streams, "KV_"+cursorBucket, "meta.sum"), []byte("0123456789abcdef"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"trials of writing": func(t *testing.T, streams string) {
			for _, dir := range []string{filepath.Join(streams, "..", ".."), filepath.Join(streams, streamName)} {
				if err := os.WriteFile(filepath.Join(dir, "_test_123"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a stream half removed": func(t *testing.T, streams string) {
			kv := filepath.Join(streams, "KV_new", "msgs")
			if err := os.MkdirAll(kv, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(kv, "1.blk"), []byte("messages"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"KV_new", "KV_" + cursorBucket, streamName, "KV_gone"} { // the others are whole, or gone
				if err := os.WriteFile(filepath.Join(streams, "..", "..", "..", removingPrefix+name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a stream just begun": func(t *testing.T, streams string) {
			if err := os.MkdirAll(filepath.Join(streams, "KV_new", "msgs"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(streams, "KV_new", "msgs", "1.blk"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, Config{Dir: dir})
			want := []string{"id-1@" + appendEvents(t, j, numbered(1)).String()}
			if err := j.Cursor("c").Save(t.Context(), j.End()); err != nil {
				t.Fatal(err)
			}
			shut(t, j)
			damage(t, filepath.Join(dir, storeDir, "$G", "streams"))
			j = open(t, Config{Dir: dir})
			if got := readTo(t, j, Position{}, j.End()); !slices.Equal(got, want) {
				t.Errorf("read %v, want %v", got, want)
			}
			if p, err := j.Cursor("c").Load(t.Context()); err != nil || p != j.End() {
				t.Errorf("cursor %v, %v", p, err)
			}
			if _, err := j.State(t.Context(), "new"); err != nil {
				t.Error(err)
			}
		})
	}
}
