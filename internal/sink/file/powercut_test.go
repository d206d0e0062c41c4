//go:build unix

package file

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

// platter knows what of files would be there after a power cut: what was synced. What was
// written before a sync that failed is gone, whatever later ones say.
type platter struct {
	mu    sync.Mutex
	files map[uint64]*surface // by inode
	fails bool                // writes and syncs, some of them
	syncs int                 // that failed
}

type surface struct {
	text string
	safe []bool // of each byte
	gone []bool
}

type recorded struct {
	handle
	p *platter
	s *surface
}

func (p *platter) wrap(h handle) handle {
	info, err := h.Stat()
	if err != nil {
		panic(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	inode := info.Sys().(*syscall.Stat_t).Ino
	if p.files[inode] == nil {
		p.files[inode] = new(surface)
	}
	return &recorded{h, p, p.files[inode]}
}

func (r *recorded) fail(percent int) bool { return r.p.fails && rand.IntN(100) < percent }

func (r *recorded) Write(b []byte) (int, error) {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	var failed error
	if r.fail(3) {
		b, failed = b[:rand.IntN(len(b))], syscall.EIO
	}
	n, err := r.handle.Write(b)
	r.s.text += string(b[:n])
	r.s.safe = append(r.s.safe, make([]bool, n)...)
	r.s.gone = append(r.s.gone, make([]bool, n)...)
	return n, errors.Join(err, failed)
}

func (r *recorded) Truncate(size int64) error {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	r.s.text, r.s.safe, r.s.gone = r.s.text[:size], r.s.safe[:size], r.s.gone[:size]
	return r.handle.Truncate(size)
}

func (r *recorded) Sync() error {
	r.p.mu.Lock()
	n := len(r.s.text)
	failed := r.fail(20)
	r.p.mu.Unlock()
	time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond) // meanwhile others write
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	for i := range min(n, len(r.s.text)) {
		if failed {
			r.s.gone[i] = r.s.gone[i] || !r.s.safe[i]
		} else {
			r.s.safe[i] = r.s.safe[i] || !r.s.gone[i]
		}
	}
	if failed {
		r.p.syncs++
		return syscall.EIO
	}
	return nil
}

// safe returns the lines that are there after a power cut.
func (p *platter) safe() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := make(map[string]bool)
	for _, s := range p.files {
		at := 0
		for line := range strings.Lines(s.text) {
			whole := strings.HasSuffix(line, "\n")
			for i := range line {
				whole = whole && s.safe[at+i]
			}
			if at += len(line); whole {
				lines[strings.TrimSuffix(line, "\n")] = true
			}
		}
	}
	return lines
}

// checkedStore looks, whenever a place is stored, whether what is before it is safe.
type checkedStore struct {
	*delivermem.Store
	check func(position.Position)
}

func (s checkedStore) Save(ctx context.Context, state deliver.State) error {
	s.check(state.Through)
	return s.Store.Save(ctx, state)
}

// TestPowerCut: no place in the journal is stored before everything up to it would survive a
// power cut, although files are moved away, and writes and syncs fail.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for _, policy := range []Sync{SyncProgress, SyncAlways} {
		t.Run(string(policy), func(t *testing.T) {
			const events = 2000
			p := &platter{files: make(map[uint64]*surface), fails: true}
			s, err := New(Options{
				Path: filepath.Join(t.TempDir(), "events.jsonl"), Format: format.Raw, Sync: policy, RotateBytes: 16 << 10,
				wrap: p.wrap, lookEvery: time.Millisecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			journal := new(delivermem.Journal)
			var mu sync.Mutex
			var places []position.Position
			saves := 0
			line := func(n int) string { return fmt.Sprintf(`{"n":%d,"text":"%s"}`, n, strings.Repeat("x", n%200)) }
			check := func(through position.Position) {
				mu.Lock()
				defer mu.Unlock()
				saves++
				safe := p.safe()
				for n, at := range places {
					if at.Compare(through) <= 0 && !safe[line(n)] {
						t.Errorf("place %d: the place %v is stored, and event %d is not safe", saves, through, n)
						return
					}
				}
			}
			store := checkedStore{new(delivermem.Store), check}
			d := deliver.New(deliver.Options{
				Name: "test", Sink: s, Journal: journal, From: deliver.FromStart, Store: store,
				Policy: deliver.Policy{MaxEvents: 7, Concurrency: 3, Backoff: deliver.Backoff{First: time.Millisecond, Most: 5 * time.Millisecond}},
			})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- d.Run(ctx) }()
			for n := range events {
				e := &event.Event{ID: fmt.Sprint(n), Type: "shop/sold", Source: "/shop", Path: fmt.Sprint("shop/", n%5), Time: time.Now(), Data: []byte(line(n)), DataContentType: "application/json"}
				mu.Lock()
				places = append(places, journal.Append(e))
				mu.Unlock()
				if n%10 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			flush, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			if err := d.Flush(flush); err != nil {
				t.Errorf("%v: %+v", err, d.Status())
			}
			p.mu.Lock()
			p.fails = false
			p.mu.Unlock()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			state, _, err := store.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			check(state.Through) // still
			t.Logf("%d places were stored, %d syncs failed, %d files", saves, p.syncs, len(p.files))
			if saves < 3 || p.syncs == 0 || len(p.files) < 3 {
				t.Error("nothing was tested")
			}
		})
	}
}
