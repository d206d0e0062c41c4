package journal

import (
	"testing"
	"time"
)

// TestLookUpUnreadable: a record that cannot be read does not hide where others are.
func TestLookUpUnreadable(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	put := func(record []byte) {
		t.Helper()
		if _, err := j.js.Publish(t.Context(), streamSubject, record); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	unreadable := []byte{99, 1, 2, 3}
	// Ordinals 0, then two that nobody can read, 3, 4 and 5.
	appendEvents(t, j, numbered(0))
	put(unreadable)
	put(unreadable)
	put(encode(3, now.Add(time.Hour), false, numbered(3)))
	put(encode(4, now.Add(time.Hour), false, numbered(4), numbered(5)))
	j.advance(Position{Seq: 5, Index: 1, Ordinal: 5})
	for n, want := range map[uint64]uint64{1: 4, 2: 4, 3: 3, 4: 0, 6: 0, 100: 0} {
		if p, err := j.Recent(t.Context(), n); err != nil || p.Seq != want {
			t.Errorf("the newest %d begin behind %v, %v; want record %d", n, p, err, want)
		}
	}
	for _, since := range []string{"10m", now.Add(time.Minute).Format(time.RFC3339Nano)} {
		if _, err := j.Since(t.Context(), since, now); err != nil {
			t.Errorf("since %s: %v", since, err)
		}
	}
	// Nor does it keep what is old.
	if err := j.removeBefore(t.Context(), now.Add(30*time.Minute)); err != nil {
		t.Errorf("remove what is old: %v", err)
	}
}
