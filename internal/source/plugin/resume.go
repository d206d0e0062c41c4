package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// bucket has the places of all sources.
const bucket = "tocsin-plugin-sources"

// saveInterval is the shortest time between two stores of the place.
const saveInterval = 500 * time.Millisecond

// saveTimeout bounds a store when all is to end.
const saveTimeout = 2 * time.Second

// place is up to where a stream is durable.
type place struct {
	Plugin string `json:"plugin"` // the name of the plugin whose positions they are
	// Stream names the stream since its beginning. Events are numbered from there, so that those
	// that are repeated behind a position get their numbers, and with them their ids, again.
	Stream   string `json:"stream"`
	Events   uint64 `json:"events"`
	Position []byte `json:"position"` // nil: none yet
}

// stateKey is a key that JetStream allows.
func stateKey(name string) string { return "source/" + strings.ReplaceAll(name, ".", "=2e") }

// load returns the place to go on from. For a plugin that can resume, the name of a new stream is
// stored before anything is read of it.
func (s *Source) load(ctx context.Context, d *sourceplugin.Description) (place, error) {
	fresh := place{Plugin: d.Name, Stream: event.NewID()}
	if !d.Capabilities.Resume {
		return fresh, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.StartTimeout)
	defer cancel()
	kv, err := s.deps.Journal.State(ctx, bucket)
	if err != nil {
		return place{}, err
	}
	entry, err := kv.Get(ctx, stateKey(s.config.Name))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
	case err != nil:
		return place{}, err
	default:
		var p place
		if err := json.Unmarshal(entry.Value(), &p); err != nil || p.Stream == "" {
			return place{}, fmt.Errorf("what is stored in %s under %s is not understood; was it written by a newer version?", bucket, stateKey(s.config.Name))
		}
		if p.Plugin == d.Name {
			return p, nil
		}
		s.log.Warn("The resume position is that of another plugin and is not used.", "of", clean(p.Plugin, maxName), "plugin", clean(d.Name, maxName))
	}
	return fresh, s.store(ctx, kv, fresh)
}

func (s *Source) store(ctx context.Context, kv jetstream.KeyValue, p place) error {
	b, err := json.Marshal(p)
	if err == nil {
		_, err = kv.Put(ctx, stateKey(s.config.Name), b)
	}
	return err
}

// saver stores the place behind what is durable and acknowledges it to the plugin, as often as
// the interval allows; the newest counts.
type saver struct {
	*Source
	r      *run
	wake   chan struct{}
	over   chan struct{}
	failed chan<- error // is told when the plugin does not answer

	mu          sync.Mutex
	next        *place
	acknowledge bool // at the end
}

func newSaver(r *run, p *pump, failed chan<- error) *saver {
	v := &saver{Source: r.Source, r: r, failed: failed, wake: make(chan struct{}, 1), over: make(chan struct{}), acknowledge: true}
	p.durable = v.reached
	return v
}

// reached is told of a place up to which everything is durable.
func (v *saver) reached(position []byte, events uint64) {
	v.mu.Lock()
	v.next = &place{Plugin: v.r.about.Name, Stream: v.r.place.Stream, Events: events, Position: position}
	v.mu.Unlock()
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// finish has what is left stored, and run return.
func (v *saver) finish(acknowledge bool) {
	v.mu.Lock()
	v.acknowledge = v.acknowledge && acknowledge
	v.mu.Unlock()
	close(v.over)
}

func (v *saver) run(life context.Context) {
	ctx, cancel := context.WithCancel(life)
	defer cancel()
	go func() { // what is under way has a moment, too
		select {
		case <-v.over:
			if sleep(ctx, saveTimeout) {
				cancel()
			}
		case <-ctx.Done():
		}
	}()
	for {
		select {
		case <-v.wake:
		case <-v.over:
			ctx, cancel := context.WithTimeout(life, saveTimeout)
			defer cancel()
			v.save(ctx)
			return
		}
		v.save(ctx)
		select {
		case <-time.After(saveInterval):
		case <-v.over:
		}
	}
}

func (v *saver) save(ctx context.Context) {
	v.mu.Lock()
	next, acknowledge := v.next, v.acknowledge
	v.next = nil
	v.mu.Unlock()
	if next == nil {
		return
	}
	storing, stop := context.WithTimeout(ctx, v.config.CallTimeout)
	defer stop()
	kv, err := v.deps.Journal.State(storing, bucket)
	if err == nil {
		err = v.store(storing, kv, *next)
	}
	if err != nil {
		v.mu.Lock()
		if v.next == nil { // a newer one is as good
			v.next = next
		}
		v.mu.Unlock()
		select {
		case v.wake <- struct{}{}:
		default:
		}
		if skipped, ok := v.unsaved.Allow(); ok {
			v.log.Warn("The resume position of a plugin cannot be stored; after a crash some events would be read again.", "error", err, "skipped", skipped)
		}
		return
	}
	v.Source.mu.Lock()
	v.status.Saved = time.Now()
	v.Source.mu.Unlock()
	if !acknowledge {
		return
	}
	telling, cancel := context.WithTimeout(ctx, v.config.CallTimeout)
	defer cancel()
	_, err = await(ctx, v.Source, v.config.CallTimeout, cancel, func() (struct{}, error) {
		return struct{}{}, v.r.stream.Acknowledge(telling, next.Position)
	}, nil)
	switch {
	case err == nil, errors.Is(err, sourceplugin.ErrNotSupported):
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, sourceplugin.ErrTimeout), ctx.Err() != nil:
		v.mu.Lock()
		v.acknowledge = false // at the end
		v.mu.Unlock()
		select {
		case v.failed <- failure(Hanging, "it has not answered for %v when it was told what is durable", v.config.CallTimeout):
		default:
		}
	default:
		if skipped, ok := v.unacknowledged.Allow(); ok {
			v.log.Warn("A plugin does not take an acknowledgement.", "error", clean(v.redact(err.Error()), maxReason), "skipped", skipped)
		}
	}
}
