package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"

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

// maxPayload bounds a payload that is read into memory: the largest event of a plugin, and more.
const maxPayload = 32 << 20

// readPayload returns a payload that [App.keepPayload] has stored.
func (a *App) readPayload(ctx context.Context, ref string) (_ []byte, err error) {
	name, ok := strings.CutPrefix(ref, vaultaudit.PayloadPath)
	if !ok {
		return nil, fmt.Errorf("payload %.80q: %w", ref, fs.ErrNotExist)
	}
	p, err := payloads{a.journal}.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Body.Close()) }()
	if p.Size > maxPayload {
		return nil, fmt.Errorf("payload %q has %d bytes, more than %d", name, p.Size, maxPayload)
	}
	data, err := io.ReadAll(io.LimitReader(p.Body, maxPayload))
	if err != nil {
		return nil, fmt.Errorf("read the payload %q: %w", name, err)
	}
	return data, nil
}
