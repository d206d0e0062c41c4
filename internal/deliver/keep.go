package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// saveLeast and saveMost bound the pause between two stores, which follows from how long
	// they take. What was delivered since the last one is delivered again after a crash.
	saveLeast = 50 * time.Millisecond
	saveMost  = time.Second
	// saveShare is how many times as long as a store the pause behind it is.
	saveShare = 10
	// saveIdle is the pause when nothing was delivered, but events were passed over.
	saveIdle = 5 * time.Second
	// saveTimeout bounds one store.
	saveTimeout = 5 * time.Second
)

// unsavedLevel is what is not stored yet.
type unsavedLevel uint8

const (
	allSaved      unsavedLevel = iota
	unsavedIdle                // events were passed over
	unsavedUrgent              // something was delivered
)

// problems are what is wrong with the store, "" for nothing.
type problems struct {
	state   string // it cannot be stored
	letters string // they cannot be added or removed
	full    bool   // because there is no room for more
}

// Begin decides where a sink begins that has no place yet, and stores that: with [FromEnd]
// everything that is appended after it has returned nil is for the sink, even if the process
// ends before Run. Run does it as well, but nobody can wait for that. Of a delivery that takes
// the place of another one it must not be called before that has ended.
func (d *Delivery) Begin(ctx context.Context) error { return d.load(ctx) }

// load reads back what was stored, once. The first time it stores where the sink begins: a
// place that is not stored would be another one after a restart.
func (d *Delivery) load(ctx context.Context) error {
	if err := d.lockState(ctx); err != nil {
		return err
	}
	defer d.unlockState()
	return d.loadLocked(ctx)
}

func (d *Delivery) lockState(ctx context.Context) error {
	select {
	case d.saving <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Delivery) unlockState() { <-d.saving }

func (d *Delivery) loadLocked(ctx context.Context) error {
	if d.loaded {
		return nil
	}
	if d.options.From == FromEnd && d.first == nil {
		end := d.options.Journal.End()
		d.first = &end // also when the store takes it much later
	}
	s, known, err := d.options.Store.Load(ctx)
	if err != nil {
		return err
	}
	if !known {
		if d.first != nil {
			s.Through = *d.first
		}
		if err := d.options.Store.Save(ctx, s); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saved, d.loaded = s, true
	d.held = s.Held
	d.live.through = s.Through
	for _, r := range s.Replays {
		d.addBackground(newReplay(d, r))
	}
	for _, r := range s.Redrives {
		d.addBackground(newRedrive(d, r))
	}
	d.flushed(d.live)
	return nil
}

// retry does what the store may not be able to do at the moment, until it does.
func (d *Delivery) retry(ctx context.Context, what string, try func(context.Context) error) error {
	for n := 1; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, saveTimeout)
		err := try(attempt)
		cancel()
		d.noteSaving(what, err)
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

// storeBackoff is how long to wait for a store that fails.
var storeBackoff = Backoff{First: 200 * time.Millisecond, Most: 10 * time.Second}

// noteSaving keeps for Health whether the state can be stored.
func (d *Delivery) noteSaving(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problems.state = ""
	if err != nil {
		d.problems.state = fmt.Sprintf("cannot %s: %s", what, tidy(err.Error()))
	}
}

// keep stores the state until ctx ends: soon after something was delivered, and now and then
// when the journal grew by what is not for the sink.
func (d *Delivery) keep(ctx context.Context) {
	pause := time.NewTimer(saveIdle)
	defer pause.Stop()
	wait := func(t time.Duration, or <-chan struct{}) bool {
		pause.Reset(t)
		select {
		case <-ctx.Done():
			return false
		case <-pause.C:
		case <-or:
		}
		return true
	}
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.saveKick:
		}
		for begun := time.Now(); !d.isUrgent() && time.Since(begun) < saveIdle; {
			if !wait(saveIdle-time.Since(begun), d.saveKick) {
				return
			}
		}
		begun := time.Now()
		attempt, cancel := context.WithTimeout(ctx, saveTimeout)
		err := d.save(attempt)
		cancel()
		next := savePause(time.Since(begun))
		if failures++; err == nil {
			failures = 0
		} else {
			next = max(next, storeBackoff.wait(failures))
			d.mu.Lock()
			d.changed(true)
			d.mu.Unlock()
		}
		if !wait(next, nil) {
			return
		}
	}
}

func (d *Delivery) isUrgent() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unsaved == unsavedUrgent
}

// savePause is the pause behind a store that took so long.
func savePause(took time.Duration) time.Duration {
	return min(max(saveShare*took, saveLeast), saveMost)
}

// save stores the state if it has changed. What a sink has must be durable before.
func (d *Delivery) save(ctx context.Context) error {
	if err := d.lockState(ctx); err != nil {
		return err
	}
	defer d.unlockState()
	d.mu.Lock()
	if !d.loaded || d.unsaved == allSaved {
		d.mu.Unlock()
		return nil
	}
	next, life := d.snapshot(), d.life
	d.unsaved = allSaved
	d.mu.Unlock()
	if err := d.sync(ctx, life); err != nil {
		return err
	}
	err := d.options.Store.Save(ctx, next)
	d.noteSaving("store how far the sink is", err)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saved = next
	return nil
}

