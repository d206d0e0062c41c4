package delivermem

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// Store is a [deliver.Store] in memory. The zero value is empty and ready for use. It is safe
// for concurrent use; the fields are set before that.
type Store struct {
	// MaxLetters bounds the dead letters; 0: no bound.
	MaxLetters int
	// Fail is asked before each call of a method, which is named by what ("save", "load",
	// "add", "list", "get", "remove", "purge", "count"); an error is what the call returns. It
	// may block, and is called concurrently.
	Fail func(ctx context.Context, what string) error

	mu      sync.Mutex
	state   *deliver.State
	saves   int
	letters []deliver.DeadLetter // by id
	last    uint64               // id ever given
}

func (s *Store) begin(ctx context.Context, what string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.Fail != nil {
		if err := s.Fail(ctx, what); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	return s.mu.Unlock, nil
}

// Load implements [deliver.Store].
func (s *Store) Load(ctx context.Context) (deliver.State, bool, error) {
	unlock, err := s.begin(ctx, "load")
	if err != nil {
		return deliver.State{}, false, err
	}
	defer unlock()
	if s.state == nil {
		return deliver.State{}, false, nil
	}
	return clone(*s.state), true, nil
}

// Save implements [deliver.Store].
func (s *Store) Save(ctx context.Context, state deliver.State) error {
	unlock, err := s.begin(ctx, "save")
	if err != nil {
		return err
	}
	defer unlock()
	state = clone(state)
	s.state = &state
	s.saves++
	return nil
}

// clone returns a copy that shares nothing with s.
func clone(s deliver.State) deliver.State {
	s.Replays, s.Redrives = slices.Clone(s.Replays), slices.Clone(s.Redrives)
	for i := range s.Redrives {
		s.Redrives[i].IDs = slices.Clone(s.Redrives[i].IDs)
	}
	return s
}

// Saves returns how often the state was saved.
func (s *Store) Saves() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saves
}

// Add implements [deliver.DeadLetters].
func (s *Store) Add(ctx context.Context, letters []deliver.DeadLetter) error {
	unlock, err := s.begin(ctx, "add")
	if err != nil {
		return err
	}
	defer unlock()
	for _, l := range letters {
		at := slices.IndexFunc(s.letters, func(old deliver.DeadLetter) bool { return old.At == l.At })
		if at < 0 && s.MaxLetters > 0 && len(s.letters) >= s.MaxLetters {
			return fmt.Errorf("%w: there are %d", deliver.ErrFull, len(s.letters))
		}
		if at >= 0 {
			s.letters = slices.Delete(s.letters, at, at+1)
		}
		s.last++
		l.ID = s.last
		s.letters = append(s.letters, l)
	}
	return nil
}

// List implements [deliver.DeadLetters].
func (s *Store) List(ctx context.Context, after uint64, limit int) ([]deliver.DeadLetter, error) {
	unlock, err := s.begin(ctx, "list")
	if err != nil {
		return nil, err
	}
	defer unlock()
	i, _ := s.find(after + 1)
	return slices.Clone(s.letters[i:min(i+limit, len(s.letters))]), nil
}

// Get implements [deliver.DeadLetters].
func (s *Store) Get(ctx context.Context, id uint64) (deliver.DeadLetter, error) {
	unlock, err := s.begin(ctx, "get")
	if err != nil {
		return deliver.DeadLetter{}, err
	}
	defer unlock()
	i, ok := s.find(id)
	if !ok {
		return deliver.DeadLetter{}, fmt.Errorf("%w: %d", deliver.ErrNoLetter, id)
	}
	return s.letters[i], nil
}

// Remove implements [deliver.DeadLetters].
func (s *Store) Remove(ctx context.Context, ids ...uint64) error {
	unlock, err := s.begin(ctx, "remove")
	if err != nil {
		return err
	}
	defer unlock()
	for _, id := range ids {
		if i, ok := s.find(id); ok {
			s.letters = slices.Delete(s.letters, i, i+1)
		}
	}
	return nil
}

// Purge implements [deliver.DeadLetters].
func (s *Store) Purge(ctx context.Context, through uint64) (uint64, error) {
	unlock, err := s.begin(ctx, "purge")
	if err != nil {
		return 0, err
	}
	defer unlock()
	i, ok := s.find(through)
	if ok {
		i++
	}
	s.letters = slices.Delete(s.letters, 0, i)
	return uint64(i), nil
}

// Count implements [deliver.DeadLetters].
func (s *Store) Count(ctx context.Context) (letters, bytes uint64, err error) {
	unlock, err := s.begin(ctx, "count")
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	for _, l := range s.letters {
		bytes += uint64(400 + len(l.Event.Data) + len(l.Reason))
	}
	return uint64(len(s.letters)), bytes, nil
}

func (s *Store) find(id uint64) (int, bool) {
	return slices.BinarySearchFunc(s.letters, id, func(l deliver.DeadLetter, id uint64) int {
		switch {
		case l.ID < id:
			return -1
		case l.ID > id:
			return 1
		}
		return 0
	})
}
