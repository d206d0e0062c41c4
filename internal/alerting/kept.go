package alerting

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/rule/load"
)

// kept are files of rules that were right when they were loaded: what judges after a start at which
// the files have mistakes. The files that come with the program are among them, as they were.
type kept struct {
	files []load.File
	print [sha256.Size]byte
	since time.Time // they were loaded
}

// fallBack finds other rules than those of the files, which were refused, if those that judge are
// not good enough: because there are none, or because other plugins are known than those that they
// were compiled for. It tries those that judge, and those that were kept; if neither fits all stays
// as it is. The caller has the lock on loading. refused is the fingerprint of the files, nil if
// they cannot be read.
func (a *Alerting) fallBack(known plugins, refused *[sha256.Size]byte) {
	now := a.newest()
	var candidates []kept
	if now != nil {
		if reflect.DeepEqual(now.plugins, known) {
			return
		}
		candidates = append(candidates, kept{now.files, now.print, now.earlier})
	}
	a.mu.Lock()
	earlier := a.kept
	a.mu.Unlock()
	if now == nil || earlier.print != now.print {
		candidates = append(candidates, earlier)
	}
	for _, k := range candidates {
		if k.since.IsZero() && k.files == nil || refused != nil && k.print == *refused {
			continue
		}
		c, mistakes := a.compile(k.files, known)
		if c == nil {
			a.log.Error("The rules from before cannot be used any more.", "loaded", k.since, "problem", mistakes[0], "problems", len(mistakes))
			a.mu.Lock()
			a.status.useless = mistakes[0]
			a.mu.Unlock()
			continue
		}
		c.reason, c.insteadOf, c.earlier = reasonRefused, true, k.since
		a.hand(c)
		return
	}
}

// recall has what was kept before the start judge if the files have mistakes.
func (a *Alerting) recall(ctx context.Context) error {
	err := a.retry(ctx, "read back the rules from before", func(ctx context.Context) error {
		k, err := a.state.kept(ctx)
		if errors.Is(err, errRecord) || err != nil && ctx.Err() == nil && a.newest() != nil { // it is not needed now
			a.log.Error("The rules from before cannot be read back.", "error", err)
			err = nil
		}
		if err == nil {
			a.mu.Lock()
			a.kept = k
			a.mu.Unlock()
		}
		return err
	})
	if err != nil {
		return err
	}
	a.loading.Lock()
	defer a.loading.Unlock()
	if a.newest() == nil {
		a.fallBack(a.plugins(), nil)
	}
	return nil
}

// keep has the files of the rules that judge stored, for a start at which there are mistakes in
// them. Those of rules that still wait for plugins may turn out to have some.
func (a *Alerting) keep() {
	c := a.active
	if !c.earlier.IsZero() || len(c.set.Waiting()) > 0 && !a.gaveUp {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.print != a.kept.print {
		a.kept = kept{c.files, c.print, a.o.now()}
		a.unkept, a.dirty = true, true
	}
}

const (
	// keptKey is the entry of the bucket that has the files of rules that were right, or the name of
	// the object that has them.
	keptKey = "rules"
	// keptVersion is its layout.
	keptVersion = 1
	// maxKeptBytes bounds what is read back.
	maxKeptBytes = 2*load.MaxBytes + load.MaxBytes/2
)

type storedFiles struct {
	Version int       `json:"version"`
	Since   time.Time `json:"since"`
	// SHA256 is the fingerprint of the files.
	SHA256 string `json:"sha256"`
	// Files are the files, compressed, or Object the name of the object that has them.
	Files  []byte `json:"files,omitempty"`
	Object string `json:"object,omitempty"`
}

type storedFile struct {
	Name    string `json:"name"`
	Content []byte `json:"content"`
}

// objectsOfFiles are the names of the objects, of which the entry names one at most: the other one
// is for the next files. Names are used again, since something of each stays in the journal.
var objectsOfFiles = [2]string{"rules-0", "rules-1"}

// keep stores files durably, in the place of those before.
func (r *record) keep(ctx context.Context, k kept) error {
	kv, err := r.journal.State(ctx, bucket)
	if err != nil {
		return err
	}
	var before storedFiles
	switch entry, err := kv.Get(ctx, keptKey); {
	case err == nil:
		_ = json.Unmarshal(entry.Value(), &before) // what nobody understands is replaced
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return err
	}
	s := storedFiles{Version: keptVersion, Since: k.since.UTC(), SHA256: hex.EncodeToString(k.print[:])}
	packed, err := packFiles(k.files)
	if err != nil {
		return err
	}
	if len(packed) <= inlineBytes {
		s.Files = packed
	} else {
		objects, err := r.journal.Objects(ctx, bucket)
		if err != nil {
			return err
		}
		if s.Object = objectsOfFiles[0]; s.Object == before.Object {
			s.Object = objectsOfFiles[1]
		}
		if _, err := objects.PutBytes(ctx, s.Object, packed); err != nil {
			return err
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, keptKey, b); err != nil {
		return err
	}
	if before.Object == objectsOfFiles[0] || before.Object == objectsOfFiles[1] {
		if objects, err := r.journal.Objects(ctx, bucket); err == nil {
			_ = objects.Delete(ctx, before.Object)
		}
	}
	return nil
}

// kept reads back what keep has stored; nothing if it never has. The error wraps errRecord if it
// is damaged, or of another version.
func (r *record) kept(ctx context.Context) (k kept, err error) {
	kv, err := r.journal.State(ctx, bucket)
	if err != nil {
		return kept{}, err
	}
	entry, err := kv.Get(ctx, keptKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return kept{}, nil
	}
	if err != nil {
		return kept{}, err
	}
	var s storedFiles
	if err := json.Unmarshal(entry.Value(), &s); err != nil {
		return kept{}, fmt.Errorf("%w: %w", errRecord, err)
	}
	if s.Version != keptVersion {
		return kept{}, fmt.Errorf("%w: the rules in it have version %d, this program knows %d", errRecord, s.Version, keptVersion)
	}
	packed := s.Files
	if s.Object != "" {
		objects, err := r.journal.Objects(ctx, bucket)
		if err != nil {
			return kept{}, err
		}
		packed, err = objects.GetBytes(ctx, s.Object)
		if errors.Is(err, jetstream.ErrObjectNotFound) || errors.Is(err, jetstream.ErrDigestMismatch) {
			return kept{}, fmt.Errorf("%w: %w", errRecord, err)
		}
		if err != nil {
			return kept{}, err
		}
	}
	files, err := unpackFiles(packed)
	if err != nil {
		return kept{}, fmt.Errorf("%w: %w", errRecord, err)
	}
	k = kept{files: files, print: fingerprint(files), since: s.Since}
	if hex.EncodeToString(k.print[:]) != s.SHA256 {
		return kept{}, fmt.Errorf("%w: the rules in it are not those that were stored", errRecord)
	}
	return k, nil
}

func packFiles(files []load.File) ([]byte, error) {
	list := make([]storedFile, len(files))
	for i, f := range files {
		list[i] = storedFile{f.Name, f.Content}
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	return pack(b), nil
}

func unpackFiles(packed []byte) ([]load.File, error) {
	b, err := unpack(packed, maxKeptBytes)
	if err != nil {
		return nil, err
	}
	var list []storedFile
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	files := make([]load.File, len(list))
	for i, f := range list {
		files[i] = load.File{Name: f.Name, Content: f.Content}
	}
	return files, nil
}
