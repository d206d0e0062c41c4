package alerting

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/trail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = time.Minute
	source   = "tocsin://test"
)

func openJournal(t *testing.T, change ...func(*journal.Config)) *journal.Journal {
	t.Helper()
	c := journal.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&c)
	}
	j, err := journal.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return j
}

// ruleText is a rule about events of the hub.
func ruleText(name, condition, more string) string {
	text := fmt.Sprintf("- rule: %s\n  desc: d\n  condition: %s\n  output: '%s %%event.type %%event.metadata[who]'\n  priority: WARNING\n  source: tocsin\n", name, condition, name)
	for line := range strings.SplitSeq(more, "\n") {
		if line != "" {
			text += "  " + line + "\n"
		}
	}
	return text
}

// setup is an Alerting with all that it needs.
type setup struct {
	t       *testing.T
	journal *journal.Journal
	file    string // of rules
	o       Options

	mu      sync.Mutex
	records []trail.Record
}

func newSetup(t *testing.T, rules string) *setup {
	s := &setup{t: t, journal: openJournal(t), file: filepath.Join(t.TempDir(), "rules.yaml")}
	s.write(rules)
	s.o = Options{
		Journal: s.journal, Paths: []string{s.file}, Fields: fields.New(fields.Options{}), FromStart: true, Reload: 20 * time.Millisecond,
		Source: source, Hostname: "here", Rules: rule.Options{Location: time.UTC},
		Record: func(r trail.Record) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.records = append(s.records, r)
		},
	}
	return s
}

// write replaces the rules, as a careful editor does.
func (s *setup) write(rules string) {
	s.t.Helper()
	if err := os.WriteFile(s.file+".new", []byte(rules), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.file+".new", s.file); err != nil {
		s.t.Fatal(err)
	}
}

// start runs an Alerting until stop is called, or the test ends.
func (s *setup) start() (a *Alerting, stop func()) {
	s.t.Helper()
	a, err := New(s.o)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		})
	}
	s.t.Cleanup(stop)
	return a, stop
}

// told returns what was recorded of a kind.
func (s *setup) told(what string) (list []trail.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		if r.What == what {
			list = append(list, r)
		}
	}
	return list
}

func (s *setup) append(events ...*event.Event) {
	s.t.Helper()
	for len(events) > 0 {
		n := min(len(events), 100)
		if _, err := s.journal.Append(s.t.Context(), events[:n]...); err != nil {
			s.t.Fatal(err)
		}
		events = events[n:]
	}
}

// alerts returns the events of alerts in the journal.
func (s *setup) alerts() (list []*event.Event) {
	s.t.Helper()
	end := s.journal.End()
	reader := s.journal.Read(journal.Position{})
	for !end.IsZero() {
		b, err := reader.Next(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			if e := b.Event(i); strings.HasPrefix(e.Type, severity.AlertTypes) {
				list = append(list, e)
			}
		}
		if b.End().Compare(end) >= 0 {
			return list
		}
	}
	return list
}

func outputs(alerts []*event.Event) string {
	var list []string
	for _, e := range alerts {
		text, _ := e.Metadata.Text(severity.MetadataOutput)
		list = append(list, text)
	}
	return strings.Join(list, " | ")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// judged waits until all events of the journal are.
func (s *setup) judged(a *Alerting) {
	s.t.Helper()
	eventually(s.t, "all is judged", func() bool {
		st, end := a.Status(), s.journal.End()
		return st.At.Compare(end) >= 0
	})
}

func app(n int, typ string, metadata ...string) *event.Event {
	e := event.NewNotification(typ, metadata...)
	e.ID, e.Source, e.Namespace, e.Path = fmt.Sprint("event-", n), "app://test", "team/", "secret/x"
	e.Metadata.Set(event.MetadataPath, e.Path)
	return e
}
