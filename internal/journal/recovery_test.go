package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// follower reads a journal in the background and keeps what it saw.
type follower struct {
	mu   sync.Mutex
	seen map[string]string // id to position
	last Position
	done chan struct{}
}

func follow(t *testing.T, j *Journal) *follower {
	t.Helper()
	f := &follower{seen: make(map[string]string), done: make(chan struct{})}
	r := j.Read(Position{})
	go func() {
		defer close(f.done)
		next := uint64(0)
		for {
			b, err := r.Next(context.Background())
			if errors.Is(err, ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("follower: %v", err)
				continue
			}
			f.mu.Lock()
			for i := b.Start(); i < b.Len(); i++ {
				at := b.Position(i)
				if at.Ordinal != next {
					t.Errorf("follower: event %d has ordinal %d", next, at.Ordinal)
				}
				next = at.Ordinal + 1
				// An event whose outcome was unknown may come twice.
				f.seen[b.Event(i).ID] = at.String()
				f.last = at
			}
			f.mu.Unlock()
		}
	}()
	return f
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// TestServerRestart breaks the embedded server under load, several times: producers
// get pushback and repeat, readers and states go on, nothing acknowledged is lost.
func TestServerRestart(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	f := follow(t, j)
	kv, err := j.State(t.Context(), "state")
	if err != nil {
		t.Fatal(err)
	}
	var acknowledged sync.Map
	var pushbacks, unknown atomic.Int64
	stop := make(chan struct{})
	var producers sync.WaitGroup
	for p := range 20 {
		producers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				e := numbered(i)
				e.ID = fmt.Sprintf("%d/%d", p, i)
				for {
					at, err := j.Append(context.Background(), e)
					if err == nil {
						acknowledged.Store(e.ID, at.String())
						break
					}
					var pushback *PushbackError
					if !errors.As(err, &pushback) || !errors.Is(err, ErrUnavailable) || pushback.RetryAfter <= 0 {
						t.Errorf("append: %v", err)
						return
					}
					pushbacks.Add(1)
					if pushback.Unknown {
						unknown.Add(1)
					}
					time.Sleep(time.Millisecond) // a producer would wait RetryAfter
				}
			}
		})
	}
	for round := range 4 {
		before := j.End()
		await(t, "progress", func() bool { return j.End().Ordinal > before.Ordinal+100 })
		j.faults <- fault{kind: ErrUnavailable, cause: fmt.Errorf("broken by test %d", round), restart: true}
		await(t, "red health", func() bool {
			err := j.Health()
			return err != nil && errors.Is(err, ErrUnavailable) && strings.Contains(err.Error(), "broken by test") || j.End().Ordinal > before.Ordinal+1000
		})
		await(t, "green health", func() bool { return j.Health() == nil })
		// It may be green because the fault was not noticed yet.
		await(t, fmt.Sprintf("state after restart %d", round), func() bool {
			_, err := kv.PutString(t.Context(), "round", fmt.Sprint(round))
			return err == nil
		})
	}
	close(stop)
	producers.Wait()
	t.Logf("%d pushbacks, %d of them with unknown outcome, %d events in %d records", pushbacks.Load(), unknown.Load(), j.End().Ordinal+1, j.End().Seq)
	checkAcknowledged(t, j, f, &acknowledged)
	if pushbacks.Load() == 0 {
		t.Error("no producer noticed")
	}
}

// checkAcknowledged closes j and compares what was acknowledged with what a
// follower saw and what the reopened journal has.
func checkAcknowledged(t *testing.T, j *Journal, f *follower, acknowledged *sync.Map) {
	t.Helper()
	end := j.End()
	await(t, "follower at the end", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.last == end
	})
	shut(t, j)
	<-f.done
	j = open(t, j.config)
	if j.End() != end {
		t.Errorf("end after reopening %v, before %v", j.End(), end)
	}
	stored := make(map[string]bool)
	for _, text := range readTo(t, j, Position{}, end) {
		stored[text] = true
	}
	missing := 0
	acknowledged.Range(func(id, position any) bool {
		if !stored[id.(string)+"@"+position.(string)] {
			missing++
			t.Errorf("%s was acknowledged at %s and is not there", id, position)
		}
		if _, ok := f.seen[id.(string)]; !ok {
			t.Errorf("%s was acknowledged and not seen by the follower", id)
		}
		return missing < 10
	})
}

