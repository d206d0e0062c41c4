// Package filestore keeps what a delivery must know after a restart in two files of a
// directory: its state, which is replaced as a whole, and its dead letters, a file to which
// changes are added. Without a directory it keeps them in memory.
//
// A store belongs to one process; who opens it has locked the directory.
package filestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/directory"
	"github.com/tocsin-events/tocsin/internal/position"
)

// Bounds unless [Options] say otherwise.
const (
	DefaultMaxBytes   = 256 << 20
	DefaultMaxLetters = 1_000_000
)

// Options say where a store is. Name is required.
type Options struct {
	// Dir is a directory that exists. Empty: memory.
	Dir string
	// Name is that of the sink, and part of the names of the files: lower-case letters, digits,
	// - and _.
	Name string
	// MaxBytes and MaxLetters bound the dead letters. The file may be up to twice as large
	// for a moment.
	MaxBytes   int64
	MaxLetters int
	// Logger is told about damage. Nil: nobody is.
	Logger *slog.Logger
}

// Store is a [deliver.Store]. It is safe for concurrent use.
type Store struct {
	o   Options
	log *slog.Logger

	saving sync.Mutex // of the file with the state
	mu     sync.Mutex
	state  []byte // JSON, nil: none
	closed bool

	letters []letter // by id
	at      map[position.Position]uint64
	last    uint64 // id ever given
	bytes   int64  // of the records of letters
	file    *os.File
	size    int64 // of the file
	failed  bool  // nobody knows what is at the end of the file
	damaged int   // records that could not be read
}

const (
	stateSuffix   = ".state"
	lettersSuffix = ".letters"
)

var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

var errClosed = errors.New("the store is closed")

// Open returns a store with what a former process stored.
func Open(o Options) (*Store, error) {
	if !nameRule.MatchString(o.Name) {
		return nil, fmt.Errorf("the name %.80q of a sink must be 1 to 63 lower-case letters, digits, - and _, and begin with a letter or digit", o.Name)
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxLetters <= 0 {
		o.MaxLetters = DefaultMaxLetters
	}
	s := &Store{o: o, log: o.Logger, at: make(map[position.Position]uint64)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if o.Dir == "" {
		return s, nil
	}
	state, err := os.ReadFile(s.path(stateSuffix))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the state of sink %s: %w", o.Name, err)
	default:
		s.state = state
	}
	if err := s.openLetters(); err != nil {
		return nil, fmt.Errorf("read the dead letters of sink %s: %w", o.Name, err)
	}
	return s, nil
}

func (s *Store) path(suffix string) string { return filepath.Join(s.o.Dir, s.o.Name+suffix) }

// storedState is what the file has.
type storedState struct {
	Version int           `json:"version"`
	State   deliver.State `json:"state"`
}

const stateVersion = 1

// Load implements [deliver.Store].
func (s *Store) Load(ctx context.Context) (deliver.State, bool, error) {
	if err := ctx.Err(); err != nil {
		return deliver.State{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return deliver.State{}, false, errClosed
	}
	if s.state == nil {
		return deliver.State{}, false, nil
	}
	var stored storedState
	if err := json.Unmarshal(s.state, &stored); err != nil {
		return deliver.State{}, false, fmt.Errorf("the file %s cannot be read; move it away to begin anew: %w", s.path(stateSuffix), err)
	}
	if stored.Version != stateVersion {
		return deliver.State{}, false, fmt.Errorf("the file %s has version %d, this program knows %d", s.path(stateSuffix), stored.Version, stateVersion)
	}
	return stored.State, true, nil
}

// Save implements [deliver.Store].
func (s *Store) Save(ctx context.Context, state deliver.State) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := json.Marshal(storedState{stateVersion, state})
	if err != nil {
		return fmt.Errorf("encode the state of sink %s: %w", s.o.Name, err)
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return errClosed
	}
	if s.o.Dir != "" {
		if err := replaceFile(s.path(stateSuffix), b); err != nil {
			return fmt.Errorf("store the state of sink %s: %w", s.o.Name, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = b
	return nil
}

// replaceFile makes a file have a content, all of it or none of it.
func replaceFile(path string, content []byte) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return directory.Sync(filepath.Dir(path))
}

// Close closes the file. What is stored stays.
func (s *Store) Close() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// Damaged returns how many dead letters could not be read when the store was opened.
func (s *Store) Damaged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged
}

// find returns the index of the first letter with an id of at least id.
func (s *Store) find(id uint64) int {
	i, _ := slices.BinarySearchFunc(s.letters, id, func(l letter, id uint64) int {
		switch {
		case l.id < id:
			return -1
		case l.id > id:
			return 1
		}
		return 0
	})
	return i
}
