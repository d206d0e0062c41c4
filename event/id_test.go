package event

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestNewID(t *testing.T) {
	before := time.Now().Add(-2 * time.Millisecond)
	last := ""
	for range 10_000 {
		id := NewID()
		u, err := uuid.Parse(id)
		if err != nil || u.String() != id || u.Version() != 7 || u.Variant() != uuid.RFC4122 {
			t.Fatalf("%q is not a UUIDv7: %v", id, err)
		}
		if id <= last {
			t.Fatalf("%q comes after %q", id, last)
		}
		last = id
	}
	// The time within is that of the call. Ids in quick succession may run ahead, by 1/4096 ms each.
	sec, nsec := uuid.MustParse(last).Time().UnixTime()
	if at := time.Unix(sec, nsec); at.Before(before) || time.Until(at) > time.Second {
		t.Errorf("%s is of %v", last, at)
	}
}

// The clock may go backwards, the ids do not.
func TestNewIDClock(t *testing.T) {
	now := time.Now()
	first := newID(now)
	if second := newID(now.Add(-time.Hour)); second <= first {
		t.Errorf("%q comes after %q", second, first)
	}
}

func TestNewIDUnique(t *testing.T) {
	const each = 5000
	var mu sync.Mutex
	seen := make(map[string]bool)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			ids := make([]string, each)
			for i := range ids {
				ids[i] = NewID()
			}
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				if seen[id] {
					t.Errorf("%q is there twice", id)
				}
				seen[id] = true
			}
		})
	}
	group.Wait()
}

// Events that share memory with their fields do not share it with others.
func TestNewNotificationGrows(t *testing.T) {
	e := NewNotification("a/b", "k", "1", "l", "2", "m", "3", "n", "4")
	other := NewNotification("a/b", "k", "1")
	for _, k := range []string{"a", "z", "o"} {
		e.Metadata.Set(k, "x")
	}
	if len(e.Metadata) != 7 || len(other.Metadata) != 1 || e.Metadata[0].Key != "a" || e.Metadata[6].Key != "z" {
		t.Errorf("%v %v", e.Metadata, other.Metadata)
	}
	e.SetNotification("a/b", "path", "p", "odd")
	if len(e.Metadata) != 2 || e.Path != "p" {
		t.Errorf("%v", e)
	}
	e.SetNotification("a/b")
	if e.Metadata == nil || len(e.Metadata) != 0 || e.Path != "" {
		t.Errorf("%v", e)
	}
}