// snapshot is the state as it is now.
func (d *Delivery) snapshot() State {
	s := State{Through: d.live.through, Held: d.held}
	for _, b := range d.backgrounds {
		if b.redrive == nil {
			s.Replays = append(s.Replays, b.replayState())
		} else {
			s.Redrives = append(s.Redrives, b.redriveState())
		}
	}
	return s
}

// sync makes durable what the sink has, if it needs that. When it cannot, nobody knows what
// is lost: everything since the place that is stored is sent again, one batch first, until
// it can be made durable.
//
// A sink tells only once that something is lost. So what the caller wants to be durable is
// that only when it was delivered in the same life of the delivery: life is d.life when it
// was looked at.
func (d *Delivery) sync(ctx context.Context, life uint64) error {
	s, ok := d.options.Sink.(Syncer)
	if !ok {
		return nil
	}
	d.syncing.Lock()
	defer d.syncing.Unlock()
	err := s.Sync(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		if d.unsynced > 0 && !d.restarting {
			d.unsynced = 0
			d.wake()
		}
		if life != d.life || d.restarting {
			return errAnew
		}
		return nil
	}
	now := time.Now()
	d.unsynced++
	d.life++
	pause := d.policy.Backoff.wait(d.unsynced)
	r := Result{Outcome: Retry, Reason: tidy("cannot make durable what was delivered: " + err.Error())}
	d.failed(pass{failures: d.gate.failures}, r, pause, now)
	d.gate.leave(now, pause)
	if d.restarting = true; d.sending == 0 {
		d.restart()
	}
	d.tellLocked()
	return err
}

var errAnew = errors.New("what was delivered could not be made durable, and is sent again")

// restart goes back to what is stored. Nothing is on its way.
func (d *Delivery) restart() {
	d.restarting = false
	d.life++ // what was delivered meanwhile is as doubtful
	d.live.dropped = true
	d.live = d.newStream(nil)
	d.live.through = d.saved.Through
	if d.unread != nil {
		d.unread()
	}
	for _, b := range d.backgrounds {
		b.drop()
		b.stream.removals = nil
	}
	d.backgrounds = nil
	for _, b := range d.finished { // of cancelled redrives: these stay dead letters
		b.stream.removals = nil
	}
	for _, r := range d.saved.Replays {
		d.addBackground(newReplay(d, r))
	}
	for _, r := range d.saved.Redrives {
		d.addBackground(newRedrive(d, r))
	}
	d.wakeAt(d.gate.until)
}

// update changes the stored state, and then what it stands for.
func (d *Delivery) update(ctx context.Context, change func(*State) error, then func()) error {
	if err := d.lockState(ctx); err != nil {
		return err
	}
	defer d.unlockState()
	if err := d.loadLocked(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	next := d.saved
	d.mu.Unlock()
	next.Replays, next.Redrives = slices.Clone(next.Replays), slices.Clone(next.Redrives)
	if err := change(&next); err != nil {
		return err
	}
	if err := d.options.Store.Save(ctx, next); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saved = next
	then()
	d.tellLocked()
	return nil
}

// Pause makes that nothing is sent, and stores that, so that it is so after a restart, too.
// What is on its way may still be delivered. Events are kept as long as the journal keeps
// them. When it returns an error, nothing has changed. It works at any time: before and
// after Run, and during an outage.
func (d *Delivery) Pause(ctx context.Context, reason string) error {
	return d.setHeld(ctx, Held{By: HeldPaused, Reason: tidy(reason), Since: time.Now().UTC()})
}

// Disable is Pause for good: it differs in what Held says. A sink whose endpoint is [Gone]
// disables itself.
func (d *Delivery) Disable(ctx context.Context, reason string) error {
	return d.setHeld(ctx, Held{By: HeldDisabled, Reason: tidy(reason), Since: time.Now().UTC()})
}

// Resume ends what Pause or Disable began. An outage is not waited for: the next attempt is
// made at once.
func (d *Delivery) Resume(ctx context.Context) error { return d.setHeld(ctx, Held{}) }

func (d *Delivery) setHeld(ctx context.Context, h Held) error {
	return d.update(ctx, func(s *State) error {
		s.Held = h
		return nil
	}, func() {
		was := d.held
		d.held = h
		if h.By == "" {
			d.gate.open()
			d.room.Broadcast()
			d.wake()
		}
		d.noteHeld(was)
	})
}

func (d *Delivery) noteHeld(was Held) {
	h := d.held
	switch {
	case h.By != "" && h != was:
		d.note(Change{Kind: ChangeHeld, Held: h}, func() {
			level := d.log.Info
			if h.ByEndpoint {
				level = d.log.Warn
			}
			level("Nothing is sent to the sink any more, until it is resumed. Events stay in the journal.", "by", h.By, "reason", h.Reason)
		})
	case h.By == "" && was.By != "":
		d.note(Change{Kind: ChangeResumed, Held: was}, func() {
			d.log.Info("Events are sent to the sink again.", "held_since", was.Since.Format(time.RFC3339))
		})
	}
}

// disable is what follows from an answer that means Gone.
func (d *Delivery) disable(reason string, now time.Time) {
	if d.held.By == HeldDisabled {
		return
	}
	was := d.held
	d.held = Held{By: HeldDisabled, Reason: reason, Since: now.UTC(), ByEndpoint: true}
	d.changed(true)
	d.noteHeld(was)
}
