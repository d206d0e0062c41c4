package alerting

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/journal"
)

const (
	// bucket keeps how far the rules are, and, as an object, what their windows know if that is
	// large.
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
	object  string // that the entry names; empty: none
	number  uint64 // of the next object
}

type storedRecord struct {
	Version int    `json:"version"`
	At      string `json:"at"`
	// Memory is what windows and throttles know, compressed, or Object the name of the object that
	// has it.
	Memory []byte `json:"memory,omitempty"`
	Object string `json:"object,omitempty"`
	Number uint64 `json:"number,omitempty"`
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
	r.object, r.number = s.Object, s.Number
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
		if memory, err = unpack(packed); err != nil {
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
		r.number++ // never the same name again, whatever becomes of this attempt
		s.Object = fmt.Sprintf("memory-%d", r.number)
		if _, err := objects.PutBytes(ctx, s.Object, packed); err != nil {
			return err
		}
	}
	s.Number = r.number
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
	before := r.object
	r.object = s.Object
	if before != "" {
		// Nobody needs it any more.
		if objects, err := r.journal.Objects(ctx, bucket); err == nil {
			_ = objects.Delete(ctx, before)
		}
	}
	return nil
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

func unpack(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	memory, err := io.ReadAll(io.LimitReader(r, maxMemoryBytes+1))
	if err == nil && len(memory) > maxMemoryBytes {
		err = errors.New("it is too large")
	}
	return memory, err
}

// savePause is the pause behind a store that took so long.
func savePause(took time.Duration) time.Duration {
	return min(max(saveShare*took, saveLeast), saveMost)
}
