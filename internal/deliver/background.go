package deliver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
)

const (
	// maxBackgrounds bounds the replays and redrives that are under way.
	maxBackgrounds = 16
	// maxFinished bounds how many are told of that have ended.
	maxFinished = 32
	// MaxRedriveIDs bounds the ids of one redrive.
	MaxRedriveIDs = 1000
	// lettersRead is how many dead letters are read at once.
	lettersRead = 64
)

// background is a replay or a redrive. It is guarded by the lock of the delivery.
type background struct {
	delivery *Delivery
	id       string
	begun    time.Time
	stream   *stream
	cancel   context.CancelFunc // ends the reading, once that has begun

	until   position.Position // of a replay
	redrive *RedriveState     // nil: it is a replay; only Last and IDs, which do not change

	sent, setAside, missed uint64

	endedAt   time.Time
	cancelled bool
}

func newReplay(d *Delivery, r ReplayState) *background {
	b := &background{delivery: d, id: r.ID, begun: r.Begun, until: r.Until, sent: r.Sent, setAside: r.SetAside, missed: r.Missed}
	b.stream = d.newStream(b)
	b.stream.through = r.Through
	return b
}

func newRedrive(d *Delivery, r RedriveState) *background {
	b := &background{delivery: d, id: r.ID, begun: r.Begun, redrive: &r, sent: r.Sent, setAside: r.Refused}
	b.stream = d.newStream(b)
	b.stream.letter = max(r.Next, 1) - 1
	return b
}

func (b *background) replayState() ReplayState {
	return ReplayState{ID: b.id, Begun: b.begun, Through: b.stream.through, Until: b.until, Sent: b.sent, SetAside: b.setAside, Missed: b.missed}
}

func (b *background) redriveState() RedriveState {
	return RedriveState{ID: b.id, Begun: b.begun, Next: b.stream.letter + 1, Last: b.redrive.Last, IDs: b.redrive.IDs, Sent: b.sent, Refused: b.setAside}
}

// drop forgets what a background has read.
func (b *background) drop() {
	b.stream.dropped = true
	if b.cancel != nil {
		b.cancel()
	}
}

// addBackground lets one be sent. It is read at once, or when the delivery runs.
func (d *Delivery) addBackground(b *background) {
	d.backgrounds = append(d.backgrounds, b)
	if d.running {
		d.startFeed(b)
	}
}

// startFeed reads what is to be sent.
func (d *Delivery) startFeed(b *background) {
	ctx, cancel := context.WithCancel(d.feedCtx)
	b.cancel = cancel
	d.feeds.Go(func() {
		defer cancel()
		var err error
		if b.redrive == nil {
			err = d.feedReplay(ctx, b)
		} else {
			err = d.feedRedrive(ctx, b)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if err != nil || b.stream.dropped {
			return // it goes on after a restart
		}
		b.stream.ended = true
		d.wake() // a batch that waited for more
		d.progressed(b.stream, false)
		d.tellLocked()
	})
}

func (d *Delivery) feedReplay(ctx context.Context, b *background) error {
	through := b.stream.through
	if through.Compare(b.until) >= 0 {
		return nil
	}
	return d.fill(ctx, b.stream, d.options.Journal.Read(through), b.until)
}

func (d *Delivery) feedRedrive(ctx context.Context, b *background) error {
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.room.Broadcast()
	})
	defer stop()
	for after := b.stream.letter; after < b.redrive.Last; {
		if err := d.awaitRoom(ctx, b.stream); err != nil {
			return err
		}
		var letters []DeadLetter
		err := d.retryLetters(ctx, func(ctx context.Context) (err error) {
			letters, after, err = d.lettersAfter(ctx, b.redrive, after)
			return err
		})
		if err != nil {
			return err
		}
		g := &segment{letter: after, recorded: b.begun, arrived: time.Now(), size: 1}
		for _, l := range letters {
			if l.Event == nil {
				continue
			}
			n := eventBytes(l.Event)
			g.size += n + eventMemory
			t := &trouble{tries: l.Attempts, first: l.First, last: l.Last, result: Result{Outcome: l.Outcome, Status: l.Status, Reason: l.Reason}}
			g.entries = append(g.entries, entry{event: l.Event, at: l.At, letter: l.ID, trouble: t, key: keyOf(l.Event), bytes: n})
		}
		d.mu.Lock()
		if !b.stream.dropped {
			d.enter(b.stream, g)
		}
		d.mu.Unlock()
	}
	return nil
}

