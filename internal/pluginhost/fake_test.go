package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/publish"
	"github.com/tocsin-events/tocsin/internal/strongbox"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// farm starts fake plugins. What a plugin does depends on its arguments.
type farm struct {
	mu        sync.Mutex
	launched  []*fakeProcess
	broken    error // of the next launches
	single    bool  // plugins are not multiplexed
	openError map[string]error
	slow      time.Duration           // of each opening
	backends  map[string]*fakeBackend // the last of each mount
	twice     int                     // openings while the mount had a backend
	answer    func(b *fakeBackend, r *vaultplugin.Request) (*vaultplugin.Response, error)
}

func (f *farm) launch(_ context.Context, o vaultplugin.Options) (Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	p := &fakeProcess{farm: f, options: o, pid: len(f.launched) + 1, exited: make(chan struct{})}
	f.launched = append(f.launched, p)
	return p, nil
}

func (f *farm) last() *fakeProcess {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.launched[len(f.launched)-1]
}

func (f *farm) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.launched)
}

func (f *farm) set(change func(*farm)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// alive returns how many processes have not ended.
func (f *farm) alive() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, p := range f.launched {
		if !exited(p) {
			n++
		}
	}
	return n
}

type fakeProcess struct {
	farm    *farm
	options vaultplugin.Options
	pid     int
	once    sync.Once
	exited  chan struct{}
	mu      sync.Mutex
	err     error
	opened  int
}

func (p *fakeProcess) end(err error) {
	p.once.Do(func() {
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.exited)
	})
}

func (p *fakeProcess) Multiplexed() bool {
	p.farm.mu.Lock()
	defer p.farm.mu.Unlock()
	return !p.farm.single
}
func (p *fakeProcess) Exited() <-chan struct{} { return p.exited }
func (p *fakeProcess) ExitError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
func (p *fakeProcess) PID() int             { return p.pid }
func (p *fakeProcess) Stop(context.Context) { p.end(nil) }
func (p *fakeProcess) Kill()                { p.end(nil) }

func (p *fakeProcess) Open(_ context.Context, s vaultplugin.Setup) (Backend, error) {
	p.farm.mu.Lock()
	err := p.farm.openError[s.Config["fail"]]
	slow := p.farm.slow
	p.farm.mu.Unlock()
	time.Sleep(slow) // stands for work
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.opened++
	p.mu.Unlock()
	b := &fakeBackend{process: p, setup: s, closed: make(chan struct{})}
	p.farm.mu.Lock()
	defer p.farm.mu.Unlock()
	if p.farm.backends == nil {
		p.farm.backends = make(map[string]*fakeBackend)
	}
	if former := p.farm.backends[s.BackendUUID]; former != nil && former.gone() == nil {
		p.farm.twice++
	}
	p.farm.backends[s.BackendUUID] = b
	return b, nil
}

type fakeBackend struct {
	process *fakeProcess
	setup   vaultplugin.Setup
	once    sync.Once
	closed  chan struct{}
}

func (b *fakeBackend) Type() vaultplugin.Type {
	if b.setup.Config["type"] == "auth" {
		return vaultplugin.TypeAuth
	}
	return vaultplugin.TypeSecret
}
func (b *fakeBackend) Version() string { return b.setup.Config["says"] }
func (b *fakeBackend) SpecialPaths() vaultplugin.Paths {
	return vaultplugin.Paths{Root: []string{"admin/*"}, Unauthenticated: []string{"login", "open/*", "role/+/login"}}
}
func (b *fakeBackend) Initialize(context.Context) error { return nil }
func (b *fakeBackend) Close(context.Context)            { b.once.Do(func() { close(b.closed) }) }

func (b *fakeBackend) gone() error {
	select {
	case <-b.process.exited:
		return fmt.Errorf("call: %w", vaultplugin.ErrExited)
	case <-b.closed:
		return fmt.Errorf("call: %w", vaultplugin.ErrClosed)
	default:
		return nil
	}
}

func (b *fakeBackend) InvalidateKey(ctx context.Context, _ string) error {
	if err := b.gone(); err != nil {
		return err
	}
	b.process.mu.Lock()
	hung := b.process.err != nil && errors.Is(b.process.err, errHung)
	b.process.mu.Unlock()
	if hung {
		return vaultplugin.ErrTimeout
	}
	return nil
}

var errHung = errors.New("hung")

func (b *fakeBackend) HandleExistenceCheck(ctx context.Context, r *vaultplugin.Request) (found, exists bool, err error) {
	if err := b.gone(); err != nil {
		return false, false, err
	}
	e, err := b.setup.Storage.Get(ctx, r.Path)
	return true, e != nil, err
}

