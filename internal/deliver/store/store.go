// Package store keeps what deliveries must know after a restart in the journal of the hub:
// the state of each sink under a key of one bucket, and its dead letters in a list of its
// own. Everything is written through to the disk before a method returns, and is part of
// what a copy of the data directory has.
//
// A list takes nothing until its first letter. Letters have ids that are those of the
// list, so that paging, counting, removing one and purging cost the same for ten and for
// a million. To find the letter of a position, adding keeps an index in memory, about 26
// bytes for each letter, which is made from the list when the first letter is added.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/position"
)

// Bucket is where the states of sinks are.
const Bucket = "tocsin-sink-states"

// ErrVersion means that what is stored is of a version that this program does not know.
var ErrVersion = errors.New("written by another version of tocsin")

// callTimeout bounds one call of the bucket.
const callTimeout = 10 * time.Second

// Options say of which sink a [Store] is. All are required.
type Options struct {
	Journal *journal.Journal
	// Sink is its name: lower-case letters, digits, - and _.
	Sink string
	// MaxBytes is how much its dead letters may take of the disk.
	MaxBytes int64
}

// Store is the [deliver.Store] of one sink. It is safe for concurrent use, by one process
// at a time.
type Store struct {
	sink    string
	journal *journal.Journal
	most    uint64
	list    *journal.List
	kv      atomic.Pointer[jetstream.KeyValue] // nil: not opened yet

	adding sync.Mutex // one Add at a time
	index  index
}

var _ deliver.Store = (*Store)(nil)

// New returns the store of a sink. It stores nothing until it is told to.
func New(o Options) *Store {
	return &Store{
		sink: o.Sink, journal: o.Journal, most: uint64(max(o.MaxBytes, 0)),
		list: o.Journal.List("dead_" + o.Sink),
	}
}

const keyPrefix = "sink/"

func (s *Store) key() string { return keyPrefix + s.sink }

func (s *Store) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	if kv := s.kv.Load(); kv != nil {
		return *kv, nil
	}
	kv, err := s.journal.State(ctx, Bucket)
	if err == nil {
		s.kv.Store(&kv)
	}
	return kv, err
}

// stateVersion is that of storedState. A version that older programs would misread is a
// new one.
const stateVersion = 1

// storedState is a [deliver.State] as it is stored.
type storedState struct {
	Version  int            `json:"version"`
	Through  string         `json:"through,omitempty"`
	Held     *storedHeld    `json:"held,omitempty"`
	Replays  []storedReplay `json:"replays,omitempty"`
	Redrives []storedDrive  `json:"redrives,omitempty"`
}

type storedHeld struct {
	By         string    `json:"by"`
	Reason     string    `json:"reason,omitempty"`
	Since      time.Time `json:"since"`
	ByEndpoint bool      `json:"by_endpoint,omitempty"`
}

type storedReplay struct {
	ID       string    `json:"id"`
	Begun    time.Time `json:"begun"`
	Through  string    `json:"through,omitempty"`
	Until    string    `json:"until,omitempty"`
	Sent     uint64    `json:"sent,omitempty"`
	SetAside uint64    `json:"set_aside,omitempty"`
	Missed   uint64    `json:"missed,omitempty"`
}

type storedDrive struct {
	ID      string    `json:"id"`
	Begun   time.Time `json:"begun"`
	Next    uint64    `json:"next"`
	Last    uint64    `json:"last"`
	IDs     []uint64  `json:"ids,omitempty"`
	Sent    uint64    `json:"sent,omitempty"`
	Refused uint64    `json:"refused,omitempty"`
}

// Load returns the state saved last, false when there is none. The error wraps
// [ErrVersion] where that is the reason.
func (s *Store) Load(ctx context.Context) (deliver.State, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	kv, err := s.bucket(ctx)
	if err != nil {
		return deliver.State{}, false, s.fail("load the state", err)
	}
	entry, err := kv.Get(ctx, s.key())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return deliver.State{}, false, nil
	}
	if err != nil {
		return deliver.State{}, false, s.fail("load the state", err)
	}
	state, err := decodeState(entry.Value())
	if err != nil {
		return deliver.State{}, false, s.fail("load the state", err)
	}
	return state, true, nil
}