// retryLetters reads dead letters until the store can do that.
func (d *Delivery) retryLetters(ctx context.Context, try func(context.Context) error) error {
	for n := 1; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, saveTimeout)
		err := try(attempt)
		cancel()
		if err == nil {
			return nil
		}
		timer := time.NewTimer(storeBackoff.wait(n))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// lettersAfter returns some dead letters of a redrive, and up to which id they are all of
// them.
func (d *Delivery) lettersAfter(ctx context.Context, r *RedriveState, after uint64) (letters []DeadLetter, through uint64, err error) {
	if len(r.IDs) > 0 {
		i, _ := slices.BinarySearch(r.IDs, after+1)
		for through = r.Last; i < len(r.IDs); i++ {
			if len(letters) == lettersRead {
				return letters, r.IDs[i-1], nil
			}
			l, err := d.options.Store.Get(ctx, r.IDs[i])
			switch {
			case err == nil:
				letters = append(letters, l)
			case d.unreadable(err) == 0 && !errors.Is(err, ErrNoLetter):
				return nil, after, err
			}
		}
		return letters, through, nil
	}
	letters, err = d.options.Store.List(ctx, after, lettersRead)
	if id := d.unreadable(err); id > after {
		return nil, min(id, r.Last), nil
	}
	if err != nil {
		return nil, after, err
	}
	for i := range letters {
		if letters[i].ID > r.Last {
			return letters[:i], r.Last, nil
		}
	}
	if len(letters) == 0 {
		return nil, r.Last, nil
	}
	return letters, letters[len(letters)-1].ID, nil
}

// unreadable returns the id of the dead letter that cannot be read, if err is about one. It
// stays a dead letter, and does not keep others from being sent.
func (d *Delivery) unreadable(err error) uint64 {
	var broken *UnreadableLetter
	if !errors.As(err, &broken) {
		return 0
	}
	d.log.Error("A dead letter is left where it is, because it cannot be read.", "id", broken.ID, "error", broken.Err)
	return broken.ID
}

// complete ends a replay or redrive of which everything is decided.
func (d *Delivery) complete(b *background) {
	i := slices.Index(d.backgrounds, b)
	if i < 0 {
		return
	}
	d.endBackground(i, false)
	d.changed(true)
	d.note(Change{Kind: ChangeReplayed, ID: b.id}, func() {
		d.log.Info("A replay or redrive has ended.", "id", b.id, "sent", b.sent, "set_aside", b.setAside, "missed", b.missed)
	})
}

func (d *Delivery) endBackground(i int, cancelled bool) {
	b := d.backgrounds[i]
	b.cancelled, b.endedAt = cancelled, time.Now().UTC()
	d.backgrounds = slices.Delete(d.backgrounds, i, i+1)
	d.finished = append(d.finished, b)
	if n := len(d.finished) - maxFinished; n > 0 {
		d.finished = slices.Delete(d.finished, 0, n)
	}
}

// Replay sends once more the events that the sink selects in a range of the journal: those
// after the first position, up to the second one; a zero one stands for the beginning and
// the present end of the journal. It happens beside the live events, with a small share of
// what can be sent, and goes on after a restart. Replay returns when that is stored. The
// error wraps [ErrBusy] when there are as many as there may be.
func (d *Delivery) Replay(ctx context.Context, after, until position.Position) (id string, err error) {
	if end := d.options.Journal.End(); until.IsZero() || until.Compare(end) > 0 {
		until = end
	}
	r := ReplayState{ID: event.NewID(), Begun: time.Now().UTC(), Through: after, Until: until}
	err = d.update(ctx, func(s *State) error {
		if len(s.Replays)+len(s.Redrives) >= maxBackgrounds {
			return ErrBusy
		}
		s.Replays = append(s.Replays, r)
		return nil
	}, func() { d.addBackground(newReplay(d, r)) })
	return r.ID, err
}

// CancelReplay ends a replay; the error wraps [ErrNoReplay] when it is not under way.
func (d *Delivery) CancelReplay(ctx context.Context, id string) error {
	return d.cancelBackground(ctx, id, func(s *State) bool {
		n := len(s.Replays)
		s.Replays = slices.DeleteFunc(s.Replays, func(r ReplayState) bool { return r.ID == id })
		return len(s.Replays) < n
	})
}

// CancelRedrive ends a redrive; the error wraps [ErrNoReplay] when it is not under way.
func (d *Delivery) CancelRedrive(ctx context.Context, id string) error {
	return d.cancelBackground(ctx, id, func(s *State) bool {
		n := len(s.Redrives)
		s.Redrives = slices.DeleteFunc(s.Redrives, func(r RedriveState) bool { return r.ID == id })
		return len(s.Redrives) < n
	})
}

