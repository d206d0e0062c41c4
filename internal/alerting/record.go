package alerting

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/journal"
)

const (
	// bucket keeps how far the rules are, and the files of the last ones that were right; what their
	// windows know, and the files, as objects if they are large.
	bucket = "tocsin-rules"
	// recordKey is the entry in it.
	recordKey = "cursor"
	// recordVersion is its layout.
	recordVersion = 1
	// inlineBytes is how large the memory of windows may be to be in the entry itself.
	inlineBytes = 256 << 10
	// maxMemoryBytes bounds what is read back.
	maxMemoryBytes = 512 << 20
	// saveLeast and saveMost bound the pause between two stores, which is saveShare times as long
	// as a store takes. What was judged since the last one is judged again after a crash.
	saveLeast = 200 * time.Millisecond
	saveMost  = 30 * time.Second
	saveShare = 20
	// saveTimeout bounds one store.
	saveTimeout = 10 * time.Second
)

// errRecord means that what is stored was not understood, which waiting does not change.
var errRecord = errors.New("the stored progress of the rules is not one of this program")

// record is the stored progress: where the cursor is, and what windows and throttles knew there.
// Both change together, because the entry that has the one says where the other is.
type record struct {
	journal Journal
	objects []string // that the entry may name: one, and those of attempts whose end is not known
}

type storedRecord struct {
	Version int    `json:"version"`
	At      string `json:"at"`
	// Memory is what windows and throttles know, compressed, or Object the name of the object that
	// has it.
	Memory []byte `json:"memory,omitempty"`
	Object string `json:"object,omitempty"`
}

// load reads the record; known is false if there is none.
func (r *record) load(ctx context.Context) (at journal.Position, memory []byte, known bool, err error) {
	kv, err := r.journal.State(ctx, bucket)
	if err != nil {
		return at, nil, false, err
	}
	entry, err := kv.Get(ctx, recordKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return at, nil, false, nil
	}
	if err != nil {
		return at, nil, false, err
	}
	var s storedRecord
	if err := json.Unmarshal(entry.Value(), &s); err != nil {
		return at, nil, false, fmt.Errorf("%w: %w", errRecord, err)
	}
	if s.Version != recordVersion {
		return at, nil, false, fmt.Errorf("%w: it has version %d, this program knows %d; use the program that wrote it", errRecord, s.Version, recordVersion)
	}
	if s.At != "" {
		if at, err = journal.ParsePosition(s.At); err != nil {
			return at, nil, false, fmt.Errorf("%w: %w", errRecord, err)
		}
	}
	r.objects = nil
	if s.Object != "" {
		r.objects = []string{s.Object}
	}
	packed := s.Memory
	if s.Object != "" {
		objects, err := r.journal.Objects(ctx, bucket)
		if err != nil {
			return at, nil, false, err
		}
		packed, err = objects.GetBytes(ctx, s.Object)
		if errors.Is(err, jetstream.ErrObjectNotFound) {
			return at, nil, false, fmt.Errorf("%w: %w", errRecord, err)
		}
		if err != nil {
			return at, nil, false, err
		}
	}
	if len(packed) > 0 {
		if memory, err = unpack(packed, maxMemoryBytes); err != nil {
			return at, nil, false, fmt.Errorf("%w: %w", errRecord, err)
		}
	}
	return at, memory, true, nil
}

// save stores a place in the journal and what windows know there, durably.
func (r *record) save(ctx context.Context, at journal.Position, memory []byte) error {
	s := storedRecord{Version: recordVersion}
	if !at.IsZero() {
		s.At = at.String()
	}
	if packed := pack(memory); len(packed) <= inlineBytes {
		s.Memory = packed
	} else {
		objects, err := r.journal.Objects(ctx, bucket)
		if err != nil {
			return err
		}
		s.Object = r.free()
		r.objects = append(r.objects, s.Object)
		if _, err := objects.PutBytes(ctx, s.Object, packed); err != nil {
			return err
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	kv, err := r.journal.State(ctx, bucket)
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, recordKey, b); err != nil {
		return err
	}
	r.forget(ctx, s.Object)
	return nil
}

// free returns the name of an object that the entry does not name, whatever became of attempts.
// Names are used again, since something of each stays in the journal.
func (r *record) free() string {
	for n := 0; ; n++ {
		if name := fmt.Sprintf("memory-%d", n); !slices.Contains(r.objects, name) {
			return name
		}
	}
}

// forget removes the objects that the entry does not name, which nobody needs any more.
func (r *record) forget(ctx context.Context, but string) {
	before := r.objects
	r.objects = nil
	for _, name := range before {
		if name == but {
			r.objects = append(r.objects, name)
		} else if objects, err := r.journal.Objects(ctx, bucket); err == nil {
			_ = objects.Delete(ctx, name)
		}
	}
}

func pack(memory []byte) []byte {
	if len(memory) == 0 {
		return nil
	}
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	_, _ = w.Write(memory) // to memory
	_ = w.Close()
	return b.Bytes()
}

func unpack(packed []byte, most int64) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = errors.New("it is too large")
	}
	return b, err
}

// savePause is the pause behind a store that took so long.
func savePause(took time.Duration) time.Duration {
	return min(max(saveShare*took, saveLeast), saveMost)
}