// HandleRequest keeps values like kv version 1, and sends the event "fake/write".
func (b *fakeBackend) HandleRequest(ctx context.Context, r *vaultplugin.Request) (*vaultplugin.Response, error) {
	if err := b.gone(); err != nil {
		return nil, err
	}
	b.process.farm.mu.Lock()
	answer := b.process.farm.answer
	b.process.farm.mu.Unlock()
	if answer != nil {
		if response, err := answer(b, r); response != nil || err != nil {
			return response, err
		}
	}
	switch r.Operation {
	case vaultplugin.ReadOperation:
		e, err := b.setup.Storage.Get(ctx, r.Path)
		if e == nil || err != nil {
			return nil, err
		}
		return &vaultplugin.Response{Data: map[string]any{"value": string(e.Value), "process": b.process.pid}}, nil
	case vaultplugin.CreateOperation, vaultplugin.UpdateOperation:
		value, _ := r.Data["value"].(string)
		if err := b.setup.Storage.Put(ctx, &vaultplugin.StorageEntry{Key: r.Path, Value: []byte(value)}); err != nil {
			return nil, err
		}
		data := &vaultplugin.EventData{ID: event.NewID()}
		data.Metadata.Set("path", r.Path)
		data.Metadata.Set("operation", string(r.Operation))
		return nil, b.setup.SendEvent(ctx, "fake/write", data)
	case vaultplugin.ListOperation:
		names, err := b.setup.Storage.List(ctx, r.Path)
		return &vaultplugin.Response{Data: map[string]any{"keys": names}}, err
	}
	return nil, &vaultplugin.RemoteError{Kind: vaultplugin.KindUnsupportedOperation, Message: "unsupported operation"}
}

// recorder is an intake that also keeps what is published.
type recorder struct {
	*journal.Journal
	mu     sync.Mutex
	events []*event.Event
	fail   []error // of the next calls
	intake *publish.Intake
}

func newRecorder(j *journal.Journal) *recorder {
	r := &recorder{Journal: j}
	r.intake = publish.New(publish.Options{Journal: r, Logger: slog.New(slog.DiscardHandler)})
	return r
}

func (r *recorder) Submit(ctx context.Context, events ...*event.Event) (*journal.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.fail) > 0 {
		err := r.fail[0]
		r.fail = r.fail[1:]
		return nil, err
	}
	r.events = append(r.events, events...)
	return r.Journal.Submit(ctx, events...)
}

func (r *recorder) Publish(ctx context.Context, q publish.Request) (publish.Result, error) {
	if q.Edge != "plugin" {
		return publish.Result{}, fmt.Errorf("the edge is %q", q.Edge)
	}
	return r.intake.Publish(ctx, q)
}

func (r *recorder) all() []*event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// bench is a host with everything around it.
type bench struct {
	t        testing.TB
	farm     *farm
	intake   *recorder
	journal  *journal.Journal
	key      strongbox.Key
	dir      string // of plugins
	config   Config
	host     *Host
	mu       sync.Mutex
	happened []Incident
}

func newBench(t testing.TB) *bench {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: filepath.Join(t.TempDir(), "data"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, farm: &farm{openError: map[string]error{"open": &vaultplugin.RemoteError{Message: "does not want to"}}}, intake: newRecorder(j), journal: j, key: strongbox.NewKey(), dir: t.TempDir()}
	t.Cleanup(func() {
		if err := errors.Join(b.intake.intake.Close(context.Background()), j.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	b.write("fake", "version 1")
	b.config = Config{
		Intake: b.intake, Node: "node-1", Directory: b.dir, Launch: b.farm.launch, Logger: slog.New(slog.DiscardHandler), ReservedAuth: []string{"jwt"},
		RequestTimeout: 5 * time.Second, StartTimeout: 5 * time.Second,
		Incident: func(i Incident) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.happened = append(b.happened, i)
		},
	}
	return b
}

// write writes an executable into the plugin directory.
func (b *bench) write(name, content string) (path string) {
	b.t.Helper()
	path = filepath.Join(b.dir, name)
	if err := os.WriteFile(path+".new", []byte(content), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// fake is a plugin of the configuration.
func (b *bench) fake() Plugin {
	return Plugin{Class: Secret, Name: "fake", Command: filepath.Join(b.dir, "fake")}
}

// start opens and starts a host; the former one must have been closed.
func (b *bench) start() *Host {
	b.t.Helper()
	if err := b.tryStart(); err != nil {
		b.t.Fatal(err)
	}
	b.host.Start()
	return b.host
}

func (b *bench) tryStart() error {
	box, err := strongbox.Open(b.t.Context(), strongbox.Config{State: b.journal.State, Remove: b.journal.RemoveState, Keys: []strongbox.Key{b.key}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.config.Box = box
	host, err := Open(b.t.Context(), b.config)
	if err != nil {
		return err
	}
	b.host = host
	b.t.Cleanup(func() { host.Close(context.Background()) })
	return nil
}

func (b *bench) stop() {
	b.t.Helper()
	if err := b.host.Close(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	if n := b.farm.alive(); n != 0 {
		b.t.Errorf("%d processes are left", n)
	}
	b.farm.set(func(f *farm) {
		if f.twice > 0 {
			b.t.Errorf("%d times there were two backends of one mount", f.twice)
		}
	})
}

func (b *bench) incidents() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, i := range b.happened {
		all = append(all, i.What+" "+i.Mount.Full())
	}
	return all
}

// eventually waits for a condition.
func (b *bench) eventually(what string, condition func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// do makes a request and returns the answer as text.
func (b *bench) do(operation vaultplugin.Operation, path string, data map[string]any) string {
	b.t.Helper()
	m, rest := b.host.Find("", path)
	if m == nil {
		return "no mount"
	}
	response, err := m.Handle(b.t.Context(), &vaultplugin.Request{Operation: operation, Path: rest, Data: data})
	switch {
	case err != nil:
		return "error: " + err.Error()
	case response == nil:
		return "nothing"
	}
	return strings.TrimPrefix(fmt.Sprint(maps.Collect(maps.All(response.Data))), "map")
}

func (b *bench) put(path, value string) string {
	b.t.Helper()
	return b.do(vaultplugin.UpdateOperation, path, map[string]any{"value": value})
}
