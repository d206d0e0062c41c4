package deliver

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// lettersAtOnce and letterBytesAtOnce bound what is set aside with one call.
	lettersAtOnce     = 100
	letterBytesAtOnce = 1 << 20
	// backgroundLettersAtOnce is that of replays and redrives: live events wait meanwhile.
	backgroundLettersAtOnce = 10
	// recount is how old the number of dead letters may be that a status tells.
	recount = 10 * time.Second
)

// letterNote is what Health tells of the newest dead letter.
type letterNote struct {
	at     time.Time
	cause  string
	reason string
}

// letterCount is what the store said last of dead letters.
type letterCount struct {
	letters, bytes uint64
	at             time.Time
	asked          bool // somebody wants to know
}

func (d *Delivery) kickClerk() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// clerk sets events aside and removes dead letters that were delivered, until stop is closed,
// and then once more. What it cannot do it tries again.
func (d *Delivery) clerk(ctx context.Context, stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for failures := 0; ; {
		again := time.Hour
		if d.file(ctx) {
			failures = 0
		} else {
			failures++
			again = max(storeBackoff.wait(failures), time.Millisecond)
		}
		timer.Reset(again)
		kick := d.kick
		if failures > 0 {
			kick = nil // it waits
		}
		select {
		case <-stop:
			d.file(ctx)
			return
		case <-kick:
		case <-timer.C:
		}
	}
}

// file does what there is to do. It returns false when something is left to be tried again.
// Live events have precedence over all that is to be done for redrives, which may take long:
// the place in the journal waits for them, and what is behind it is sent again after a crash.
func (d *Delivery) file(ctx context.Context) bool {
	ok := true
	d.mu.Lock()
	streams := []*stream{d.live}
	for _, b := range d.backgrounds {
		streams = append(streams, b.stream)
	}
	for _, b := range d.finished { // cancelled ones
		streams = append(streams, b.stream)
	}
	count := d.letters.asked || d.letters.at.IsZero()
	d.letters.asked = false // what changes from here on is counted once more
	d.mu.Unlock()
	var err, liveErr error
	note := func(done bool, e error) {
		if count = count || done; e != nil {
			ok, err = false, e
		}
	}
	live := func() {
		var done bool
		done, liveErr = d.setAside(ctx, streams[0], lettersAtOnce, func() {})
		count = count || done
	}
	for _, s := range streams[1:] {
		note(d.remove(ctx, s, live))
	}
	live() // with the room that there is now
	for _, s := range streams[1:] {
		note(d.setAside(ctx, s, backgroundLettersAtOnce, live))
	}
	note(false, liveErr)
	if count {
		d.count(ctx)
	}
	d.noteLetters(err)
	return ok
}

func (d *Delivery) count(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	letters, bytes, err := d.options.Store.Count(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.letters = letterCount{letters: letters, bytes: bytes, at: time.Now(), asked: d.letters.asked}
	}
}

// remove removes the dead letters of a redrive that were delivered. Between is called now
// and then.
func (d *Delivery) remove(ctx context.Context, s *stream, between func()) (done bool, err error) {
	for ; ; between() {
		d.mu.Lock()
		batch, life := s.removals[:min(len(s.removals), backgroundLettersAtOnce)], d.life
		d.mu.Unlock()
		if len(batch) == 0 {
			return done, nil
		}
		ids := make([]uint64, len(batch))
		for i, e := range batch {
			ids[i] = e.letter
		}
		attempt, cancel := context.WithTimeout(ctx, saveTimeout)
		if err = d.sync(attempt, life); err == nil {
			err = d.options.Store.Remove(attempt, ids...)
		}
		cancel()
		if err != nil {
			return done, err
		}
		done = true
		d.mu.Lock()
		s.removals = s.removals[min(len(batch), len(s.removals)):] // none after a restart
		moved := false
		for _, e := range batch {
			moved = s.settle(e) || moved
		}
		d.progressed(s, moved)
		d.tellLocked()
		d.mu.Unlock()
	}
}

// mostFull is how many events are tried when there is no room, before it is waited for.
const mostFull = 32

// setAside makes events dead letters, at most so many at once. Between is called now and
// then.
func (d *Delivery) setAside(ctx context.Context, s *stream, most int, between func()) (done bool, err error) {
	for skip := 0; ; between() {
		if skip > 0 {
			most = 1
		}
		batch, letters := d.nextAsides(s, skip, most)
		if len(batch) == 0 || skip >= mostFull {
			return done, err
		}
		e := d.add(ctx, letters)
		if errors.Is(e, ErrFull) && len(batch) > 1 {
			// Some may replace others, or be smaller.
			batch, letters = batch[:1], letters[:1]
			e = d.add(ctx, letters)
		}
		if e != nil {
			if err = e; !errors.Is(e, ErrFull) {
				return done, err
			}
			skip += len(batch)
			continue
		}
		done = true
		d.filed(s, skip, batch, letters)
	}
}

func (d *Delivery) add(ctx context.Context, letters []DeadLetter) error {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	return d.options.Store.Add(ctx, letters)
}

// nextAsides returns some events that are to be set aside, without the first few.
func (d *Delivery) nextAsides(s *stream, skip, most int) (batch []*entry, letters []DeadLetter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	bytes := 0
	for _, e := range s.asides[min(skip, len(s.asides)):] {
		if len(batch) == most || len(batch) > 0 && bytes+e.bytes > letterBytesAtOnce {
			break
		}
		batch, letters = append(batch, e), append(letters, e.deadLetter())
		bytes += e.bytes
	}
	return batch, letters
}

// filed ends the way of events that are dead letters now.
func (d *Delivery) filed(s *stream, skip int, batch []*entry, letters []DeadLetter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(s.asides[skip:], s.asides[skip+len(batch):])
	n := len(s.asides) - len(batch)
	clear(s.asides[n:])
	s.asides = s.asides[:n]
	moved := false
	for i, e := range batch {
		if l := &letters[i]; l.Cause == CauseRefused {
			d.counts.Refused++
		} else if d.counts.Failed++; e.trouble.expired {
			d.counts.Expired++
		}
		if b := s.background; b != nil {
			b.setAside++
		}
		d.lastLetter = letterNote{time.Now(), letters[i].Cause, letters[i].Reason}
		s.freeKey(e)
		moved = s.settle(e) || moved
	}
	last := d.lastLetter
	if skipped, ok := d.refusals.Allow(); ok {
		d.note(Change{}, func() {
			d.log.Error("Events became dead letters. They are not sent again by themselves.", "events", len(batch), "cause", last.cause, "reason", last.reason, "messages_skipped", skipped)
		})
	}
	d.progressed(s, moved)
	d.wake()
	d.tellLocked()
}

// noteLetters keeps for Health whether dead letters can be stored.
func (d *Delivery) noteLetters(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.problems.letters, d.problems.full = "", false
		return
	}
	full := errors.Is(err, ErrFull)
	d.problems.letters = fmt.Sprintf("cannot set events aside: %s", tidy(err.Error()))
	if full && !d.problems.full {
		reason := tidy(err.Error())
		d.note(Change{Kind: ChangeLettersFull, Reason: reason}, func() {
			d.log.Error("There is no room for more dead letters. Events that should become some wait, and others after them. Redrive or purge some.", "error", reason)
		})
	}
	d.problems.full = full
	d.tellLocked()
}
