package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// payloads serves the bytes of audit entries that were too large for an event.
type payloads struct{ journal *journal.Journal }

// payloadName is a SHA-256 in hexadecimal. Other texts are not even asked for.
var payloadName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Open implements [api.Payloads].
func (p payloads) Open(ctx context.Context, name string) (*api.Payload, error) {
	if !payloadName.MatchString(name) {
		return nil, fmt.Errorf("payload %.80q: %w", name, fs.ErrNotExist)
	}
	store, err := p.journal.Objects(ctx, vaultaudit.PayloadBucket)
	if err != nil {
		return nil, fmt.Errorf("open the bucket %s: %w", vaultaudit.PayloadBucket, err)
	}
	object, err := store.Get(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, fmt.Errorf("payload %q: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("payload %q: %w", name, err)
	}
	info, err := object.Info()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("payload %q: %w", name, err), object.Close())
	}
	return &api.Payload{Body: object, Size: int64(info.Size), ContentType: "application/json"}, nil
}

// payload returns the bytes that a reference in an event stands for. The error wraps
// [fs.ErrNotExist] if they are not there, or not any more.
func (a *App) payload(ctx context.Context, ref string) ([]byte, error) {
	return vaultaudit.Payload(ctx, a.journal, ref)
}
