package vaultaudit

import "github.com/tocsin-events/tocsin/internal/derivation"

// Ask takes what the lines so far left open, which may be nothing, and returns what
// the server has answered since the last call, mostly nothing. It is called between
// batches of lines, so it must return at once: whoever asks the server does it beside
// the stream. The Device of answers is the name that the device has for the source.
type Ask func(derivation.Questions) []derivation.Answers

// Consult hands to ask what the lines so far left open, and takes its answers for the
// lines that follow.
func (t *Translator) Consult(ask Ask) {
	for _, a := range ask(t.deriver.Questions()) {
		t.deriver.Answer(a)
	}
}
