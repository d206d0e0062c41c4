package vaultaudit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/inbox"
)

// quarantine returns the event that keeps a line which is no audit entry, with its
// bytes as they are. Its id belongs to the content: the same bytes from the same
// source have the same id, wherever they stand.
//
// A broken line may be an entry that was written with log_raw. Unless raw entries
// are kept, a line that may have tokens or secrets in clear is replaced by its hash
// and length; nothing less is safe in a line that cannot be parsed.
func (t *Translator) quarantine(line []byte, err error) *event.Event {
	reason := auditlog.ReasonNotJSON
	var syntax *auditlog.SyntaxError
	if errors.As(err, &syntax) {
		reason = syntax.Reason
	}
	line = trimNewline(line)
	sum := sha256.Sum256(line)
	at := t.last
	if at.IsZero() {
		at = t.config.Now()
	}
	ev := &event.Event{
		ID:              event.DeriveID("quarantined", hex.EncodeToString(sum[:])),
		Type:            TypeQuarantined,
		Source:          t.source,
		Path:            t.path,
		Note:            err.Error(),
		Time:            at,
		DataContentType: "application/octet-stream",
	}
	t.setOrigin(ev)
	ev.Metadata.Set(event.MetadataPath, t.path)
	ev.Metadata.Set(metadataReason, reason)
	switch {
	case !t.config.KeepRaw && (t.raw[t.device] || maybeRaw(line)):
		ev.Metadata.Set(metadataRedacted, "true")
		ev.Data = t.redactor.Hash(nil, line)
		ev.DataContentType = "text/plain"
	default:
		ev.Data = bytes.Clone(line)
		if utf8.Valid(line) {
			ev.DataContentType = "text/plain; charset=utf-8"
		}
	}
	return ev
}

// setOrigin says over which device an event came.
func (t *Translator) setOrigin(ev *event.Event) {
	if t.device != "" {
		ev.Metadata.Set(metadataDevice, t.device)
	}
	if t.imported {
		ev.Metadata.Set(metadataImported, "true")
	}
}

// Metadata keys of events about lost lines, beside those of quarantined ones.
const (
	metadataLines = "lines" // how many, absent when that is not known
	metadataBytes = "bytes" // how long they were together, absent when that is not known
	metadataFrom  = "from"  // when the first one came
	metadataTo    = "to"    // when the last one came
)

// lost returns the event that says that lines are missing in front of a position of an
// inbox.
func (t *Translator) lost(l *inbox.Lost, at inbox.Position) *event.Event {
	place := fmt.Sprintf("%d/%d", at.Epoch, at.Line)
	reason := l.Reason.String()
	when := l.Last
	if when.IsZero() {
		when = t.config.Now()
	}
	ev := &event.Event{
		ID:     event.DeriveID("audit-lost", t.device, place, reason),
		Type:   TypeLost,
		Source: t.source,
		Path:   t.path,
		Time:   when.UTC(),
	}
	t.setOrigin(ev)
	ev.Metadata.Set(event.MetadataPath, t.path)
	ev.Metadata.Set(metadataReason, reason)
	for key, n := range map[string]uint64{metadataLines: l.Lines, metadataBytes: l.Bytes} {
		if n > 0 {
			ev.Metadata.Set(key, strconv.FormatUint(n, 10))
		}
	}
	for key, at := range map[string]time.Time{metadataFrom: l.First, metadataTo: l.Last} {
		if !at.IsZero() {
			ev.Metadata.Set(key, at.UTC().Format(time.RFC3339Nano))
		}
	}
	return ev
}

// maybeRaw is true for a broken line that may have tokens or secrets in clear: a
// token that is not hashed, or a part of an entry without any hashed member. The
// hashes in lists do not count, because headers are lists and may be hashed
// although nothing else is.
func maybeRaw(line []byte) bool {
	if !bytes.Contains(line, []byte(`:"hmac-sha256:`)) && !bytes.Contains(line, []byte(`">hmac-sha256:`)) {
		for _, member := range entryMembers {
			if bytes.Contains(line, []byte(member)) {
				return true
			}
		}
	}
	for _, name := range [...]string{`"client_token":`, `"token":`, `"client_token">`, `"token">`} {
		for rest := line; ; {
			i := bytes.Index(rest, []byte(name))
			if i < 0 {
				break
			}
			rest = rest[i+len(name):]
			value := bytes.TrimLeft(rest, ` "`)
			if len(value) > 0 && !bytes.HasPrefix(value, []byte("hmac-sha256:")) && !bytes.HasPrefix([]byte("hmac-sha256:"), value) &&
				value[0] != ',' && value[0] != '}' && value[0] != '<' {
				return true
			}
		}
	}
	for _, prefix := range [...]string{"hvs.", "hvb.", "hvr.", "s.", "b.", "r."} {
		for rest := line; ; {
			i := bytes.Index(rest, []byte(prefix))
			if i < 0 {
				break
			}
			word := i > 0 && isTokenByte(rest[i-1])
			rest = rest[i+len(prefix):]
			if !word && tokenRun(rest) >= minTokenBytes {
				return true
			}
		}
	}
	return false
}

// entryMembers are texts by which a part of an entry is recognised, the last one in
// jsonx.
var entryMembers = [...]string{`"request":`, `"response":`, `"auth":`, `"data":`, `"operation":`, `"namespace":`, `"remote_address":`, `"mount_type":`, `<json:string`}

// minTokenBytes is the length of the shortest tokens, without their prefix.
const minTokenBytes = 20

func tokenRun(b []byte) int {
	n := 0
	for n < len(b) && n < minTokenBytes && isTokenByte(b[n]) {
		n++
	}
	return n
}

func isTokenByte(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '_' || b == '-'
}