// Save makes st the state that Load returns. After an error nobody knows which one that is.
func (s *Store) Save(ctx context.Context, st deliver.State) error {
	value, err := encodeState(st)
	if err != nil {
		return s.fail("save the state", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	kv, err := s.bucket(ctx)
	if err == nil {
		_, err = kv.Put(ctx, s.key(), value)
	}
	if err != nil {
		return s.fail("save the state", err)
	}
	return nil
}

// Drop removes the state and all dead letters.
func (s *Store) Drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	// As long as there is a state, others know that something is left.
	s.adding.Lock()
	defer s.adding.Unlock()
	s.index = index{}
	if err := s.list.Drop(ctx); err != nil {
		return s.fail("remove the dead letters", err)
	}
	kv, err := s.bucket(ctx)
	if err == nil {
		err = kv.Purge(ctx, s.key(), jetstream.PurgeTTL(markerTTL))
	}
	if err != nil {
		return s.fail("remove the state", err)
	}
	return nil
}

// markerTTL is how long the server keeps the mark that a key was removed.
const markerTTL = time.Minute

func (s *Store) fail(what string, err error) error {
	return fmt.Errorf("%s of sink %s: %w", what, s.sink, err)
}

func encodeState(st deliver.State) ([]byte, error) {
	stored := storedState{Version: stateVersion, Through: st.Through.String()}
	if st.Held != (deliver.Held{}) {
		stored.Held = &storedHeld{st.Held.By, st.Held.Reason, st.Held.Since, st.Held.ByEndpoint}
	}
	for _, r := range st.Replays {
		stored.Replays = append(stored.Replays, storedReplay{r.ID, r.Begun, r.Through.String(), r.Until.String(), r.Sent, r.SetAside, r.Missed})
	}
	for _, r := range st.Redrives {
		stored.Redrives = append(stored.Redrives, storedDrive{r.ID, r.Begun, r.Next, r.Last, r.IDs, r.Sent, r.Refused})
	}
	return json.Marshal(stored)
}

func decodeState(b []byte) (deliver.State, error) {
	var stored storedState
	if err := checkVersion(b, stateVersion); err != nil {
		return deliver.State{}, err
	}
	if err := json.Unmarshal(b, &stored); err != nil {
		return deliver.State{}, err
	}
	var failed error
	parse := func(text string) position.Position {
		p, err := position.Parse(text)
		if err != nil && failed == nil {
			failed = err
		}
		return p
	}
	st := deliver.State{Through: parse(stored.Through)}
	if h := stored.Held; h != nil {
		st.Held = deliver.Held{By: h.By, Reason: h.Reason, Since: h.Since, ByEndpoint: h.ByEndpoint}
	}
	for _, r := range stored.Replays {
		st.Replays = append(st.Replays, deliver.ReplayState{ID: r.ID, Begun: r.Begun, Through: parse(r.Through), Until: parse(r.Until), Sent: r.Sent, SetAside: r.SetAside, Missed: r.Missed})
	}
	for _, r := range stored.Redrives {
		st.Redrives = append(st.Redrives, deliver.RedriveState{ID: r.ID, Begun: r.Begun, Next: r.Next, Last: r.Last, IDs: r.IDs, Sent: r.Sent, Refused: r.Refused})
	}
	return st, failed
}

// checkVersion says whether JSON is of a version from 1 to newest.
func checkVersion(b []byte, newest int) error {
	var stored struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &stored); err != nil {
		return fmt.Errorf("%w: it is not what this one stores: %w", ErrVersion, err)
	}
	if stored.Version < 1 || stored.Version > newest {
		return fmt.Errorf("%w: it has version %d, this one knows up to %d", ErrVersion, stored.Version, newest)
	}
	return nil
}

// Names returns the sinks that have a state in the journal, in no order.
func Names(ctx context.Context, j *journal.Journal) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	kv, err := j.State(ctx, Bucket)
	if err != nil {
		return nil, err
	}
	keys, err := kv.ListKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the states of sinks: %w", err)
	}
	defer func() { _ = keys.Stop() }()
	var names []string
	for key := range keys.Keys() {
		if name, ok := strings.CutPrefix(key, keyPrefix); ok {
			names = append(names, name)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list the states of sinks: %w", err)
	}
	return names, nil
}
