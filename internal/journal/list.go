package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	listStream  = "TOCSIN_LIST_"
	listSubject = "tocsin.list."
	listNote    = "Tocsin-Note"

	// listWindow and listWindowBytes bound the entries that are on their way to the disk
	// for one Add, or to the reader for one Read.
	listWindow      = 256
	listWindowBytes = 8 << 20

	// Codes of errors of JetStream.
	codeStreamNotFound   = 10059
	codeSequenceNotFound = 10043
	codeDeleteFailed     = 10057
)

// ErrNoEntry means that a list has no entry with an id.
var ErrNoEntry = errors.New("no such entry")

// List is a durable list of entries beside the events, each under an id: what was added
// later has the larger one, and none is used again as long as the list is not dropped. It
// takes nothing of the disk until the first Add. What was done when a method returned nil
// is synced. The handle stays valid until the journal is closed, also over failures of
// the storage, during which its calls fail. It is safe for concurrent use.
type List struct {
	journal *Journal
	name    string
}

// ListEntry is an element of a list.
type ListEntry struct {
	ID uint64
	// Note is a short text, one line of printable ASCII, that can be read without the data.
	Note string
	Data []byte
}

// ListInfo is what is known of a list as a whole.
type ListInfo struct {
	Entries uint64
	Bytes   uint64 // on the disk, about
	Last    uint64 // id of the newest entry ever added
}

// List returns the list of that name: lower-case letters, digits, - and _.
func (j *Journal) List(name string) *List { return &List{journal: j, name: name} }

func (l *List) stream() string  { return listStream + l.name }
func (l *List) subject() string { return listSubject + l.name }

func (l *List) fail(what string, err error) error {
	return fmt.Errorf("%s list %s: %w", what, l.name, err)
}

// Info returns how much is in the list.
func (l *List) Info(ctx context.Context) (ListInfo, error) {
	var info struct {
		State struct {
			Messages uint64 `json:"messages"`
			Bytes    uint64 `json:"bytes"`
			LastSeq  uint64 `json:"last_seq"`
		} `json:"state"`
	}
	err := l.ask(ctx, "STREAM.INFO.", nil, &info)
	if err != nil && !isCode(err, codeStreamNotFound) {
		return ListInfo{}, l.fail("look into", err)
	}
	return ListInfo{Entries: info.State.Messages, Bytes: info.State.Bytes, Last: info.State.LastSeq}, nil
}

// Add puts entries at the end of the list, in their order, and sets their ids. They are
// durable one by one: after an error, which wraps [ErrFull] when the disk has no room, some
// of them may be there.
func (l *List) Add(ctx context.Context, entries []ListEntry) error {
	for i := range entries {
		entries[i].ID = 0
	}
	for len(entries) > 0 {
		n, size := 0, 0
		for n < len(entries) && n < listWindow && (n == 0 || size+len(entries[n].Data) <= listWindowBytes) {
			size += len(entries[n].Data)
			n++
		}
		if err := l.journal.checkSpace(size); err != nil {
			return l.fail("add to", fmt.Errorf("%w: %w", ErrFull, err))
		}
		err := l.add(ctx, entries[:n])
		if errors.Is(err, nats.ErrNoResponders) {
			if err = l.create(ctx); err == nil {
				err = l.add(ctx, entries[:n])
			}
		}
		if err != nil {
			return l.fail("add to", err)
		}
		entries = entries[n:]
	}
	return nil
}

func (l *List) create(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	ctx, stop := l.journal.whileConnected(ctx)
	defer stop()
	_, err := l.journal.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:        l.stream(),
		Description: "A list of entries that Tocsin keeps beside its journal.",
		Subjects:    []string{l.subject()},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		Replicas:    1,
		AllowDirect: true,
		Duplicates:  time.Second,
	})
	return orCause(ctx, err)
}