func (d *Delivery) cancelBackground(ctx context.Context, id string, remove func(*State) bool) error {
	return d.update(ctx, func(s *State) error {
		if !remove(s) {
			return fmt.Errorf("%w: %s", ErrNoReplay, id)
		}
		return nil
	}, func() {
		i := slices.IndexFunc(d.backgrounds, func(b *background) bool { return b.id == id })
		if i >= 0 {
			d.backgrounds[i].drop()
			d.endBackground(i, true)
		}
	})
}

// Letters chooses dead letters: those with these ids, or, without any, those with ids from
// First to Last; a zero Last stands for the newest one.
type Letters struct {
	IDs         []uint64
	First, Last uint64
}

// Redrive tries dead letters again, beside the live events like a replay. Those that are
// delivered are removed; those that are not stay, with what was said last. It returns how
// many there are, when it is stored that they are tried; none is no error, and has no id.
// There may be up to [MaxRedriveIDs] ids. The error wraps [ErrBusy] when there are as many
// replays and redrives as there may be.
func (d *Delivery) Redrive(ctx context.Context, which Letters) (id string, letters uint64, err error) {
	r := RedriveState{ID: event.NewID(), Begun: time.Now().UTC(), Next: max(which.First, 1), Last: which.Last}
	if letters, err = d.choose(ctx, which, &r); err != nil || letters == 0 {
		return "", 0, err
	}
	err = d.update(ctx, func(s *State) error {
		if len(s.Replays)+len(s.Redrives) >= maxBackgrounds {
			return ErrBusy
		}
		s.Redrives = append(s.Redrives, r)
		return nil
	}, func() { d.addBackground(newRedrive(d, r)) })
	return r.ID, letters, err
}

// choose finds the dead letters of a redrive, and counts them.
func (d *Delivery) choose(ctx context.Context, which Letters, r *RedriveState) (n uint64, err error) {
	store := d.options.Store
	if len(which.IDs) > 0 {
		if len(which.IDs) > MaxRedriveIDs {
			return 0, fmt.Errorf("%d dead letters are named, at most %d may be; choose a range", len(which.IDs), MaxRedriveIDs)
		}
		ids := slices.Clone(which.IDs)
		slices.Sort(ids)
		for _, id := range slices.Compact(ids) {
			if _, err := store.Get(ctx, id); err != nil {
				return 0, err
			}
			r.IDs = append(r.IDs, id)
		}
		r.Next, r.Last = r.IDs[0], r.IDs[len(r.IDs)-1]
		return uint64(len(r.IDs)), nil
	}
	if r.Last == 0 {
		if r.Last, err = newest(ctx, store); err != nil {
			return 0, err
		}
	}
	if r.Next == 1 && which.Last == 0 {
		n, _, err = store.Count(ctx)
		return n, err
	}
	for after := r.Next - 1; after < r.Last; {
		letters, err := store.List(ctx, after, lettersRead)
		if broken := (*UnreadableLetter)(nil); errors.As(err, &broken) && broken.ID > after {
			after = broken.ID
			continue
		}
		if err != nil {
			return 0, err
		}
		if len(letters) == 0 {
			break
		}
		for i := range letters {
			if after = letters[i].ID; after <= r.Last {
				n++
			}
		}
	}
	return n, nil
}

// newest returns the id of the newest dead letter, 0 if there is none.
func newest(ctx context.Context, store DeadLetters) (id uint64, err error) {
	after := func(id uint64) (uint64, error) {
		letters, err := store.List(ctx, id, 1)
		if broken := (*UnreadableLetter)(nil); errors.As(err, &broken) {
			return broken.ID, nil
		}
		if err != nil || len(letters) == 0 {
			return 0, err
		}
		return letters[0].ID, nil
	}
	// There is one with the id low, or it is 0, and none after high. At first steps become
	// larger, so that ids are found soon that are small, as they are.
	low, high, step := uint64(0), uint64(math.MaxUint64), uint64(1)
	for low < high {
		probe := low + (high-low)/2
		if step > 0 && step < high-low {
			probe = low + step - 1
			step *= 2
		}
		next, err := after(probe)
		switch {
		case err != nil:
			return 0, err
		case next > 0:
			low = next
		case probe == low:
			return low, nil
		default:
			high, step = probe, 0
		}
	}
	return low, nil
}
