package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// fetchRecords and fetchBytes bound what one fetch asks for. The server counts
	// bytes after it has sent, so one more record may come.
	fetchRecords = 64
	fetchBytes   = 4 << 20
	// fetchTimeout is how long a fetch waits for the next record.
	fetchTimeout = 10 * time.Second
)

var (
	// errNoRecord means that there is no record at or behind what was asked for.
	errNoRecord = errors.New("no such record")
	errDown     = errors.New("the embedded server is restarting")
)

// getRequest is the body of a direct get request of JetStream (ADR-31).
type getRequest struct {
	Seq       uint64     `json:"seq,omitempty"`
	StartTime *time.Time `json:"start_time,omitempty"`
	Batch     int        `json:"batch,omitempty"`
	MaxBytes  int        `json:"max_bytes,omitempty"`
}

// fetch asks for the records from the first that fits the request and calls each
// with every one of them, in order. each owns the record's bytes. When nothing
// fits, the error is errNoRecord.
func (s *session) fetch(ctx context.Context, request getRequest, each func(seq uint64, stored []byte) error) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	answers := make(chan *nats.Msg, request.Batch+1) // and the end mark
	inbox := nats.NewInbox()
	sub, err := s.read.ChanSubscribe(inbox, answers)
	if err != nil {
		return fmt.Errorf("fetch records: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := s.read.PublishMsg(&nats.Msg{Subject: directGet, Reply: inbox, Data: body}); err != nil {
		return fmt.Errorf("fetch records: %w", err)
	}
	timeout := time.NewTimer(fetchTimeout)
	defer timeout.Stop()
	for {
		select {
		case m := <-answers:
			switch status := m.Header.Get("Status"); status {
			case "":
			case "204":
				return nil
			case "404":
				return errNoRecord
			default:
				return fmt.Errorf("fetch records: status %s %s", status, m.Header.Get("Description"))
			}
			seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
			if err != nil {
				return fmt.Errorf("fetch records: sequence: %w", err)
			}
			if err := each(seq, m.Data); err != nil {
				return err
			}
			if request.Batch == 0 {
				return nil // a plain get has no end mark
			}
			timeout.Reset(fetchTimeout)
		case <-timeout.C:
			return fmt.Errorf("fetch records: no answer within %v", fetchTimeout)
		case <-s.gone:
			return errDown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fetchOne returns the record that a request for one finds. It may be broken.
func (s *session) fetchOne(ctx context.Context, request getRequest) (*record, error) {
	var rec *record
	err := s.fetch(ctx, request, func(seq uint64, stored []byte) error {
		var err error
		if rec, err = parseRecord(seq, stored); err != nil {
			rec = &record{seq: seq, broken: err}
		}
		return nil
	})
	return rec, err
}

// lastSequence returns the sequence of the newest record ever stored.
func (s *session) lastSequence(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	m, err := s.read.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+streamName, nil)
	if err != nil {
		return 0, err
	}
	var info struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
		State struct {
			LastSeq uint64 `json:"last_seq"`
		} `json:"state"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return 0, err
	}
	if info.Error != nil {
		return 0, errors.New(info.Error.Description)
	}
	return info.State.LastSeq, nil
}
