package vaultaudit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// payloadName is a SHA-256 in hexadecimal. Other texts are not even asked for.
var payloadName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Payload returns the bytes that a reference in an event stands for. The error wraps
// [fs.ErrNotExist] if they are not there, or not any more.
func Payload(ctx context.Context, j *journal.Journal, ref string) ([]byte, error) {
	name, ok := strings.CutPrefix(ref, PayloadPath)
	if !ok || !payloadName.MatchString(name) {
		return nil, fmt.Errorf("the bytes are not in the journal: %w", fs.ErrNotExist)
	}
	store, err := j.Objects(ctx, PayloadBucket)
	if err != nil {
		return nil, err
	}
	data, err := store.GetBytes(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, fmt.Errorf("payload %q: %w", name, fs.ErrNotExist)
	}
	return data, err
}
