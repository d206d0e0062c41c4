package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// fakeBucket is a bucket in memory, for tests with a fake clock or with faults.
type fakeBucket struct {
	mu       sync.Mutex
	revision uint64
	keys     map[string]*fakeEntry
	watches  map[*fakeWatch]struct{}
	delay    time.Duration

	// fault, if set, is asked before each call: "create", "update", "put", "remove",
	// "watch", "last". It may block.
	fault func(call, key string) error
	calls map[string]int
}

var errFake = errors.New("the disk is on fire")

func newFake() *fakeBucket {
	return &fakeBucket{keys: make(map[string]*fakeEntry), watches: make(map[*fakeWatch]struct{}), calls: make(map[string]int)}
}

type fakeEntry struct {
	key      string
	value    []byte
	revision uint64
	at       time.Time
	op       jetstream.KeyValueOp
}

func (e *fakeEntry) Bucket() string                  { return "fake" }
func (e *fakeEntry) Key() string                     { return e.key }
func (e *fakeEntry) Value() []byte                   { return e.value }
func (e *fakeEntry) Revision() uint64                { return e.revision }
func (e *fakeEntry) Created() time.Time              { return e.at }
func (e *fakeEntry) Delta() uint64                   { return 0 }
func (e *fakeEntry) Operation() jetstream.KeyValueOp { return e.op }

func (b *fakeBucket) ask(call, key string) error {
	b.mu.Lock()
	fault := b.fault
	b.calls[call]++
	b.mu.Unlock()
	if fault != nil {
		return fault(call, key)
	}
	return nil
}

// called returns how often there was such a call.
func (b *fakeBucket) called(call string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[call]
}

func (b *fakeBucket) setFault(f func(call, key string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = f
}

// write stores a value if check agrees with what is there.
func (b *fakeBucket) write(key string, value []byte, op jetstream.KeyValueOp, check func(now *fakeEntry) bool) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !check(b.keys[key]) {
		return 0, errConflict
	}
	b.revision++
	e := &fakeEntry{key, bytes.Clone(value), b.revision, time.Now(), op}
	b.keys[key] = e
	for w := range b.watches {
		if b.delay > 0 {
			time.AfterFunc(b.delay, func() { w.add(e) })
		} else {
			w.add(e)
		}
	}
	return e.revision, nil
}

func (b *fakeBucket) create(_ context.Context, key string, value []byte) (uint64, error) {
	if err := b.ask("create", key); err != nil {
		return 0, err
	}
	return b.write(key, value, jetstream.KeyValuePut, func(now *fakeEntry) bool { return now == nil || now.op != jetstream.KeyValuePut })
}

func (b *fakeBucket) update(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := b.ask("update", key); err != nil {
		return 0, err
	}
	return b.write(key, value, jetstream.KeyValuePut, func(now *fakeEntry) bool { return now != nil && now.revision == revision })
}

func (b *fakeBucket) put(_ context.Context, key string, value []byte) (uint64, error) {
	if err := b.ask("put", key); err != nil {
		return 0, err
	}
	return b.write(key, value, jetstream.KeyValuePut, func(*fakeEntry) bool { return true })
}

func (b *fakeBucket) remove(_ context.Context, key string, revision uint64) error {
	if err := b.ask("remove", key); err != nil {
		return err
	}
	_, err := b.write(key, nil, jetstream.KeyValuePurge, func(now *fakeEntry) bool { return now != nil && now.revision == revision })
	return err
}

func (b *fakeBucket) last(context.Context) (uint64, error) {
	if err := b.ask("last", ""); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.revision, nil
}

func (b *fakeBucket) watch(ctx context.Context) (jetstream.KeyWatcher, error) {
	if err := b.ask("watch", ""); err != nil {
		return nil, err
	}
	return b.watchAs(ctx, true)
}

// watchAs makes a watch, which says when it has delivered all there was if complete.
func (b *fakeBucket) watchAs(ctx context.Context, complete bool) (jetstream.KeyWatcher, error) {
	w := &fakeWatch{updates: make(chan jetstream.KeyValueEntry, 256), some: make(chan struct{}, 1)}
	ctx, w.cancel = context.WithCancel(ctx)
	b.mu.Lock()
	for _, e := range slices.SortedFunc(maps.Values(b.keys), func(a, c *fakeEntry) int { return int(a.revision) - int(c.revision) }) {
		w.add(e)
	}
	if complete {
		w.add(nil)
	}
	b.watches[w] = struct{}{}
	b.mu.Unlock()
	go func() {
		defer close(w.updates)
		w.deliver(ctx)
		b.mu.Lock()
		delete(b.watches, w)
		b.mu.Unlock()
	}()
	return w, nil
}