// smallDisk mounts a file system of that many MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("needs a small file system and the right to mount one (root): mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func writeBallast(t *testing.T, dir string, mib int) (remove func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	content := make([]byte, mib<<20)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func TestDiskFull(t *testing.T) {
	for name, reserve := range map[string]int64{
		"met by the reserve": 4 << 20,
		"met by the server":  -1, // in the middle of a write
	} {
		t.Run(name, func(t *testing.T) {
			dir := smallDisk(t, 48)
			removeBallast := writeBallast(t, dir, 24)
			c := small(filepath.Join(dir, "journal"))
			c.ReserveBytes = reserve
			j := open(t, c)
			f := follow(t, j)
			cursor := j.Cursor("c")
			if err := cursor.Save(t.Context(), Position{Seq: 1, Index: 2, Ordinal: 3}); err != nil {
				t.Fatal(err)
			}
			var acknowledged sync.Map
			// Several producers, so that records are in flight when it happens.
			fill := func(prefix string, most int) error {
				var failed error
				var once sync.Once
				var all sync.WaitGroup
				for p := range 8 {
					all.Go(func() {
						for i := range most {
							e := numbered(i)
							e.ID = fmt.Sprintf("%s/%d/%d", prefix, p, i)
							e.Data = make([]byte, 4<<10)
							_, _ = rand.Read(e.Data)
							at, err := j.Append(context.Background(), e)
							if err != nil {
								once.Do(func() { failed = err })
								return
							}
							acknowledged.Store(e.ID, at.String())
						}
					})
				}
				all.Wait()
				return failed
			}
			var pushback *PushbackError
			if err := fill("fill", 1<<20); !errors.Is(err, ErrFull) || !errors.As(err, &pushback) || pushback.RetryAfter <= 0 {
				t.Fatalf("full disk: %v", err)
			}
			if err := j.Health(); !errors.Is(err, ErrFull) {
				t.Errorf("health with a full disk: %v", err)
			}
			start := time.Now()
			if _, err := j.Append(t.Context(), numbered(1)); !errors.Is(err, ErrFull) {
				t.Errorf("append with a full disk: %v", err)
			}
			if took := time.Since(start); took > ackTimeout/2 {
				t.Errorf("refusing took %v", took)
			}
			// Readers are not concerned.
			end := j.End()
			await(t, "follower", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.last == end })
			if got := readTo(t, j, Position{}, Position{Seq: 10, Index: 0, Ordinal: 0}); len(got) == 0 {
				t.Error("nothing to read with a full disk")
			}

			removeBallast()
			await(t, "recovery", func() bool { return j.Health() == nil })
			if err := fill("after", 100); err != nil {
				t.Fatalf("after recovery: %v", err)
			}
			if p, err := cursor.Load(t.Context()); err != nil || p != (Position{Seq: 1, Index: 2, Ordinal: 3}) {
				t.Errorf("cursor after recovery: %v, %v", p, err)
			}
			if err := cursor.Save(t.Context(), j.End()); err != nil {
				t.Errorf("save cursor after recovery: %v", err)
			}
			checkAcknowledged(t, j, f, &acknowledged)
		})
	}
}

// TestStateFull fills the disk through a state, not the journal: the server never
// forgets a failed write of any stream, so the journal must notice.
func TestStateFull(t *testing.T) {
	dir := smallDisk(t, 32)
	removeBallast := writeBallast(t, dir, 16)
	c := small(filepath.Join(dir, "journal"))
	c.ReserveBytes = -1
	j := open(t, c)
	appendEvents(t, j, numbered(0))
	objects, err := j.Objects(t.Context(), "objects")
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 32<<20)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := objects.PutBytes(ctx, "large", large); err == nil {
		t.Fatal("more than the disk was stored")
	}
	await(t, "red health", func() bool { return errors.Is(j.Health(), ErrFull) })
	removeBallast()
	await(t, "recovery", func() bool { return j.Health() == nil })
	appendEvents(t, j, numbered(1))
	if _, err := objects.PutBytes(t.Context(), "small", large[:1<<20]); err != nil {
		t.Errorf("store an object after recovery: %v", err)
	}
	if got := readTo(t, j, Position{}, j.End()); len(got) != 2 || !slices.IsSorted(got) {
		t.Errorf("read %v", got)
	}
}

// TestLoss checks that missing acknowledged records are never passed over.
func TestLoss(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	for i := range 10 {
		appendEvents(t, j, numbered(i))
	}
	// Restart with a store from which records were cut off.
	s := j.session.Load()
	j.advance(Position{Seq: 15, Index: 0, Ordinal: 14})
	j.faults <- fault{kind: ErrUnavailable, cause: errors.New("broken by test"), restart: true}
	await(t, "report", func() bool { return errors.Is(j.Health(), ErrLost) })
	await(t, "new session", func() bool { now := j.session.Load(); return now != nil && now != s && j.End().Seq == 10 })
	if p := appendEvents(t, j, numbered(10)); p != (Position{Seq: 11, Index: 0, Ordinal: 10}) {
		t.Errorf("position after the loss: %v", p)
	}
	if err := j.Health(); !errors.Is(err, ErrLost) {
		t.Errorf("health after the loss: %v", err)
	}
}

// TestUnreadableRecord checks that readers are told of a record that cannot be
// decoded and go on behind it.
func TestUnreadableRecord(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	appendEvents(t, j, numbered(0))
	good := encode(3, time.Now(), false, numbered(3), numbered(4))
	broken := encode(1, time.Now(), false, numbered(1), numbered(2))
	broken[len(broken)-1] = 0xff
	for _, record := range [][]byte{broken, {99, 1, 2, 3}, good} {
		if _, err := j.js.Publish(t.Context(), streamSubject, record); err != nil {
			t.Fatal(err)
		}
	}
	j.advance(Position{Seq: 4, Index: 1, Ordinal: 4})
	r := j.Read(Position{Seq: 1, Index: 0, Ordinal: 0})
	var gap *GapError
	if _, err := r.Next(t.Context()); !errors.As(err, &gap) || !errors.Is(err, errRecordCorrupt) || gap.Events != 2 || gap.Records != 1 {
		t.Errorf("corrupt record: %v", err)
	}
	var version recordVersionError
	if _, err := r.Next(t.Context()); !errors.As(err, &gap) || !errors.As(err, &version) || gap.Records != 1 {
		t.Errorf("record of version 99: %v", err)
	}
	if b, err := r.Next(t.Context()); err != nil || b.Len() != 2 || b.Event(0).ID != "id-3" {
		t.Errorf("record behind: %v, %v", b, err)
	}
	if p, err := j.Since(t.Context(), "id-0", time.Now()); err != nil || p != (Position{Seq: 1, Index: 0, Ordinal: 0}) {
		t.Errorf("search over unreadable records: %v, %v", p, err)
	}
}
