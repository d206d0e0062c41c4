package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/trace"
)

const (
	// bucket keeps how far exporters are, each as JSON under "exporter.NAME".
	bucket = "tocsin-traces"
	// recordVersion is the layout of a record.
	recordVersion = 1
	// saveLeast and saveMost bound the pause between two stores, which follows from how long
	// they take. What was delivered since the last one is delivered again after a crash.
	saveLeast = 50 * time.Millisecond
	saveMost  = time.Second
	// saveShare is how many times as long as a store the pause behind it is.
	saveShare = 10
	// saveEvery is how often progress is stored when nothing is delivered.
	saveEvery = time.Second
	// saveTimeout bounds one store.
	saveTimeout = 5 * time.Second
)

// errRecord means that what is stored was not understood, which waiting does not change.
var errRecord = errors.New("the stored progress is not one of this program")

// record is the stored progress of an exporter.
type record struct {
	journal Journal
	name    string
	stored  mark
}

type storedRecord struct {
	Version int `json:"version"`
	// Tracer is the progress of the tracer that belongs to the last span delivered.
	Tracer trace.Progress `json:"tracer"`
	// Through is the last event of which all spans are delivered.
	Through string `json:"through"`
}

// load reads the record. It returns false when there is none.
func (r *record) load(ctx context.Context) (mark, bool, error) {
	kv, err := r.journal.State(ctx, bucket)
	if err != nil {
		return mark{}, false, err
	}
	entry, err := kv.Get(ctx, "exporter."+r.name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return mark{}, false, nil
	}
	if err != nil {
		return mark{}, false, err
	}
	var s storedRecord
	if err := json.Unmarshal(entry.Value(), &s); err != nil {
		return mark{}, false, fmt.Errorf("%w: %w", errRecord, err)
	}
	if s.Version != recordVersion {
		return mark{}, false, fmt.Errorf("%w: it has version %d, this program knows %d; use the program that wrote it, or give the exporter another name", errRecord, s.Version, recordVersion)
	}
	through, err := journal.ParsePosition(s.Through)
	if err != nil {
		return mark{}, false, fmt.Errorf("%w: %w", errRecord, err)
	}
	r.stored = mark{s.Tracer, through}
	return r.stored, true, nil
}

// save stores a place in the journal, durably.
func (r *record) save(ctx context.Context, m mark) error {
	b, err := json.Marshal(storedRecord{recordVersion, m.progress, m.through.String()})
	if err != nil {
		return err
	}
	kv, err := r.journal.State(ctx, bucket)
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, "exporter."+r.name, b); err != nil {
		return err
	}
	r.stored = m
	return nil
}

// keep stores the progress and measures the lag until ctx ends: soon after something was
// delivered, and now and then when the journal grew by what makes no spans.
func (d *Delivery) keep(ctx context.Context) {
	ticker := time.NewTicker(saveEvery)
	defer ticker.Stop()
	for {
		d.measure()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-d.progressed:
		}
		begun := time.Now()
		d.save(ctx)
		pause := time.NewTimer(savePause(time.Since(begun)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// savePause is the pause behind a store that took so long.
func savePause(took time.Duration) time.Duration {
	return min(max(saveShare*took, saveLeast), saveMost)
}

// save stores the progress if there is any.
func (d *Delivery) save(ctx context.Context) {
	m := d.order.committed()
	if m == d.record.stored {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	d.noteSaving("store how far the exporter is", d.record.save(ctx, m))
}

// noteSaving keeps for Health whether the progress can be stored.
func (d *Delivery) noteSaving(what string, err error) {
	if err == nil {
		d.saving.Store(nil)
		return
	}
	text := fmt.Sprintf("cannot %s: %v", what, err)
	d.saving.Store(&text)
}
