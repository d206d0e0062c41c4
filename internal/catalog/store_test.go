package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// lookup returns what is known about a learnt type, without what is made up.
func lookup(c *Catalog, name string) Type {
	t, _ := c.Lookup(name, everywhere)
	t.Example = nil
	return t
}

func TestSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir)
	c := openCatalog(t, j)
	for i := range 300 {
		c.Learn(published(fmt.Sprintf("ns%d/", i%3), fmt.Sprintf("p%d/x", i), "k", "v"))
	}
	e := published("", "a/b", "<key>\"\\&", "v")
	e.Data, e.DataContentType = []byte("x"), "text/plain"
	c.Learn(e)
	want := lookup(c, "a/b")
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c = openCatalog(t, openJournal(t, dir))
	if got := lookup(c, "a/b"); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %+v\nwant %+v %+v", got, got.Seen, want, want.Seen)
	}
	if n := c.Stats().Learnt; n != 301 {
		t.Errorf("%d types", n)
	}
	c.Learn(e)
	if got := lookup(c, "a/b"); got.Seen.Events != 2 {
		t.Errorf("%+v", got.Seen)
	}
}

// TestSurvivesKill: what was written in the background is there without Close.
func TestSurvivesKill(t *testing.T) {
	j := openJournal(t, t.TempDir())
	c := openCatalog(t, j)
	c.Learn(published("", "a/b", "k", "v"))
	if err := c.saveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Learn(published("", "a/b", "later", "v"))
	other := openCatalog(t, j)
	if got := lookup(other, "a/b"); got.Seen.Events != 1 || len(got.Metadata) != 1 {
		t.Errorf("%+v", got.Seen)
	}
	if dirty := c.dirtyShards(); dirty != 1 { // the last key
		t.Errorf("%d shards are to be written", dirty)
	}
}

// dirtyShards returns how many shards are to be written.
func (c *Catalog) dirtyShards() (n int) {
	for i := range c.store.dirty {
		if c.store.dirty[i].Load() {
			n++
		}
	}
	return n
}

