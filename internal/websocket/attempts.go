package websocket

import "errors"

// Attempts decide about the attempts of [Conn.WriteAttempts].
type Attempts interface {
	// Begin is called before each attempt; false ends the write.
	Begin() bool
	// End is called after each attempt for which Begin has returned true.
	End()
}

// ErrStopped means that Begin of [Attempts] has ended a write.
var ErrStopped = errors.New("websocket: write stopped")
