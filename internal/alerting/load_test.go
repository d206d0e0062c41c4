package alerting

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// Rules that change all the time under load: each event is judged once, by one of them.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	text := func(version int) string {
		return ruleText("versioned", `event.type = "app/a" and event.path exists`, fmt.Sprintf("# version %d", version)) +
			ruleText("many", `event.type = "app/a"`, "window: {count: 100, within: 1h}") + ruleText(fmt.Sprint("other", version), "event.type = never", "")
	}
	s := newSetup(t, text(0))
	a, _ := s.start()
	const events = 5000
	var reloads atomic.Int64
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := 0; i < events; i += 10 {
			for reloads.Load() < int64(i/1000) && t.Context().Err() == nil { // there are some all the time
				time.Sleep(time.Millisecond)
			}
			var unit []*event.Event
			for k := range 10 {
				unit = append(unit, app(i+k, "app/a"))
			}
			if _, err := s.journal.Append(t.Context(), unit...); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for running := true; running; reloads.Add(1) {
		s.write(text(int(reloads.Load()) + 1))
		if _, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-written:
			running = false
		default:
		}
	}
	s.judged(a)
	of := make(map[string]int)
	many := 0
	for _, e := range s.alerts() {
		if e.Type == "alert/many" {
			many++
			continue
		}
		id, _ := e.Metadata.Text(MetadataEventID)
		of[id]++
	}
	for i := range events {
		if n := of[fmt.Sprint("event-", i)]; n != 1 {
			t.Fatalf("event %d has %d alerts, after %d reloads", i, n, reloads.Load())
		}
	}
	if many != events/100 {
		t.Errorf("the window has raised %d alerts instead of %d: it lost its memory", many, events/100)
	}
}

func TestRefusedRulesChangeNothing(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("old", `event.type = "app/a"`, ""))
	a, _ := s.start()
	s.append(app(1, "app/a"))
	s.judged(a)
	s.write(ruleText("new", `event.typ = "app/a"`, ""))
	eventually(t, "the change is refused", func() bool { return len(s.told("rules-refused")) == 1 })
	err := a.Health()
	if err == nil || !strings.Contains(err.Error(), "rules.yaml:3:") || !strings.Contains(err.Error(), "the 1 rules from before judge") {
		t.Errorf("health: %v", err)
	}
	if _, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); !errors.Is(err, ErrRefused) {
		t.Errorf("reload: %v", err)
	}
	s.append(app(2, "app/a"))
	s.judged(a)
	s.write(ruleText("new", `event.type = "app/a"`, ""))
	eventually(t, "the change is loaded", func() bool { return len(s.told("rules-loaded")) == 2 })
	if err := a.Health(); err != nil {
		t.Error(err)
	}
	s.append(app(3, "app/a"))
	s.judged(a)
	if got := outputs(s.alerts()); got != "old app/a <NA> | old app/a <NA> | new app/a <NA>" {
		t.Errorf("got %s", got)
	}
	if l, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); err != nil || !l.Unchanged {
		t.Errorf("got %+v, %v", l, err)
	}
}

// Without rules that can be loaded events wait, and are judged by the first that can.
func TestBrokenAtTheStart(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "- rule: [")
	a, _ := s.start()
	s.append(app(1, "app/a"))
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "no rules are there") {
		t.Errorf("health: %v", err)
	}
	s.write(ruleText("new", `event.type = "app/a"`, ""))
	eventually(t, "an alert", func() bool { return len(s.alerts()) == 1 })
}

func TestDirectories(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "")
	dir := filepath.Join(t.TempDir(), "rules.d")
	s.o.Paths = []string{dir}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("b.yaml", ruleText("x", `event.type = "app/b"`, "tags: [b]"))
	write("a.yml", ruleText("x", `event.type = "app/a"`, ""))
	write(".hidden.yaml", "- [")
	write("a.test.yaml", "tests: []")
	write("c.yaml.bak", "- [")
	a, _ := s.start()
	eventually(t, "the rules judge", func() bool { return a.Status().State == "judging" })
	if st := a.Status(); st.Files != 2 || len(st.Rules) != 1 || fmt.Sprint(st.Rules[0].Tags) != "[b]" {
		t.Errorf("got %+v", st)
	}
	write("d.yaml", ruleText("y", `event.type = "app/b"`, ""))
	eventually(t, "the new file is loaded", func() bool { return len(a.Status().Rules) == 2 })
	d := filepath.Join(dir, "d.yaml")
	if err := errors.Join(os.Rename(d, d+".target"), os.Symlink(d+".target", d)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); err != nil {
		t.Error(err)
	}
	if err := os.Rename(d+".target", d+".gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); err == nil || len(a.Status().Rules) != 2 {
		t.Errorf("a link to nothing takes rules away: %v, %d rules", err, len(a.Status().Rules))
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the missing directory is told", func() bool { return a.Health() != nil })
	if st := a.Status(); len(st.Rules) != 2 {
		t.Errorf("got %+v", st)
	}
}

// blocking is a journal that stores no progress, or no events, for a while.
type blocking struct {
	*journal.Journal
	noState, noAppend atomic.Bool
	waiting           atomic.Bool
}

func (b *blocking) State(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	if b.noState.Load() {
		return nil, errors.New("not now")
	}
	return b.Journal.State(ctx, bucket)
}

func (b *blocking) Append(ctx context.Context, events ...*event.Event) (journal.Position, error) {
	if b.noAppend.Load() {
		b.waiting.Store(true)
		<-ctx.Done()
		return journal.Position{}, ctx.Err()
	}
	return b.Journal.Append(ctx, events...)
}

// A hub that is stopped between two sets of rules does not forget what those that stay remember.
func TestStoppedBetweenTwoSets(t *testing.T) {
	t.Parallel()
	const throttled = "throttle: {every: 1h}"
	stays := ruleText("stays", `event.type = "app/a"`, throttled)
	s := newSetup(t, stays+ruleText("goes", `event.type = "app/b"`, throttled))
	s.o.Reload = -1
	b := &blocking{Journal: s.journal}
	s.o.Journal = b
	a, stop := s.start()
	s.append(app(1, "app/a"), app(2, "app/a"), app(3, "app/b"), app(4, "app/b"))
	s.judged(a)
	b.noState.Store(true)
	s.append(app(5, "app/c"))
	s.judged(a)
	b.noAppend.Store(true)
	s.write(stays)
	reloaded := make(chan error, 1)
	go func() {
		_, err := a.Reload(context.Background(), ReasonRequest, trail.Who{})
		reloaded <- err
	}()
	eventually(t, "what was held back is to be told", b.waiting.Load)
	b.noState.Store(false)
	stop()
	if err := <-reloaded; err == nil {
		t.Error("the rules judge, though the hub was stopped")
	}
	b.noAppend.Store(false)
	a, _ = s.start()
	s.append(app(6, "app/c"))
	s.judged(a)
	if n := a.Status().Keys; n != 1 {
		t.Errorf("%d keys are remembered, not that of the rule which stays", n)
	}
}
