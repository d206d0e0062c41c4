package deliver

import "errors"

var (
	// ErrFull means that there is no room for more dead letters.
	ErrFull = errors.New("no room for dead letters")
	// ErrNoLetter means that there is no dead letter with an id.
	ErrNoLetter = errors.New("no such dead letter")
)
