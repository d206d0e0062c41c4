package websocket

import "errors"

// Attempts decide about the attempts of [Conn.WriteAttempts], and know when one is
// under way: they have a word with a bit for it.
type Attempts interface {
	// Begin is called before each attempt. It sets the bit and returns true; false
	// ends the write.
	Begin() bool
	// End is called after each attempt for which Begin has returned true, with the
	// value of the word before the bit was cleared.
	End(word uint64)
}

// ErrStopped means that Begin of [Attempts] has ended a write.
var ErrStopped = errors.New("websocket: write stopped")
