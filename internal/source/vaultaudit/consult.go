package vaultaudit

import "github.com/tocsin-events/tocsin/internal/derivation"

// Ask takes what the lines so far left open, which may be nothing, and returns what
// the server has answered since the last call, mostly nothing. It is called between
// batches of lines, so it must return at once: whoever asks the server does it beside
// the stream. Devices go by the names that they have as inputs of the source.
type Ask func(derivation.Questions) []derivation.Answers

// Consult hands to ask what the lines so far left open, and takes its answers for the
// lines that follow.
func (t *Translator) Consult(ask Ask) {
	q := t.deriver.Questions()
	for i, device := range q.Devices {
		if device == "" { // that of the server itself
			q.Devices[i] = t.config.Name
		}
	}
	for _, a := range ask(q) {
		if a.Device == t.config.Name {
			a.Device = ""
		}
		t.deriver.Answer(a)
	}
}
