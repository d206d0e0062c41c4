package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

func listed(t *testing.T, l *List, from uint64, most int) (got []string) {
	t.Helper()
	err := l.Read(t.Context(), from, most, func(e ListEntry) error {
		got = append(got, fmt.Sprintf("%d:%s:%s", e.ID, e.Note, e.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func entry(i int) ListEntry {
	return ListEntry{Note: fmt.Sprintf("n%d", i), Data: fmt.Appendf(nil, "d%d", i)}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir})
	l, other := j.List("a"), j.List("b")
	if info, err := l.Info(t.Context()); err != nil || info != (ListInfo{}) {
		t.Errorf("info of a list that was never used: %+v, %v", info, err)
	}
	if got := listed(t, l, 0, 10); got != nil {
		t.Errorf("entries of a list that was never used: %v", got)
	}
	if _, err := l.Get(t.Context(), 1); !errors.Is(err, ErrNoEntry) {
		t.Errorf("get from a list that was never used: %v", err)
	}
	for what, err := range map[string]error{"remove": l.Remove(t.Context(), 3), "drop": l.Drop(t.Context())} {
		if err != nil {
			t.Errorf("%s of a list that was never used: %v", what, err)
		}
	}
	if n, err := l.Purge(t.Context(), math.MaxUint64); n != 0 || err != nil {
		t.Errorf("purge of a list that was never used: %d, %v", n, err)
	}

	var entries []ListEntry
	for i := range 2*listWindow + 10 { // several windows
		entries = append(entries, entry(i))
	}
	if err := l.Add(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if e.ID != uint64(i+1) {
			t.Fatalf("entry %d has id %d", i, e.ID)
		}
	}
	if err := other.Add(t.Context(), []ListEntry{{Data: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, l, 0, 1000); len(got) != len(entries) || got[0] != "1:n0:d0" || got[300] != "301:n300:d300" {
		t.Errorf("%d entries, %q", len(got), got[:1])
	}
	for range 2 {
		if err := l.Remove(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Remove(t.Context(), 99999); err != nil {
		t.Errorf("remove of what was never there: %v", err)
	}
	if got, want := listed(t, l, 0, 2), []string{"1:n0:d0", "3:n2:d2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("after a removal: %v, want %v", got, want)
	}
	if e, err := l.Get(t.Context(), 3); err != nil || e.Note != "n2" || string(e.Data) != "d2" {
		t.Errorf("get: %+v, %v", e, err)
	}
	if _, err := l.Get(t.Context(), 2); !errors.Is(err, ErrNoEntry) {
		t.Errorf("get what was removed: %v", err)
	}
	if n, err := l.Purge(t.Context(), 500); n != 499 || err != nil {
		t.Errorf("purge: %d, %v", n, err)
	}
	shut(t, j)

	j = open(t, Config{Dir: dir})
	l = j.List("a")
	if info, err := l.Info(t.Context()); err != nil || info.Entries != 22 || info.Last != 522 || info.Bytes == 0 {
		t.Errorf("info after reopening: %+v, %v", info, err)
	}
	if n, err := l.Purge(t.Context(), math.MaxUint64); n != 22 || err != nil {
		t.Errorf("purge of all: %d, %v", n, err)
	}
	one := []ListEntry{entry(7)}
	if err := l.Add(t.Context(), one); err != nil || one[0].ID != 523 {
		t.Errorf("an id after all were purged: %d, %v", one[0].ID, err)
	}
	if err := l.Drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, l, 0, 10); got != nil {
		t.Errorf("entries of a dropped list: %v", got)
	}
	if got := listed(t, j.List("b"), 0, 10); len(got) != 1 {
		t.Errorf("entries of the other list: %v", got)
	}
}

// Several who use a new list at once make it once, and each entry is there once.
func TestListMadeOnce(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	var all sync.WaitGroup
	for p := range 8 {
		all.Go(func() {
			entries := []ListEntry{entry(10 * p), entry(10*p + 1), entry(10*p + 2)}
			if err := j.List("new").Add(t.Context(), entries); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	seen := make(map[string]bool)
	err := j.List("new").Read(t.Context(), 0, 100, func(e ListEntry) error {
		if seen[e.Note] {
			t.Errorf("%s is there twice", e.Note)
		}
		seen[e.Note] = true
		return nil
	})
	if err != nil || len(seen) != 24 {
		t.Errorf("%d entries, %v", len(seen), err)
	}
}

// TestListRestart breaks the embedded server while entries are added: what was acknowledged
// is there, calls fail in between, and go on with the same handle.
func TestListRestart(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	l := j.List("a")
	acknowledged := make(map[uint64]string)
	failures := 0
	for i := range 300 {
		if i%100 == 50 {
			j.faults <- fault{kind: ErrUnavailable, cause: errors.New("broken by test"), restart: true}
		}
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			e := []ListEntry{entry(i)}
			err := l.Add(ctx, e)
			cancel()
			if err == nil {
				acknowledged[e[0].ID] = e[0].Note
				break
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("the failure is not noticed: %v", err)
			}
			failures++
			time.Sleep(time.Millisecond) // a caller would wait longer
		}
	}
	await(t, "health", func() bool { return j.Health() == nil })
	for id, note := range acknowledged {
		if e, err := l.Get(t.Context(), id); err != nil || e.Note != note {
			t.Errorf("%d: %q, want %q, %v", id, e.Note, note, err)
		}
	}
	t.Logf("%d failures", failures)
}

func TestEncodeEvent(t *testing.T) {
	for name, e := range map[string]*event.Event{
		"full":       fullEvent(),
		"small":      numbered(1),
		"compressed": {ID: "1", Type: "t", Source: "s", Time: time.Unix(1, 2).UTC(), Data: make([]byte, 8<<20)},
	} {
		b := EncodeEvent(e)
		got, err := DecodeEvent(b)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
		for _, broken := range [][]byte{nil, b[:20], b[:len(b)-1], append([]byte{9}, b[1:]...)} {
			if _, err := DecodeEvent(broken); err == nil {
				t.Errorf("%s: a broken one of %d bytes was decoded", name, len(broken))
			}
		}
	}
	if _, err := DecodeEvent(encode(3, time.Now(), false, numbered(3), numbered(4))); err == nil {
		t.Error("a record of two events was decoded")
	}
	if _, err := DecodeEvent([]byte{9, 0, 0}); !errors.Is(err, ErrVersion) {
		t.Errorf("a record of a newer version: %v", err)
	}
}

// What is left of a stream while it is removed is no reason to be ill, or not to start.
func TestHealthWhileRemoved(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir})
	streams := filepath.Join(dir, storeDir, "$G", "streams")
	s := j.session.Load().server
	for _, test := range []struct {
		name string
		want string
	}{{".TOCSIN_LIST_dead_a", ""}, {"TOCSIN_LIST_dead_b", "TOCSIN_LIST_dead_b' could not be recovered"}} {
		if err := os.Mkdir(filepath.Join(streams, test.name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := serverHealth(s); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
