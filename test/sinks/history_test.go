package sinks

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/api"
)

// arrival is an event as a receiver has stored it. It is a CloudEvent.
type arrival struct {
	ID       string `json:"id"`
	Path     string `json:"subject"`
	Sequence string `json:"sequence"`

	at       time.Time // zero: it is not known
	redriven bool
	start    int // of the hub, see hub.starts
}

// number is which event of its publisher it is.
func number(id string) int {
	_, digits, _ := strings.Cut(id, "-")
	n, err := strconv.Atoi(digits)
	if err != nil {
		panic("an event that nobody has published: " + id)
	}
	return n
}

// refusesNothing is what a receiver refuses that refuses nothing.
func refusesNothing(string) bool { return false }

// history is what became of events at one sink.
type history struct {
	arrivals []arrival // in their order
	letters  []api.DeadLetter
	refused  func(id string) bool // by the receiver
	all      bool                 // all events are in order, not only those of a path
	once     bool                 // the receiver takes each event once
}

// check tells what is wrong, if every event of these, and no other, was acknowledged to a
// publisher. Those of one publisher are in the order in which they were published.
func (h history) check(acknowledged []string) (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	known := make(map[string]bool, len(acknowledged))
	for _, id := range acknowledged {
		known[id] = true
	}
	first := make(map[string]arrival)
	owner := make(map[string]string) // of a sequence
	last := make(map[string]arrival) // of a path or publisher
	for _, a := range h.arrivals {
		if !known[a.ID] {
			wrong("%s arrived and was not published", a.ID)
			continue
		}
		if before, repeated := first[a.ID]; repeated {
			if before.Sequence != a.Sequence || before.Path != a.Path {
				wrong("%s arrived again as another one: %v, %v", a.ID, before, a)
			}
			if h.once {
				wrong("%s arrived twice", a.ID)
			}
			continue
		}
		first[a.ID] = a
		if other, taken := owner[a.Sequence]; taken {
			wrong("%s and %s have the sequence %s", other, a.ID, a.Sequence)
		}
		owner[a.Sequence] = a.ID
		if h.refused(a.ID) && !a.redriven {
			wrong("%s arrived, although it is refused", a.ID)
		}
		if a.redriven {
			continue // it comes when it comes
		}
		publisher, _, _ := strings.Cut(a.ID, "-")
		keys := []string{"path " + a.Path}
		if h.all {
			keys = []string{"all", "publisher " + publisher}
		}
		for i, key := range keys {
			if before, ok := last[key]; ok && (a.Sequence <= before.Sequence || (!h.all || i > 0) && number(a.ID) <= number(before.ID)) {
				wrong("%s: %s (%s) arrived behind %s (%s)", key, a.ID, a.Sequence, before.ID, before.Sequence)
			}
			last[key] = a
		}
	}
	letters := make(map[string]bool)
	for _, l := range h.letters {
		if letters[l.EventID] {
			wrong("%s is two dead letters", l.EventID)
		}
		letters[l.EventID] = true
		if !known[l.EventID] || !h.refused(l.EventID) || l.Cause != "refused" {
			wrong("the dead letter %s, cause %s, outcome %s, status %d, reason %s", l.EventID, l.Cause, l.Outcome, l.Status, l.Reason)
		}
	}
	for _, id := range acknowledged {
		if _, arrived := first[id]; !arrived && !letters[id] {
			wrong("%s is lost", id)
		}
		if h.refused(id) && !letters[id] {
			wrong("%s was refused and is no dead letter", id)
		}
	}
	if len(problems) > 20 {
		problems = append(problems[:20], fmt.Sprintf("and %d more", len(problems)-20))
	}
	return problems
}

// repeats counts the events that arrived again, and the most of them after one start of the
// hub.
func (h history) repeats() (all, most int) {
	seen := make(map[string]bool)
	again := make(map[int]int) // by start
	for _, a := range h.arrivals {
		if seen[a.ID] {
			all++
			again[a.start]++
			most = max(most, again[a.start])
		}
		seen[a.ID] = true
	}
	return all, most
}

// The check finds whatever could be wrong.
func TestHistoryCheck(t *testing.T) {
	t.Parallel()
	refused := func(id string) bool { return number(id) == 3 }
	var ids []string
	var good []arrival
	for n := range 6 {
		for p := range 2 {
			id := fmt.Sprintf("%d-%d", p, n)
			ids = append(ids, id)
			if !refused(id) {
				good = append(good, arrival{ID: id, Path: fmt.Sprintf("path-%d", p), Sequence: fmt.Sprintf("%04d", 10*n+p)})
			}
		}
	}
	letters := []api.DeadLetter{{EventID: "0-3", Cause: "refused"}, {EventID: "1-3", Cause: "refused"}}
	tests := map[string]struct {
		change func(*history)
		want   string // "": nothing is wrong
	}{
		"good":                     {func(h *history) {}, ""},
		"repeats":                  {func(h *history) { h.arrivals = append(h.arrivals, good[3:6]...) }, ""},
		"another path overtakes":   {func(h *history) { h.arrivals[2], h.arrivals[3] = h.arrivals[3], h.arrivals[2] }, ""},
		"lost":                     {func(h *history) { h.arrivals = slices.Delete(h.arrivals, 4, 5) }, "is lost"},
		"overtaken in its path":    {func(h *history) { h.arrivals[2], h.arrivals[4] = h.arrivals[4], h.arrivals[2] }, "arrived behind"},
		"all: another path":        {func(h *history) { h.all = true; h.arrivals[2], h.arrivals[3] = h.arrivals[3], h.arrivals[2] }, "arrived behind"},
		"all in order":             {func(h *history) { h.all = true }, ""},
		"the journal's order":      {func(h *history) { h.arrivals[0].Sequence, h.arrivals[2].Sequence = "0010", "0000" }, "arrived behind"},
		"twice, where it must not": {func(h *history) { h.once = true; h.arrivals = append(h.arrivals, good[9]) }, "arrived twice"},
		"repeated as another":      {func(h *history) { h.arrivals = append(h.arrivals, arrival{ID: "0-0", Sequence: "9"}) }, "as another one"},
		"the same sequence":        {func(h *history) { h.arrivals[1].Sequence = "0000" }, "have the sequence"},
		"not published":            {func(h *history) { h.arrivals = append(h.arrivals, arrival{ID: "7-7"}) }, "was not published"},
		"refused and arrived":      {func(h *history) { h.arrivals = append(h.arrivals, arrival{ID: "0-3", Sequence: "9"}) }, "although it is refused"},
		"redriven":                 {func(h *history) { h.arrivals = append(h.arrivals, arrival{ID: "0-3", Sequence: "9", redriven: true}) }, ""},
		"no dead letter":           {func(h *history) { h.letters = h.letters[1:] }, "is no dead letter"},
		"a dead letter twice":      {func(h *history) { h.letters = append(h.letters, h.letters[0]) }, "two dead letters"},
		"another dead letter":      {func(h *history) { h.letters = append(h.letters, api.DeadLetter{EventID: "0-4", Cause: "refused"}) }, "the dead letter 0-4"},
		"another cause":            {func(h *history) { h.letters[0].Cause = "failed" }, "cause failed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := history{arrivals: slices.Clone(good), letters: slices.Clone(letters), refused: refused}
			test.change(&h)
			problems := strings.Join(h.check(ids), "\n")
			if test.want == "" && problems != "" || !strings.Contains(problems, test.want) {
				t.Errorf("%q, want %q", problems, test.want)
			}
		})
	}
}