// breakWatches ends all watches, as a closed connection does.
func (b *fakeBucket) breakWatches() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w := range b.watches {
		w.cancel()
	}
	clear(b.watches)
}

// deafen has the watches that there are deliver nothing any more, without an end.
func (b *fakeBucket) deafen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.watches)
}

// values returns what the bucket has, by key.
func (b *fakeBucket) values() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[string]string)
	for key, e := range b.keys {
		if e.op == jetstream.KeyValuePut {
			all[key] = string(e.value)
		}
	}
	return all
}

// fakeWatch has a queue without bound.
type fakeWatch struct {
	updates chan jetstream.KeyValueEntry
	cancel  context.CancelFunc
	mu      sync.Mutex
	queue   []jetstream.KeyValueEntry
	some    chan struct{}
}

func (w *fakeWatch) Updates() <-chan jetstream.KeyValueEntry { return w.updates }

func (w *fakeWatch) Stop() error {
	w.cancel()
	return nil
}

func (w *fakeWatch) add(e *fakeEntry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e == nil {
		w.queue = append(w.queue, nil)
	} else {
		w.queue = append(w.queue, e)
	}
	signal(w.some)
}

func (w *fakeWatch) deliver(ctx context.Context) {
	for {
		w.mu.Lock()
		queue := w.queue
		w.queue = nil
		w.mu.Unlock()
		for _, e := range queue {
			select {
			case w.updates <- e:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-w.some:
		case <-ctx.Done():
			return
		}
	}
}

// changeLog keeps what a store tells.
type changeLog struct {
	mu   sync.Mutex
	all  []Change
	more chan struct{}
}

func newLog() *changeLog { return &changeLog{more: make(chan struct{}, 1)} }

func (l *changeLog) changed(changes []Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, changes...)
	signal(l.more)
}

// take returns what was told since the last call.
func (l *changeLog) take() []Change {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// ends waits until all these tokens have ended, and returns how.
func (l *changeLog) ends(t testing.TB, ids ...ID) map[ID]Change {
	t.Helper()
	found := make(map[ID]Change)
	timeout := time.After(time.Minute)
	for {
		l.mu.Lock()
		for _, c := range l.all {
			if c.End != 0 {
				found[c.ID] = c
			}
		}
		l.mu.Unlock()
		missing := 0
		for _, id := range ids {
			if _, ok := found[id]; !ok {
				missing++
			}
		}
		if missing == 0 {
			return found
		}
		select {
		case <-l.more:
		case <-timeout:
			t.Fatalf("%d of %d tokens have not ended", missing, len(ids))
		}
	}
}

var testKey = bytes.Repeat([]byte("k"), 32)

// testStore is a Store with its log of changes.
type testStore struct {
	*Store
	t   testing.TB
	log *changeLog
}

func openFake(t testing.TB, b bucket, adjust ...func(*Config)) *testStore {
	t.Helper()
	s := &testStore{t: t, log: newLog()}
	c := Config{Key: testKey, RootToken: "root", Changed: s.log.changed, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range adjust {
		f(&c)
	}
	var err error
	if s.Store, err = open(t.Context(), c, b, time.Now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// create makes a token or fails the test.
func (s *testStore) create(r Request) (string, *Entry) {
	s.t.Helper()
	value, e, _, err := s.Create(s.t.Context(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	return value, e
}

// tree makes a token with children, and returns all ids, the parent's first.
func (s *testStore) tree(children int) []ID {
	s.t.Helper()
	_, p := s.create(Request{})
	ids := []ID{p.ID}
	for range children {
		_, c := s.create(Request{Parent: p.ID})
		ids = append(ids, c.ID)
	}
	return ids
}

func (s *testStore) alive(id ID) bool {
	s.t.Helper()
	_, err := s.ByID(id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		s.t.Fatal(err)
	}
	return err == nil
}

// eventually waits for a condition, in real or fake time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("this did not come true: " + what)
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func wantErr(t testing.TB, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) || (target == nil) != (err == nil) {
		t.Errorf("%s: got error %v, want %v", what, err, target)
	}
}

func describe(changes []Change) []string {
	var all []string
	for _, c := range changes {
		switch {
		case c.Entry != nil:
			all = append(all, fmt.Sprintf("%.4s is, local %t", c.ID, c.Local))
		default:
			all = append(all, fmt.Sprintf("%.4s %s, local %t", c.ID, c.End, c.Local))
		}
	}
	return all
}