// add publishes entries without an id, which fit into the window, and waits for all answers.
func (l *List) add(ctx context.Context, entries []ListEntry) error {
	ctx, stop := l.journal.whileConnected(ctx)
	defer stop()
	inbox := nats.NewInbox() + "."
	answers := make(chan *nats.Msg, len(entries)+1)
	sub, err := l.journal.state.ChanSubscribe(inbox+"*", answers)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	sent := 0
	for i := range entries {
		if entries[i].ID != 0 {
			continue // stored while the others found no list yet
		}
		sent++
		m := &nats.Msg{Subject: l.subject(), Reply: inbox + strconv.Itoa(i), Data: entries[i].Data, Header: nats.Header{}}
		if entries[i].Note != "" {
			m.Header[listNote] = []string{entries[i].Note}
		}
		if err := l.journal.state.PublishMsg(m); err != nil {
			return err
		}
	}
	timeout := time.NewTimer(fetchTimeout)
	defer timeout.Stop()
	var failed error
	for range sent {
		select {
		case m := <-answers:
			i, err := strconv.Atoi(m.Subject[len(inbox):])
			if err != nil || i < 0 || i >= len(entries) {
				return fmt.Errorf("answer to %q", m.Subject)
			}
			var answer struct {
				Seq uint64 `json:"seq"`
			}
			if err := readAnswer(m, &answer); err != nil {
				if failed == nil || errors.Is(failed, nats.ErrNoResponders) {
					failed = err // the first one says more than that nobody listens
				}
				continue
			}
			entries[i].ID = answer.Seq
			timeout.Reset(fetchTimeout)
		case <-timeout.C:
			return fmt.Errorf("no answer within %v; what was added may be there", fetchTimeout)
		case <-l.journal.stopped:
			return ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return failed
}

// Read calls each with up to most entries with ids from from on, in order. It ends early
// with an error of each.
func (l *List) Read(ctx context.Context, from uint64, most int, each func(ListEntry) error) error {
	for from = max(from, 1); most > 0; {
		n := 0
		err := l.fetch(ctx, getRequest{Seq: from, Batch: min(most, listWindow), MaxBytes: listWindowBytes}, func(e ListEntry) error {
			n++
			from = e.ID + 1
			return each(e)
		})
		if errors.Is(err, errNoRecord) || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return l.fail("read", err)
		}
		most -= n
	}
	return nil
}

// Get returns one entry. The error wraps [ErrNoEntry].
func (l *List) Get(ctx context.Context, id uint64) (found ListEntry, err error) {
	if id == 0 {
		return found, l.fail("read", ErrNoEntry)
	}
	err = l.fetch(ctx, getRequest{Seq: id}, func(e ListEntry) error {
		found = e
		return nil
	})
	if errors.Is(err, errNoRecord) {
		err = fmt.Errorf("%w: %d", ErrNoEntry, id)
	}
	if err != nil {
		return ListEntry{}, l.fail("read", err)
	}
	return found, nil
}

// fetch is like that of a session, over the connection that outlives it.
func (l *List) fetch(ctx context.Context, request getRequest, each func(ListEntry) error) error {
	err := l.fetchOnce(ctx, request, each)
	if errors.Is(err, nats.ErrNoResponders) {
		// It was never written to, or somebody has just done that, or it cannot be reached.
		if err = l.ask(ctx, "STREAM.INFO.", nil, nil); isCode(err, codeStreamNotFound) {
			return errNoRecord
		}
		if err == nil {
			err = l.fetchOnce(ctx, request, each)
		}
	}
	return err
}

func (l *List) fetchOnce(ctx context.Context, request getRequest, each func(ListEntry) error) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, stop := l.journal.whileConnected(ctx)
	defer stop()
	answers := make(chan *nats.Msg, request.Batch+1) // and the end mark
	inbox := nats.NewInbox()
	sub, err := l.journal.state.ChanSubscribe(inbox, answers)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := l.journal.state.PublishMsg(&nats.Msg{Subject: "$JS.API.DIRECT.GET." + l.stream(), Reply: inbox, Data: body}); err != nil {
		return err
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
			case "503":
				return nats.ErrNoResponders
			default:
				return fmt.Errorf("status %s %s", status, m.Header.Get("Description"))
			}
			id, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
			if err != nil {
				return fmt.Errorf("sequence: %w", err)
			}
			if err := each(ListEntry{ID: id, Note: m.Header.Get(listNote), Data: m.Data}); err != nil {
				return err
			}
			if request.Batch == 0 {
				return nil // a plain get has no end mark
			}
			timeout.Reset(fetchTimeout)
		case <-timeout.C:
			return fmt.Errorf("no answer within %v", fetchTimeout)
		case <-l.journal.stopped:
			return ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Remove removes an entry; one that there is not is no error.
func (l *List) Remove(ctx context.Context, id uint64) error {
	if id == 0 {
		return nil
	}
	err := l.ask(ctx, "STREAM.MSG.DELETE.", map[string]any{"seq": id, "no_erase": true}, nil)
	if isCode(err, codeDeleteFailed) {
		// The reason is a text only.
		if _, gone := l.Get(ctx, id); errors.Is(gone, ErrNoEntry) {
			return nil
		}
	}
	if err != nil && !isCode(err, codeSequenceNotFound) && !isCode(err, codeStreamNotFound) {
		return l.fail("remove from", err)
	}
	return nil
}

// Purge removes all entries up to an id, and returns how many.
func (l *List) Purge(ctx context.Context, through uint64) (removed uint64, err error) {
	if through == 0 {
		return 0, nil
	}
	request := map[string]any{"seq": through + 1}
	if through+1 == 0 {
		request = nil // all
	}
	var answer struct {
		Purged uint64 `json:"purged"`
	}
	if err := l.ask(ctx, "STREAM.PURGE.", request, &answer); err != nil && !isCode(err, codeStreamNotFound) {
		return 0, l.fail("purge", err)
	}
	return answer.Purged, nil
}

// Drop removes the list with all that is in it; one that there is not is no error.
func (l *List) Drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	err := l.journal.removing(l.stream(), func() error { return l.ask(ctx, "STREAM.DELETE.", nil, nil) })
	if err != nil && !isCode(err, codeStreamNotFound) {
		return l.fail("drop", err)
	}
	return nil
}