// TestTwoNodes: what two catalogues on one bucket have learnt is put together.
func TestTwoNodes(t *testing.T) {
	j := openJournal(t, t.TempDir())
	a, b := openCatalog(t, j), openCatalog(t, j)
	for range 3 {
		a.Learn(published("", "a/b", "x", "1"))
	}
	b.Learn(published("", "a/b", "y", "1"))
	b.Learn(published("", "b/only"))
	for range 2 { // the second time each sees what the other has written
		for _, c := range []*Catalog{a, b} {
			if err := c.saveAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	a.Learn(published("", "a/b", "x", "1"))
	a.touchCounts()
	for range 2 {
		for _, c := range []*Catalog{a, b} {
			if err := errors.Join(c.saveAll(t.Context()), c.readAll(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, c := range []*Catalog{a, b} {
		got := lookup(c, "a/b")
		if len(got.Metadata) != 2 || got.Seen.Events != 5 {
			t.Errorf("node %d: %v %+v", i, got.Metadata, got.Seen)
		}
		if lookup(c, "b/only").Seen == nil {
			t.Errorf("node %d: b/only is not known", i)
		}
		if n := c.dirtyShards(); n != 0 {
			t.Errorf("node %d: %d shards are to be written for ever", i, n)
		}
	}
}

// TestNodesAtOnce: writes of the same shard at the same time lose nothing.
func TestNodesAtOnce(t *testing.T) {
	j := openJournal(t, t.TempDir())
	nodes := make([]*Catalog, 4)
	var all sync.WaitGroup
	for i := range nodes {
		nodes[i] = openCatalog(t, j)
		all.Go(func() {
			for n := range 20 {
				nodes[i].Learn(published("", fmt.Sprintf("n%d/%d", i, n)))
				if err := nodes[i].saveAll(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, c := range nodes {
		for c.dirtyShards() > 0 {
			if err := c.saveAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := openCatalog(t, j).Stats().Learnt; n != 80 {
		t.Errorf("%d types are stored", n)
	}
}

// broken is a bucket that can be made to fail.
type broken struct {
	jetstream.KeyValue
	err error
}

func (b *broken) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.KeyValue.Get(ctx, key)
}

func TestStorageFails(t *testing.T) {
	j := openJournal(t, t.TempDir())
	var kv *broken
	c, err := Open(t.Context(), Config{State: func(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
		real, err := j.State(ctx, bucket)
		kv = &broken{KeyValue: real}
		return kv, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.cancel() // nothing in the background here
	<-c.done
	c.Learn(published("", "a/b"))
	kv.err = errors.New("the disk is full")
	if err := c.saveAll(t.Context()); err == nil {
		t.Error("nobody was told")
	}
	if err := c.Close(t.Context()); err == nil {
		t.Error("nobody was told at the end")
	}
	kv.err = nil
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if openCatalog(t, j).Stats().Learnt != 1 {
		t.Error("it was not tried again")
	}
	_, err = Open(t.Context(), Config{State: func(context.Context, string) (jetstream.KeyValue, error) { return nil, errors.New("no") }})
	if err == nil || !strings.Contains(err.Error(), "open the catalogue") {
		t.Error(err)
	}
}

// TestUnreadableShard: it is learnt again, and does not keep the hub from starting.
func TestUnreadableShard(t *testing.T) {
	j := openJournal(t, t.TempDir())
	kv, err := j.State(t.Context(), Bucket)
	if err != nil {
		t.Fatal(err)
	}
	shard := place{"", "a/b"}.shard()
	for _, value := range []string{"no JSON", `{"version":2}`, `{"version":1,"types":[{"type":"a/b","first":1,"last":0},{"type":"a*","first":1,"last":1},
		{"type":"a/b","namespace":"/x","first":1,"last":1},{"type":"other/shard","first":1,"last":1}]}`} {
		if _, err := kv.Put(t.Context(), shardKey(shard), []byte(value)); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		c, err := Open(t.Context(), Config{State: j.State, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if c.Stats().Learnt != 0 || strings.Contains(log.String(), "cannot be read") == strings.Contains(value, "types") {
			t.Errorf("%s: %+v %s", value, c.Stats(), log.String())
		}
		c.Learn(published("", "a/b"))
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if openCatalog(t, j).Stats().Learnt != 1 {
			t.Errorf("%s was not replaced", value)
		}
	}
}

func TestForgottenIsForgottenInTheStorage(t *testing.T) {
	j := openJournal(t, t.TempDir())
	c := openCatalog(t, j)
	c.Learn(published("", "a/b"))
	if err := c.saveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.forget(time.Now().Add(forgetAfter + time.Hour))
	if err := c.saveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := openCatalog(t, j).Stats().Learnt; n != 0 {
		t.Errorf("%d types are stored", n)
	}
}

func FuzzStored(f *testing.F) {
	f.Add([]byte(`{"version":1,"types":[{"namespace":"ns1/","type":"a/b","source":"app://a","first":1,"last":2,"events":3,"keys":[{"key":"k","kinds":255}],"content_types":["a/b"]}]}`))
	f.Add([]byte(`{"version":1,"types":[null,{}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		types, err := decodeStored(b)
		if err != nil {
			return
		}
		c := bare()
		c.mu.Lock()
		for i := range types {
			c.takeIn(&types[i])
		}
		c.mu.Unlock()
		all, _ := c.List(Query{Sees: everywhere, Limit: 1 << 20, Origin: Learnt})
		for _, one := range all {
			if found, ok := c.Lookup(one.Name, everywhere); !ok || !json.Valid(found.Example) {
				t.Errorf("%q: %s", one.Name, found.Example)
			}
		}
		c.forget(time.Unix(1<<61, 0))
		if c.room.bytes != 0 {
			t.Errorf("%d bytes are left", c.room.bytes)
		}
	})
}

// memory is a bucket in memory.
type memory struct {
	jetstream.KeyValue
	mu       sync.Mutex
	values   map[string]memoryEntry
	revision uint64
}

type memoryEntry struct {
	jetstream.KeyValueEntry
	value    []byte
	revision uint64
}

func (e memoryEntry) Value() []byte    { return e.value }
func (e memoryEntry) Revision() uint64 { return e.revision }

func (m *memory) Get(_ context.Context, key string) (jetstream.KeyValueEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.values[key]
	if !ok {
		return nil, jetstream.ErrKeyNotFound
	}
	return e, nil
}

func (m *memory) Create(ctx context.Context, key string, value []byte, _ ...jetstream.KVCreateOpt) (uint64, error) {
	return m.Update(ctx, key, value, 0)
}

func (m *memory) Update(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values[key].revision != revision {
		return 0, jetstream.ErrKeyExists
	}
	m.revision++
	m.values[key] = memoryEntry{value: value, revision: m.revision}
	return m.revision, nil
}

func (m *memory) writes() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revision
}

// TestBackground: what happens by itself, and when.
func TestBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := &memory{values: make(map[string]memoryEntry)}
		open := func() *Catalog {
			c, err := Open(t.Context(), Config{State: func(context.Context, string) (jetstream.KeyValue, error) { return bucket, nil }})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		wait := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		a, b := open(), open()
		a.Learn(published("", "a/b"))
		began := time.Now()
		if wait(saveEvery + 2*time.Second); bucket.writes() != 1 {
			t.Errorf("after some seconds it was written %d times", bucket.writes())
		}
		if wait(readEvery); lookup(b, "a/b").Seen == nil {
			t.Error("the other node has not heard of it within a minute")
		}
		a.Learn(published("", "a/b"))
		if wait(time.Minute); bucket.writes() != 1 {
			t.Error("that a known type was seen again was written at once")
		}
		if wait(countEvery); bucket.writes() != 2 {
			t.Errorf("after a while it was written %d times", bucket.writes())
		}
		if s := lookup(a, "a/b").Seen; s.Events != 2 || s.First.After(began) || s.Last.Sub(s.First) != time.Minute {
			t.Errorf("%+v", s)
		}
		for _, c := range []*Catalog{a, b} {
			c.mu.RLock()
			c.learnt[place{"", "a/b"}].last.Store(time.Now().Add(-forgetAfter).Unix())
			c.mu.RUnlock()
		}
		if wait(forgetEvery + time.Minute); a.Stats().Learnt+b.Stats().Learnt != 0 {
			t.Error("it was never forgotten")
		}
		revision := bucket.writes()
		if err := errors.Join(a.Close(t.Context()), b.Close(t.Context())); err != nil || bucket.writes() != revision {
			t.Error("the end had something to write:", err)
		}
	})
}
