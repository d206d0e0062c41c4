package vaultaudit

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// sourceBucket is the bucket that keeps how far sources are, and the object store
// that keeps their states.
const sourceBucket = "tocsin-sources"

// recordVersion is the layout of a record.
const recordVersion = 2

// record says how far a source is. It is stored as JSON under "vaultaudit.<name>".
type record struct {
	Version int `json:"version"`
	// Inputs say where to read on, by name. Those that are not configured any more are
	// kept, in case that they come back.
	Inputs map[string]*inputRecord `json:"inputs"`
	// Begin is the position behind which the first event of the source is.
	Begin string `json:"begin"`
	// Snapshot is the hash of the stored state and Through the position up to which
	// that state knows all events, when it has that hash.
	Snapshot string `json:"snapshot,omitempty"`
	Through  string `json:"through,omitempty"`
	// Read are files that were read and are not followed any more.
	Read []tail.Identity `json:"read,omitempty"`
}

// inputRecord says where to read on in an input: the journal has the events of all lines
// before that, and up to the position Journal none of a line behind it.
type inputRecord struct {
	Journal string                     `json:"journal"`
	Files   map[string]tail.Checkpoint `json:"files,omitempty"`
	Inbox   *inbox.Position            `json:"inbox,omitempty"`
}

// maxForgotten bounds how many inputs are kept that are not configured.
const maxForgotten = 100

// firstRecord is a record of version 1, when a source had one input with one file.
type firstRecord struct {
	File     tail.Checkpoint `json:"file"`
	Journal  string          `json:"journal"`
	Begin    string          `json:"begin"`
	Snapshot string          `json:"snapshot"`
	Through  string          `json:"through"`
}

// parseRecord reads a record of any version. What the first version said of its one
// file is taken for the input and path given.
func parseRecord(b []byte, name, path string) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("stored position: %w", err)
	}
	switch r.Version {
	case recordVersion:
		return r, nil
	case 1:
		var f firstRecord
		if err := json.Unmarshal(b, &f); err != nil {
			return record{}, fmt.Errorf("stored position: %w", err)
		}
		in := &inputRecord{Journal: f.Journal, Files: map[string]tail.Checkpoint{}}
		if !f.File.IsZero() {
			in.Files[path] = f.File
		}
		return record{
			Version: recordVersion, Begin: f.Begin, Snapshot: f.Snapshot, Through: f.Through,
			Inputs: map[string]*inputRecord{name: in},
		}, nil
	}
	return record{}, fmt.Errorf("stored position has version %d, this program knows %d: use the program that wrote it", r.Version, recordVersion)
}

// heir returns the input that goes on where a record of version 1 ended, and its file:
// the one that is called like the server, or else the first that follows a file.
func (s *Source) heir() (name, path string) {
	for _, in := range s.inputs {
		if len(in.literals) == 0 || in.device != "" && name != "" {
			continue
		}
		name, path = in.Name, in.literals[0]
		if in.device == "" {
			break
		}
	}
	if name == "" {
		name = s.config.Name
	}
	return name, path
}

// load reads the record. It returns false when there is none.
func (s *Source) load(ctx context.Context, r *record) (bool, error) {
	kv, err := s.journal.State(ctx, sourceBucket)
	if err != nil {
		return false, err
	}
	entry, err := kv.Get(ctx, recordKey(s.config.Name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	name, path := s.heir()
	*r, err = parseRecord(entry.Value(), name, path)
	return err == nil, err
}

// loadState reads the stored state, nil when there is none.
func (s *Source) loadState(ctx context.Context) ([]byte, error) {
	store, err := s.journal.Objects(ctx, sourceBucket)
	if err != nil {
		return nil, err
	}
	b, err := store.GetBytes(ctx, recordKey(s.config.Name))
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, nil
	}
	return b, err
}

// recordKey is the key of the record of a source and the name of its state.
func recordKey(name string) string {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return "vaultaudit.x." + hex.EncodeToString([]byte(name))
		}
	}
	return "vaultaudit." + name
}
