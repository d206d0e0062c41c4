package receiver

import (
	"context"
	"sync"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// earlyBytes is how much is kept in memory while there is no inbox yet; after it, senders
// wait.
const earlyBytes = 16 << 20

// lineMemory is what a line takes beside its bytes.
const lineMemory = int64(unsafe.Sizeof(tail.Line{}))

// target is the inbox, or memory as long as it is being opened: that may take seconds when
// the disk is busy, and a server that waits for its device meanwhile serves nobody.
type target struct {
	ready chan struct{} // closed when there is an inbox

	mu    *sync.Mutex
	inbox Inbox
	early []tail.Line
	bytes int64
}

func newTarget() target { return target{ready: make(chan struct{}), mu: new(sync.Mutex)} }

// Use gives the receiver its inbox, for what it has received already and for all that
// comes. It is called once.
func (r *Receiver) Use(in Inbox) {
	t := &r.target
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.early) > 0 {
		if _, err := in.Put(r.waiting, t.early); err != nil {
			r.log.Error("What was received at the start is not kept.", "lines", len(t.early), "error", err)
		}
	}
	t.inbox, t.early = in, nil
	close(t.ready)
}

// put is Put of the inbox.
func (t *target) put(ctx context.Context, lines []tail.Line) error {
	t.mu.Lock()
	if t.inbox == nil && t.bytes < earlyBytes {
		t.early = append(t.early, lines...)
		for _, l := range lines {
			t.bytes += int64(len(l.Data)) + lineMemory
		}
		t.mu.Unlock()
		return nil
	}
	t.mu.Unlock()
	in, err := t.wait(ctx)
	if err != nil {
		return err
	}
	_, err = in.Put(ctx, lines)
	return err
}

// wait returns the inbox when there is one.
func (t *target) wait(ctx context.Context) (Inbox, error) {
	select {
	case <-t.ready:
		return t.inbox, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// leaveEarly leaves what was received to a successor when there was no inbox up to the
// end.
func (r *Receiver) leaveEarly() error {
	t := &r.target
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := remainder{Lines: wholeLines(nil, t.early)}
	t.early = nil
	if len(rest.Lines) == 0 {
		return nil
	}
	return r.leave("", rest)
}

var _ Inbox = (*inbox.Inbox)(nil)
