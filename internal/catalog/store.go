package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/event"
)

const (
	// Bucket is where what is learnt is kept, in parts, so that a new type does not have
	// everything written anew.
	Bucket = "tocsin-event-types"
	shards = 64

	saveEvery   = 5 * time.Second  // what is new
	readEvery   = time.Minute      // what other nodes have learnt
	countEvery  = 10 * time.Minute // how often is it written that known types were seen again
	forgetEvery = time.Hour
	// storeTimeout bounds one request to the bucket.
	storeTimeout = 10 * time.Second
)

// store is where the shards are kept.
type store struct {
	kv        jetstream.KeyValue
	dirty     [shards]atomic.Bool // to be written
	revisions [shards]uint64      // the newest that was read or written; of the keeper only
}

func (s *store) open(ctx context.Context, state func(context.Context, string) (jetstream.KeyValue, error)) (err error) {
	if s.kv, err = state(ctx, Bucket); err != nil {
		return fmt.Errorf("open the catalogue of event types: %w", err)
	}
	return nil
}

func (s *store) touch(shard int) { s.dirty[shard].Store(true) }

func shardKey(shard int) string { return fmt.Sprintf("learnt.%02d", shard) }

// stored is the value of a shard.
type stored struct {
	Version int          `json:"version"` // 1
	Types   []storedType `json:"types"`
}

type storedType struct {
	Namespace    string      `json:"namespace,omitempty"`
	Type         string      `json:"type"`
	Source       string      `json:"source,omitempty"`
	First        int64       `json:"first"` // Unix seconds, as Last
	Last         int64       `json:"last"`
	Events       uint64      `json:"events"`
	Beyond       uint64      `json:"beyond,omitempty"`
	NoData       bool        `json:"no_data,omitempty"`
	Keys         []storedKey `json:"keys,omitempty"`
	ContentTypes []string    `json:"content_types,omitempty"`
}

type storedKey struct {
	Name  string `json:"key"`
	Kinds kinds  `json:"kinds"`
}

const storedVersion = 1

func decodeStored(b []byte) ([]storedType, error) {
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	if s.Version != storedVersion {
		return nil, fmt.Errorf("version %d, which this program does not know", s.Version)
	}
	return s.Types, nil
}

// load reads all shards.
func (c *Catalog) load(ctx context.Context) error {
	for shard := range shards {
		if _, err := c.read(ctx, shard); err != nil {
			return fmt.Errorf("read the catalogue of event types: %w", err)
		}
	}
	c.forget(time.Now())
	return nil
}

// read takes in a shard, if it has changed, and returns its revision, 0 if there is none.
func (c *Catalog) read(ctx context.Context, shard int) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	entry, err := c.store.kv.Get(ctx, shardKey(shard))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", shardKey(shard), err)
	}
	if entry.Revision() == c.store.revisions[shard] {
		return entry.Revision(), nil
	}
	types, err := decodeStored(entry.Value())
	if err != nil {
		c.log.Warn("A part of what was learnt about event types cannot be read; it will be learnt again.", "key", shardKey(shard), "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range types {
		if (place{types[i].Namespace, types[i].Type}).shard() == shard {
			c.takeIn(&types[i])
		}
	}
	c.store.revisions[shard] = entry.Revision()
	return entry.Revision(), nil
}

// takeIn merges what is stored about a type with what is known. c.mu is held.
func (c *Catalog) takeIn(t *storedType) {
	if event.CheckType(t.Type) != nil || t.Namespace != event.CanonicalNamespace(t.Namespace) || t.First <= 0 || t.Last < t.First {
		return
	}
	s := c.add(place{t.Namespace, t.Type}, t.Source, t.First)
	if s == nil {
		return
	}
	if t.First < s.first && len(t.Source) <= len(s.source) { // the budget has room for no more
		s.first, s.source = t.First, t.Source
	}
	s.first = min(s.first, t.First)
	for last := s.last.Load(); t.Last > last && !s.last.CompareAndSwap(last, t.Last); last = s.last.Load() {
	}
	if t.Events > s.stored {
		s.events.Add(t.Events - s.stored) // by others
	}
	s.stored = t.Events
	for beyond := s.beyond.Load(); t.Beyond > beyond && !s.beyond.CompareAndSwap(beyond, t.Beyond); beyond = s.beyond.Load() {
	}
	old := s.shape.Load()
	merged := &shape{keys: slices.Clone(old.keys), contentTypes: slices.Clone(old.contentTypes), noData: old.noData || t.NoData}
	for _, k := range t.Keys {
		if k.Kinds &= 1<<len(kindNames) - 1; k.Kinds != 0 {
			merged.add(shapeKey{k.Name, k.Kinds})
		}
	}
	for _, name := range t.ContentTypes {
		if mayKeep(name, maxKeyBytes) {
			merged.addContentType(name)
		}
	}
	c.reshape(s, merged)
}

