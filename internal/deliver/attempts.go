package deliver

import (
	"strings"
	"time"
)

// attempts are the last ones, in a ring. It is guarded by the lock of the delivery.
type attempts struct {
	most int
	ring []kept
	next int
}

// kept is an attempt whose short texts are in the ring: otherwise they would keep records of
// the journal in memory.
type kept struct {
	Attempt
	id, kind           [64]byte
	idBytes, kindBytes int // 0: they are in Attempt
}

// remember notes an attempt that has ended.
func (d *Delivery) remember(w *worker, r Result, now time.Time) {
	a := &d.attempts
	var k *kept
	if len(a.ring) < a.most {
		a.ring = append(a.ring, kept{})
		k = &a.ring[len(a.ring)-1]
	} else {
		k = &a.ring[a.next]
		a.next = (a.next + 1) % a.most
	}
	b := &w.batch
	e := b.Items[0].Event
	k.Attempt = Attempt{
		At: w.begun.UTC(), Took: now.Sub(w.begun), Events: len(b.Items), Number: b.Attempt,
		Replay: b.Replay, Redriven: b.Redriven, Test: w.stream == nil,
		Outcome: r.Outcome, Status: r.Status, Reason: r.Reason,
	}
	k.idBytes, k.First = keepText(&k.id, e.ID)
	k.kindBytes, k.Type = keepText(&k.kind, e.Type)
}

func keepText(buf *[64]byte, s string) (int, string) {
	if len(s) > len(buf) {
		return 0, strings.Clone(s)
	}
	return copy(buf[:], s), ""
}

// Attempts returns the last attempts, the newest first.
func (d *Delivery) Attempts() []Attempt {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := &d.attempts
	out := make([]Attempt, 0, len(a.ring))
	for i := range a.ring {
		k := &a.ring[(a.next+len(a.ring)-1-i)%len(a.ring)]
		t := k.Attempt
		if k.idBytes > 0 {
			t.First = string(k.id[:k.idBytes])
		}
		if k.kindBytes > 0 {
			t.Type = string(k.kind[:k.kindBytes])
		}
		out = append(out, t)
	}
	return out
}
