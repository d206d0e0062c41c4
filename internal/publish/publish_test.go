package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// may is a publisher with a policy.
type may struct{ *policy.ACL }

func allowed(t testing.TB, text string) may {
	t.Helper()
	p, _, err := policy.Parse("test", text)
	if err != nil {
		t.Fatal(err)
	}
	return may{policy.Compile([]policy.Bound{{Policy: p}}, nil)}
}

func openJournal(t testing.TB, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func start(t testing.TB, o Options) *Intake {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	i := New(o)
	t.Cleanup(func() {
		if err := i.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return i
}

// begin returns an intake on a journal of its own.
func begin(t testing.TB, o Options) (*Intake, *journal.Journal) {
	t.Helper()
	j := openJournal(t, t.TempDir())
	t.Cleanup(func() {
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	o.Journal = j
	return start(t, o), j
}

func numbered(from, to int) (events []*event.Event) {
	for n := from; n < to; n++ {
		events = append(events, &event.Event{ID: fmt.Sprint("id-", n), Source: "test://a", Type: "app/x", Data: []byte("{}")})
	}
	return events
}

// stored returns the ids of the events in the journal, in order.
func stored(t testing.TB, j *journal.Journal) (ids []string) {
	t.Helper()
	r := j.Read(journal.Position{})
	for at, end := (journal.Position{}), j.End(); at.Compare(end) < 0; {
		b, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			ids = append(ids, b.Event(i).ID)
		}
		at = b.End()
	}
	return ids
}

func TestRules(t *testing.T) {
	i, j := begin(t, Options{})
	by := allowed(t, `
		path "sys/events/publish/app/*" { capabilities = ["create"] }
		path "ns1/sys/events/publish/app/*" { capabilities = ["create"] }
		path "sys/events/publish/bridge/*" { capabilities = ["create", "sudo"] }
		path "sys/events/publish/audit/*" { capabilities = ["create"] }
		path "sys/events/publish/update/*" { capabilities = ["update"] }`)
	long := strings.Repeat("x", 300)
	for _, tt := range []struct {
		name      string
		namespace string // of the request
		event     event.Event
		code      Code // empty: accepted
		text      string
	}{
		{name: "fine", event: event.Event{Type: "app/x"}},
		{name: "namespace of the request", namespace: "ns1/", event: event.Event{Type: "app/x"}},
		{name: "namespace below", event: event.Event{Type: "app/x", Namespace: "ns1"}},
		{name: "another namespace", namespace: "ns1/", event: event.Event{Type: "app/x", Namespace: "ns2/"}, code: Denied,
			text: "namespace: is not that of the request, nor below it"},
		{name: "namespace that looks like a right", event: event.Event{Type: "x", Namespace: "sys/events/publish/app/"}, code: Invalid,
			text: `namespace "sys/events/publish/app/": "sys" begins the paths of the API and cannot be part of a namespace`},
		{name: "no right there", event: event.Event{Type: "app/x", Namespace: "ns2/"}, code: Denied,
			text: `type: publishing needs the capability create on "ns2/sys/events/publish/app/x"`},
		{name: "no right", event: event.Event{Type: "other/x"}, code: Denied,
			text: `type: publishing needs the capability create on "sys/events/publish/other/x"`},
		{name: "update is not create", event: event.Event{Type: "update/x"}, code: Denied,
			text: `type: publishing needs the capability create on "sys/events/publish/update/x"`},
		{name: "audit", event: event.Event{Type: "audit/request"}, code: Reserved,
			text: `type: "audit/..." is for what the hub itself says; use a prefix of your own`},
		{name: "alert", event: event.Event{Type: "alert/x"}, code: Reserved,
			text: `type: "alert/..." is for what the hub itself says; use a prefix of your own`},
		{name: "source of the hub", event: event.Event{Type: "app/x", Source: "tocsin://hub"}, code: Reserved,
			text: `source: "tocsin://..." is the hub itself`},
		{name: "source that is no URI", event: event.Event{Type: "app/x", Source: "not a uri"}, code: Invalid,
			text: "source: is no URI-reference (RFC 3986): it has ' '; percent-encode it"},
		{name: "source with a bare percent sign", event: event.Event{Type: "app/x", Source: "/100%"}, code: Invalid,
			text: "source: is no URI-reference (RFC 3986): it has '%'; percent-encode it"},
		{name: "schema that is no URI", event: event.Event{Type: "app/x", DataSchema: "http://ü", Data: []byte("{}")}, code: Invalid,
			text: "dataschema: is no URI-reference (RFC 3986): it has 'ü'; percent-encode it"},
		{name: "plugin info", event: event.Event{Type: "app/x", Plugin: new(event.PluginInfo)}, code: Denied,
			text: `plugin_info: says which mount sent an event; setting it needs the capabilities create and sudo on "sys/events/publish/app/x"`},
		{name: "plugin info of a bridge", event: event.Event{Type: "bridge/x", Plugin: new(event.PluginInfo)}},
		{name: "no type", event: event.Event{}, code: Invalid, text: "type: is empty"},
		{name: "glob", event: event.Event{Type: "app/*"}, code: Invalid, text: `type: contains '*'`},
		{name: "long type", event: event.Event{Type: "app/" + long}, code: TooLarge, text: "type: 304 is more than the limit of 256 bytes"},
		{name: "escape", event: event.Event{Type: "app/x", Path: "a/../b"}, code: Invalid, text: `path: has a segment ".."`},
		{name: "escape of the data", event: event.Event{Type: "app/x", Metadata: event.Fields{{Key: "data_path", Value: ".."}}}, code: Invalid,
			text: `metadata data_path: has a segment ".."`},
		{name: "dots", event: event.Event{Type: "app/x", Path: "a..b/c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := tt.event
			if e.Source == "" {
				e.Source = "test://a"
			}
			result, err := i.Publish(t.Context(), Request{By: by, Namespace: tt.namespace, Events: []*event.Event{&e}})
			if tt.code == "" {
				if err != nil || result.Accepted != 1 {
					t.Fatalf("%+v, %v", result, err)
				}
				return
			}
			var refused *RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("%+v, %v; want it refused", result, err)
			}
			if r := refused.Refused[0]; r.Code != tt.code || r.Text != tt.text || r.Index != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
	if got := len(stored(t, j)); got != 5 {
		t.Errorf("%d events are stored, want the 5 that were accepted", got)
	}
	e := &event.Event{Type: "kv-v2/data-write", Source: "tocsin://hub", Plugin: &event.PluginInfo{MountPath: "secret/"}}
	if result, err := i.Publish(t.Context(), Request{By: Host, Events: []*event.Event{e}}); err != nil || result.Accepted != 1 {
		t.Errorf("of the host: %+v, %v", result, err)
	}
}

// TestPartial: one bad event keeps all out, or only itself.
func TestPartial(t *testing.T) {
	i, j := begin(t, Options{})
	by := allowed(t, `path "sys/events/publish/app/*" { capabilities = ["create"] }`)
	mixed := func() []*event.Event {
		events := numbered(0, 4)
		events[1].Type, events[3].Source = "other/x", ""
		return events
	}
	_, err := i.Publish(t.Context(), Request{By: by, Events: mixed()})
	var refused *RefusedError
	if !errors.As(err, &refused) || len(refused.Refused) != 2 || refused.Refused[1].Index != 3 || refused.Refused[1].ID != "id-3" {
		t.Fatalf("%v", err)
	}
	if want := "event 1: type: publishing needs the capability create on \"sys/events/publish/other/x\" (and 1 more were refused)"; err.Error() != want {
		t.Errorf("%v", err)
	}
	if ids := stored(t, j); len(ids) != 0 {
		t.Errorf("stored: %v", ids)
	}
	result, err := i.Publish(t.Context(), Request{By: by, Events: mixed(), Partial: true})
	if err != nil || result.Accepted != 2 || len(result.Refused) != 2 {
		t.Errorf("%+v, %v", result, err)
	}
	if ids := stored(t, j); !slices.Equal(ids, []string{"id-0", "id-2"}) {
		t.Errorf("stored: %v", ids)
	}
}

type rules struct{ learnt []string }

func (r *rules) Check(e *event.Event) (string, error) {
	switch e.ID {
	case "id-1":
		return "", errors.New("data: is no order")
	case "id-2":
		return "data: has no total", nil
	}
	return "", nil
}

func (r *rules) Learn(e *event.Event) { r.learnt = append(r.learnt, e.ID) }

type masks struct{}

func (masks) Check(e *event.Event) error {
	if v, ok := e.Metadata.Text("password"); ok {
		if v == "hard" {
			return errors.New("metadata password: looks like a secret")
		}
		e.Metadata.Set("password", "masked")
	}
	return nil
}

// TestSecretsAndCatalog: both are asked, and what was accepted is learnt.
func TestSecretsAndCatalog(t *testing.T) {
	catalog := new(rules)
	i, j := begin(t, Options{Catalog: catalog, Secrets: masks{}})
	events := numbered(0, 5)
	events[3].Metadata = event.Fields{{Key: "password", Value: "hard"}}
	events[4].Metadata = event.Fields{{Key: "password", Value: "soft"}}
	result, err := i.Publish(t.Context(), Request{By: Host, Events: events, Partial: true})
	if err != nil || result.Accepted != 3 || len(result.Refused) != 2 || result.Refused[0].Code != Schema || result.Refused[1].Code != Secret ||
		!slices.Equal(result.Warnings, []Warning{{2, "data: has no total"}}) {
		t.Errorf("%+v, %v", result, err)
	}
	if !slices.Equal(catalog.learnt, []string{"id-0", "id-2", "id-4"}) {
		t.Errorf("learnt: %v", catalog.learnt)
	}
	b, err := j.Read(journal.Position{}).Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := b.Event(2).Metadata.Text("password"); v != "masked" {
		t.Errorf("stored: %q", v)
	}
}

// TestMaskedIsLarger: an event that becomes too large by what is put in the place of a secret
// is refused alone.
func TestMaskedIsLarger(t *testing.T) {
	i, _ := begin(t, Options{Secrets: grows{}})
	events := numbered(0, 3)
	events[1].Metadata.Set("password", "x")
	events[1].Metadata.Set("rest", strings.Repeat("x", event.DefaultLimits.MaxMetadataBytes-len("passwordx")-len("rest")))
	r, err := i.Publish(t.Context(), Request{By: Host, Events: events, Partial: true})
	if err != nil || r.Accepted != 2 || len(r.Refused) != 1 || r.Refused[0].Index != 1 || r.Refused[0].Code != TooLarge {
		t.Errorf("%+v, %v", r, err)
	}
}

type grows struct{}

func (grows) Check(e *event.Event) error {
	if _, ok := e.Metadata.Get("password"); ok {
		e.Metadata.Set("password", "<masked:password>")
	}
	return nil
}

// TestRepeats: within a request, over requests, over restarts; another source is
// another event.
func TestRepeats(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir)
	i := New(Options{Journal: j})
	publish := func(accepted, duplicates int, events ...*event.Event) {
		t.Helper()
		result, err := i.Publish(t.Context(), Request{By: Host, Events: events})
		if err != nil || result.Accepted != accepted || result.Duplicates != duplicates {
			t.Fatalf("%+v, %v; want %d accepted, %d duplicates", result, err, accepted, duplicates)
		}
	}
	publish(3, 0, numbered(0, 3)...)
	publish(1, 3, numbered(0, 4)...)
	publish(2, 2, append(numbered(4, 6), numbered(4, 6)...)...)
	other := numbered(0, 1)
	other[0].Source = "test://b"
	publish(1, 0, other...)
	for range 3 {
		if err := errors.Join(i.Close(t.Context()), j.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
		j = openJournal(t, dir)
		i = New(Options{Journal: j})
		publish(0, 6, numbered(0, 6)...)
	}
	publish(1, 0, numbered(6, 7)...)
	if ids := stored(t, j); !slices.Equal(ids, []string{"id-0", "id-1", "id-2", "id-3", "id-4", "id-5", "id-0", "id-6"}) {
		t.Errorf("stored: %v", ids)
	}
	if err := errors.Join(i.Close(t.Context()), j.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Publish(t.Context(), Request{By: Host, Events: numbered(7, 8)}); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// TestManyAtOnce: of the same events, published by many at once in requests that
// overlap, each is stored once, and everybody is answered when all of theirs are.
func TestManyAtOnce(t *testing.T) {
	i, j := begin(t, Options{})
	const publishers, total, request = 16, 3000, 70
	var (
		group    sync.WaitGroup
		mu       sync.Mutex
		accepted int
	)
	for p := range publishers {
		group.Go(func() {
			for from := p; from < total; from += request / 2 {
				result, err := i.Publish(t.Context(), Request{By: Host, Events: numbered(from, min(from+request, total))})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				accepted += result.Accepted
				mu.Unlock()
			}
		})
	}
	group.Wait()
	ids := stored(t, j)
	if accepted != total || len(ids) != total {
		t.Errorf("%d accepted, %d stored, want %d", accepted, len(ids), total)
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != total {
		t.Error("some are stored twice")
	}
}

// TestForgotten: what is beyond the window, by number or time, is stored again; what is
// within is not.
func TestForgotten(t *testing.T) {
	i, _ := begin(t, Options{MaxIDs: 10, Window: time.Hour})
	publish := func(from, to int) Result {
		t.Helper()
		result, err := i.Publish(t.Context(), Request{By: Host, Events: numbered(from, to)})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	publish(0, 35)
	if r := publish(25, 35); r.Duplicates != 10 {
		t.Errorf("of the newest 10: %+v", r)
	}
	if r := publish(0, 10); r.Accepted != 10 {
		t.Errorf("of the oldest: %+v", r)
	}
	w := i.window
	w.mu.Lock()
	for range 2 {
		w.turned = time.Now().Add(-time.Hour)
		w.mu.Unlock()
		w.poke()
		for waiting := true; waiting; {
			w.mu.Lock()
			waiting = time.Since(w.turned) > time.Minute
			w.mu.Unlock()
		}
		w.mu.Lock()
	}
	if len(w.later)+len(w.earlier) != 0 {
		t.Errorf("%d and %d are remembered two hours later", len(w.later), len(w.earlier))
	}
	w.mu.Unlock()
}

// unsure answers that it is not known whether the events were stored, though they were.
type unsure struct{ waiter }

func (u unsure) Wait(ctx context.Context) (journal.Position, error) {
	if _, err := u.waiter.Wait(ctx); err != nil {
		return journal.Position{}, err
	}
	return journal.Position{}, &journal.PushbackError{Reason: "power cut", RetryAfter: time.Second, Unknown: true}
}

// TestUnknownOutcome: after a failure that leaves open what was stored, a repeat is
// recognised all the same.
func TestUnknownOutcome(t *testing.T) {
	i, j := begin(t, Options{})
	publish := func(events []*event.Event) (Result, error) {
		return i.Publish(t.Context(), Request{By: Host, Events: events})
	}
	if _, err := publish(numbered(0, 5)); err != nil {
		t.Fatal(err)
	}
	store := i.window.store
	i.window.store = func(ctx context.Context, events []*event.Event) (waiter, error) {
		w, err := store(ctx, events)
		return unsure{w}, err
	}
	if r, err := publish(numbered(3, 8)); err == nil {
		t.Fatalf("%+v", r)
	}
	i.window.store = store
	if r, err := publish(numbered(0, 10)); err != nil || r.Accepted != 2 || r.Duplicates != 8 {
		t.Errorf("%+v, %v", r, err)
	}
	if ids := stored(t, j); len(ids) != 10 {
		t.Errorf("stored: %v", ids)
	}
}

// failed is a receipt of what was not stored.
type failed struct{ err error }

func (f failed) Wait(context.Context) (journal.Position, error) { return journal.Position{}, f.err }

// TestManyFaults: of events that many repeat until they get an answer, each is stored once,
// whatever the journal says and whoever gives up meanwhile.
func TestManyFaults(t *testing.T) {
	i, j := begin(t, Options{})
	store := i.window.store
	i.window.store = func(ctx context.Context, events []*event.Event) (waiter, error) {
		switch rand.IntN(8) {
		case 0:
			return nil, &journal.PushbackError{Reason: "full", RetryAfter: time.Second}
		case 1:
			return failed{&journal.PushbackError{Reason: "not stored", RetryAfter: time.Second}}, nil
		case 2:
			return failed{&journal.PushbackError{Reason: "perhaps not stored", RetryAfter: time.Second, Unknown: true}}, nil
		case 3:
			w, err := store(ctx, events)
			return unsure{w}, err
		}
		return store(ctx, events)
	}
	const publishers, total, request = 8, 1000, 40
	var group sync.WaitGroup
	var accepted atomic.Int64
	for p := range publishers {
		group.Go(func() {
			for from := p; from < total; from += request / 2 {
				for done := false; !done; {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(20))*time.Millisecond+time.Microsecond)
					result, err := i.Publish(ctx, Request{By: Host, Events: numbered(from, min(from+request, total))})
					cancel()
					accepted.Add(int64(result.Accepted))
					if done = err == nil; done && result.Accepted+result.Duplicates != min(request, total-from) {
						t.Errorf("%+v", result)
					}
				}
			}
		})
	}
	group.Wait()
	ids := stored(t, j)
	if len(ids) != total || accepted.Load() > total {
		t.Errorf("%d are stored, %d were accepted, want %d", len(ids), accepted.Load(), total)
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != total {
		t.Error("some are stored twice")
	}
	i.window.mu.Lock()
	defer i.window.mu.Unlock()
	if n := len(i.window.pending); n != 0 {
		t.Errorf("%d are pending for ever", n)
	}
}

// lossy is a journal that has lost events, all those that were remembered.
type lossy struct{ *journal.Journal }

func (lossy) Health() error { return fmt.Errorf("since a while: %w", journal.ErrLost) }

// TestLost: a journal that has lost events says so for ever, and takes others, and those that
// it has lost.
func TestLost(t *testing.T) {
	_, j := begin(t, Options{})
	i := start(t, Options{Journal: lossy{j}})
	publish := func(from, to int) (Result, error) {
		return i.Publish(t.Context(), Request{By: Host, Events: numbered(from, to)})
	}
	if _, err := publish(0, 2); err != nil {
		t.Fatal(err)
	}
	gone := numbered(5, 6)[0]
	i.window.mu.Lock()
	i.window.later[i.window.key(gone)] = struct{}{}
	i.window.mu.Unlock()
	store := i.window.store
	i.window.store = func(ctx context.Context, events []*event.Event) (waiter, error) {
		w, err := store(ctx, events)
		return unsure{w}, err
	}
	if r, err := publish(2, 4); err == nil {
		t.Fatalf("%+v", r)
	}
	i.window.store = store
	if r, err := publish(0, 6); err != nil || r.Duplicates != 4 || r.Accepted != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestCloseBetween: who has claimed events when the intake is closed gets an answer.
func TestCloseBetween(t *testing.T) {
	i, _ := begin(t, Options{})
	claimed, resume := make(chan struct{}), make(chan struct{})
	store := i.window.store
	i.window.store = func(ctx context.Context, events []*event.Event) (waiter, error) {
		close(claimed)
		<-resume
		return store(ctx, events)
	}
	answered, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := i.Publish(context.Background(), Request{By: Host, Events: numbered(0, 1)})
		answered <- err
	}()
	<-claimed
	go func() { closed <- i.Close(context.Background()) }()
	for closing := false; !closing; {
		i.window.mu.Lock()
		closing = i.window.closing
		i.window.mu.Unlock()
	}
	if _, err := i.Publish(t.Context(), Request{By: Host, Events: numbered(1, 2)}); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	close(resume)
	for what, c := range map[string]chan error{"the answer": answered, "Close": closed} {
		select {
		case err := <-c:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s does not come", what)
		}
	}
}

// TestLarge: a request larger than what the journal takes at once.
func TestLarge(t *testing.T) {
	i, j := begin(t, Options{})
	events := numbered(0, 40)
	for _, e := range events {
		e.Data = []byte(`"` + strings.Repeat("x", 900<<10) + `"`)
	}
	if r, err := i.Publish(t.Context(), Request{By: Host, Events: events}); err != nil || r.Accepted != 40 {
		t.Fatalf("%+v, %v", r, err)
	}
	if ids := stored(t, j); len(ids) != 40 || ids[39] != "id-39" {
		t.Errorf("stored: %v", ids)
	}
}

// TestSmallLimits: with small limits the journal takes less at once than requests have.
func TestSmallLimits(t *testing.T) {
	limits := event.Limits{MaxTypeBytes: 64, MaxMetadataKeys: 8, MaxMetadataBytes: 512, MaxEventBytes: 1 << 10}
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), Limits: limits, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(context.Background())
	i := New(Options{Journal: j, Limits: limits})
	defer i.Close(context.Background())
	if r, err := i.Publish(t.Context(), Request{By: Host, Events: numbered(0, 500)}); err != nil || r.Accepted != 500 {
		t.Fatalf("%+v, %v", r, err)
	}
	if ids := stored(t, j); len(ids) != 500 || ids[499] != "id-499" {
		t.Errorf("%d are stored", len(ids))
	}
	// Parts without bytes are not for nothing, and no reason to refuse others.
	parts := numbered(500, 502)
	parts[0].EntityIDs = make([]string, 2000)
	r, err := i.Publish(t.Context(), Request{By: Host, Events: parts, Partial: true})
	if err != nil || r.Accepted != 1 || len(r.Refused) != 1 || r.Refused[0].Code != TooLarge {
		t.Errorf("many parts: %+v, %v", r, err)
	}
}

// TestRepeatsOfOthers: who publishes an id before its owner does keeps out nothing that he
// may not publish.
func TestRepeatsOfOthers(t *testing.T) {
	i, j := begin(t, Options{})
	by := allowed(t, `path "evil/sys/events/publish/*" { capabilities = ["create"] }
		path "sys/events/publish/evil/*" { capabilities = ["create"] }`)
	squat := numbered(0, 2)
	squat[0].Namespace, squat[1].Type = "evil/", "evil/x"
	if r, err := i.Publish(t.Context(), Request{By: by, Events: squat}); err != nil || r.Accepted != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	for round, want := range []Result{{Accepted: 2}, {Duplicates: 2}} {
		if r, err := i.Publish(t.Context(), Request{By: Host, Events: numbered(0, 2)}); err != nil || r.Accepted != want.Accepted || r.Duplicates != want.Duplicates {
			t.Errorf("round %d: %+v, %v", round, r, err)
		}
	}
	if ids := stored(t, j); len(ids) != 4 {
		t.Errorf("stored: %v", ids)
	}
}

// TestReadOverGap: what is behind events that are missing is remembered, also if that is
// one event.
func TestReadOverGap(t *testing.T) {
	i, j := begin(t, Options{})
	for n := range 3 {
		if _, err := i.Publish(t.Context(), Request{By: Host, Events: numbered(n, n+1)}); err != nil {
			t.Fatal(err)
		}
	}
	w := i.window
	w.mu.Lock()
	clear(w.later)
	w.mu.Unlock()
	// As if another record had been there before the last.
	end := j.End()
	if err := w.readFrom(&journal.Position{Seq: end.Seq - 1, Index: journal.BetweenRecords, Ordinal: 0}); err != nil {
		t.Fatal(err)
	}
	if r, err := i.Publish(t.Context(), Request{By: Host, Events: numbered(2, 3)}); err != nil || r.Duplicates != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func BenchmarkPublish(b *testing.B) {
	j := openJournal(b, b.TempDir())
	i := New(Options{Journal: j})
	data := []byte(`"` + strings.Repeat("x", 600) + `"`)
	const request = 100
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		events := make([]*event.Event, request)
		for k := range events {
			n++
			events[k] = &event.Event{ID: fmt.Sprint("id-", n), Source: "test://a", Type: "app/x", Data: data, DataContentType: "application/json"}
		}
		if _, err := i.Submit(b.Context(), Request{By: Host, Events: events}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	b.StopTimer()
	_ = i.Close(context.Background())
	_ = j.Close(context.Background())
}