// save writes a shard, with what others have written there meanwhile.
func (c *Catalog) save(ctx context.Context, shard int) error {
	c.store.dirty[shard].Store(false) // what comes from now on may not be in it
	revision, err := c.read(ctx, shard)
	if err == nil {
		err = c.write(ctx, shard, revision)
	}
	if err != nil {
		c.store.touch(shard)
	}
	return err
}

func (c *Catalog) write(ctx context.Context, shard int, revision uint64) error {
	var entries []*seen
	c.mu.RLock()
	for p, s := range c.learnt {
		if p.shard() == shard {
			entries = append(entries, s)
		}
	}
	value := stored{Version: storedVersion, Types: make([]storedType, 0, len(entries))}
	for _, s := range entries {
		of := s.shape.Load()
		t := storedType{Namespace: s.namespace, Type: s.name, Source: s.source, First: s.first, Last: s.last.Load(),
			Events: s.events.Load(), Beyond: s.beyond.Load(), NoData: of.noData, ContentTypes: of.contentTypes}
		for _, k := range of.keys {
			t.Keys = append(t.Keys, storedKey{k.name, k.kinds})
		}
		value.Types = append(value.Types, t)
	}
	c.mu.RUnlock()
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // which would make names up to six times as long
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("%s: %w", shardKey(shard), err)
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var err error
	if revision == 0 {
		revision, err = c.store.kv.Create(ctx, shardKey(shard), b.Bytes())
	} else {
		revision, err = c.store.kv.Update(ctx, shardKey(shard), b.Bytes(), revision)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shardKey(shard), err)
	}
	c.store.revisions[shard] = revision
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, s := range entries {
		s.stored = value.Types[i].Events
	}
	return nil
}

// keep runs until ctx ends: it keeps the clock and the storage.
func (c *Catalog) keep(ctx context.Context) {
	defer close(c.done)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	now := time.Now()
	saved, read, counted, forgot := now, now, now, now
	for {
		select {
		case <-ctx.Done():
			return
		case now = <-ticker.C:
		}
		c.tick(now)
		if now.Sub(forgot) >= forgetEvery {
			forgot = now
			c.forget(now)
		}
		if now.Sub(counted) >= countEvery {
			counted = now
			c.touchCounts()
		}
		if now.Sub(read) >= readEvery {
			read = now
			c.report(c.readAll(ctx))
		}
		if now.Sub(saved) >= saveEvery {
			saved = now
			c.report(c.saveAll(ctx))
		}
	}
}

// touchCounts marks what was seen again since it was written.
func (c *Catalog) touchCounts() {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for p, s := range c.learnt {
		if s.events.Load() != s.stored {
			c.store.touch(p.shard())
		}
	}
}

// readAll takes in what other nodes have written. It ends with the first error: then the
// others would fail as well.
func (c *Catalog) readAll(ctx context.Context) error {
	for shard := range shards {
		if _, err := c.read(ctx, shard); err != nil {
			return err
		}
	}
	return nil
}

func (c *Catalog) saveAll(ctx context.Context) error {
	for shard := range shards {
		if !c.store.dirty[shard].Load() {
			continue
		}
		if err := c.save(ctx, shard); err != nil && !isConflict(err) { // which is tried again
			return err
		}
	}
	return nil
}

// isConflict says whether a write failed because another node was faster.
func isConflict(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || err != nil && strings.Contains(err.Error(), "wrong last sequence")
}

func (c *Catalog) report(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	if skipped, ok := c.warned.Allow(); ok {
		c.log.Warn("What was learnt about event types cannot be kept at the moment; trying again.", "error", err, "skipped", skipped)
	}
}

// Close writes what was learnt, until ctx ends. Events are still learnt after it, but not
// kept.
func (c *Catalog) Close(ctx context.Context) error {
	c.cancel()
	<-c.done
	c.touchCounts()
	for range 3 { // another node may be writing too
		if err := c.saveAll(ctx); err != nil {
			return fmt.Errorf("keep what was learnt about event types: %w", err)
		}
	}
	return nil
}