// ask makes a request of JetStream about the stream of the list.
func (l *List) ask(ctx context.Context, api string, request, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	ctx, stop := l.journal.whileConnected(ctx)
	defer stop()
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return err
		}
	}
	m, err := l.journal.state.RequestWithContext(ctx, "$JS.API."+api+l.stream(), body)
	if err != nil {
		return orCause(ctx, err)
	}
	return readAnswer(m, answer)
}

// whileConnected returns a context that ends when the server goes away that was asked, and
// with it all answers.
func (j *Journal) whileConnected(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	changed := j.state.StatusChanged(nats.RECONNECTING, nats.CONNECTED, nats.CLOSED)
	go func() {
		select {
		case <-changed:
			cancel(errDown)
		case <-ctx.Done():
		}
		j.state.RemoveStatusListener(changed)
	}()
	return ctx, func() { cancel(nil) }
}

// orCause returns why ctx has ended, if that is what err is about.
func orCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// readAnswer decodes an answer of JetStream, unless it is an error.
func readAnswer(m *nats.Msg, answer any) error {
	switch status := m.Header.Get("Status"); status {
	case "":
	case "503":
		return nats.ErrNoResponders
	default:
		return fmt.Errorf("embedded server answered with status %s %s", status, m.Header.Get("Description"))
	}
	var problem struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &problem); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if problem.Error != nil {
		return problem.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(m.Data, answer)
}

func isCode(err error, code jetstream.ErrorCode) bool {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && refused.ErrorCode == code
}
