package deliver

import "time"

// Kind is what has changed.
type Kind string

// The kinds of changes.
const (
	// ChangeFailing: nothing can be delivered, for long enough to tell. Outage says more.
	ChangeFailing Kind = "failing"
	// ChangeRecovered: after that, something was delivered. Outage is the one that is over.
	ChangeRecovered Kind = "recovered"
	// ChangeHeld: nothing is sent from now on. Held says why.
	ChangeHeld Kind = "held"
	// ChangeResumed: it is sent again.
	ChangeResumed Kind = "resumed"
	// ChangeGap: the journal had removed Missed events before they were read (0: nobody
	// knows how many). Reason says more.
	ChangeGap Kind = "gap"
	// ChangeLettersFull: there is no room for more dead letters. Events that should become
	// some wait, with those that may not overtake them.
	ChangeLettersFull Kind = "letters_full"
	// ChangeReplayed: a replay or redrive has ended. ID says which.
	ChangeReplayed Kind = "replayed"
)

// Change is something that people want to know of a delivery.
type Change struct {
	Kind   Kind
	At     time.Time
	Outage Outage
	Held   Held
	Missed uint64
	ID     string
	Reason string
}
