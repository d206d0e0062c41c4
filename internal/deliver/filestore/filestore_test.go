package filestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
	"github.com/tocsin-events/tocsin/internal/position"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func aLetter(at int, text string) deliver.DeadLetter {
	return deliver.DeadLetter{
		Event: &event.Event{ID: fmt.Sprint("id-", at), Type: "a/b/c", Source: "x", Time: noon, Data: []byte(`{"a":"` + text + `"}`), DataContentType: "application/json"},
		At:    position.Position{Seq: uint64(at), Ordinal: uint64(at - 1)},
		Cause: "refused",
		Failure: deliver.Failure{
			Outcome: deliver.Refused, Attempts: 3, First: noon, Last: noon.Add(time.Minute), Status: 400, Reason: "no",
		},
	}
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(Options{Dir: dir, Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestState(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		s := open(t, dir)
		if _, ok, err := s.Load(t.Context()); ok || err != nil {
			t.Fatal(ok, err)
		}
		want := deliver.State{
			Through: position.Position{Seq: math.MaxUint64, Index: position.BetweenRecords, Ordinal: math.MaxUint64 - 1},
			Held:    deliver.Held{By: deliver.HeldPaused, Reason: "lunch", Since: noon},
			Replays: []deliver.ReplayState{{ID: "r", Sent: 3}}, Redrives: []deliver.RedriveState{{ID: "d", Next: 4, Last: 5, IDs: []uint64{4, 5}}},
		}
		if err := s.Save(t.Context(), deliver.State{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Save(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if dir != "" {
			s.Close()
			s = open(t, dir)
		}
		got, ok, err := s.Load(t.Context())
		if err != nil || !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v, %v", got, ok, err)
		}
		s.Close()
		if err := s.Save(t.Context(), want); err == nil {
			t.Error("a closed store saves")
		}
	}
	dir := t.TempDir()
	for _, text := range []string{"", "x", `{"version":2,"state":{}}`} {
		if err := os.WriteFile(filepath.Join(dir, "x.state"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := open(t, dir).Load(t.Context()); err == nil || !strings.Contains(err.Error(), "x.state") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, name := range []string{"", "../x", "A", strings.Repeat("a", 64)} {
		if _, err := Open(Options{Dir: dir, Name: name}); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
}

// Whatever is done, the store has what one in memory has, also after it was opened anew.
func TestLikeMemory(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	ctx := t.Context()
	model, s, inMemory := &delivermem.Store{}, open(t, dir), open(t, "")
	for step := range 300 {
		id := random.Uint64N(200)
		switch random.IntN(20) {
		case 0:
			s.Close()
			s = open(t, dir)
		case 1:
			n, err := model.Purge(ctx, id)
			got, gotErr := s.Purge(ctx, id)
			if n != got || err != nil || gotErr != nil {
				t.Fatal(step, n, got, err, gotErr)
			}
			if _, err := inMemory.Purge(ctx, id); err != nil {
				t.Fatal(err)
			}
		case 2, 3, 4, 5:
			for _, store := range []deliver.DeadLetters{model, s, inMemory} {
				if err := store.Remove(ctx, id, id+3, id+3); err != nil {
					t.Fatal(err)
				}
			}
		default:
			first := 1 + random.IntN(500)
			letters := []deliver.DeadLetter{aLetter(first, strings.Repeat("x", random.IntN(20_000))), aLetter(first+1, "y")}
			for _, store := range []deliver.DeadLetters{model, s, inMemory} {
				if err := store.Add(ctx, letters); err != nil {
					t.Fatal(err)
				}
			}
		}
		if step%25 > 0 {
			continue
		}
		want, err := model.List(ctx, 0, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, store := range []*Store{s, inMemory} {
			got, err := store.List(ctx, 0, 10_000)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Fatalf("step %d: %d letters, want %d", step, len(got), len(want))
			}
			for i := range got {
				if !reflect.DeepEqual(got[i], want[i]) {
					t.Fatalf("step %d: %+v, want %+v", step, got[i], want[i])
				}
			}
			if n, size, err := store.Count(ctx); err != nil || int(n) != len(want) || n > 0 && size == 0 {
				t.Fatal(n, size, err)
			}
		}
	}
	if s.size > 2*s.bytes+wasteBytes+64<<10 {
		t.Errorf("the file has %d bytes for %d of letters", s.size, s.bytes)
	}
	want, _ := model.List(ctx, 0, 1)
	if got, err := s.Get(ctx, want[0].ID); err != nil || !reflect.DeepEqual(got, want[0]) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.Get(ctx, math.MaxUint64); !errors.Is(err, deliver.ErrNoLetter) {
		t.Error(err)
	}
	if got, err := s.List(ctx, math.MaxUint64, 1); err != nil || got != nil {
		t.Error(got, err)
	}
}

func TestFull(t *testing.T) {
	s, err := Open(Options{Name: "x", MaxLetters: 2, MaxBytes: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := s.Add(ctx, []deliver.DeadLetter{aLetter(1, ""), aLetter(2, "")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(ctx, []deliver.DeadLetter{aLetter(3, "")}); !errors.Is(err, deliver.ErrFull) {
		t.Error(err)
	}
	if err := s.Add(ctx, []deliver.DeadLetter{aLetter(2, "again")}); err != nil {
		t.Error("a letter cannot be replaced:", err)
	}
	if err := s.Add(ctx, []deliver.DeadLetter{aLetter(2, strings.Repeat("x", 10_000))}); !errors.Is(err, deliver.ErrFull) {
		t.Error(err)
	}
	if err := s.Add(ctx, []deliver.DeadLetter{{}}); err == nil {
		t.Error("a letter without an event is taken")
	}
}

// Wherever the file is cut off, the letters before are there, and ids go on. Wherever a
// byte is wrong, that is noticed, and the other letters are there.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	for i := range 4 {
		if err := s.Add(ctx, []deliver.DeadLetter{aLetter(i+1, "")}); err != nil {
			t.Fatal(err)
		}
	}
	ends := make([]int64, 0, 4)
	for _, l := range s.letters {
		ends = append(ends, l.offset+l.size)
	}
	s.Close()
	path := filepath.Join(dir, "x.letters")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	load := func(content []byte) *Store {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir)
		if err := s.Add(ctx, []deliver.DeadLetter{aLetter(9, "")}); err != nil {
			t.Fatal(err)
		}
		s.Close()
		return open(t, dir)
	}
	for cut := len(lettersMagic); cut < len(whole); cut += 23 {
		want := 1
		for _, end := range ends {
			if int64(cut) >= end {
				want++
			}
		}
		s := load(whole[:cut])
		if n, _, _ := s.Count(ctx); int(n) != want || s.Damaged() != 0 {
			t.Fatalf("cut at %d: %d letters, want %d, %d damaged", cut, n, want, s.Damaged())
		}
		s.Close()
	}
	for i := 0; i < len(whole); i += 31 {
		content := bytes.Clone(whole)
		content[i] ^= 0x20
		s := load(content)
		list, err := s.List(ctx, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(list); n < 4 && i >= len(lettersMagic) {
			t.Fatalf("byte %d: %d letters", i, n)
		}
		s.Close()
	}
}

func FuzzLetters(f *testing.F) {
	dir := f.TempDir()
	s := open(f, dir)
	if err := s.Add(context.Background(), []deliver.DeadLetter{aLetter(1, ""), aLetter(2, "")}); err != nil {
		f.Fatal(err)
	}
	if err := s.Remove(context.Background(), 1); err != nil {
		f.Fatal(err)
	}
	s.Close()
	seed, err := os.ReadFile(filepath.Join(dir, "x.letters"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(lettersMagic))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "x.letters"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir)
		if err := s.Add(t.Context(), []deliver.DeadLetter{aLetter(77, "")}); err != nil {
			t.Fatal(err)
		}
		before, err := s.List(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		after, err := open(t, dir).List(t.Context(), 0, 1000)
		if err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%+v, then %+v, %v", before, after, err)
		}
	})
}

// TestDirectoryNotSynced: when nobody knows whether the name of a new file is durable, letters
// do not go to the one before, which has no name any more.
func TestDirectoryNotSynced(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read every directory")
	}
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Add(t.Context(), []deliver.DeadLetter{aLetter(1, "a")}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o300); err != nil { // it cannot be opened to sync it
		t.Fatal(err)
	}
	s.mu.Lock()
	err := s.rewrite()
	s.mu.Unlock()
	if err == nil {
		t.Error("no error")
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), []deliver.DeadLetter{aLetter(2, "b")}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if n, _, err := open(t, dir).Count(t.Context()); n != 2 || err != nil {
		t.Errorf("%d letters after a restart: %v", n, err)
	}
}
