package deliver

import (
	"errors"
	"fmt"
)

var (
	// ErrFull means that there is no room for more dead letters.
	ErrFull = errors.New("no room for dead letters")
	// ErrNoLetter means that there is no dead letter with an id.
	ErrNoLetter = errors.New("no such dead letter")
	// ErrNoReplay means that no replay and no redrive with an id is under way.
	ErrNoReplay = errors.New("no such replay or redrive is under way")
	// ErrBusy means that as many replays and redrives are under way as there may be.
	ErrBusy = errors.New("too many replays and redrives are under way; wait for one to end, or cancel one")
	// ErrEnded means that a delivery does nothing any more, because its Run has returned.
	ErrEnded = errors.New("the delivery has ended")
)

// UnreadableLetter is the error about a dead letter that is there and cannot be read, because
// it is damaged, or another version of the program wrote it.
type UnreadableLetter struct {
	ID  uint64
	Err error
}

func (e *UnreadableLetter) Error() string {
	return fmt.Sprintf("dead letter %d cannot be read: %v", e.ID, e.Err)
}

// Unwrap returns the reason.
func (e *UnreadableLetter) Unwrap() error { return e.Err }
